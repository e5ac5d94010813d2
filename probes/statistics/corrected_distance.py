"""How far corrected shares are from a target, with the p of a model that meets it.

The target is pushed through confusion matrices drawn from the uncertainty of the labels they were
counted from; the outcomes that this gives are corrected as the observed ones are. So an instrument
that errs, and a matrix that few labels stand behind, are not taken for a model off target.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from probes.statistics.corrected_shares import (
    ErrorTable,
    checked_counts,
    corrected_shares,
    most_likely_shares,
    random_rows,
    testing_prior,
)
from probes.statistics.total_variation import bounds_in_box, surely_beyond

Floats = NDArray[np.float64]
Counts = tuple[tuple[float, ...], ...]

DRAWS = 10_000
"""Simulated models on target, for two classes; for more a fifth of that."""
FEWEST_HITS = 50
"""Simulated models as far off, below which the tail is sampled on purpose."""
ROUNDS = 300
"""Rounds of EM for more than two classes, of observed and simulated outcomes alike."""
MOST_SUBSETS = 8
"""Classes up to which the tail is sampled in the direction of every subset of them."""
DEALS = 20
"""Rounds of dealing images to classes, see `_odd_rows`."""
TIES = 1e-6


class CorrectedDistance(NamedTuple):
    """Total variation of corrected shares from a target, 0 to 1.

    Attributes:
        value: of the corrected shares.
        low: lower 95 % bound.
        high: upper 95 % bound.
        null: what a model that meets the target has on average at this n and matrix.
        null_q95: the 95 % point of that.
        p: probability that such a model is at least as far off.
    """

    value: float
    low: float
    high: float
    null: float
    null_q95: float
    p: float


def corrected_distance(
    outcome_counts: ArrayLike, table: ErrorTable, target: ArrayLike, draws: int = 2000
) -> CorrectedDistance:
    """Distance of the corrected shares from the target, its bounds, its null and p.

    The bounds are those of shares within the intervals of `corrected_shares`, for more than two
    classes at 95 % together (Bonferroni) and with `surely_beyond`. p is simulated; where fewer
    than 50 simulated models come as far, the tail is sampled by importance (from models that are
    as far off as observed, in every direction), so that p has no floor.

    Args:
        outcome_counts: (O,) audited images by outcome, in the order of `table.outcomes`, at
            least one of them an outcome that the table knows.
        table: Confusion matrix, of labelled images that are not among the audited ones.
        target: One share for each class; they sum to 1.
        draws: Of the posterior that the bounds come from.

    Raises:
        ValueError: As `corrected_shares`.
    """
    counts = checked_counts(table)
    outcomes, wanted = np.asarray(outcome_counts, float), np.asarray(target, float)
    classes = len(wanted)
    level = 0.95 if classes == 2 else 1 - 0.05 / classes
    shares = corrected_shares(outcomes, table, draws, level=level)
    key = tuple(map(tuple, counts.tolist()))
    n, aim = int(outcomes.sum()), tuple(map(float, wanted))
    null = null_distances(n, aim, key)
    observed = float(_distances(outcomes[None], counts, wanted)[0])
    hits = int((null >= observed - TIES).sum())
    p = (1 + hits) / (len(null) + 1)
    if hits < FEWEST_HITS:
        p = _tail(n, aim, key, observed)
    value = float(np.abs(shares.value - wanted).sum() / 2)
    low, high = bounds_in_box(shares.low, shares.high, wanted)
    if classes > 2:
        even = null_distances(n, (1 / classes,) * classes, key)
        low = surely_beyond(value, low, even, np.full(len(even), 1 / len(even)))
    return CorrectedDistance(
        value,
        low,
        high,
        float(null.mean()),
        float(np.quantile(null, 0.95, method="higher")),
        p,
    )


@lru_cache(maxsize=1024)
def null_distances(n: int, target: tuple[float, ...], table: Counts) -> Floats:
    """Corrected distances of simulated models that meet the target, ascending.

    Args:
        n: Audited images, whatever their outcome.
        target: One share for each class.
        table: Counts of the confusion matrix, one row a class.

    Returns:
        One distance for each model; of models without an image that the matrix says anything
        of, 0.
    """
    rng = np.random.default_rng(0)
    counts, wanted = np.array(table), np.array(target)
    draws = DRAWS if len(counts) == 2 else DRAWS // 5
    rows = random_rows(counts, testing_prior(counts), draws, rng)
    outcomes = rng.multinomial(n, wanted @ rows)
    unique, which = np.unique(outcomes, axis=0, return_inverse=True)
    return np.sort(_distances(unique.astype(float), counts, wanted)[which.ravel()])


def _distances(outcomes: Floats, counts: Floats, target: Floats) -> Floats:
    rows = counts / counts.sum(axis=1, keepdims=True)
    shares = most_likely_shares(outcomes, rows, ROUNDS)
    return np.nan_to_num(np.abs(shares - target).sum(axis=1) / 2)


@lru_cache(maxsize=4096)
def _tail(n: int, target: tuple[float, ...], table: Counts, distance: float) -> float:
    """Probability of a distance that plain simulation hardly ever reaches.

    Such outcomes come about in two ways: by chance in what is drawn, or because the matrix is far
    from its counts. So outcomes are drawn from shares that lie as far off as observed (by every
    way of raising some classes and lowering the others) and from the target; matrices from their
    counts and from those with the images of such shares dealt to them; and each pair is weighted
    by how much less likely a model on target gives it.
    """
    rng = np.random.default_rng(1)
    counts, wanted = np.array(table), np.array(target)
    draws = DRAWS // 5
    far = _at_distance(wanted, distance)
    rows, log_matrix = _odd_rows(n, wanted, far, counts, draws, rng)
    shares = np.concatenate([wanted[None], far])
    weight = np.concatenate([[0.5], np.full(len(far), 0.5 / len(far))])
    chances = np.einsum("sk,bko->bso", shares, rows)
    which = rng.choice(len(shares), draws, p=weight)
    outcomes = rng.multinomial(n, chances[np.arange(draws), which]).astype(float)
    reached = _distances(outcomes, counts, wanted) >= distance - TIES
    likely = scipy.special.xlogy(outcomes[:, None, :], chances).sum(axis=2)
    ratio = likely[:, 0] - scipy.special.logsumexp(likely, axis=1, b=weight) + log_matrix
    p = float(np.where(reached, np.exp(ratio), 0).mean())
    return min(max(p, float(np.finfo(float).tiny)), 1.0)


def _odd_rows(
    n: int, target: Floats, far: Floats, counts: Floats, draws: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Matrices of which many make a model on target look far off it, and their log weights.

    Half are drawn from the counts (K, O) with the test's prior, half with n images of one of the
    far shares added: dealt to the classes as the target would have it, so that the matrix alone
    explains them.
    """
    weights = counts + testing_prior(counts)
    images = n * far @ (counts / counts.sum(axis=1, keepdims=True))
    dealt = np.zeros((len(far), *weights.shape))
    for _ in range(DEALS):
        rows = (weights + dealt) / (weights + dealt).sum(axis=2, keepdims=True)
        chance = target[:, None] * rows
        dealt = images[:, None, :] * chance / chance.sum(axis=1, keepdims=True)
    every = np.concatenate([weights[None], weights + dealt])
    part = np.concatenate([[0.5], np.full(len(far), 0.5 / len(far))])
    drawn = rng.standard_gamma(every[rng.choice(len(every), draws, p=part)])
    rows = np.maximum(drawn, np.finfo(float).tiny)
    rows /= rows.sum(axis=2, keepdims=True)
    log_rows = np.log(np.maximum(rows, np.finfo(float).tiny))
    norm = (
        scipy.special.gammaln(every).sum(axis=2) - scipy.special.gammaln(every.sum(axis=2))
    ).sum(axis=1)
    density = np.einsum("bko,sko->bs", log_rows, every - weights) - norm + norm[0]
    return rows, -scipy.special.logsumexp(density, axis=1, b=part)


def _at_distance(target: Floats, distance: float) -> Floats:
    """(S, K) shares at this total variation from the target, in every direction that has any."""
    classes = len(target)
    if classes <= MOST_SUBSETS:
        up = np.array(list(product((0.0, 1.0), repeat=classes)))[1:-1]
    else:
        up = np.concatenate([np.eye(classes), 1 - np.eye(classes)])
    room = (1 - up) @ target
    up = up[room >= min(distance, room.max() - TIES)]
    weight = up * (target + 1e-3)
    raised = weight / weight.sum(axis=1, keepdims=True)
    lowered = (1 - up) * target / ((1 - up) @ target)[:, None]
    shares = np.clip(target + distance * (raised - lowered), 0, None)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
