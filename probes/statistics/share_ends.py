"""Whether counted outcomes allow that a class's true share is exactly 0 or exactly 1.

The posterior of `probes.statistics.corrected_shares` has no mass on 0 and 1, so its interval could
never reach them. These two ends are tested.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

ROUNDS = 300
"""Of EM at most. It stops earlier, once no share moves by 1e-6."""


def allowed_ends(
    outcomes: Floats, counts: Floats, tail: float, draws: int, seed: int
) -> tuple[Flags, Flags]:
    """For each class whether the outcomes allow that no image is of it, and that all are.

    Args:
        outcomes: (O,) audited images by outcome.
        counts: (K, O) labelled images by true class and outcome.
        tail: error of each one-sided test, 0 to 0.5.
        draws: of the test that all images are of one of three or more classes.
        seed: of these draws.

    Returns:
        Two times (K,): share 0 allowed, share 1 allowed. With two classes the one is the other,
        turned round.
    """
    classes = len(counts)
    single = np.eye(classes, dtype=bool)
    support = np.concatenate([np.ones((1, classes), bool), ~single, single])
    likelihood = joint_log_likelihood(outcomes, counts, support)
    nobody, everybody = 2 * np.clip(likelihood[0] - likelihood[1:], 0, None).reshape(2, classes)
    none = _boundary_p(nobody, 1) > tail
    if classes == 2:
        return none, none[::-1]
    whole = _boundary_p(everybody, classes - 1) > tail
    return none, whole & _even_intrusion_allowed(outcomes, counts, tail / 2, draws, seed)


def _boundary_p(ratio: Floats, shares: int) -> Floats:
    """P-values of likelihood ratios where so many shares lie on their boundary, 0.

    Each is as likely to be fitted at 0 as above it (Chernoff 1954), so the ratio is a binomial
    mixture of chi-squares.
    """
    weight = scipy.stats.binom.pmf(np.arange(1, shares + 1), shares, 0.5)
    tails = scipy.stats.chi2.sf(ratio[:, None], np.arange(1, shares + 1))
    return np.asarray(np.where(ratio > 0, tails @ weight, 1.0))


def joint_log_likelihood(outcomes: Floats, counts: Floats, support: Flags) -> Floats:
    """The largest log-likelihood of audited and labelled images together.

    Both the shares and the confusion matrix are fitted, by EM (Dempster, Laird and Rubin 1977), so
    that the matrix's own sampling error is part of the test.

    Args:
        outcomes: (O,) audited images by outcome.
        counts: (K, O) labelled images by true class and outcome.
        support: (B, K) for each of B problems the classes that may have a share above 0.

    Returns:
        (B,), without the multinomial constants, which are the same for every support.
    """
    prior = 1 / counts.shape[1]
    rows = np.repeat(
        ((counts + prior) / (counts.sum(axis=1, keepdims=True) + 1))[None], len(support), 0
    )
    shares = support / support.sum(axis=1, keepdims=True)
    for _ in range(ROUNDS):
        joint = shares[:, :, None] * rows
        mixture = joint.sum(axis=1, keepdims=True)
        dealt = np.divide(joint * outcomes, mixture, out=np.zeros_like(joint), where=mixture > 0)
        step = dealt.sum(axis=2)
        step /= step.sum(axis=1, keepdims=True)
        moved = np.abs(step - shares).max()
        shares, rows = step, counts + dealt
        rows /= rows.sum(axis=2, keepdims=True)
        if moved < 1e-6:
            break
    mixture = np.einsum("bk,bko->bo", shares, rows)
    return np.asarray(_log(outcomes, mixture).sum(axis=1) + _log(counts, rows).sum(axis=(1, 2)))


def _log(weight: Floats, chance: Floats) -> Floats:
    """Weights times log chances, 0 where nothing was counted."""
    positive = np.where(weight > 0, chance, 1.0)
    return np.asarray(weight * np.log(np.maximum(positive, 1e-300)))


def _even_intrusion_allowed(
    outcomes: Floats, counts: Floats, tail: float, draws: int, seed: int
) -> Flags:
    """Score test of a share of 1 among three or more classes, against all others coming in evenly.

    The likelihood ratio spreads its power over all mixtures of the others; this test has its power
    where they are many. A share of 1 is left out where either rejects: it can only err on this one
    side, so the two errors are less than the interval's. Outcomes are drawn from the
    class alone, each from a row drawn from its labels (Jeffreys' prior); the score, how fast the
    likelihood rises as the others come in, is at least the observed one in more than `tail` of
    draws where the share is allowed.
    """
    rng = np.random.default_rng(seed)
    classes, width = counts.shape
    rows = (counts + 1 / width) / (counts.sum(axis=1, keepdims=True) + 1)
    weight = rng.standard_gamma(np.broadcast_to(counts + 0.5, (draws, *counts.shape)))
    drawn = weight / weight.sum(axis=2, keepdims=True)
    n, allowed = int(outcomes.sum()), np.zeros(classes, bool)
    for k in range(classes):
        score = rows[np.arange(classes) != k].mean(axis=0) / rows[k]
        # Rounding aside, a score as high as the observed one counts.
        reached = rng.multinomial(n, drawn[:, k]) @ score >= outcomes @ score - 1e-9 * n
        allowed[k] = reached.mean() > tail
    return allowed
