"""Shares of the true classes from people's labels on some images and an instrument on all.

The instrument's reading of every image is taken first; the labelled images then say how far
off it is, each weighted by one over the probability with which it was drawn. Nothing is assumed
of the instrument, only that the drawing was random with these probabilities.

- Prediction-powered inference: Angelopoulos, Bates, Fannjiang, Jordan and Zrnic (2023).
- How much the instrument is leaned on is chosen from the labels, so that a useless one does no
  harm (power tuning, PPI++: Angelopoulos, Duchi and Zrnic 2023). It is leaned on separately for
  the differences between prompts and for those within one: prompts are strata (compare
  stratified PPI: Fisch et al. 2024).
- Labels that were drawn with unequal probability: Zrnic and Candès, Active statistical
  inference (2024); Poisson sampling, see Särndal, Swensson and Wretman (1992), chapter 6.
- At few labels, few labels of a class, or few disagreements, the normal interval is too narrow:
  none among 100 labels would pass for proof of none. There the interval is Clopper and Pearson's
  at the effective number of labels (Korn and Graubard 1998), exact where all were drawn with one
  probability.

ppi-python (0.2.3) has neither unequal probabilities with strata nor an interval for few labels,
and would bring numba, so this is written here.
"""

from __future__ import annotations

from math import nan
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from probes.statistics.seed_clusters import design_effect

Floats = NDArray[np.float64]

FEWEST_LABELS = 30
"""Effective labels below which the interval is exact."""
FEWEST_DISAGREEMENTS = 5
"""Effective disagreements of labels and instrument below which the interval is exact. In simulated
audits of 50 to 200 labels t intervals covered .95 to .99 from 5 on, and .93 from 3 on."""
FEWEST_OF_CLASS = 4
"""Effective labels of the class, and of all others, below which the interval is exact and of the
labels alone. Where the class is rare a disagreement is nearly always a false alarm: plenty of them
say little of the share, and labels that never name the class have no variance for t."""
EXACT = "exact (Clopper and Pearson)"
NORMAL = "t"
ROUNDS = 4
"""Rounds of solving for the share; the second already changes less than the fourth digit."""


class PoweredShares(NamedTuple):
    """For each class its share with the bounds of its 95 % interval, each (K,), 0 to 1.

    Attributes:
        value: shares among the images that people could tell a class of; they sum to 1.
        low: lower bounds.
        high: upper bounds.
        labels: the effective number of labels (Kish): as many drawn with one probability
            would tell as much.
        methods: of each class, 't' or 'exact (Clopper and Pearson)'.
    """

    value: Floats
    low: Floats
    high: Floats
    labels: float
    methods: tuple[str, ...]


class _Sample(NamedTuple):
    """One class's numbers. Of all images: read, told, stratum. Of the labelled: the rest."""

    read: Floats
    read_told: Floats
    stratum: NDArray[np.intp]
    at: NDArray[np.intp]
    label: Floats
    label_told: Floats
    weight: Floats
    """1 / probability."""
    shared: float
    """How many times sharing seeds raises the variance of a mean over all images."""

    @property
    def effective(self) -> float:
        """Labels drawn with one probability, and of independent images, that say as much."""
        labels = float(self.weight.sum() ** 2 / (self.weight**2).sum())
        # Of the variance of a mean over labels only the part that all images have is raised.
        return labels / (1 + (self.shared - 1) * labels / len(self.read))

    def mean(self, values: Floats) -> float:
        """Weighted mean over the labelled images (Hájek)."""
        return float(self.weight @ values / self.weight.sum())


def prediction_powered_shares(
    read: ArrayLike,
    labels: ArrayLike,
    chance: ArrayLike,
    strata: ArrayLike,
    seeds: ArrayLike | None = None,
) -> PoweredShares:
    """Shares of K classes over n images that are themselves a sample of what a model draws.

    Args:
        read: (n, K) what the instrument says: one-hot, or a row of zeros where it tells no class.
        labels: (n, K) what people say: one-hot, or the mean over several people; less than 1 in
            all where some could not tell; NaN in rows that nobody labelled.
        chance: (n,) probability with which each image was drawn and labelled, above 0.
        strata: (n,) the prompt of each image.
        seeds: (n,) seed index of each image where all prompts share the same seeds: images
            of one seed resemble each other, and the interval grows by what the instrument says
            of how much. None: every image has noise of its own.

    Returns:
        NaN throughout where fewer than 2 labels tell a class; NaN bounds below 8 shared seeds.

    Raises:
        ValueError: shapes or numbers out of range.
    """
    told, said = np.asarray(read, float), np.asarray(labels, float)
    likely = np.asarray(chance, float)
    if told.ndim != 2 or not ((told >= 0) & (told <= 1)).all():
        raise ValueError(f"readings of shape {told.shape}: (n, K) numbers in [0, 1] are needed")
    n, k = told.shape
    known = np.flatnonzero(~np.isnan(said).any(axis=1)) if said.shape == told.shape else None
    if known is None or not ((said[known] >= 0).all() and (said[known].sum(axis=1) < 1.001).all()):
        raise ValueError(
            f"labels of shape {said.shape}: for each of {n} images, {k} numbers of 0 or more "
            "that sum to at most 1, or NaN"
        )
    if likely.shape != (n,) or not ((likely > 0) & (likely <= 1)).all():
        raise ValueError(f"chance of shape {likely.shape}: {n} numbers above 0, at most 1")
    label_told = said[known].sum(axis=1)
    if (label_told > 0).sum() < 2:
        nothing = np.full(k, nan)
        return PoweredShares(nothing, nothing, nothing, 0.0, (NORMAL,) * k)
    stratum = np.unique(np.asarray(strata).astype(str), return_inverse=True)[1]
    found = []
    for c in range(k):
        sample = _Sample(
            told[:, c],
            told.sum(axis=1),
            stratum,
            known,
            said[known, c],
            label_told,
            1 / likely[known],
            1.0 if seeds is None else design_effect(told[:, c], stratum, seeds),
        )
        found.append(_of_class(sample))
    value = np.array([f[0] for f in found])
    low = np.minimum([f[1] for f in found], value)
    high = np.maximum([f[2] for f in found], value)
    return PoweredShares(
        value / value.sum(), low, high, sample.effective, tuple(f[3] for f in found)
    )


def _of_class(sample: _Sample) -> tuple[float, float, float, str]:
    """Value, bounds and method of one class."""
    value, low, high = _powered(sample)
    if np.isnan(sample.shared):
        return value, nan, nan, NORMAL
    read_at = sample.read[sample.at]
    apart = [sample.label * (1 - read_at), (sample.label_told - sample.label) * read_at]
    effective, of_class = sample.effective, sample.mean(sample.label)
    fewer = effective * min(of_class, sample.mean(sample.label_told) - of_class)
    if fewer < FEWEST_OF_CLASS - 1e-9:
        return value, *_of_labels_alone(sample, 0.05), EXACT
    disagreements = effective * sum(sample.mean(a) for a in apart)
    if min(effective / FEWEST_LABELS, disagreements / FEWEST_DISAGREEMENTS) >= 1:
        return value, low, high, NORMAL
    return value, *_exact(sample, apart), EXACT


def _powered(sample: _Sample) -> tuple[float, float, float]:
    """The power-tuned estimate with its t interval.

    Solves sum of u = 0 for the share R, u = label - R told, by the regression estimator of u on
    what the instrument says of it: within prompts, and of the prompts.
    """
    n, m = len(sample.read), len(sample.at)
    weight, told = sample.weight, sample.mean(sample.label_told)
    share = sample.mean(sample.label) / told
    strata = np.bincount(sample.stratum)
    for _ in range(ROUNDS):
        wanted = sample.label - share * sample.label_told
        said = sample.read - share * sample.read_told
        prompt = (np.bincount(sample.stratum, said) / strata)[sample.stratum]
        helps = np.column_stack([said - prompt, prompt])
        here = helps[sample.at]
        centred = here - weight @ here / weight.sum()
        # Least squares with the weights of the estimator's own variance.
        root = np.sqrt(weight * (weight - 1) + 1e-9)
        fitted = np.linalg.lstsq(
            centred * root[:, None], (wanted - sample.mean(wanted)) * root, rcond=1e-6
        )[0]
        left = wanted - here @ fitted
        error = sample.mean(left) + float((helps @ fitted).mean())
        share = min(max(share + error / told, 0.0), 1.0)
    used = int((np.abs(fitted) > 0).sum())
    spread = (left - sample.mean(left)) ** 2 * m / max(m - 1 - used, 1)
    by_labels = (weight * (weight - 1)) @ spread / weight.sum() ** 2
    within = wanted - fitted[1] * here[:, 1]
    by_seeds = sample.mean((within - sample.mean(within)) ** 2) / n * sample.shared
    freedom = np.fmax(sample.effective - 1 - used, 1.0)
    reach = float(scipy.stats.t.ppf(0.975, freedom) * np.sqrt(by_labels + by_seeds) / told)
    return share, float(np.clip(share - reach, 0, 1)), float(np.clip(share + reach, 0, 1))


def _exact(sample: _Sample, apart: list[Floats]) -> tuple[float, float]:
    """Bounds that hold at any number of labels.

    Two ways, each at 97.5 %, so that both hold in 95 % of audits and their overlap does: the
    labels alone; and what the instrument reads of all images, corrected by bounds for its two
    kinds of error. The second needs that every label tells a class. Where the overlap is wider
    than the labels alone at 95 % the instrument is of no use, and these are taken.
    """
    if (sample.label_told < 1).any():
        return _of_labels_alone(sample, 0.05)
    n, m = len(sample.read), sample.effective
    low, high = _of_labels_alone(sample, 0.025)
    missed, false = (clopper_pearson(sample.mean(a), m, 0.01) for a in apart)
    everywhere = clopper_pearson(float(sample.read.mean()), n, 0.005)
    low = max(low, everywhere[0] + missed[0] - false[1])
    high = min(high, everywhere[1] + missed[1] - false[0])
    alone = _of_labels_alone(sample, 0.05)
    return alone if high - low > alone[1] - alone[0] else (low, high)


def _of_labels_alone(sample: _Sample, alpha: float) -> tuple[float, float]:
    told = sample.mean(sample.label_told)
    return clopper_pearson(sample.mean(sample.label) / told, sample.effective * told, alpha)


def clopper_pearson(share: float, n: float, alpha: float) -> tuple[float, float]:
    """Bounds of a share counted among n (which may be fractional) at 1 - alpha."""
    # Loaded where it counts: statsmodels brings all of scipy.stats, half of a command's start.
    from statsmodels.stats.proportion import proportion_confint

    # Weighted means of zeros or ones miss 0 or n by rounding.
    count = share * n
    count = 0.0 if count <= 1e-9 else n if n - count <= 1e-9 else count
    low, high = proportion_confint(count, n, alpha, method="beta")
    return float(low), float(high)
