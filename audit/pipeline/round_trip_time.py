"""How long a round trip takes, said before the work starts."""

from __future__ import annotations

import time

import numpy as np

from audit.pipeline.round_trip import send
from harness.models.vae_identity import Codec


def pace(way: Codec) -> float:
    """Seconds that a VAE takes for the round trip of a pixel: the second of two small images."""
    image = np.zeros((1, 128, 128, 3), np.uint8)
    started = 0.0
    for _ in range(2):  # The first one warms up.
        started = time.monotonic()
        send(way, image, 1)
    return (time.monotonic() - started) / (128 * 128)


def clock(seconds: float) -> str:
    """Minutes and seconds, such as 2:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
