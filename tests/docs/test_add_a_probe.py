"""The probe on docs/add-a-probe.md, taken off the page, is found by its entry point and runs."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_spec

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]


JOBS = ("doctor", "farmer", "cook", "chef")


def block(language: str) -> str:
    page = (ROOT / "docs/add-a-probe.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder that holds the page's package as pip would leave it there."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads(block("toml"))["project"]
    (folder / "audit_sharpness.py").write_text(block("python"))
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    return folder


def audit(*arguments, site: Path | None = None):
    paths = [str(p) for p in (ROOT, site) if p] + [os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", "audit.commands.main", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)},
        capture_output=True,
        text=True,
    )


def test_the_page_s_probe_runs_to_report_and_gate(site, tmp_path):
    assert len(block("python").splitlines()) <= 80
    checkpoints = {"balanced": "reference:balanced", "planted": "reference:planted-unet"}
    spec = write_spec(
        tmp_path,
        checkpoints=checkpoints,
        vaes={"own": "own"},
        attributes=[],
        probes={"sharpness": {"blur": 1.0}},
        prompts={
            "list": [f"a portrait of a {job}" for job in ("doctor", "farmer", "cook", "chef")]
        },
        seeds=4,
    )
    result = audit("run", spec, "--out", tmp_path / "run", site=site)
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "run/report/report.json").read_text())
    own = {f["id"]: f for f in report["findings"] if f["probe"] == "sharpness"}
    assert set(own) == {
        "sharpness/balanced/",
        "sharpness/planted/",
        "sharpness/planted//difference",
    }
    for found in own.values():
        assert found["n"] == 16
        assert found["low"] < found["value"] < found["high"]
    # The difference of means by hand, from the rows that the instrument left.
    plan = pd.read_parquet(tmp_path / "run/plan.parquet")
    files = (tmp_path / "run/scores").glob("laplacian@*/*/*.parquet")
    rows = plan.merge(pd.concat(map(pd.read_parquet, files)), on="cell")
    means = rows.groupby("checkpoint")["sharpness"].mean()
    apart = own["sharpness/planted//difference"]
    assert (apart["metric"], apart["kind"]) == ("sharpness difference", "shift")
    assert apart["value"] == pytest.approx(means["planted"] - means["balanced"])
    assert apart["adjustment"] != "none"
    assert "Sharpness by arm" in (tmp_path / "run/report/index.html").read_text(encoding="utf-8")
    # The margin that it declares is the gate's, which knows nothing of sharpness.
    arms = ("--baseline-arm", "balanced", "--candidate-arm", "planted")
    run = tmp_path / "run"
    audit("gate", run, run, *arms, "--out", tmp_path / "gate", site=site)
    record = json.loads((tmp_path / "gate/gate.json").read_text())
    (gated,) = [m for m in record["metrics"] if m["id"] == "sharpness/laplacian"]
    assert (gated["margin"], gated["unit"], gated["bad"]) == (0.1, "log10", "drop")
    assert gated["value"] == pytest.approx(apart["value"], abs=1e-6)
    planned = audit(
        "plan", spec, "--out", run, "--detect", "0.3", "--metric", "sharpness/laplacian", site=site
    )
    assert "sharpness/laplacian: a change by 0.3 log10 fails from" in planned.stdout
    schema = json.loads(audit("schema", site=site).stdout)
    assert '"blur"' in json.dumps(schema["properties"]["probes"])


def test_a_wrong_option_of_the_probe_is_refused(site, tmp_path):
    spec = write_spec(tmp_path, probes={"sharpness": {"blurr": 1.0}})
    result = audit("run", spec, "--out", tmp_path / "run", site=site)
    assert result.returncode == 2
    assert "probes.sharpness.blurr: unknown key; the nearest is 'blur'" in result.stderr


def test_a_probe_that_is_not_there_is_refused_with_the_list_of_those_that_are(tmp_path):
    spec = write_spec(tmp_path, probes=["attributes", "sharpness"])
    result = audit("run", spec, "--out", tmp_path / "run")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "probes: unknown probe 'sharpness'" in line
    for name in ("attention", "attributes", "latents", "memory", "negatives", "steps", "vae"):
        assert name in line
    assert not list((tmp_path / "run").rglob("*.parquet"))


def test_a_probe_that_cannot_be_loaded_fails_alone(tmp_path):
    info = tmp_path / "site" / "broken-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[diffusion_audit.probes]\nbroken = no_module\n")
    # What a broken probe would have measured is not known: its margin stands.
    gate = {"margins": {"sharpness/broken": 0.1}}
    spec = write_spec(tmp_path, probes=["attributes", "broken"], seeds=2, gate=gate)
    result = audit("run", spec, "--out", tmp_path / "run", site=tmp_path / "site")
    assert result.returncode == 1, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("broken: failed")]
    assert "the probe cannot be loaded: no_module: ModuleNotFoundError" in line
    report = json.loads((tmp_path / "run/report/report.json").read_text())
    statuses = {f["probe"]: f["status"] for f in report["findings"]}
    assert statuses["broken"] == "failed"
    assert statuses["attributes"] == "measured"
    other = write_spec(tmp_path / "other", probes=["attributes"], seeds=2)
    quiet = audit("run", other, "--out", tmp_path / "run2", site=tmp_path / "site")
    assert quiet.returncode == 0, quiet.stderr
