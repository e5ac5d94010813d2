import numpy as np
import pytest
from skimage import data

from harness.spec.attributes import load_attribute
from harness.spec.sections import ClassifierSpec
from probes.contracts import Batch
from probes.instruments.clip import ClipAttribute, ClipLikeness, ClipModel
from probes.instruments.faces import boxes, largest_face
from reference.world import GENDERS, ROLES, TONES, Person, picture

PEOPLE = [Person(r, g, t, "noto") for r in ROLES[:4] for g in GENDERS for t in TONES]


def batch_of(images) -> Batch:
    names = tuple(f"c{i}" for i in range(len(images)))
    return Batch(names, ("a portrait of a doctor",) * len(images), tuple(images))


class Somewhere:
    device = "cpu"


def model(**changes) -> ClipModel:
    return ClipModel("small", ClassifierSpec(model="reference:balanced", **changes))


def test_the_reference_classifier_reads_the_worlds_images():
    gender = ClipAttribute(model(), load_attribute("world-gender", None))
    rows = gender.measure(batch_of([picture(p) for p in PEOPLE]), Somewhere())
    classes = rows[[f"class:{g}" for g in GENDERS]]
    assert classes.sum(axis=1).to_numpy() == pytest.approx(1)
    said = [GENDERS[i] for i in classes.to_numpy().argmax(axis=1)]
    assert np.mean([s == p.gender for s, p in zip(said, PEOPLE, strict=True)]) >= 0.95


def test_an_empty_page_is_nobody():
    gender = ClipAttribute(model(), load_attribute("world-gender", None))
    rows = gender.measure(batch_of([np.full((64, 64, 3), 255, np.uint8)]), Somewhere())
    assert rows["nobody"][0] > 0.5


def test_an_image_is_more_like_its_own_prompt():
    likeness = ClipLikeness(model())
    pictures = [picture(Person(r, "man", "light", "noto")) for r in ("doctor", "wizard")]
    rows = likeness.measure(batch_of(pictures), Somewhere())
    assert rows["likeness"][0] > rows["likeness"][1]
    assert np.linalg.norm(rows["embedding"][0]) == pytest.approx(1, abs=1e-5)


def test_an_instruments_identity_follows_its_words_and_weights():
    gender = load_attribute("world-gender", None)
    one, two = (ClipAttribute(model(), gender).cache_key() for _ in range(2))
    assert one == two
    cropped = ClipAttribute(model(faces=True), gender).cache_key()
    assert cropped != one


def test_faces_are_found_in_a_photograph_and_not_in_a_cup():
    assert largest_face(data.astronaut(), True).pixels.shape[0] < 256
    assert boxes(data.coffee(), True) == []
    assert boxes(np.zeros((10, 10, 3), np.uint8), True) == []


def test_with_faces_an_image_without_one_is_nobody():
    gender = ClipAttribute(model(faces=True), load_attribute("world-gender", None))
    rows = gender.measure(batch_of([data.astronaut(), data.coffee()]), Somewhere())
    assert rows["nobody"][1] == 1
    assert rows["nobody"][0] < 1
