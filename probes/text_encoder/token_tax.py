"""Token tax: how many tokens a tokenizer needs for the words of one group and of another.

A tokenizer that spells out the names of some people and not of others makes their prompts longer,
gives each of their words less room in the encoder, and cuts them off sooner. Petrov et al. (2023,
arXiv 2305.15425) measured it for language models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from harness.spec.schema import Spec
from harness.text import slug
from probes.contracts import Figure, Finding, MetricSpec, Reference
from probes.statistics.intervals import LEVEL
from probes.text_encoder.states import PROBE, READER, about_reader, blank

TOKENS = MetricSpec("length of a text", unit="tokens", better="lower")
MORE = TOKENS.difference("extra length of a text")
CUT = MetricSpec("part of a text that is cut off", unit="%", better="lower", span=100.0)
RESAMPLED = 1999
"""Ways of parting the texts anew, where there are more than can be gone through."""


def token_tax(
    table: pd.DataFrame, spec: Spec, wanted: Mapping[str, Mapping[str, Sequence[str]]]
) -> tuple[list[Finding], list[Figure]]:
    """By tokenizer: tokens of each group's texts, and how many more than of the first group's.

    Args:
        table: Rows of the text scores.
        spec: The spec.
        wanted: By name of a comparison, texts by group.
    """
    findings: list[Finding] = []
    rows = []
    for reader, own in table.groupby(READER, sort=False):
        if reader[1] != next(iter(spec.adapters)):
            continue  # a LoRA changes no tokenizer
        about = about_reader(own.iloc[0], spec)
        by_text = own.drop_duplicates("text").set_index("text")
        for name, groups in wanted.items():
            held = {g: by_text.loc[list(texts)] for g, texts in groups.items()}
            counts = {g: _counts(rows) for g, rows in held.items()}
            first = next(iter(counts))
            for group, tokens in counts.items():
                subject = about | {"words": f"{name}: {group}"}
                findings += _levels(subject, tokens, held[group])
                if group != first:
                    findings.append(_against(name, subject, first, counts[first], tokens))
                title = " · ".join(about.values())
                rows.append((group, tokens.mean(), *_spread(tokens), title, name))
    if not rows:
        return findings, []
    shown = pd.DataFrame(rows, columns=["label", "value", "low", "high", "group", "facet"])
    caption = (
        "Tokens of a text by group of words, start and end left out, with 95 % intervals of the "
        "mean for words like these."
    )
    alt = "A dot with an interval for each group and tokenizer."
    return findings, [Figure("text/token-tax", "bar", shown, caption, alt)]


def _counts(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Tokens that each text needs, without those that only mark start and end."""
    marks = rows["starts"].astype(int) + 1
    return (rows["wanted"] - marks).to_numpy(float)


def _spread(tokens: NDArray[np.float64]) -> tuple[float, float]:
    """The t interval of the mean."""
    n = len(tokens)
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, n - 1) * tokens.std(ddof=1) / np.sqrt(n)
    return float(tokens.mean() - half), float(tokens.mean() + half)


def _levels(
    subject: dict[str, str], tokens: NDArray[np.float64], rows: pd.DataFrame
) -> list[Finding]:
    """The mean of a group's tokens, and the part of its texts that is cut off."""
    low, high = _spread(tokens)
    place = slug(subject["words"])
    n = len(tokens)
    mean = replace(
        _named("tokens", place, TOKENS, subject),
        value=float(tokens.mean()),
        low=low,
        high=high,
        estimand="prompts like these",
        estimator="mean over texts, t interval",
        note=f"from {tokens.min():g} to {tokens.max():g}",
        n=n,
        n_clusters=n,
    )
    lost = 100 * (1 - (rows["used"] / rows["wanted"]).to_numpy(float))
    cut = replace(
        _named("tokens-cut", place, CUT, subject),
        value=float(lost.mean()),
        low=float(lost.mean()),
        high=float(lost.mean()),
        estimator="exact for these texts",
        note=f"{int(rows['length'].iloc[0])} tokens fit, start and end among them",
        n=n,
        n_clusters=n,
    )
    return [mean, cut]


def _against(
    name: str,
    subject: dict[str, str],
    first: str,
    base: NDArray[np.float64],
    tokens: NDArray[np.float64],
) -> Finding:
    """How many more tokens than the first group's, with the permutation p of the difference."""
    from statsmodels.stats.weightstats import CompareMeans  # brings all of scipy.stats

    value = float(tokens.mean() - base.mean())
    place = f"{slug(subject['words'])}/{slug(first)}"
    low = high = value
    if tokens.std() or base.std():
        both = CompareMeans.from_data(tokens, base)
        low, high = map(float, both.tconfint_diff(1 - LEVEL, usevar="unequal"))
    return replace(
        _named("more-tokens", place, MORE, subject | {"baseline": f"{name}: {first}"}),
        value=value,
        low=low,
        high=high,
        p=permutation_p(tokens, base),
        n=len(tokens) + len(base),
        n_clusters=len(tokens) + len(base),
        estimand="prompts like these",
        estimator="difference of means over texts; Welch's interval, permutation p",
        reference=Reference(0.0, 0.0),
        headline=True,
        family=f"text/tokens/{slug(name)}/{'/'.join(slug(v) for v in _reader(subject))}",
    )


def permutation_p(one: NDArray[np.float64], two: NDArray[np.float64]) -> float:
    """Two-sided p of a difference of means, by parting all texts anew (seeded).

    >>> permutation_p(np.array([5.0, 6, 7, 8]), np.array([1.0, 1, 2, 2])) < 0.03
    True
    >>> permutation_p(np.array([1.0, 1, 1]), np.array([1.0, 1, 1]))
    1.0
    """
    if not np.ptp(np.concatenate([one, two])):
        return 1.0
    found = scipy.stats.permutation_test(
        (one, two),
        lambda x, y, axis: np.abs(x.mean(axis=axis) - y.mean(axis=axis)),
        vectorized=True,
        n_resamples=RESAMPLED,
        alternative="greater",
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _reader(subject: Mapping[str, str]) -> list[str]:
    return [subject[k] for k in READER if k in subject]


def _named(key: str, place: str, metric: MetricSpec, subject: dict[str, str]) -> Finding:
    plain = blank(key, metric, subject)
    return replace(plain, id=f"{PROBE}/{key}/{'/'.join(_reader(subject))}/{place}")
