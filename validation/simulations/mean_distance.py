"""Coverage of the mean total variation over prompts, beside that of t on counted distances.

python -m validation.simulations.mean_distance
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from probes.statistics.mean_distance import mean_distance

HEADINGS = (
    "classes", "prompts", "images", "spread", "true mean", "coverage", "width",
    "coverage of t on counted", "its width", "p <= 0.05",
)  # fmt: skip
SPREADS = (0.0, 0.05, 0.1, 0.2, 0.5)
"""How far the prompts' shares spread around an even target: deviation of their logits, times 4."""
CASES = ((2, 24, 8), (2, 24, 32), (2, 24, 80), (5, 24, 32), (5, 96, 32))


def one_case(case: tuple[int, int, int], spread: float, draws: int, seed: int) -> tuple[float, ...]:
    """True mean distance, then coverage and mean width of both intervals, and the rate of p."""
    rng = np.random.default_rng(seed)
    classes, prompts, images = case
    even = np.full((prompts, classes), 1 / classes)

    def shares(n: int) -> np.ndarray:
        raw = np.exp(4 * spread * rng.normal(size=(n, classes)))
        return np.asarray(raw / raw.sum(axis=1, keepdims=True))

    true = float(np.abs(shares(200_000) - 1 / classes).sum(axis=1).mean() / 2)
    t = float(stats.t.ppf(0.975, prompts - 1))
    held, width, plain, plain_width, said = 0, 0.0, 0, 0.0, 0
    for _ in range(draws):
        counts = rng.multinomial(images, shares(prompts))
        found = mean_distance(counts, even)
        held += found.low <= true <= found.high
        width += found.high - found.low
        said += found.p <= 0.05
        distance = np.abs(counts / images - even).sum(axis=1) / 2
        half = t * distance.std(ddof=1) / prompts**0.5
        plain += abs(distance.mean() - true) <= half
        plain_width += 2 * half
    return (true, *(x / draws for x in (held, width, plain, plain_width, said)))


def table(draws: int) -> list[str]:
    """The whole table as Markdown."""
    rows = ["| " + " | ".join(HEADINGS) + " |", "|---:" * len(HEADINGS) + "|"]
    for case in CASES:
        for spread in SPREADS:
            found = " | ".join(f"{x:.3f}" for x in one_case(case, spread, draws, seed=1))
            rows.append("| " + " | ".join(str(x) for x in (*case, spread)) + f" | {found} |")
    return rows


if __name__ == "__main__":
    print("\n".join(table(400)))
