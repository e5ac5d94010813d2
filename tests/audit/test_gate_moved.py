"""Images of the same seed: how far a quantised denoiser moves them, held against another seed."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import make  # tests/conftest.py
from diffusers import UNet2DConditionModel

import reference
from audit.commands.main import main
from audit.gate.baseline import side_of_run
from audit.gate.baseline_file import load, save
from audit.gate.metrics import metrics, pair
from audit.pipeline import analyse
from audit.pipeline.session import reopen
from harness.spec.sections import GateSpec
from probes.attributes.metrics import MOVED

BITS = (8, 6, 4, 3)
MARGIN = 0.2


def quantised(folder, bits):
    """The reference U-Net with each weight rounded to a grid of 2^bits values by row."""
    model = UNet2DConditionModel.from_pretrained(reference.component("unet", "balanced"))
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.ndim > 1):
            rows = weight.flatten(1)
            step = rows.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
            rows.copy_((rows / step.clamp(min=1e-12)).round() * step)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moved")
    small = {f"q{b}": {"source": "reference:balanced",
                       "denoiser": quantised(folder / f"unet-{b}", b)} for b in BITS}  # fmt: skip
    names = ["doctor", "farmer", "cook", "judge"]
    return make(
        folder,
        checkpoints={"balanced": "reference:balanced"} | small,
        vaes={"own": "own"},
        prompts={"list": [f"a portrait of a {name}" for name in names]},
        seeds=12,
        steps=6,
        guidance=1,
        batch_size=16,
        gate={"margins": {"moved": MARGIN}},
    ).run.folder


def moved(run, arm):
    baseline, candidate = (side_of_run(run, f"{a},own") for a in ("balanced", arm))
    gate = GateSpec(margins={"moved": MARGIN})
    (found,) = (m for m in metrics(baseline, pair(baseline, candidate), gate) if "moved" in m.id)
    return found


def test_fewer_bits_move_images_farther_and_none_at_all_not(run):
    far = {arm: float(np.nanmean(moved(run, arm).candidate)) for arm in ("q8", "q6", "q4", "q3")}
    assert 0 < far["q8"] < far["q6"] < far["q4"] < far["q3"] < 2
    assert far["q8"] < MARGIN / 4
    assert np.nanmax(moved(run, "balanced").candidate) < 1e-5  # the same images


def test_the_report_describes_what_the_gate_reads(run):
    findings, _ = analyse.analyse(reopen(run))
    told = {f.subject["checkpoint"]: f for f in findings if f.metric == MOVED}
    assert set(told) == {f"q{b}" for b in BITS}
    for arm, finding in told.items():
        assert finding.value == pytest.approx(np.nanmean(moved(run, arm).candidate), rel=0.02)
        assert finding.low <= finding.value <= finding.high
        assert finding.subject["baseline"] == "balanced"
        assert not finding.family


def test_the_gate_passes_8_bits_and_fails_3(run, tmp_path):
    words = {}
    for arm in ("balanced", "q8", "q3"):
        arms = ["--baseline-arm", "balanced,own", "--candidate-arm", f"{arm},own"]
        out = tmp_path / arm
        result = CliRunner().invoke(main, ["gate", str(run), str(run), *arms, "--out", str(out)])
        assert result.exit_code in (0, 1, 3), result.output
        record = json.loads((out / "gate.json").read_text())
        words[arm] = {m["id"]: m["verdict"] for m in record["metrics"]}["moved/small"]
    assert (words["q8"], words["q3"]) == ("PASS", "FAIL")
    # Of 48 images that did not move it is not known that one in sixteen does not.
    assert words["balanced"] in ("PASS", "INCONCLUSIVE")


def test_a_baseline_file_holds_what_it_takes(run, tmp_path):
    side = side_of_run(run, "balanced,own")
    save(side, tmp_path / "base.json")
    again = load(tmp_path / "base.json")
    candidate = side_of_run(run, "q4,own", again.spec.gate)
    one, two = (
        next(m for m in metrics(s, pair(s, candidate), s.spec.gate) if "moved" in m.id)
        for s in (side, again)
    )
    np.testing.assert_allclose(one.candidate, two.candidate)


def test_without_a_margin_nothing_is_asked(run):
    baseline, candidate = (side_of_run(run, f"{a},own", GateSpec()) for a in ("balanced", "q3"))
    ids = [m.id for m in metrics(baseline, pair(baseline, candidate), GateSpec())]
    assert not any("moved" in name for name in ids)
    assert not any("embedding" in name for name in candidate.cells)


def test_another_batch_size_is_no_move(tmp_path):
    """The null: one checkpoint made in batches of 16 and of 5, whose last bits differ."""
    folders = []
    for size in (16, 5):
        audit = make(
            tmp_path / str(size),
            vaes={"own": "own"},
            prompts={"list": [f"a portrait of a {n}" for n in ("doctor", "farmer", "cook")]},
            seeds=16,
            steps=6,
            guidance=1,
            batch_size=size,
            gate={"margins": {"moved": MARGIN}},
        )
        folders.append(audit.run.folder)
    sides = [side_of_run(folder, "balanced,own") for folder in folders]
    gate = GateSpec(margins={"moved": MARGIN})
    (found,) = (m for m in metrics(sides[0], pair(*sides), gate) if "moved" in m.id)
    far = found.candidate[~np.isnan(found.candidate)]
    assert len(far) == 48
    # No image comes near the margin, so that no draw of them fails: of 40 A/A gates none.
    assert far.max() < MARGIN / 4
    out = tmp_path / "gate"
    result = CliRunner().invoke(main, ["gate", *map(str, folders), "--out", str(out)])
    record = json.loads((out / "gate.json").read_text())
    assert {m["id"]: m["verdict"] for m in record["metrics"]}["moved/small"] != "FAIL", result
