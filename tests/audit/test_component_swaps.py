import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_spec

from audit.commands.main import main
from audit.pipeline.component_swaps import by_combination, mixed
from audit.pipeline.session import open_audit, reopen
from harness.errors import SpecError
from harness.models.loading import load_checkpoint
from harness.spec.sections import CheckpointSpec
from probes.components.shapley import COMPONENTS

BOTH = {
    "checkpoints": {
        "base": "reference:balanced",
        "mine": {"source": "reference:planted-unet", "text_encoder": "reference:balanced-b"},
    },
    "vaes": {"own": "own"},
    "seeds": 2,
    "attributes": ["world-gender"],
}


def audit(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def test_the_eight_mixes_take_each_component_from_its_checkpoint(tmp_path):
    spec = mixed(open_audit(write_spec(tmp_path, **BOTH), tmp_path / "run").spec, "base", "mine")
    assert list(spec.checkpoints) == [
        "text A, denoiser A",
        "text A, denoiser B",
        "text B, denoiser A",
        "text B, denoiser B",
    ]
    last = spec.checkpoints["text B, denoiser B"]
    assert last.text_encoder == "reference:balanced-b"
    assert last.denoiser == "reference:planted-unet"
    assert spec.vaes == {"A": "reference:balanced", "B": "reference:planted-unet"}
    with pytest.raises(SpecError, match="the nearest is 'mine'"):
        mixed(open_audit(write_spec(tmp_path, **BOTH), tmp_path / "run").spec, "base", "mien")


def test_a_component_may_come_from_a_whole_checkpoint(tmp_path):
    import torch

    folder = tmp_path / "folder"
    whole = load_checkpoint(
        "b", CheckpointSpec(source="reference:balanced-b"), tmp_path, "cpu", torch.float32
    )
    whole.pipe.save_pretrained(folder)
    spec = CheckpointSpec(
        source="reference:balanced", text_encoder="folder", denoiser="folder", vae="folder"
    )
    mix = load_checkpoint("mix", spec, tmp_path, "cpu", torch.float32)
    assert {k: v for k, v in mix.digests.items() if k != "scheduler"} == {
        k: v for k, v in whole.digests.items() if k != "scheduler"
    }


def test_end_to_end(tmp_path):
    spec = write_spec(tmp_path, **BOTH)
    out = tmp_path / "run"
    said = audit("components", spec, "base", "mine", "--out", out).stdout
    for component in COMPONENTS:
        assert f"carried by the {component}" in said
    report = json.loads((out / "report" / "report.json").read_text())
    own = [f for f in report["findings"] if f["probe"] == "components"]
    value = {f["metric"]: f["value"] for f in own if f["estimand"] == "this suite"}
    parts = [value[f"difference carried by the {c}"] for c in COMPONENTS]
    assert sum(parts) == pytest.approx(value["difference of the whole"], abs=1e-9)
    plan = reopen(out).run.read_plan()
    assert plan.drop_duplicates("trajectory").shape[0] == 4 * 2 * 2
    wide = by_combination(plan.assign(hit=1.0))
    assert wide.shape == (4, 10)
    assert np.all(wide[list(range(8))] == 1)


def test_a_checkpoint_against_itself_is_exactly_zero(tmp_path):
    same = BOTH | {"checkpoints": {"a": "reference:balanced", "b": "reference:balanced"}}
    out = tmp_path / "run"
    audit("attribute", write_spec(tmp_path, **same), "a", "b", "--out", out)
    report = json.loads((out / "report" / "report.json").read_text())
    own = [f for f in report["findings"] if f["probe"] == "components"]
    assert own
    assert {f["value"] for f in own} == {0}
