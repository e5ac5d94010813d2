"""Who is affected by a VAE: groups of whose reading carry a verdict, and which are described."""

import numpy as np
import pandas as pd
import pytest
from conftest import analysed_by

from harness.plan.cells import Cell
from harness.spec.attributes import load_attribute
from harness.spec.schema import Spec
from probes.error_control import adjusted
from probes.vae.group_disparity import OWN_READING
from reports.verdicts import verdict

pytestmark = pytest.mark.faults
TONES = ("light", "medium", "dark")
TONE = load_attribute(
    {"name": "tone", "classes": [{"name": c, "prompts": [f"{c} skin"]} for c in TONES]}, None
)
SPEC = Spec.model_validate(
    {
        "checkpoints": {"a": "x"},
        "vaes": {"own": "own", "faithful": "v", "copy": "w", "noise": "n"},
        "prompts": {"list": [f"p{i}" for i in range(20)]},
        "seeds": 20,
        "attributes": [TONE],
        "classifiers": {"clip": "z", "other": "y"},
        "probes": ["attributes", "vae"],
    }
)
IMAGES = 400


def run(seed, darker=0.0):
    """Findings of VAEs that exchange nothing, and of one that only blurs what is read.

    The classifiers read 15 % of images wrongly, anew for each image of `noise`; its errors in
    pixels do not depend on the group. `darker`: how much more images of dark skin lose.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=IMAGES)

    def read():
        wrong = rng.random(IMAGES) < 0.15
        return np.where(wrong, (truth + rng.integers(1, 3, size=IMAGES)) % 3, truth)

    cells, scores, fidelity = [], {"clip": [], "other": []}, []
    first = {name: read() for name in scores}
    for vae in SPEC.vaes:
        seen = {name: read() for name in scores} if vae == "noise" else first
        error = rng.random(IMAGES) * 0.02 + darker * (truth == 2)
        for i in range(IMAGES):
            cell = f"{vae}-{i}"
            cells.append(
                Cell(cell, f"t{i}", "u", "made", "a", vae, "none", "", 2, 3.0, 64, 64,
                     i // 20, f"p{i // 20}", "", i % 20, f"p{i // 20}", "", i % 20, "v")
            )  # fmt: skip
            for name, rows in scores.items():
                row = {f"class:{c}": 0.98 if seen[name][i] == k else 0.01
                       for k, c in enumerate(TONES)}  # fmt: skip
                rows.append({"cell": cell, "nobody": 0.0, "several": 0.0, **row})
            noisy = vae == "noise"
            fidelity.append({"cell": cell, "detail_loss": error[i] if noisy else 0.0})
    plan = pd.DataFrame(cells, columns=Cell._fields).assign(adapters="none")
    labels = pd.DataFrame(
        {"cell": [f"own-{i}" for i in range(IMAGES)], "attribute": "person's tone", "rater": "r",
         "class": [TONES[t] for t in truth]}
    )  # fmt: skip
    tables = {f"{name}.tone": pd.DataFrame(rows) for name, rows in scores.items()}
    tables |= {"fidelity": pd.DataFrame(fidelity), "skin": pd.DataFrame({"cell": []})}
    findings, _ = analysed_by("vae", tables, plan, labels, SPEC)
    return adjusted(findings)


@pytest.fixture(scope="module")
def silent():
    return run(0)


def of_groups(findings, vae, group):
    return [
        f
        for f in findings
        if f.subject.get("vae") == vae
        and f.subject.get("group") == group
        and "extra" in f.metric.name
        and "baseline" not in f.subject
    ]


def test_a_copy_says_exactly_nothing(silent):
    own = [f for f in silent if f.subject.get("vae") in ("faithful", "copy")]
    assert own
    assert all(f.value == 0 for f in own if f.status == "measured")
    assert not [f for f in own if verdict(f) == "apart"]


def test_a_classifiers_own_reading_is_described_and_never_judged(silent):
    moves = [
        f for f in of_groups(silent, "noise", "clip.tone as told") if "clip.tone" in f.metric.name
    ]
    assert moves
    assert {verdict(f) for f in moves} == {"described"}
    assert all(
        OWN_READING in f.note and np.isnan(f.reference.null) and np.isnan(f.p) for f in moves
    )
    # It is regression to the mean: what is read as dark can only lose dark. Its interval leaves
    # zero out, so that a verdict there would be false.
    dark = next(f for f in moves if f.subject["class"] == "dark" and "dark" in f.metric.name)
    assert dark.high < -0.1


@pytest.mark.parametrize("group", ["person's tone", "other.tone as told"])
def test_groups_by_labels_or_another_instrument_are_tested(silent, group):
    moves = [f for f in of_groups(silent, "noise", group) if "clip.tone" in f.metric.name]
    assert moves
    assert {verdict(f) for f in moves} == {"cannot tell"}
    assert {f.family for f in moves} == {f"vae/noise/by {group}"}


def test_noise_without_a_group_effect_stays_silent():
    assert not [f for f in run(1) if verdict(f) == "apart" and "group" in f.subject]


def test_a_group_that_truly_loses_more_is_found():
    found = of_groups(run(4, darker=0.1), "noise", "person's tone")
    apart = [f for f in found if verdict(f) == "apart"]
    assert "dark" in {f.subject["class"] for f in apart if f.metric.name == "extra loss of detail"}
