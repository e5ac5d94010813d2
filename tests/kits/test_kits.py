"""The kits do what they say: their scripts are run, their lists held against the tree."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from audit.pipeline.run import complete
from audit.pipeline.session import open_audit

ROOT = Path(__file__).parents[2]
KITS = ROOT / "kits"
SPEC = {
    "name": "gated",
    "checkpoints": {"balanced": "reference:balanced"},
    "prompts": {"list": ["a portrait of a doctor", "a portrait of a farmer"]},
    "seeds": 3,
    "steps": 2,
    "guidance": 1,
    "attributes": ["world-gender"],
    "classifiers": {"small": "reference:balanced"},
    "batch_size": 4,
    "device": "cpu",
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gated")
    (folder / "audit.yaml").write_text(yaml.safe_dump(SPEC))
    audit = open_audit(folder / "audit.yaml", folder / "run")
    complete(audit, lambda text: None)
    return audit.run.folder


def bash(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    tools = folder / "bin"  # an `audit` of this tree, as pip would install it
    tools.mkdir(exist_ok=True)
    (tools / "audit").write_text(f'#!/bin/sh\nexec {sys.executable} -m audit.commands.main "$@"\n')
    (tools / "audit").chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    known = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=known,
        capture_output=True,
        text=True,
    )


def test_the_github_action_gates_and_says_the_verdict(run, tmp_path):
    action = yaml.safe_load((KITS / "gate" / "action.yml").read_text())
    steps = action["runs"]["steps"]
    assert all(re.search(r"@[0-9a-f]{40}$", s["uses"]) for s in steps if "uses" in s)
    assert not any("${{" in s.get("run", "") for s in steps)
    (gate,) = [s for s in steps if s.get("id") == "gate"]
    for allow, code in (("false", 3), ("true", 0)):
        told = tmp_path / f"output-{allow}"
        done = bash(
            gate["run"],
            tmp_path,
            BASELINE=str(run),
            CANDIDATE=str(run),
            OUT="gate",
            ALLOW_INCONCLUSIVE=allow,
            GITHUB_OUTPUT=str(told),
        )
        assert done.returncode == code, done.stderr
        assert told.read_text() == "verdict=INCONCLUSIVE\n"
    told = tmp_path / "output"
    missing = {"BASELINE": "no-run", "CANDIDATE": "no; touch hit", "OUT": "other"}
    done = bash(gate["run"], tmp_path, **missing, ALLOW_INCONCLUSIVE="", GITHUB_OUTPUT=str(told))
    assert done.returncode == 2
    assert told.read_text() == "verdict=ERROR\n"
    assert not (tmp_path / "hit").exists()


def test_the_gitlab_job_gates(run, tmp_path):
    job = yaml.safe_load((KITS / "gate" / "gitlab-gate.yml").read_text())[".diffusion-audit-gate"]
    given = job["variables"] | {"BASELINE": str(run), "CANDIDATE": str(run)}
    done = bash("\n".join(job["script"]), tmp_path, **given)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / given["OUT"] / "junit.xml").is_file()
    given["ALLOW_INCONCLUSIVE"] = "true"
    assert bash("\n".join(job["script"]), tmp_path, **given).returncode == 0
    assert bash("\n".join(job["before_script"]), tmp_path, DIFFUSION_AUDIT="").returncode != 0


def test_the_dockerfile_copies_every_package():
    lines = (KITS / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {name.split(".")[0] for name in setup["packages"]} <= copied
    assert "USER audit" in lines


def test_the_devcontainer_names_a_command_that_is_there():
    told = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert "make .venv/.ready" in told["postCreateCommand"]
    assert "READY" in (ROOT / "Makefile").read_text()


def test_the_notebook_runs_and_finds_what_was_planted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((KITS / "first-audit.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    said = capsys.readouterr().out
    assert "planted · own" in said
    assert "men too often" in said
    assert names["images"]
