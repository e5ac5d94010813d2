from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import analysed_by, make, write_spec

from audit.pipeline import analyse
from audit.pipeline.plan import plan_audit
from audit.pipeline.session import open_audit
from harness.generate.sampling import Generator
from harness.models.loading import load_checkpoint
from harness.spec.sections import CheckpointSpec
from harness.taps.trajectory import StepsTap
from harness.taps.watched_steps import watched_steps
from probes.trajectory.names import PREDICTED, SWITCHED
from probes.trajectory.readings import agreement, switched

WOMAN, MAN = "a portrait of a woman", "a portrait of a man"
STEPS = 4


@pytest.fixture(scope="module")
def generator() -> Generator:
    spec = CheckpointSpec(source="reference:balanced")
    return Generator(load_checkpoint("b", spec, Path(), "cpu", torch.float32).pipe, 2)


def rows(text: str, sampler: str = "own", switch: int = -1, guidance: float = 3.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": [text] * 2,
            "negative_text": "",
            "noise": [7, 8],
            "sampler": sampler,
            "steps": STEPS,
            "guidance": guidance,
            "width": 64,
            "height": 64,
            "switch": switch,
            "second_text": MAN,
        }
    )


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_switch_is_exact_at_both_ends_and_not_between(generator, guidance):
    first = generator.denoise(rows(WOMAN, guidance=guidance))
    at_end = generator.denoise(rows(WOMAN, switch=STEPS, guidance=guidance))
    assert torch.equal(first, at_end)
    # At step 0 the plan holds the second prompt itself, on the first's noise.
    second = generator.denoise(rows(MAN, guidance=guidance))
    between = generator.denoise(rows(WOMAN, switch=2, guidance=guidance))
    assert not torch.equal(between, first)
    assert not torch.equal(between, second)


@pytest.mark.parametrize(
    ("sampler", "tolerance"), [("euler", 1e-4), ("dpm++ 2m", 1e-5), ("unipc", 1e-4), ("own", 0.2)]
)
def test_the_last_prediction_is_the_final_latent(generator, sampler, tolerance):
    plain = generator.denoise(rows(WOMAN, sampler))
    tap = StepsTap(5)
    latents = generator.denoise(rows(WOMAN, sampler), [tap])
    assert torch.equal(plain, latents)
    assert "step" not in vars(generator.own_scheduler)
    records = tap.records()
    assert records[1].notes == {"steps": [0, 1, 2, 3], "forwards": STEPS, "why": ""}
    last = np.stack([r.arrays["x0"][-1] for r in records])
    # The reference's own sampler stops at a little noise (alpha of step 0), the others at none.
    assert np.abs(last - latents.numpy()).max() < tolerance
    first = np.stack([r.arrays["x0"][0] for r in records])
    assert np.abs(first - latents.numpy()).max() > 0.2


def test_watched_steps_end_with_the_last():
    assert watched_steps(25, 5) == [0, 6, 12, 18, 24]
    assert watched_steps(1, 5) == [0]
    assert watched_steps(3, 5) == [0, 1, 2]
    assert watched_steps(9, 1) == [8]


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    return make(
        tmp_path_factory.mktemp("steps"),
        prompts={"list": [WOMAN, "a portrait of a doctor"]},
        probes={
            "attributes": {},
            "steps": {"watch": 3, "switches": [{"first": WOMAN, "second": MAN, "at": [0, 2, 9]}]},
        },
        vaes={"own": "own", "pale": "reference:pale"},
        attributes=["world-gender"],
        steps=STEPS,
        seeds=2,
    )


@pytest.fixture(scope="module")
def analysed(stepped):
    return analyse.analyse(stepped)


def test_the_plan_holds_what_was_asked_for_and_the_grid_stays_as_it_is(stepped):
    grid, cells = stepped.run.read_plan(), stepped.run.read_cells()
    assert len(grid) == 2 * 2 * 2
    predicted = cells[cells["kind"] == PREDICTED]
    assert len(predicted) == 4 * 3
    assert set(predicted["step"]) == {0, 2, 3}
    assert set(predicted["vae"]) == {"own"}
    switches = cells[cells["kind"] == SWITCHED]
    assert sorted(switches["switch"]) == [0, 0, 2, 2, 4, 4]  # 9 is the end
    ends = switches[switches["switch"] == STEPS]
    assert set(ends["cell"]) <= set(grid["cell"])
    made = {c for u, v in stepped.run.image_files() for c in stepped.run.made_cells(u, v)}
    assert made == set(cells["cell"])


def test_resuming_makes_nothing_anew(stepped, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in (stepped.run.folder / "images").rglob("*")}
    from audit.pipeline.run import generate

    generate(stepped, stepped.run.read_cells(), lambda text: None)
    assert before == {p: p.stat().st_mtime_ns for p in (stepped.run.folder / "images").rglob("*")}


def test_the_attributes_probe_counts_finished_images_only(analysed):
    findings, _ = analysed
    shares = [f for f in findings if f.probe == "attributes" and f.metric.name == "share"]
    assert shares
    assert all(f.n <= 2 for f in shares)


def test_findings_and_figures(stepped, analysed):
    findings, figures = analysed
    own = [f for f in findings if f.probe == "steps"]
    assert len({f.id for f in findings}) == len(findings)
    last = [f for f in own if f.subject.get("step") == "4 of 4" and "agreement" in f.metric.name]
    assert last
    assert all(0 <= f.reference.null <= 1 and f.n == 4 for f in last)
    colours = [f for f in own if f.metric.name.startswith("R²")]
    assert {f.subject["vae"] for f in colours} == {"own", "pale"}
    kinds = {e.kind for e in figures if e.id.startswith("steps/")}
    assert kinds == {"line", "strip", "table"}
    page = analyse.report(stepped, findings, figures).read_text()
    assert "What the sampler takes the image to be after a step" in page
    assert "exchanged for the second at a step" in page


def frame(outcomes: list[tuple[str, int, str]], kind: str, adapters: str = "none") -> pd.DataFrame:
    """Rows of one arm: trajectory, step or switch (-1: final), outcome."""
    return pd.DataFrame(
        [
            {
                "cell": f"{t}{s}",
                "trajectory": t,
                "arm": "a",
                "checkpoint": "a",
                "prompt": "p",
                "second_text": "q",
                "guidance": 3.0,
                "sampler": "own",
                "negative": "none",
                "adapters": adapters,
                "width": 64,
                "height": 64,
                "steps": 4,
                "step": s,
                "switch": s,
                "kind": "made" if s < 0 else kind,
                "requested_by": "" if s < 0 else "steps",
                "outcome": o,
            }
            for t, s, o in outcomes
        ]
    )


def test_agreement_by_hand():
    final = [("t1", -1, "x"), ("t2", -1, "x"), ("t3", -1, "y"), ("t4", -1, "y")]
    early = [("t1", 0, "x"), ("t2", 0, "y"), ("t3", 0, "y"), ("t4", 0, "y")]
    (found,), (figure,) = agreement(frame(final + early, PREDICTED), "gender", "clip.gender")
    assert found.value == 0.75
    assert found.reference.null == pytest.approx(0.25 * 0.5 + 0.75 * 0.5)
    assert found.low < 0.75 < found.high
    assert figure.table["x"].tolist() == [1]


def test_switches_by_hand():
    cells = [("t1", 1, "x"), ("t2", 1, "x"), ("t3", 1, "y"), ("t1", 3, "y"), ("t2", 3, "y")]
    findings, _ = switched(frame(cells, SWITCHED), ("x", "y"), "gender", "clip.gender")
    shares = {(f.subject["step"], f.subject["class"]): (f.value, f.n) for f in findings}
    assert shares[("1 of 4", "x")] == (pytest.approx(2 / 3), 3)
    assert shares[("3 of 4", "y")] == (1, 2)


def test_switches_under_other_adapters_are_not_pooled():
    cells = [("t1", 1, "x"), ("t2", 1, "x")]
    both = pd.concat([frame(cells, SWITCHED), frame(cells[:1], SWITCHED, "lora")])
    findings, (figure,) = switched(both, ("x", "y"), "gender", "clip.gender")
    counted = {f.subject["adapters"]: f.n for f in findings}
    assert counted == {"none": 2, "lora": 1}
    assert set(figure.table["facet"]) == {f"a: p → q · adapters {a}" for a in counted}


def test_a_switch_from_a_prompt_that_is_not_there_is_refused(tmp_path):
    switches = [{"first": "a portrait of a docter", "second": MAN, "at": [1]}]
    path = write_spec(tmp_path, probes={"steps": {"switches": switches}}, vaes={"own": "own"})
    with pytest.raises(
        ValueError,
        match="'a portrait of a docter' is no prompt of this suite; the "
        "nearest is 'a portrait of a doctor'",
    ):
        plan_audit(open_audit(path, tmp_path / "run"), lambda text: None)


def test_one_class_alone_agrees_as_much_as_chance():
    cells = [("t1", -1, "x"), ("t1", 0, "x"), ("t2", -1, "x"), ("t2", 0, "x")]
    (found,), _ = agreement(frame(cells, PREDICTED), "gender", "clip.gender")
    assert (found.value, found.reference.null) == (1, 1)


def test_a_sampler_that_tells_nothing_is_not_measured(stepped):
    plan = stepped.run.read_cells()
    tables = {
        "steps": pd.DataFrame({"cell": ["c"], "note": ["X tells no predicted image"]}),
        "latent-colours": pd.DataFrame({"cell": []}),
    }
    nothing = pd.DataFrame()
    found, _ = analysed_by("steps", tables, plan, nothing, stepped.spec)
    assert [(f.status, f.note) for f in found] == [("not-measured", "X tells no predicted image")]
