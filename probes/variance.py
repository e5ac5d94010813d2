"""How much of a number's variance each factor of a fully crossed grid explains.

Main effects only: the sum of squares of a factor's level means as a part of the total. A seed
belongs to its prompt (prompts never share noise), so that 'seed' is what the means of a prompt's
seeds explain beyond the prompt. What is left, 'together', is what factors do only in combination.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import NamedTuple

import numpy as np
import pandas as pd

from audit.stats import FEWEST_PROMPTS

RESAMPLES = 400


class Explained(NamedTuple):
    """One factor's share.

    Attributes:
        factor: Its name; 'together' is what no single factor explains.
        share: Of the variance, 0 to 1.
        low, high: Percentile bootstrap over prompts; NaN below 20 prompts.
        chance: What a factor without any effect explains on average: its degrees of freedom
            as a part of all.
        n, prompts: Numbers of cells and of prompts.
    """

    factor: str
    share: float
    low: float
    high: float
    chance: float
    n: int
    prompts: int


def explained_variance(frame: pd.DataFrame, factors: Sequence[str]) -> list[Explained]:
    """Shares of variance by factor; nothing where no crossed factor or no variance is there.

    Args:
        frame: One row a cell: y, prompt, seed and the other factors. Prompt and seed pairs that
            lack a combination of the others are left out.
        factors: prompt and seed, and those that are crossed with them; of these only the ones
            that vary are told of.
    """
    crossed = [f for f in factors if f not in ("prompt", "seed") and frame[f].nunique() > 1]
    rows = frame.drop_duplicates(["prompt", "seed", *crossed])
    full = int(np.prod([rows[f].nunique() for f in crossed])) if crossed else 1
    size = rows.groupby(["prompt", "seed"])["y"].transform("size")
    rows = rows[size == full]
    if len(rows) < 2 or rows["y"].nunique() < 2:
        return []
    value = _shares(rows, crossed)
    names = list(rows["prompt"].unique())
    bounds = dict.fromkeys(value, (nan, nan))
    if len(names) >= FEWEST_PROMPTS:
        bounds = _bootstrap(rows, crossed, names)
    n, prompts = len(rows), len(names)
    pairs = len(rows.drop_duplicates(["prompt", "seed"]))
    freedom = {f: rows[f].nunique() - 1 for f in crossed}
    freedom |= {"prompt": prompts - 1, "seed": pairs - prompts}
    freedom["together"] = n - 1 - sum(freedom.values())
    return [
        Explained(name, share, *bounds[name], freedom[name] / (n - 1), n, prompts)
        for name, share in value.items()
        if freedom[name] > 0
    ]


def _shares(rows: pd.DataFrame, crossed: Sequence[str]) -> dict[str, float]:
    y = rows["y"].astype(float)
    centred = y - y.mean()
    total = float((centred**2).sum())
    squares = {
        f: float((centred.groupby(rows[f]).transform("mean") ** 2).sum())
        for f in ("prompt", *crossed)
    }
    pairs = centred.groupby([rows["prompt"], rows["seed"]]).transform("mean")
    squares["seed"] = float((pairs**2).sum()) - squares["prompt"]
    squares["together"] = total - sum(squares.values())
    return {f: max(0.0, s / total) for f, s in squares.items()} if total else {}


def _bootstrap(
    rows: pd.DataFrame, crossed: Sequence[str], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(0)
    parts = [rows[rows["prompt"] == name] for name in names]
    drawn: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, len(parts), len(parts))
        # A prompt drawn twice is two prompts.
        again = pd.concat([parts[i].assign(prompt=f"{k}") for k, i in enumerate(chosen)])
        for name, share in _shares(again, crossed).items():
            drawn.setdefault(name, []).append(share)
    return {
        name: (float(np.quantile(s, 0.025)), float(np.quantile(s, 0.975)))
        for name, s in drawn.items()
    }
