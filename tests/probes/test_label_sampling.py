"""Labels on a small real run: drawn once, queued blindly, added by several at once, compared."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from audit.commands.main import main
from harness.errors import AuditError, SpecError
from harness.plan.cells import Cell
from harness.store.run import Run
from probes.attributes import label_sampling

ATTRIBUTE = {
    "name": "gender",
    "classes": [{"name": "man", "prompts": ["a man"]}, {"name": "woman", "prompts": ["a woman"]}],
}
SPEC = {
    "checkpoints": {"a": "x"},
    "prompts": {"list": [f"p{i}" for i in range(10)]},
    "seeds": 20,
    "attributes": [ATTRIBUTE],
    "classifiers": {"clip": "z"},
}
GENDER = "gender"


def make_run(folder: Path, seeds=20, made=20) -> Path:
    """A run as it lies on disk: spec, plan, images and scores; every fourth image is unsure."""
    run = Run(folder)
    run.write_text("spec.yaml", yaml.safe_dump(SPEC))
    rows = [
        Cell(f"c{i}-{s}", f"c{i}-{s}", f"u{i}", "made", "a", "own", "none", "own", 2, 3.0, 64, 64,
             i, f"p{i}", "", s, f"p{i}", "", s, "v")
        for i in range(10)
        for s in range(seeds)
    ]  # fmt: skip
    plan = pd.DataFrame(rows, columns=Cell._fields)
    run.write_plan(plan)
    run.write_json("instruments.json", {"clip.gender": "clip.gender@1"})
    for unit, part in plan.groupby("unit"):
        kept = part[part["seed"] < made]
        images = [{"cell": c, "png": b"", "sha256": "0", "reason": ""} for c in kept["cell"]]
        run.write_images(unit, "v", images)
        woman = np.where(kept["seed"] % 4 == 0, 0.5, 0.98)
        scores = pd.DataFrame({"cell": kept["cell"], "class:man": 1 - woman, "class:woman": woman})
        run.write_scores("clip.gender@1", unit, "v", scores.assign(nobody=0.0, several=0.0))
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def command(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def test_a_sample_is_drawn_once_and_kept(run):
    first = label_sampling.sample(run, GENDER, 60, 1)
    assert list(first.columns) == ["cell", "pi"]
    assert 40 < len(first) < 80
    pd.testing.assert_frame_equal(label_sampling.sample(run, GENDER, 5, 2), first)
    other = label_sampling.sample(make_run(run.parent / "again"), GENDER, 60, 1)
    pd.testing.assert_frame_equal(other, first)
    kept = Run(run).read_sample(GENDER)
    assert kept["pi"].sum() == pytest.approx(60)
    # By hand: uncertainty is 1 at .5, and 2 √(.02 · .98) = .28 at .98.
    sure = kept["pi"].min() / kept["pi"].max()
    assert sure == pytest.approx(2 * np.sqrt(0.02 * 0.98))


def test_even_the_surest_image_can_be_drawn():
    pi = label_sampling.probabilities(np.r_[np.zeros(90), np.ones(10)], 10)
    assert pi.sum() == pytest.approx(10)
    assert pi[0] / pi[-1] == pytest.approx(label_sampling.FLOOR)
    capped = label_sampling.probabilities(np.r_[np.zeros(90), np.ones(10)], 30)
    assert capped[-1] == 1
    assert capped.sum() == pytest.approx(30)
    assert (label_sampling.probabilities(np.zeros(5), 9) == 1).all()


def test_everybody_has_an_order_of_their_own_that_stays(run):
    drawn = label_sampling.sample(run, GENDER, 60, 1)["cell"].tolist()
    ann, bob = (label_sampling.queue(run, GENDER, who) for who in ("Ann", "Bob"))
    assert sorted(ann) == sorted(bob) == sorted(drawn)
    assert ann != bob != drawn
    label_sampling.add(run, GENDER, ann[0], "Ann", "woman")
    label_sampling.add(run, GENDER, ann[3], "Ann", "cannot tell")
    assert label_sampling.queue(run, GENDER, "Ann") == [ann[1], ann[2], *ann[4:]]
    assert label_sampling.queue(run, GENDER, "Bob") == bob


def test_the_last_label_of_a_person_counts_and_none_is_overwritten(run):
    cell = label_sampling.sample(run, GENDER, 60, 1)["cell"][0]
    for outcome in ("man", "woman"):
        label_sampling.add(run, GENDER, cell, "Ann", outcome)
    label_sampling.add(run, GENDER, cell, "Bob", "man")
    labels = Run(run).labels()
    assert sorted(zip(labels["rater"], labels["class"], strict=True)) == [
        ("Ann", "woman"),
        ("Bob", "man"),
    ]
    assert len(list((run / "labels").glob("*.parquet"))) == 3


def test_several_people_label_at_once(run):
    cells = label_sampling.sample(run, GENDER, 60, 1)["cell"].tolist()[:12]
    work = [(cell, who) for cell in cells for who in ("Ann", "Bob", "Cem")]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda w: label_sampling.add(run, GENDER, w[0], w[1], "woman"), work))
    assert len(Run(run).labels()) == len(work)
    assert not list((run / "labels").glob(".*"))


def test_two_processes_that_draw_at_once_keep_one_sample(run):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from probes.attributes.label_sampling import sample\n"
        "print(','.join(sample(Path(sys.argv[1]), 'gender', 60, int(sys.argv[2]))['cell']))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, run, str(seed)], stdout=subprocess.PIPE, text=True
        )
        for seed in (1, 2)
    ]
    printed = {p.communicate()[0].strip() for p in started}
    assert len(printed) == 1
    assert printed.pop().split(",") == label_sampling.sample(run, GENDER, 1, 9)["cell"].tolist()


def test_agreement_is_fleiss_kappa(run):
    cells = label_sampling.sample(run, GENDER, 60, 1)["cell"].tolist()[:20]
    for i, cell in enumerate(cells):
        label_sampling.add(run, GENDER, cell, "Ann", "man" if i < 10 else "woman")
        label_sampling.add(run, GENDER, cell, "Bob", "man" if i < 8 else "woman")
    row = label_sampling.agreement(run, GENDER).iloc[0]
    assert (row["raters"], row["images"], row["agreement"]) == (2, 20, 0.9)
    # By hand: shares .45 and .55, chance .45² + .55² = .505, (.9 − .505) / .495.
    assert row["kappa"] == pytest.approx(0.395 / 0.495)
    assert row["low"] < row["kappa"] < row["high"]
    assert (
        "20 images with 2 labels each: 90% of pairs" in command("labels", "agreement", run).stdout
    )


def test_agreement_without_anything_to_compare_says_so(run):
    assert label_sampling.agreement(run, GENDER).empty
    assert "nothing to compare" in command("labels", "agreement", run).stdout
    for who in ("Ann", "Bob"):
        for cell in label_sampling.sample(run, GENDER, 60, 1)["cell"][:3]:
            label_sampling.add(run, GENDER, cell, who, "man")
    row = label_sampling.agreement(run, GENDER).iloc[0]
    assert np.isnan(row["kappa"])
    assert "one outcome" in row["note"]


def test_labels_come_and_go_by_csv(run, tmp_path):
    table = tmp_path / "labels.csv"
    command("labels", "sample", run, "--attribute", GENDER, "--n", 60, "--csv", table)
    rows = pd.read_csv(table, dtype=str)
    assert list(rows.columns) == ["cell", "attribute", "class", "rater"]
    assert set(rows["cell"]) == set(label_sampling.sample(run, GENDER, 1, 1)["cell"])
    rows["class"] = ["woman", "nobody", *[None] * (len(rows) - 2)]
    rows["rater"] = "Ann"
    rows.to_csv(table, index=False)
    assert "2 labels added" in command("labels", "add", run, table).stdout
    assert set(Run(run).labels()["class"]) == {"woman", "nobody"}
    assert len(label_sampling.queue(run, GENDER, "Ann")) == len(rows) - 2


def test_labels_outside_the_sample_are_kept_and_said_to_count_for_nothing(run, tmp_path):
    drawn = set(label_sampling.sample(run, GENDER, 60, 1)["cell"])
    other = next(c for c in Run(run).read_plan()["cell"] if c not in drawn)
    table = tmp_path / "labels.csv"
    table.write_text(f"cell,attribute,class\n{other},gender,man\n")
    assert "no share leans on them" in command("labels", "add", run, table).stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cell,class\nc0-0,man\n", "column 'attribute' is missing"),
        (
            "cell,attribute,class\nc0-0,gender,man\nc0-1,gender,wman\n",
            "1 label of gender is no class: 'wman' (1); the classes of gender are man, woman",
        ),
        ("cell,attribute,class\nzzz,gender,man\n", "line 2: cell 'zzz' is not in this run's plan"),
        ("cell,attribute,class\nc0-0,age,man\n", "line 2: attribute 'age' is not in this run"),
        ("", "no rows"),
    ],
)
def test_a_wrong_csv_is_refused_whole(run, tmp_path, text, words):
    table = tmp_path / "labels.csv"
    table.write_text(text)
    lines = command("labels", "add", run, table, code=2).stderr.strip().splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert Run(run).labels().empty


def test_what_cannot_be_labelled_is_refused_in_one_line(run, tmp_path):
    with pytest.raises(SpecError, match="no sample is drawn for 'gender' yet"):
        label_sampling.queue(run, GENDER, "Ann")
    with pytest.raises(SpecError, match="no run here"):
        label_sampling.sample(tmp_path / "none", GENDER, 5, 0)
    with pytest.raises(SpecError, match="'gendre' is not in this run; the nearest is 'gender'"):
        label_sampling.sample(run, "gendre", 5, 0)
    with pytest.raises(SpecError, match="at least 1 image"):
        label_sampling.sample(run, GENDER, 0, 0)
    drawn = label_sampling.sample(run, GENDER, 60, 1)["cell"]
    with pytest.raises(SpecError, match="'other' is no outcome of 'gender'"):
        label_sampling.add(run, GENDER, drawn[0], "Ann", "other")
    with pytest.raises(SpecError, match="is not in the sample"):
        label_sampling.add(run, GENDER, "../../etc", "Ann", "man")
    with pytest.raises(SpecError, match="a name is missing"):
        label_sampling.add(run, GENDER, drawn[0], " ", "man")


def test_a_run_that_is_still_being_made_is_not_sampled(run):
    missing = next((run / "images").glob("u3/*.parquet"))
    missing.unlink()
    with pytest.raises(SpecError, match="1 of 10 batches are not made yet"):
        label_sampling.sample(run, GENDER, 5, 0)
    Run(run).write_failure("u3", "out of memory")
    assert not label_sampling.sample(run, GENDER, 60, 0)["cell"].str.startswith("c3-").any()


def test_a_run_without_images_has_nothing_to_label(tmp_path):
    with pytest.raises(SpecError, match="holds no images"):
        label_sampling.sample(make_run(tmp_path / "run", made=0), GENDER, 5, 0)


def test_labels_do_not_leave_the_run(run, tmp_path):
    label_sampling.sample(run, GENDER, 60, 1)
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", run / "labels")
    with pytest.raises(AuditError, match="points out of the run"):
        label_sampling.queue(run, GENDER, "Ann")


@pytest.mark.faults
def test_a_label_that_is_taken_back_counts_no_more_and_is_asked_again(run):
    attribute = GENDER
    label_sampling.sample(run, attribute, 60, 1)
    cell, other = label_sampling.queue(run, attribute, "ann")[:2]
    label_sampling.add_all(run, attribute, "ann", [(cell, "nobody"), (other, "several")])
    files = set((run / "labels").glob("*"))
    label_sampling.add_all(run, attribute, "ann", [(cell, "")])
    assert Run(run).labels()["cell"].tolist() == [other]
    assert cell in label_sampling.queue(run, attribute, "ann")
    assert files < set((run / "labels").glob("*"))  # labels are only ever added
    label_sampling.add(run, attribute, cell, "ann", "nobody")
    assert set(Run(run).labels()["cell"]) == {cell, other}
    with pytest.raises(SpecError, match="not in the sample"):
        label_sampling.add_all(run, attribute, "ann", [(cell, "several"), ("0" * 64, "nobody")])
    assert set(Run(run).labels()["class"]) == {"nobody", "several"}
