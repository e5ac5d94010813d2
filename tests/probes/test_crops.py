"""Images that are not square: what the classifier sees of them, and under which key."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import SPEC

from audit.pipeline.imported_images import fitted
from harness.errors import SpecError
from harness.plan.cells import Cell
from harness.spec.attributes import load_attribute
from harness.spec.schema import Spec, parse_spec
from harness.spec.sections import DEFAULT_FIT, ClassifierSpec
from probes.attributes.probe import images_cut
from probes.contracts import Batch, Context
from probes.instruments.clip import ClipAttribute, ClipLikeness, ClipModel
from probes.instruments.crops import fit_of, part_seen, squares
from probes.registry import instruments_of
from reference.world import GENDERS, ROLES, STYLES, TONES, Person, picture
from validation.simulations.crops import photograph_table, summary, world_table

pytestmark = pytest.mark.faults

FITS = ("crop", "pad", "resize", "crops")
PEOPLE = [Person(*p) for p in product(ROLES[:2], GENDERS, TONES[::2], STYLES)]
PORTRAIT = np.arange(12 * 8 * 3, dtype=np.uint8).reshape(12, 8, 3)


def spec(**changes) -> Spec:
    return parse_spec(SPEC | changes, Path("x"))


def model(fit, **changes) -> ClipModel:
    return ClipModel("small", ClassifierSpec(model="reference:balanced", **changes), fit)


def batch_of(images) -> Batch:
    return Batch(tuple(f"c{i}" for i in range(len(images))), ("a doctor",) * len(images), images)


def tall(person: Person) -> np.ndarray:
    """64 x 128, the person at the bottom."""
    page = np.full((128, 64, 3), 255, np.uint8)
    page[64:] = picture(person)
    return page


# --- shapes ---


@pytest.mark.parametrize("fit", FITS)
def test_a_square_is_itself(fit):
    square = PORTRAIT[:8]
    (only,) = squares(square, fit, "#808080")
    assert only is square
    assert part_seen(square, fit) == 1


def test_what_each_way_makes_of_a_portrait():
    assert squares(PORTRAIT, "crop", "#808080")[0] is PORTRAIT  # open_clip cuts the middle out
    assert part_seen(PORTRAIT, "crop") == pytest.approx(8 / 12)
    (padded,) = squares(PORTRAIT, "pad", "#102030")
    assert padded.shape == (12, 12, 3)
    assert (padded[:, 2:10] == PORTRAIT).all()
    assert (padded[:, :2] == (0x10, 0x20, 0x30)).all()
    assert (padded[:, 10:] == (0x10, 0x20, 0x30)).all()
    (resized,) = squares(PORTRAIT, "resize", "#808080")
    assert resized.shape == (8, 8, 3)
    first, last = squares(PORTRAIT, "crops", "#808080")
    assert (first == PORTRAIT[:8]).all()
    assert (last == PORTRAIT[4:]).all()
    across = squares(PORTRAIT.transpose(1, 0, 2), "crops", "#808080")
    assert (across[1] == PORTRAIT[4:].transpose(1, 0, 2)).all()


@pytest.mark.parametrize("long", [9, 12, 13, 16, 24, 31, 80])
def test_crops_reach_both_ends_and_overlap_by_half(long):
    image = np.arange(long, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(3, 2)
    starts = [int(c[0, 0, 0]) for c in squares(image, "crops", "#808080")]
    assert starts[0] == 0
    assert starts[-1] == long - 8
    assert max(np.diff(starts)) <= 4


# --- the bar ---


def test_a_person_at_the_bottom_is_read():
    pages = tuple(tall(p) for p in PEOPLE)
    shares, right = {}, {}
    truth = np.array([p.gender == "woman" for p in PEOPLE])
    for fit in FITS:
        gender = ClipAttribute(model(fit), load_attribute("world-gender", Path()))
        rows = gender.measure(batch_of(pages), Context("cpu"))
        assert rows[["class:man", "class:woman"]].sum(axis=1).to_numpy() == pytest.approx(1)
        read = (rows["class:woman"] > rows["class:man"]).to_numpy()
        shares[fit], right[fit] = read.mean(), (read == truth).mean()
        assert ("seen" in rows) is False
    assert abs(shares["crop"] - 0.5) > 0.25  # the fault, and the control
    assert abs(shares[DEFAULT_FIT] - 0.5) < 0.1
    assert right[DEFAULT_FIT] > 0.9


def test_the_simulation_in_small_prefers_the_default():
    table = summary(world_table(1, ["#e6e6e6"]), photograph_table())
    ways = {name.split()[0]: row for name, row in table.iterrows()}
    assert table["right"].idxmax() == DEFAULT_FIT
    assert ways[DEFAULT_FIT]["lowest"] >= table["lowest"].max() - 0.05


# --- squares keep bytes, scores and key ---


def test_square_images_have_the_same_scores_by_every_way():
    people = tuple(picture(p) for p in PEOPLE[:6])
    attribute = load_attribute("world-gender", Path())
    tables = [
        ClipAttribute(model(f), attribute).measure(batch_of(people), Context("cpu")) for f in FITS
    ]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    # Among images that are not square too.
    mixed = batch_of((*people[:3], tall(PEOPLE[0])))
    likeness = [ClipLikeness(model(f)).measure(mixed, Context("cpu")) for f in FITS]
    for rows in likeness[1:]:
        assert rows["likeness"][:3].to_numpy() == pytest.approx(
            likeness[0]["likeness"][:3].to_numpy(), abs=1e-6
        )


def test_the_key_holds_the_way_only_where_something_is_not_square():
    def identities(one: Spec) -> list[dict]:
        return [i.cache_key() for i in instruments_of(one) if i.name != "skin"]

    plain = identities(spec())
    assert all("fit" not in i for i in plain)
    assert identities(spec(sizes=[[64, 64]])) == plain
    uneven = identities(spec(sizes=[[64, 64], [64, 96]]))
    assert all(i["fit"] == DEFAULT_FIT for i in uneven)
    asked = {"small": {"model": "reference:balanced", "fit": "pad", "pad_colour": "#ffffff"}}
    padded = identities(spec(classifiers=asked))
    assert all((i["fit"], i["pad"]) == ("pad", "#ffffff") for i in padded)
    asked = {"small": {"model": "reference:balanced", "fit": "crop"}}
    assert identities(spec(classifiers=asked, sizes=[[64, 96]])) == plain


def test_an_importer_names_the_way_only_where_something_is_not_square():
    one = "reference:balanced"
    assert fitted([one], [(64, 64), (0, 0)], None) == {"balanced": {"model": one}}
    assert fitted([one], [(64, 64), (64, 65)], None)["balanced"]["fit"] == DEFAULT_FIT
    assert fitted([one], [(64, 65)], "pad")["balanced"]["fit"] == "pad"


@pytest.mark.parametrize("change", [{"fit": "stretch"}, {"fit": "pad", "pad_colour": "grey"}])
def test_unknown_ways_are_refused(change):
    with pytest.raises(SpecError, match=r"classifiers\.small"):
        spec(classifiers={"small": {"model": "reference:balanced"} | change})


# --- the report says it ---


@pytest.mark.parametrize(
    ("fit", "value", "words"),
    [("crop", (1 + 0.5 + 0.5) / 3, "2 images are not square"), ("crops", 1.0, "overlapping")],
)
def test_what_was_cut_is_a_finding(fit, value, words):
    images = (picture(PEOPLE[0]), tall(PEOPLE[0]), tall(PEOPLE[1]))
    rows = ClipLikeness(model(fit)).measure(batch_of(images), Context("cpu"))
    plan = pd.DataFrame([cell(f"c{i}") for i in range(3)], columns=Cell._fields)
    asked = spec(classifiers={"small": {"model": "reference:balanced", "fit": fit}})
    (found,) = images_cut({"small.likeness": rows}, plan.assign(arm="a"), asked, "small")
    assert found.value == pytest.approx(value)
    assert found.n == 3
    assert words in found.note
    assert not found.headline
    square = rows.drop(columns="seen")
    assert images_cut({"small.likeness": square}, plan.assign(arm="a"), asked, "small") == []


def cell(name: str) -> Cell:
    return Cell(
        *(name, name, "u", "given", "a", "own", "none", "own", 2, 3.0, 64, 64, 0, "p", "", 0, "p"),
        *("", 0, "v"),
    )


def test_the_spec_of_a_run_keeps_the_way(tmp_path):
    one = spec(classifiers={"small": {"model": "reference:balanced", "fit": "resize"}})
    again = parse_spec(yaml.safe_load(yaml.safe_dump(one.model_dump(mode="json"))), Path("x"))
    assert fit_of(again.classifiers["small"], again) == "resize"
