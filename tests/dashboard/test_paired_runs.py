"""The same arm in two runs: pairs by prompt, noise and setting, differences by hand."""

import shutil

import numpy as np
import pytest

pytest.importorskip("streamlit")

from benchmarks.synthetic_run import make
from dashboard import outcomes
from dashboard.paired_runs import paired
from dashboard.queries import RunView

TEXTS = [f"a portrait of worker {i}" for i in range(6)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paired")
    make(folder / "a", seeds=4, prompt_texts=TEXTS)
    # Other checkpoints beside it shift the made-up scores of the arm that both have.
    make(folder / "b", seeds=4, prompt_texts=TEXTS[2:], checkpoints=3)
    shutil.copytree(folder / "a", folder / "copy")
    make(folder / "other", seeds=4, prompt_texts=["a portrait of somebody else"])
    views = {path.name: RunView(path) for path in sorted(folder.iterdir())}
    yield views
    for view in views.values():
        view.close()


def test_a_copy_differs_by_exactly_nothing_with_an_interval(runs):
    found = paired(runs["a"], runs["copy"])
    assert len(found)
    assert (found["value"] == 0).all()
    assert (found["low"] < 0).all()
    assert (found["high"] > 0).all()
    assert found["pairs"].between(10, 24).all()


def test_differences_are_the_mean_over_shared_prompts_of_second_minus_first(runs):
    a, b = runs["a"], runs["b"]
    found = paired(a, b)
    shared = {arm for arm in a.arms if arm in b.arms}
    assert set(found["label"]) == shared
    assert shared
    assert (found["prompts"] == 4).all()
    assert (found["value"] != 0).any()
    reading = outcomes.readings(a)[0]
    other = outcomes.readings(b)[0]
    row = found.iloc[0]
    name = row["facet"].split(" · ")[-1]
    tables = []
    for run, own in ((a, reading), (b, other)):
        told = outcomes.told(run, own)
        tables.append(
            run.sql(
                f"SELECT p.prompt, p.seed, t.outcome FROM plan p JOIN {told} t USING (cell) "
                "WHERE p.arm = ?",
                [row["label"]],
            )
        )
    both = tables[0].merge(tables[1], on=["prompt", "seed"])
    known = both[both["outcome_x"].isin(reading.attribute.class_names)]
    known = known[known["outcome_y"].isin(reading.attribute.class_names)]
    change = (known["outcome_y"] == name).astype(float) - (known["outcome_x"] == name)
    by_hand = np.mean([change[part.index].mean() for _, part in known.groupby("prompt")])
    assert row["value"] == pytest.approx(by_hand)
    assert row["low"] <= row["value"] <= row["high"]
    turned = paired(b, a).set_index(["label", "facet"])["value"]
    assert turned[row["label"], row["facet"]] == pytest.approx(-row["value"])


def test_runs_without_a_shared_prompt_have_no_pairs(runs):
    assert paired(runs["a"], runs["other"]).empty
