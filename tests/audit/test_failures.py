"""One failure costs its own result and no other: probes, instruments, images of NaN."""

import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import SPEC, make, quiet, write_spec

from audit.commands.main import main
from audit.pipeline.analyse import analyse
from audit.pipeline.run import complete, problems
from audit.pipeline.session import reopen
from harness.models.loading import load_checkpoint
from harness.spec.sections import CheckpointSpec, RuntimeSpec
from harness.store.run import Run
from probes import contracts, registry

pytestmark = pytest.mark.faults

FEW = {"vaes": {"own": "own"}, "seeds": 2, "batch_size": 2}


class Thrown(Exception):
    """An error of no library."""


class Brittle:
    """An instrument that fails on the images of one unit, and one that works."""

    version = "1"
    inputs = frozenset({"images"})

    def __init__(self, name, broken):
        self.name, self.broken = name, broken

    def cache_key(self):
        return {"version": self.version, "name": self.name}

    def measure(self, batch, context):
        if self.broken and "a portrait of a doctor" in batch.prompts:
            raise KeyError("mean\nof nothing")
        return pd.DataFrame({"cell": batch.cells, "mean": [i.mean() for i in batch.images]})


class Brittleness(contracts.Probe):
    """A probe that raises in its analysis."""

    name = "brittleness"
    raises = True

    def instruments(self, options, spec):
        return (Brittle("brittle", self.raises), Brittle("sound", False))

    def analyse(self, given):
        if self.raises:
            raise Thrown("cannot\nbe analysed")
        n = float(len(given.tables["brittle"]))
        metric = contracts.MetricSpec("n")
        return contracts.Result(
            [contracts.Finding(id="b", probe=self.name, metric=metric, value=n)]
        )


@pytest.fixture
def brittle():
    probe = type("Brittleness", (Brittleness,), {})
    registry.register(probe)
    yield probe
    del registry._REGISTRY["brittleness"]


def spec_of(folder, **changes):
    return write_spec(folder, **FEW | {"probes": ["attributes", "brittleness"]} | changes)


def test_a_probe_that_raises_is_a_failed_finding_and_the_others_are_reported(tmp_path, brittle):
    path = spec_of(tmp_path)
    result = CliRunner().invoke(main, ["run", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "brittleness: failed: Thrown: cannot be analysed" in result.stderr
    assert result.stdout.strip().endswith("index.html")
    run = Run(tmp_path / "run")
    findings = run.read_table("findings.parquet").set_index("id")
    failed = findings.loc["brittleness/analysis"]
    assert failed["status"] == "failed"
    assert pd.isna(failed["value"])
    assert "\n" not in failed["note"]
    assert (findings["probe"] == "attributes").sum() > 5
    log = run.folder / "failures" / "analysis" / "brittleness.log"
    assert str(log.relative_to(run.folder)) in failed["note"]
    assert "raise Thrown" in log.read_text()
    # `audit report` ends alike; once the probe is mended, both are well again.
    assert CliRunner().invoke(main, ["report", str(run.folder)]).exit_code == 1
    registry._REGISTRY["brittleness"].raises = False
    result = CliRunner().invoke(main, ["run", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert not log.exists()


def test_an_instrument_that_raises_fails_on_its_own_units_only(tmp_path, brittle):
    audit = make(tmp_path, **FEW | {"probes": ["attributes", "brittleness"]})
    folders = audit.run.read_json("instruments.json")
    units = audit.run.read_plan().drop_duplicates("unit").set_index("unit")["prompt"]
    broken = {u for u, p in units.items() if p == "a portrait of a doctor"}
    assert 0 < len(broken) < len(units)

    def scored(name):
        root = audit.run.folder / "scores" / folders[name]
        return {p.parent.name for p in root.glob("*/*.parquet")}

    assert scored("brittle") == set(units.index) - broken
    assert scored("sound") == scored("small.world-gender") == set(units.index)
    findings, _ = analyse(audit)
    failed = {f.id: f for f in findings if f.status == "failed"}
    note = failed["brittle/measurement"].note
    assert "KeyError" in note
    assert f"on {len(broken)} files" in note
    assert "\n" not in note
    assert any("brittle" in line for line in problems(audit, findings))
    # Running again tries only what failed.
    kept = {p: p.stat().st_mtime_ns for p in audit.run.folder.glob("scores/*/*/*.parquet")}
    registry._REGISTRY["brittleness"].raises = False
    audit = reopen(audit.run.folder)
    complete(audit, quiet)
    assert scored("brittle") == set(units.index)
    assert all(p.stat().st_mtime_ns == when for p, when in kept.items())
    assert problems(audit, analyse(audit)[0]) == []


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_an_overflow_is_a_failure_with_its_reason_in_show(tmp_path, part):
    source = CheckpointSpec(source="reference:balanced")
    pipe = load_checkpoint("balanced", source, tmp_path, "cpu", torch.float32, RuntimeSpec()).pipe
    module = pipe.unet.conv_out if part == "unet" else pipe.vae.decoder.conv_out
    with torch.no_grad():
        module.weight.fill_(3e38)  # finite, as NaN would be refused when it is loaded
    pipe.save_pretrained(tmp_path / "model")
    changes = FEW | {"seeds": 1, "checkpoints": {"broken": str(tmp_path / "model")}}
    path = write_spec(tmp_path, **changes)
    result = CliRunner().invoke(main, ["run", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 1, result.output
    reason = {"unet": "the denoiser overflowed", "vae": "the decoder overflowed"}[part]
    assert "2 images are missing, for example: NaN" in result.stderr
    assert reason in result.stderr
    cell = Run(tmp_path / "run").read_plan()["cell"].iloc[0]
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "run"), cell])
    assert f"missing (NaN {'in the latents' if part == 'unet' else 'pixels'}" in shown.output
    assert reason in shown.output


def test_an_imported_file_that_is_no_image_is_no_failure(tmp_path):
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    (folder / "b.png").write_bytes(b"no image")
    arguments = ["score", str(folder), "--out", str(tmp_path / "run")]
    arguments += ["--attribute", "monk-skin-tone"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output


def test_a_control_run_ends_well(tmp_path):
    path = write_spec(tmp_path, **FEW | {"seeds": 1})
    assert yaml.safe_load(path.read_text())["steps"] == SPEC["steps"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "audit.commands.main",
            "run",
            str(path),
            "--out",
            str(tmp_path / "run"),
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_images_without_scores_are_said_and_not_only_missing(tmp_path):
    audit = make(tmp_path, **FEW)
    assert not [f for f in analyse(audit)[0] if f.metric.name == "scores"]
    unit = audit.run.read_plan()["unit"].iloc[0]
    folder = audit.run.instruments()["small.world-gender"]
    for file in (audit.run.folder / "scores" / folder / unit).glob("*.parquet"):
        file.unlink()
    (found,) = [f for f in analyse(audit)[0] if f.metric.name == "scores"]
    assert (found.status, found.instrument) == ("not-measured", "small.world-gender")
    assert "2 of 4 images have no scores yet" in found.note
