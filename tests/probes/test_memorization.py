from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import analysed_by

from harness.generate.sampling import Generator
from harness.models.loading import load_checkpoint
from harness.plan.cells import Cell
from harness.spec.schema import Spec
from harness.spec.sections import CheckpointSpec
from harness.taps.guidance import GuidanceTap
from probes.memorization.probe import auc, spread_of_seeds, standing_out

SPEC = Spec.model_validate({"checkpoints": {"b": "reference:balanced"}, "prompts": {"list": ["a"]}})


@pytest.fixture(scope="module")
def generator() -> Generator:
    source = CheckpointSpec(source="reference:balanced")
    return Generator(load_checkpoint("b", source, Path(), "cpu", torch.float32).pipe, 2)


def rows(guidance: float, negative: str = "") -> pd.DataFrame:
    table = pd.DataFrame({"text": ["a man", "a woman"], "negative_text": negative})
    table = table.assign(noise=[3, 4], sampler="own", steps=2, guidance=guidance)
    return table.assign(width=64, height=64)


def test_the_norm_is_the_difference_of_the_two_halves_and_changes_nothing(generator):
    seen: list[torch.Tensor] = []
    unet = generator.pipe.unet
    handle = unet.register_forward_hook(lambda m, a, out: seen.append(out[0].clone()))
    tap = GuidanceTap()
    tapped = generator.denoise(rows(3.0), [tap])
    handle.remove()
    assert torch.equal(tapped, generator.denoise(rows(3.0)))
    wanted = [float((s[3] - s[1]).square().mean().sqrt()) for s in seen]
    np.testing.assert_allclose(tap.records()[1].arrays["norm"], wanted, rtol=1e-5)
    assert not unet._forward_hooks


def test_a_prompt_against_itself_has_norm_zero_and_no_guidance_has_none(generator):
    tap = GuidanceTap()
    generator.denoise(rows(3.0, "a man"), [tap])
    norms = [r.arrays["norm"].max() for r in tap.records()]
    assert norms[0] < 1e-5 < norms[1]
    generator.denoise(rows(1.0), [tap])
    assert tap.records()[0].arrays == {}
    assert "without guidance" in tap.records()[0].notes["why"]


def test_spread_of_seeds_by_hand():
    value, low, high = spread_of_seeds(np.array([[1.0, 0], [3.0, 0], [0, 2.0]]))
    assert value == pytest.approx(2 / 3)
    assert low < value < high
    assert np.isnan(spread_of_seeds(np.eye(2))[1])


def test_the_jackknife_holds_the_truth():
    rng = np.random.default_rng(0)
    centre = np.array([2.0, 0, 0, 0])
    truth = spread_of_seeds(rng.normal(size=(3000, 4)) + centre)[0]
    held = []
    for _ in range(200):
        _, low, high = spread_of_seeds(rng.normal(size=(12, 4)) + centre)
        held.append(low <= truth <= high)
    assert np.mean(held) > 0.88


def test_standing_out():
    values = np.append(np.linspace(0.9, 1.1, 20), 3.0)
    found = standing_out(values)
    assert found[-1] > 10
    assert np.abs(found[:-1]).max() < 3
    assert np.isnan(standing_out(values[:5])).all()
    assert np.isnan(standing_out(np.ones(12))).all()


def test_auc_by_hand_and_at_chance():
    assert auc(np.array([2.0, 3]), np.array([0.0, 1]))[0] == 1
    assert auc(np.array([1.0]), np.array([1.0, 0]))[0] == 0.75
    rng = np.random.default_rng(0)
    _, low, high = auc(rng.normal(size=20), rng.normal(size=20))
    assert low < 0.5 < high


def plan_of(prompts: int, seeds: int) -> pd.DataFrame:
    cells = [
        Cell(f"{p}-{s}", f"{p}-{s}", "u", "made", "c", "own", "none", "own", 2, 3.0, 64, 64, p,
             f"p{p}", "", s, f"p{p}", "", 0, "v")
        for p in range(prompts) for s in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(cells, columns=Cell._fields)


def test_learned_prompts_are_told_where_labels_say_which():
    rng = np.random.default_rng(0)
    plan = plan_of(24, 4)
    learned = plan["prompt_index"] < 6
    norms = np.where(learned, 3.0, 1.0) + 0.1 * rng.normal(size=len(plan))
    scores = pd.DataFrame({"cell": plan["cell"], "norm": norms, "first": norms, "note": ""})
    # Learned prompts draw nearly the same image at every seed.
    around = np.eye(24)[plan["prompt_index"]] + np.where(learned, 0.01, 1.0)[:, None] * rng.normal(
        size=(len(plan), 24)
    )
    shown = pd.DataFrame({"cell": plan["cell"], "likeness": 0.0, "embedding": list(around)})
    labels = pd.DataFrame(
        {"cell": plan["cell"], "attribute": "memorised", "rater": "",
         "class": np.where(learned, "yes", "no")}
    )  # fmt: skip
    tables = {"guidance-norm": scores, "clip.likeness": shown}
    findings, figures = analysed_by("memory", tables, plan, labels, SPEC)
    areas = [f for f in findings if f.metric.name.startswith("AUC")]
    assert [f.value for f in areas] == [1, 1]
    assert len({f.id for f in findings}) == len(findings)
    first = next(f for f in findings if f.subject.get("prompt") == "p0")
    assert first.low < 3 < first.high
    assert "robust standard deviations" in first.note
    assert [e.kind for e in figures] == ["bar"]


def test_without_guidance_it_is_not_measured():
    plan = plan_of(2, 2)
    note = "without guidance the model is never asked without the prompt"
    scores = pd.DataFrame({"cell": plan["cell"], "norm": np.nan, "first": np.nan, "note": note})
    labels = pd.DataFrame({"cell": [], "attribute": [], "class": [], "rater": []})
    found, _ = analysed_by("memory", {"guidance-norm": scores}, plan, labels, SPEC)
    assert [(f.status, f.note) for f in found] == [("not-measured", note)]
