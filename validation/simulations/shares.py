"""Coverage, width and false verdicts of every interval of shares.

Run with `python -m validation.simulations.shares [PART …] [--trials N]`; without parts, all. The
tables in docs/simulations/shares.md are what it prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.proportion import multinomial_proportions_confint

from probes.statistics.corrected_distance import corrected_distance
from probes.statistics.corrected_shares import ErrorTable, corrected_shares, posterior_shares
from probes.statistics.intervals import mean_share_over_prompts, share_interval
from probes.statistics.prediction_powered import clopper_pearson, prediction_powered_shares
from probes.statistics.seed_clusters import mean_share_by_seed
from probes.statistics.total_variation import distance_bounds

Floats = NDArray[np.float64]
PROMPTS, SEEDS = 24, 80
DRAWS = 500
"""Posterior draws of a simulated audit."""


def unattainable_width(counts: NDArray[np.int64], target: Floats) -> float:
    """Width of the bounds of total variation that were given until 0.1.0.

    The excesses of all upper bounds together, though shares that sum to 1 cannot all be high.
    """
    if len(counts) == 2:
        low, high = share_interval(int(counts[0]), int(counts.sum()))[1:]
        box = np.array([[low, high], [1 - high, 1 - low]])
    else:
        box = multinomial_proportions_confint(counts, alpha=0.05, method="goodman")
    over, under = box[:, 0] - target, target - box[:, 1]
    nearest = max(np.clip(over, 0, None).sum(), np.clip(under, 0, None).sum())
    above, below = box[:, 1] - target, target - box[:, 0]
    return float(min(np.clip(above, 0, None).sum(), np.clip(below, 0, None).sum(), 1) - nearest)


def labelled(
    trials: int,
    shares: tuple[float, ...] = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 0.9, 0.98, 0.998),
    labels: tuple[int, ...] = (60, 100, 150, 200),
    accuracies: tuple[float, ...] = (0.8, 0.9, 0.95),
) -> pd.DataFrame:
    """Prediction-powered shares: 24 prompts x 80 images, labels on a random part.

    Args:
        trials: Simulated audits of each row.
        shares: True shares of the class.
        labels: Labels to expect.
        accuracies: Of the classifier.

    Returns:
        Coverage, mean width over Clopper-Pearson's of the labels alone, intervals of no width.
    """
    rng = np.random.default_rng(1)
    n, one_hot = PROMPTS * SEEDS, np.eye(2)
    strata = np.repeat(np.arange(PROMPTS), SEEDS)
    rows = []
    for m in labels:
        for accuracy in accuracies:
            for share in shares:
                held = empty = 0
                width, alone = 0.0, 0.0
                for _ in range(trials):
                    truth = (rng.random(n) < share).astype(int)
                    read = np.where(rng.random(n) < accuracy, truth, 1 - truth)
                    drawn = rng.random(n) < m / n
                    said = np.where(drawn[:, None], one_hot[truth], np.nan)
                    found = prediction_powered_shares(
                        one_hot[read], said, np.full(n, drawn.mean()), strata
                    )
                    low, high = found.low[1], found.high[1]
                    held += low <= share <= high
                    empty += high <= low
                    width += high - low
                    exact = clopper_pearson(float(truth[drawn].mean()), int(drawn.sum()), 0.05)
                    alone += exact[1] - exact[0]
                rows.append((m, accuracy, share, held / trials, width / alone, int(empty)))
    return pd.DataFrame(
        rows,
        columns=["labels", "accuracy", "share", "coverage", "width / labels alone", "no width"],
    )


def corrected(
    trials: int,
    shares: tuple[float, ...] = (0.0, 0.02, 0.1, 0.5, 0.9, 1.0),
    labels: tuple[int, ...] = (10, 50),
    accuracies: tuple[float, ...] = (0.8, 0.95),
    classes: tuple[int, ...] = (2, 5),
    n: int = 80,
) -> pd.DataFrame:
    """Corrected shares, their bounds, and the test of a target that is true.

    2 % of images are 'cannot tell' and 1 % 'nobody'. With more than two classes the others share
    what the first leaves.

    Args:
        trials: Simulated audits of each row, each with a confusion matrix of its own; a quarter
            of that for more than two classes.
        shares: True share of the first class; the target is true.
        labels: Labelled images of each class.
        accuracies: Of the instrument, where it names a class.
        classes: Declared classes.
        n: Images of the prompt.

    Returns:
        Coverage of the share's interval, its mean width over that of the plain posterior, and how
        often the test (p <= 0.05 and a lower bound of the distance above 0) is wrong.
    """
    rng = np.random.default_rng(2)
    rows = []
    for k in classes:
        trials = trials if k == 2 else max(trials // 4, 1)
        for m in labels:
            for accuracy in accuracies:
                matrix = np.full((k, k + 2), (1 - accuracy) / (k - 1))
                np.fill_diagonal(matrix, accuracy)
                matrix *= 0.97
                matrix[:, k:] = (0.02, 0.01)
                names = tuple("abcdefgh"[:k])
                for share in shares:
                    truth = np.full(k, (1 - share) / (k - 1))
                    truth[0] = share
                    held = wrong = 0
                    width, plain = 0.0, 0.0
                    for _ in range(trials):
                        counts = np.array([rng.multinomial(m, row) for row in matrix])
                        table = ErrorTable(names, (*names, "cannot tell", "nobody"), counts)
                        outcomes = rng.multinomial(n, truth @ matrix)
                        found = corrected_shares(outcomes, table, DRAWS)
                        held += found.low[0] <= share <= found.high[0]
                        width += found.high[0] - found.low[0]
                        draws = posterior_shares(
                            outcomes.astype(float), counts.astype(float), DRAWS, 0
                        )[:, 0]
                        low, high = np.quantile(draws, [0.025, 0.975])
                        plain += max(high, found.value[0]) - min(low, found.value[0])
                        test = corrected_distance(outcomes, table, truth, DRAWS)
                        wrong += test.p <= 0.05 and test.low > 0
                    rows.append(
                        (k, m, accuracy, share, held / trials, width / plain, wrong / trials)
                    )
    return pd.DataFrame(
        rows,
        columns=["classes", "labels a class", "accuracy", "share", "coverage"]
        + ["width / posterior's", "false verdicts"],
    )


def distances(
    trials: int, sizes: tuple[int, ...] = (5, 8, 10, 20, 40, 80), skewed: bool = True
) -> pd.DataFrame:
    """Bounds of total variation from even shares: exact for two classes, simulated for more.

    Args:
        trials: Simulated prompts of each row with more than two classes.
        sizes: Images of a prompt.
        skewed: Also shares far from even.

    Returns:
        Mean and least coverage over true shares, and mean width over that of the sum of all
        bounds' excesses, which nothing can attain.
    """
    rng = np.random.default_rng(3)
    rows = []
    for n in sizes:
        counts = np.column_stack([np.arange(n + 1), n - np.arange(n + 1)])
        bounds = np.array([distance_bounds(c, np.full(2, 0.5)) for c in counts])
        truths = np.linspace(0, 1, 401)
        mass = stats.binom.pmf(np.arange(n + 1), n, truths[:, None])
        far = np.abs(truths - 0.5)[:, None]
        held = (mass * ((bounds[:, 0] <= far + 1e-9) & (far <= bounds[:, 1] + 1e-9))).sum(axis=1)
        width = [unattainable_width(c, np.full(2, 0.5)) for c in counts]
        rows.append(
            (
                2,
                n,
                held.mean(),
                held.min(),
                held[200],
                np.ptp(bounds, axis=1).mean() / np.mean(width),
            )
        )
    for classes in (3, 5):
        even = np.full(classes, 1 / classes)
        cases = [even, np.r_[0.25, 0.25, np.full(classes - 2, 0.5 / (classes - 2))]]
        if skewed:
            cases += [np.r_[0.9, np.full(classes - 1, 0.1 / (classes - 1))]]
            cases += [np.r_[0.5, 0.5, np.zeros(classes - 2)], np.r_[1.0, np.zeros(classes - 1)]]
            cases += list(rng.dirichlet(np.ones(classes), 5))
        for n in sizes:
            covered, widths, old = [], [], []
            for truth in cases:
                seen, times = np.unique(
                    rng.multinomial(n, truth, trials), axis=0, return_counts=True
                )
                bounds = np.array([distance_bounds(c, even) for c in seen])
                own = np.abs(truth - even).sum() / 2
                inside = (bounds[:, 0] <= own + 1e-9) & (own <= bounds[:, 1] + 1e-9)
                covered.append(times @ inside / trials)
                widths.append(times @ np.ptp(bounds, axis=1) / trials)
                old.append(times @ np.array([unattainable_width(c, even) for c in seen]) / trials)
            rows.append(
                (classes, n, np.mean(covered), min(covered), covered[0], sum(widths) / sum(old))
            )
    return pd.DataFrame(
        rows,
        columns=["classes", "n", "mean coverage", "least", "at even shares", "width / 0.1.0's"],
    )


def shared(
    trials: int,
    seeds: tuple[int, ...] = (8, 16, 32),
    correlations: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5),
    shares: tuple[float, ...] = (0.03, 0.1, 0.2, 0.5, 0.8, 0.97),
) -> pd.DataFrame:
    """Mean share over 24 prompts whose seeds are shared: a normal noise a seed behind all of them.

    Args:
        trials: Simulated runs of each row.
        seeds: Shared seeds; with 8, shares outside 0.2 to 0.8 are left out.
        correlations: Latent correlation of two prompts' images of one seed.
        shares: Of the class, about; prompts differ.

    Returns:
        Coverage of the clustered interval and of one that takes all images as independent, and
        their mean widths.
    """
    rng = np.random.default_rng(4)
    prompt = np.repeat(np.arange(PROMPTS), max(seeds))
    rows = []
    for many in seeds:
        prompt, seed = np.repeat(np.arange(PROMPTS), many), np.tile(np.arange(many), PROMPTS)
        for correlation in correlations:
            for share in shares:
                if many < 16 and not 0.2 <= share <= 0.8:
                    continue
                spread = 0.5 * stats.norm.ppf((np.arange(PROMPTS) + 0.5) / PROMPTS)
                edge = stats.norm.ppf(share) * np.sqrt(1.25) + spread
                truth = float(stats.norm.cdf(edge).mean())
                held, width = np.zeros(2), np.zeros(2)
                for _ in range(trials):
                    noise = np.sqrt(correlation) * rng.standard_normal(many)
                    own = np.sqrt(1 - correlation) * rng.standard_normal((PROMPTS, many))
                    hits = (noise + own < edge[:, None]).astype(float)
                    found = mean_share_by_seed(hits.ravel(), prompt, seed, "this suite")
                    plain = mean_share_over_prompts(
                        hits.sum(axis=1), np.full(PROMPTS, many), "this suite"
                    )
                    for i, (_, low, high) in enumerate((found, plain)):
                        held[i] += low <= truth <= high
                        width[i] += high - low
                rows.append((many, correlation, share, *held / trials, *width / trials))
    return pd.DataFrame(
        rows,
        columns=["seeds", "correlation", "share", "coverage", "as if independent"]
        + ["width", "width as if independent"],
    )


def rare(trials: int, prompts: tuple[int, ...] = (20, 24), seeds: int = 32) -> pd.DataFrame:
    """Mean shares of rare and skewed classes, for prompts like the sampled ones.

    Args:
        trials: Simulated suites of each row.
        prompts: Prompts of a suite.
        seeds: Images of a prompt.

    Returns:
        Coverage and mean width by how prompts differ.
    """
    rng = np.random.default_rng(5)

    def mixture(part: float, high: float, low: float) -> Callable[[int], Floats]:
        return lambda size: np.where(rng.random(size) < part, high, low)

    def beta(a: float, b: float) -> Callable[[int], Floats]:
        return lambda size: rng.beta(a, b, size)

    cases = [
        *((f"Beta({a}, {b})", beta(a, b), a / (a + b)) for a, b in
          ((2, 2), (0.5, 0.5), (1, 9), (0.3, 2.7), (0.2, 4), (0.1, 2), (0.1, 0.9), (0.05, 0.95))),
        *((f"{p:.0%} of prompts {h:.0%}, others {o:.0%}", mixture(p, h, o), p * h + (1 - p) * o)
          for p, h, o in ((0.1, 0.5, 0.0), (0.1, 0.5, 0.02), (0.05, 0.9, 0.01))),
    ]  # fmt: skip
    rows = []
    for many in prompts:
        for name, draw, mean in cases:
            held, width = 0, 0.0
            for _ in range(trials):
                hits = rng.binomial(seeds, draw(many))
                _, low, high = mean_share_over_prompts(
                    hits, np.full(many, seeds), "prompts like these"
                )
                held += low <= mean <= high
                width += high - low
            rows.append((many, name, mean, held / trials, width / trials))
    return pd.DataFrame(rows, columns=["prompts", "shares of prompts", "mean", "coverage", "width"])


PARTS = {f.__name__: f for f in (labelled, corrected, distances, shared, rare)}


def markdown(table: pd.DataFrame) -> str:
    """A table with three digits a number, as Markdown."""
    rows = [
        [f"{x:.3f}" if isinstance(x, float) else str(x) for x in r] for r in table.to_numpy(object)
    ]
    lines = [list(table.columns), ["---"] * len(table.columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the tables asked for, as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="tables; none: all")
    parser.add_argument("--trials", type=int, default=300, help="simulated audits of each row")
    chosen = parser.parse_args()
    for name in chosen.parts or PARTS:
        print(f"## {name}, {chosen.trials} trials\n", flush=True)
        print(markdown(PARTS[name](chosen.trials)) + "\n", flush=True)


if __name__ == "__main__":
    main()
