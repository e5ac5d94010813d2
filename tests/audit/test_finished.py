"""The same command on a finished run does nothing, and anything that changed is seen."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_spec

import reference
from audit.pipeline.finished import finished_page, mark_finished, strings
from audit.pipeline.session import open_audit

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from audit.commands.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code, *sorted({"torch", "diffusers", "transformers"} & set(sys.modules)))
"""


def run(folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "run", "audit.yaml", "--out", "run"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return done.stderr.splitlines() + done.stdout.splitlines()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a spec, a VAE of its own, and the run of it."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(reference.component("vae", "pale"), folder / "pale")
    write_spec(folder, vaes={"own": "own", "pale": "pale"}, probes=["attributes", "vae"])
    assert run(folder)[-1].split() == ["0", "diffusers", "torch", "transformers"]
    return folder


def opened(folder: Path):
    return open_audit(folder / "audit.yaml", folder / "run")


def test_a_second_run_loads_no_model_and_names_the_same_report(finished):
    before = {p: p.stat().st_mtime_ns for p in (finished / "run").rglob("*")}
    said = run(finished)
    assert said[-1] == "0"  # and none of torch, diffusers, transformers
    assert said[-2].endswith("run/report/index.html")
    assert said[0] == "nothing to do: neither the spec, its files nor this run have changed"
    assert {p: p.stat().st_mtime_ns for p in (finished / "run").rglob("*")} == before


@pytest.mark.parametrize(
    "touched",
    [
        "pale/config.json",
        "pale/diffusion_pytorch_model.safetensors",
        "run/plan.parquet",
        "run/report/report.json",
    ],
)
def test_a_file_that_changed_is_seen(finished, touched):
    assert finished_page(opened(finished)) is not None
    path = finished / touched
    content, when = path.read_bytes(), path.stat()
    path.write_bytes(content)
    assert finished_page(opened(finished)) is None
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    assert finished_page(opened(finished)) is not None


def test_another_spec_a_label_and_a_lost_image_are_seen(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    folder = tmp_path / "copy"
    assert finished_page(opened(folder)) is None  # other files, with other inodes
    mark_finished(opened(folder))
    assert finished_page(opened(folder)) is not None
    text = (folder / "audit.yaml").read_text()
    (folder / "audit.yaml").write_text(text.replace("seeds: ", "seeds: 1"))
    assert finished_page(opened(folder)) is None
    (folder / "audit.yaml").write_text(text)
    assert finished_page(opened(folder)) is not None
    image = next((folder / "run/images").rglob("*.parquet"))
    held = image.read_bytes()
    image.unlink()
    assert finished_page(opened(folder)) is None
    image.write_bytes(held)
    mark_finished(opened(folder))
    (folder / "run/labels").mkdir(exist_ok=True)
    (folder / "run/labels/x.parquet").write_bytes(b"")
    assert finished_page(opened(folder)) is None


def test_all_texts_of_a_spec_are_looked_at():
    spec = {"vaes": {"a": "b.safetensors"}, "loras": {"x.safetensors": 1.0}, "n": [1, "y", None]}
    assert list(strings(spec)) == ["vaes", "a", "b.safetensors", "loras", "x.safetensors", "n", "y"]
