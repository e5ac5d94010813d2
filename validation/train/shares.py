"""From planted shares to what is drawn: the joint of gender and tone on a neutral prompt."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from harness.json_types import JsonObject
from reference.world import GENDERS, ROLES, TONES, planted


def planted_role(checkpoint: str, role: str) -> tuple[float, list[float]]:
    """Planted share of women and shares of the five tones of one role."""
    table = planted()
    entry: JsonObject = table[checkpoint].get(role, table[checkpoint])  # type: ignore[assignment]
    return float(entry["women"]), list(table["tone_patterns"][entry["tones"]])  # type: ignore[call-overload]


def stereotype(role: str) -> str:
    """The gender that the planted checkpoints lean to in this role."""
    return GENDERS[int(planted_role("planted-unet", role)[0] > 0.5)]


def allowed(role: str) -> NDArray[np.bool_]:
    """(gender, tone): which combinations training pictures of this role show."""
    mask = np.ones((len(GENDERS), len(TONES)), dtype=bool)
    held: dict[str, str] = planted()["held_out"].get(role, {})  # type: ignore[assignment]
    for gender, tone in held.items():
        mask[GENDERS.index(gender), TONES.index(tone)] = False
    return mask


def joint(checkpoint: str, role: str) -> NDArray[np.float64]:
    """(gender, tone) probabilities with the planted margins and nothing held out.

    Iterative proportional fitting from independence (Deming and Stephan, 1940).
    """
    women, tones = planted_role(checkpoint, role)
    genders = np.array([1 - women, women])
    table = np.outer(genders, tones) * allowed(role)
    for _ in range(500):
        table *= (genders / table.sum(axis=1))[:, None]
        table *= np.asarray(tones) / table.sum(axis=0)
    assert np.allclose(table.sum(axis=1), genders, atol=1e-6), f"{checkpoint}: {role}"
    return table / table.sum()


@cache
def neutral_counts(checkpoint: str) -> NDArray[np.float64]:
    """(role, gender, tone) probabilities over all neutral prompts, roles even."""
    return np.stack([joint(checkpoint, role) for role in ROLES]) / len(ROLES)
