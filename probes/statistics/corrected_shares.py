"""Shares of the true classes, from an instrument that errs.

An instrument's counted shares are pulled towards each other by its errors. `corrected_shares`
knows how it errs from a table (true class x outcome) measured on other labelled images. That this
table holds for the images at hand is an assumption. Where people labelled some of the very images
at hand, `probes.statistics.prediction_powered` needs no such table.

Inverting the table (Rogan and Gladen 1978) gives shares below 0 or above 1 as soon as a class is
rare, and an interval that takes the table for exact is too narrow. So the estimate is the most
likely mixture within [0, 1], and the interval comes from a posterior in which the table is itself
uncertain. Zero counts are no proof of zero, and a few are none of more than zero where the
instrument errs: no interval has zero width, and bounds reach 0 and 1.
"""

from __future__ import annotations

from functools import lru_cache
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import AuditError
from probes.statistics.share_ends import allowed_ends

Floats = NDArray[np.float64]

SHARE_PRIOR = 0.5
"""Dirichlet prior of each true share. In simulated audits of 32 images and five classes intervals
covered shares of .05 to .95 with .92 at a prior of 1/K, .95 at 1/2 and .94 at 1."""
BISECTIONS = 40
"""Halvings of the interval [0, 1]: an error of 1e-12."""
SWEEPS = 25
"""Gibbs sweeps from the prior. Too few would leave the interval too wide, never too narrow."""


class ErrorTable(NamedTuple):
    """How an instrument errs: what it said of images whose class is known.

    Attributes:
        classes: the K declared classes.
        outcomes: the O outcomes: the classes in the same order, then 'cannot tell' and the like.
        counts: (K, O) images of that true class with that outcome.
    """

    classes: tuple[str, ...]
    outcomes: tuple[str, ...]
    counts: NDArray[np.int64]


class CorrectedShares(NamedTuple):
    """For each class its share with the bounds of its 95 % interval, each (K,), 0 to 1."""

    value: Floats
    low: Floats
    high: Floats


def _unmeasured(classes: int) -> CorrectedShares:
    return CorrectedShares(*(np.full(classes, nan) for _ in range(3)))


def checked_counts(table: ErrorTable) -> Floats:
    """The table's counts as floats."""
    counts = np.asarray(table.counts, float)
    k = len(table.classes)
    if counts.shape != (k, len(table.outcomes)) or table.outcomes[:k] != table.classes:
        raise AuditError(
            f"error table {counts.shape} of classes {table.classes!r} and outcomes "
            f"{table.outcomes!r}: one row a class, and the outcomes must begin with the classes"
        )
    if not (counts >= 0).all():
        raise AuditError(f"error table {counts.tolist()!r}: counts must be 0 or more")
    for name, row in zip(table.classes, counts, strict=True):
        if row.sum() == 0:
            raise AuditError(f"error table: no labelled image of {name!r}; at least 1 is needed")
    return counts


def most_likely_shares(outcomes: Floats, rows: Floats, rounds: int = 2000) -> Floats:
    """Mixing shares that make the outcomes most likely.

    Two classes: bisection on the derivative, which falls throughout. More: EM (Dempster, Laird
    and Rubin 1977); a class to which it only creeps, because its share is 0, is set to 0.

    Args:
        outcomes: (B, O) counts, B problems at once.
        rows: (K, O) each class's shares of outcomes. An outcome that no class ever had in the
            table says nothing of the class: its images are set aside.
        rounds: of EM at most.

    Returns:
        (B, K); NaN where no image is left.
    """
    known = rows.sum(axis=0) > 0
    outcomes, rows = outcomes[:, known], rows[:, known]
    total = outcomes.sum(axis=1, keepdims=True)
    weight = np.divide(outcomes, total, out=np.zeros_like(outcomes), where=total > 0)
    shares = _bisected(weight, rows) if len(rows) == 2 else _em(weight, rows, rounds)
    shares[total[:, 0] == 0] = nan
    return shares


def _bisected(weight: Floats, rows: Floats) -> Floats:
    step = rows[1] - rows[0]

    def slope(share: Floats) -> Floats:
        expected = rows[0] + share[:, None] * step
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(weight > 0, weight * step / expected, 0).sum(axis=1))

    low, high = np.zeros(len(weight)), np.ones(len(weight))
    at_zero, at_one = slope(low), slope(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rises = slope(middle) > 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    second = np.where(at_zero <= 0, 0.0, np.where(at_one >= 0, 1.0, (low + high) / 2))
    # Where the rows are equal all shares are as likely: the even one is as good as any.
    second = np.where((at_zero <= 0) & (at_one >= 0), 0.5, second)
    return np.stack([1 - second, second], axis=1)


def _em(weight: Floats, rows: Floats, rounds: int) -> Floats:
    shares = np.full((len(weight), len(rows)), 1 / len(rows))
    pull = np.ones_like(shares)
    for _ in range(rounds):
        expected = shares @ rows
        ratio = np.divide(weight, expected, out=np.zeros_like(weight), where=weight > 0)
        pull = ratio @ rows.T
        step = shares * pull
        change = np.abs(step - shares).max(initial=0)
        shares = step
        if change < 1e-8:
            break
    shares = np.where((shares < 1e-3) & (pull < 1), 0.0, shares)
    total = shares.sum(axis=1, keepdims=True)
    return np.divide(shares, total, out=shares, where=total > 0)


def random_rows(
    counts: Floats, prior: Floats | float, draws: int, rng: np.random.Generator
) -> Floats:
    """(draws, K, O) tables that the counted one may stand for.

    Each row is Dirichlet with its counts and a prior weight for each outcome: an error that was
    never seen stays possible.
    """
    weight = rng.standard_gamma(np.broadcast_to(counts + prior, (draws, *counts.shape)))
    return np.asarray(weight / weight.sum(axis=2, keepdims=True))


def estimation_prior(counts: Floats) -> float:
    """Weight of one image a row, spread evenly over the outcomes (Perks 1947).

    Forty labels outweigh it: what is best for an interval that holds on average.
    """
    return 1 / counts.shape[1]


def testing_prior(counts: Floats) -> Floats:
    """(K, O) prior weights of a table for a test, which must hold at the worst table.

    One image for each error into another class and half of one elsewhere. With two classes and a
    share of 0 the test is then nearly Fisher's exact one, of labels against images: that too
    is a Beta posterior with one more image on the side of error (Altham 1969).
    """
    classes = len(counts)
    prior = np.full(counts.shape, 0.5)
    prior[:, :classes] = 1 - np.eye(classes) / 2
    return prior


def posterior_shares(outcomes: Floats, counts: Floats, draws: int, seed: int) -> Floats:
    """(draws, K) shares from the posterior, each draw with its own table.

    The table is drawn from its labels alone and not learned from the audited images (a 'cut'
    posterior, Plummer 2015): otherwise a model with odd shares would pass for an odd instrument.
    Given a table, Gibbs sampling: images are dealt to true classes, then shares are drawn.
    """
    key = tuple(map(tuple, counts.tolist()))
    return _posterior(tuple(map(float, outcomes)), key, draws, seed)


@lru_cache(maxsize=64)
def _posterior(
    outcome_counts: tuple[float, ...], table: tuple[tuple[float, ...], ...], draws: int, seed: int
) -> Floats:
    rng = np.random.default_rng(seed)
    outcomes, counts = np.array(outcome_counts), np.array(table)
    seen = outcomes > 0
    images = outcomes[seen].astype(np.int64)
    rows = random_rows(counts, estimation_prior(counts), draws, rng)[:, :, seen].transpose(0, 2, 1)
    shares = rng.dirichlet(np.full(len(counts), SHARE_PRIOR), draws)
    for _ in range(SWEEPS):
        # The small number keeps a class whose share ran to zero from dividing zero by zero.
        chance = rows * (shares[:, None, :] + 1e-12)
        dealt = rng.multinomial(images, chance / chance.sum(axis=2, keepdims=True)).sum(axis=1)
        weight = rng.standard_gamma(dealt + SHARE_PRIOR)
        shares = weight / weight.sum(axis=1, keepdims=True)
    return np.asarray(shares)


def corrected_shares(
    outcome_counts: ArrayLike,
    table: ErrorTable,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> CorrectedShares:
    """Shares of the true classes, corrected for the instrument's error.

    The value is the most likely mixture of the table's row shares (with two classes and two
    outcomes: Rogan and Gladen's, cut off at 0 and 1). The bounds are the 2.5 and 97.5 % points of
    the posterior, widened to hold the value where that lies on 0 or 1, and to 0 or 1 themselves
    where a test at 2.5 % allows that no image, or every image, is of the class (at the default
    level).

    Args:
        outcome_counts: (O,) audited images by outcome, in the order of `table.outcomes`. All 0:
            NaN, not measured.
        table: measured on labelled images that are not among the audited ones.
        draws: of the posterior. More make the bounds steadier, not narrower.
        seed: of the draws.
        level: of each interval, 0 to 1.

    Raises:
        ValueError: counts that do not fit the table, or a class without a labelled image.
    """
    counts = checked_counts(table)
    outcomes = np.asarray(outcome_counts, float)
    if outcomes.shape != (counts.shape[1],) or not (outcomes == np.abs(outcomes.round())).all():
        raise ValueError(
            f"outcome counts {outcomes.tolist()!r}: one whole number for each of {table.outcomes!r}"
        )
    if outcomes.sum() == 0:
        return _unmeasured(len(counts))
    value = most_likely_shares(outcomes[None], counts / counts.sum(axis=1, keepdims=True))[0]
    shares = posterior_shares(outcomes, counts, draws, seed)
    # Weibull's points: the default ones are too narrow at few draws (.94 instead of .95 at 200).
    tail = (1 - level) / 2
    low, high = np.quantile(shares, [tail, 1 - tail], axis=0, method="weibull")
    nobody, everybody = allowed_ends(outcomes, counts, tail, draws, seed)
    low, high = np.where(nobody, 0.0, low), np.where(everybody, 1.0, high)
    return CorrectedShares(value, np.fmin(low, value), np.fmax(high, value))


def simulate_absolute_error(
    true_shares: ArrayLike, table: ErrorTable, n: int, draws: int = 500, seed: int = 0
) -> float:
    """The mean absolute error, over classes, that `corrected_shares` itself has.

    For each draw the instrument is one that the table may stand for; it reads n images of the
    true shares; its outcomes are corrected with the table as counted. A measured error near this
    one is what theory predicts; one far above it means that the table does not hold. It is some
    5 % too large where the table holds few errors, since those never seen are reckoned with.

    Args:
        true_shares: (K,) shares that sum to 1.
        table: as in `corrected_shares`.
        n: audited images.
        draws: simulated audits.
        seed: of the simulation.
    """
    counts = checked_counts(table)
    truth = np.asarray(true_shares, float)
    if truth.shape != (len(counts),) or abs(truth.sum() - 1) > 1e-9 or not (truth >= 0).all():
        raise ValueError(
            f"true shares {truth.tolist()!r}: one share of 0 or more for each of "
            f"{table.classes!r} is needed, and they must sum to 1"
        )
    rng = np.random.default_rng(seed)
    outcomes = rng.multinomial(
        n, truth @ random_rows(counts, estimation_prior(counts), draws, rng)
    ).astype(float)
    estimate = most_likely_shares(outcomes, counts / counts.sum(axis=1, keepdims=True))
    return float(np.nanmean(np.abs(estimate - truth)))
