"""Coverage and false alarms of differences between arms that are not paired.

python -m validation.simulations.unpaired
"""

from __future__ import annotations

import numpy as np

from probes.statistics.unpaired import unpaired_difference

HEADINGS = ("prompts", "images a", "images b", "share a", "share b", "coverage", "p <= 0.05")
CASES = (
    (12, 4, 4),
    (24, 6, 2),
    (24, 32, 8),
    (36, 4, 1),
    (1, 144, 36),
)
SHARES = ((0.02, 0.02), (0.2, 0.2), (0.5, 0.5), (0.5, 0.4), (0.05, 0.2))


def one_case(
    case: tuple[int, int, int], shares: tuple[float, float], draws: int, seed: int
) -> tuple[float, float]:
    """Coverage of the true mean difference, and how often p is at most 0.05.

    Prompts differ: the logit of each one's share is shifted by a normal of deviation 1, the same
    in both arms.
    """
    rng = np.random.default_rng(seed)
    prompts, n_a, n_b = case
    shift = rng.normal(size=prompts) * (prompts > 1)
    true = [1 / (1 + np.exp(-(np.log(s / (1 - s)) + shift))) for s in shares]
    wanted = float((true[0] - true[1]).mean())
    sizes = [np.full(prompts, n) for n in (n_a, n_b)]
    held = said = 0
    for _ in range(draws):
        a, b = (
            (rng.random((prompts, n)) < t[:, None]).astype(float).ravel()
            for t, n in zip(true, (n_a, n_b), strict=True)
        )
        found = unpaired_difference(a, sizes[0], b, sizes[1], "this suite", shares=True)
        held += found.low <= wanted <= found.high
        said += found.p <= 0.05
    return held / draws, said / draws


def table(draws: int) -> list[str]:
    """The whole table as Markdown."""
    rows = ["| " + " | ".join(HEADINGS) + " |", "|---:" * len(HEADINGS) + "|"]
    for case in CASES:
        for shares in SHARES:
            coverage, said = one_case(case, shares, draws, seed=1)
            rows.append(
                f"| {case[0]} | {case[1]} | {case[2]} | {shares[0]:g} | {shares[1]:g} "
                f"| {coverage:.3f} | {said:.3f} |"
            )
    return rows


if __name__ == "__main__":
    print("\n".join(table(1000)))
