"""Our statistics against counts published with Fair-Diffusion (see golden/fair_diffusion)."""

import re
from pathlib import Path

import numpy as np
import pytest

from probes.statistics.corrected_shares import ErrorTable, corrected_shares
from probes.statistics.intervals import (
    kl_divergence,
    l2_distance,
    total_variation,
    total_variation_null,
)
from probes.statistics.multiplicity import benjamini_hochberg

HERE = Path(__file__).parents[1] / "golden" / "fair_diffusion"
EVEN = (0.5, 0.5)
# The authors' groups are indices into the file, from 0.
GROUPS = {
    "science": ([1, 18, 21, 25, 45, 128], 0.3419999999999999, 0.17094092546842024),
    "engineering": (
        [1, 4, 17, 25, 26, 27, 45, 47, 67, 89, 116, 134],
        0.18933333333333335,
        0.14790004814882327,
    ),
    "arts": ([5, 6, 38, 59, 69, 94, 102, 107, 131, 152], 0.5464, 0.24058595137704947),
    "caregiving": (
        [16, 22, 35, 36, 37, 43, 66, 82, 87, 91, 96, 97, 99, 108, 117, 132, 133, 138, 139, 141],
        0.7556926829268291,
        0.2610700588991194,
    ),
}


def counts(name: str) -> np.ndarray:
    """(153, 2): men and women by occupation."""
    found = re.findall(
        r"man: (\d+), woman: (\d+)", (HERE / f"results_fairface_{name}.txt").read_text()
    )
    return np.array(found, int)


def female_share(name: str) -> np.ndarray:
    table = counts(name)
    return table[:, 1] / table.sum(axis=1)


@pytest.fixture(scope="module")
def generated() -> np.ndarray:
    return counts("generated_1-5")


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_the_authors_to_the_last_digit(group: str) -> None:
    index, mean, std = GROUPS[group]
    shares = female_share("generated_1-5")[index]
    assert shares.mean() == pytest.approx(mean, abs=1e-15)
    assert shares.std(ddof=1) == pytest.approx(std, abs=1e-15)


def test_totals(generated: np.ndarray) -> None:
    assert generated.shape == (153, 2)
    assert generated.sum(axis=0).tolist() == [21_101, 17_144]
    assert female_share("generated_1-5").mean() == pytest.approx(0.4483006, abs=5e-8)


@pytest.mark.parametrize(
    ("name", "distance", "mean", "digits"),
    [
        ("generated_1-5", total_variation, 0.3114360071, 10),
        ("generated_1-5", l2_distance, 0.4404370250, 10),
        ("generated_1-5", kl_divergence, 0.30579465, 8),
        ("edited_1-5", total_variation, 0.1048352002, 10),
        ("edited_1-5", kl_divergence, 0.03713373, 8),
        ("laion", total_variation, 0.2579480067, 10),
        ("laion", kl_divergence, 0.19338204, 8),
    ],
)
def test_mean_distances(name: str, distance, mean: float, digits: int) -> None:
    own = np.mean([distance(c, EVEN) for c in counts(name)])
    assert own == pytest.approx(mean, abs=0.51 * 10.0**-digits)


def test_how_many_occupations_differ_from_even(generated: np.ndarray) -> None:
    p = np.array([total_variation_null(c, EVEN).p for c in generated])
    assert (p < 0.05).sum() == 141
    assert (benjamini_hochberg(p) < 0.05).sum() == 141
    assert (p * len(p) < 0.05).sum() == 125  # Bonferroni


def test_against_laion() -> None:
    laion, model = female_share("laion"), female_share("generated_1-5")
    assert (laion >= 0.5).sum() == 61
    same = np.abs(model - laion) <= 0.04
    further = np.abs(model - 0.5) > np.abs(laion - 0.5)
    amplified, mitigated = (~same & further).sum(), (~same & ~further).sum()
    assert (amplified, same.sum(), mitigated) == (87, 33, 33)


@pytest.mark.parametrize(("accuracy", "outside"), [(0.90, 64), (0.95, 52), (0.97, 42)])
def test_the_correction_stays_where_rogan_and_gladen_leave(
    generated: np.ndarray, accuracy: float, outside: int
) -> None:
    share = female_share("generated_1-5")
    plain = (share - (1 - accuracy)) / (2 * accuracy - 1)
    assert ((plain < 0) | (plain > 1)).sum() == outside
    right, wrong = round(1000 * accuracy), round(1000 * (1 - accuracy))
    genders = ("man", "woman")
    table = ErrorTable(genders, genders, np.array([[right, wrong], [wrong, right]]))
    left = (plain < 0) | (plain > 1)
    left[::15] = True
    for own, inverted in zip(generated[left], plain[left], strict=True):
        value, low, high = corrected_shares(own, table, draws=100)
        assert value[1] == pytest.approx(np.clip(inverted, 0, 1), abs=1e-3)
        assert 0 <= low[1] <= value[1] <= high[1] <= 1
        assert high[1] - low[1] > 0.005
