"""Which of a denoising's steps are watched."""

from __future__ import annotations

import numpy as np


def watched_steps(steps: int, count: int) -> list[int]:
    """So many of the steps 0 … steps - 1, evenly apart, the last among them, each once."""
    if count == 1:
        return [steps - 1]
    return sorted({round(s) for s in np.linspace(0, steps - 1, count)})
