"""Features to planes, and to what can be read from them: PCA, UMAP, linear probes.

All functions take a matrix (n, width), one row an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Floats = NDArray[np.float64]
Split = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Rows to fit a model on, and rows to read with it."""

COMPONENTS = 10
NEIGHBOURS = 15
FOLDS = 5
PERMUTATIONS = 5
INNER_FOLDS = 3
PENALTIES = (0.003, 0.03, 0.3)
"""Inverse strengths of the L2 penalty to choose from. On latents of the reference world the
strongest is best for roles never seen (.81 against .75), the weakest for other prompts of roles
that were seen (.96 against .91)."""
FEWEST = 4
"""Images that a plane needs."""


class Plane(NamedTuple):
    """Two coordinates an image.

    Attributes:
        points: (n, 2).
        trust: Trustworthiness (Venna and Kaski 2001), 0 to 1: whether neighbours in the plane are
            neighbours in the features; about .5 for a random plane. NaN below 4 images.
        explained: PCA's share of variance by component; empty for UMAP.
        neighbours: UMAP's, and those of `trust`.
    """

    points: Floats
    trust: float
    explained: Floats
    neighbours: int


class Reading(NamedTuple):
    """What a linear probe read on prompts that it was not fitted to.

    Attributes:
        right: (n,), whether each image's class was read.
        chance: mean share right with the labels permuted: what there is to be had by chance.
        majority: share of the commonest class.
    """

    right: NDArray[np.bool_]
    chance: float
    majority: float


def pca_plane(x: Floats) -> Plane:
    """The first two principal components; one alone is drawn on a line."""
    kept = min(COMPONENTS, *x.shape)
    found = PCA(kept, svd_solver="full").fit(x)
    points = found.transform(x)[:, :2]
    if points.shape[1] < 2:
        points = np.column_stack([points, np.zeros(len(x))])
    return Plane(points, _trust(x, points), found.explained_variance_ratio_, _neighbours(len(x)))


def umap_plane(x: Floats, seed: int = 0) -> Plane:
    """UMAP (McInnes et al. 2018), the same for the same seed; an image, no proof."""
    import torch

    threads = torch.get_num_threads()
    import umap

    neighbours = _neighbours(len(x))
    points = umap.UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(x)
    # numba sets OpenMP's threads for the whole process, and torch's last bits depend on them.
    torch.set_num_threads(threads)
    return Plane(np.asarray(points, float), _trust(x, points), np.zeros(0), neighbours)


def linear_probe(
    x: Floats, y: NDArray[np.generic], groups: NDArray[np.generic], seed: int = 0
) -> Reading | None:
    """Read a class from standardised features by penalised logistic regression.

    Every split chooses its penalty by cross-validation within its training part, by prompt too.
    The permuted labels are read with the penalties that the true ones chose.

    Args:
        x: (n, width).
        y: (n,) classes.
        groups: (n,) prompts; all images of a prompt are on one side of every split.
        seed: Of the permutations.

    Returns:
        None with one class, one prompt, or a split whose training part has one class only.
    """
    folds = min(FOLDS, len(np.unique(groups)))
    if len(np.unique(y)) < 2 or folds < 2:
        return None
    splits = list(GroupKFold(folds).split(x, y, groups))
    if any(len(np.unique(y[train])) < 2 for train, _ in splits):
        return None
    penalties = [_penalty(x[train], y[train], groups[train]) for train, _ in splits]
    right = _read(x, y, splits, penalties)
    rng = np.random.default_rng(seed)
    by_chance = []
    for _ in range(PERMUTATIONS):
        mixed = rng.permutation(y)
        if all(len(np.unique(mixed[train])) > 1 for train, _ in splits):
            by_chance.append(_read(x, mixed, splits, penalties).mean())
    counts = np.unique(y, return_counts=True)[1]
    chance = float(np.mean(by_chance)) if by_chance else float("nan")
    return Reading(right, chance, float(counts.max() / len(y)))


def silhouette(x: Floats, y: NDArray[np.generic]) -> float:
    """How far classes lie apart, -1 to 1 (Rousseeuw 1987); NaN where that is not defined."""
    classes = len(np.unique(y))
    return float(silhouette_score(x, y)) if 2 <= classes < len(y) else float("nan")


def _model(penalty: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=2000))


def _penalty(x: Floats, y: NDArray[np.generic], groups: NDArray[np.generic]) -> float:
    """The best of `PENALTIES` on prompts left out; the middle one where that cannot be tried."""
    folds = min(INNER_FOLDS, len(np.unique(groups)))
    splits = list(GroupKFold(folds).split(x, y, groups)) if folds > 1 else []
    if not splits or any(len(np.unique(y[train])) < 2 for train, _ in splits):
        return PENALTIES[1]
    right = [_read(x, y, splits, [p] * folds).mean() for p in PENALTIES]
    return PENALTIES[int(np.argmax(right))]


def _read(
    x: Floats, y: NDArray[np.generic], splits: list[Split], penalties: Sequence[float]
) -> NDArray[np.bool_]:
    """(n,) whether each class was read by the model of its split."""
    right = np.zeros(len(y), bool)
    for (train, test), penalty in zip(splits, penalties, strict=True):
        right[test] = _model(penalty).fit(x[train], y[train]).predict(x[test]) == y[test]
    return right


def _neighbours(n: int) -> int:
    return max(2, min(NEIGHBOURS, (n - 1) // 2))


def _trust(x: Floats, points: Floats) -> float:
    n = len(x)
    if n < FEWEST:
        return float("nan")
    # The measure needs fewer neighbours than half of the images.
    return float(trustworthiness(x, points, n_neighbors=min(_neighbours(n), (n - 1) // 2)))
