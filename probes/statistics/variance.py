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
from numpy.typing import NDArray

from probes.statistics.intervals import FEWEST_PROMPTS

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
    n, prompts = len(rows), rows["prompt"].nunique()
    sums = _sums(rows, crossed)
    value = _shares(sums, np.arange(prompts))
    bounds = dict.fromkeys(value, (nan, nan))
    if prompts >= FEWEST_PROMPTS:
        bounds = _bootstrap(sums)
    pairs = len(rows.drop_duplicates(["prompt", "seed"]))
    freedom = {f: rows[f].nunique() - 1 for f in crossed}
    freedom |= {"prompt": prompts - 1, "seed": pairs - prompts}
    freedom["together"] = n - 1 - sum(freedom.values())
    return [
        Explained(name, share, *bounds[name], freedom[name] / (n - 1), n, prompts)
        for name, share in value.items()
        if freedom[name] > 0
    ]


class _Sums(NamedTuple):
    """What each prompt adds to the sums of squares: arrays with one row a prompt."""

    cells: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    pairs: NDArray[np.float64]
    """Sum over the prompt's seeds of (sum of the seed's cells)² / cells."""
    levels: dict[str, NDArray[np.float64]]
    """By factor, sums by level: (prompts, levels)."""


def _sums(rows: pd.DataFrame, crossed: Sequence[str]) -> _Sums:
    y = rows.assign(y=rows["y"].astype(float))
    own = y.groupby("prompt", sort=False)["y"]
    by_pair = y.groupby(["prompt", "seed"], sort=False)["y"].agg(["sum", "size"])
    pairs = (by_pair["sum"] ** 2 / by_pair["size"]).groupby(level="prompt", sort=False).sum()
    order = own.sum().index
    return _Sums(
        own.size().to_numpy(float),
        own.sum().to_numpy(),
        own.agg(lambda v: float((v**2).sum())).to_numpy(),
        pairs.reindex(order).to_numpy(),
        {
            f: y.pivot_table(index="prompt", columns=f, values="y", aggfunc="sum")
            .reindex(order)
            .to_numpy(float)
            for f in crossed
        },
    )


def _shares(sums: _Sums, chosen: NDArray[np.intp]) -> dict[str, float]:
    """Shares by factor of the chosen prompts; one that is chosen twice is two prompts."""
    cells, total = sums.cells[chosen], sums.total[chosen]
    n, mean = cells.sum(), total.sum() ** 2 / cells.sum()
    whole = sums.squares[chosen].sum() - mean
    of_prompts = (total**2 / cells).sum()
    squares = {"prompt": of_prompts - mean}
    for factor, levels in sums.levels.items():
        # Every level has as many cells: the grid is complete.
        by_level = levels[chosen].sum(axis=0)
        squares[factor] = (by_level**2).sum() * len(by_level) / n - mean
    squares["seed"] = sums.pairs[chosen].sum() - of_prompts
    squares["together"] = whole - sum(squares.values())
    if whole <= 0:
        return {}
    return {f: float(max(0.0, s / whole)) for f, s in squares.items()}


def _bootstrap(sums: _Sums) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(0)
    prompts = len(sums.cells)
    drawn: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        for name, share in _shares(sums, rng.integers(0, prompts, prompts)).items():
            drawn.setdefault(name, []).append(share)
    return {
        name: (float(np.quantile(s, 0.025)), float(np.quantile(s, 0.975)))
        for name, s in drawn.items()
    }
