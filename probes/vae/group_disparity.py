"""What one VAE makes of the same images as another: shifts, their disparity between groups.

Every image is its own control: the numbers are those of one arm, against its reference, and
compared between arms image by image. A group pays more where its images shift more than
those of the others. Who is compared with whom: images that agree in all other labels, or in
the prompt, where at least ten such matches exist; otherwise all with all.

A number can be claimed only beyond its resolution: what rounding to 8 bits alone could do. That
is what it is tested against. Groups may come from people's labels, from the prompts or from an
instrument; but images that a classifier reads as X can, by that classifier, only lose X, so its own
readings before and after, by groups of its own reading, are described and never tested.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf, nan
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harness.plan.cells import arm_labels
from harness.text import slug
from probes.contracts import Finding, MetricSpec, Reference
from probes.statistics.intervals import FEWEST_PROMPTS, Estimand, mean_of_sorted, varies

FEWEST_MATCHES = 10
OWN_READING = (
    "the groups are this instrument's own reading, and what it reads as a class can only leave it: "
    "described, not tested"
)


class Measure(NamedTuple):
    """One number an image: a column of the table that is analysed.

    Attributes:
        metric: what it is, its column in the table and its resolution. A level (an error, a
            likeness, a slope) has no zero to be held against; a shift has.
        own_group: label of the groups that the measure's own instrument reads, '' where there are
            none: differences between those are regression to the mean, and are not tested.
    """

    metric: MetricSpec
    own_group: str = ""

    @property
    def level(self) -> bool:
        """Whether there is no zero to be held against."""
        return self.metric.kind == "level"


class Effect(NamedTuple):
    """A mean with its 95 % interval and the p of 'no larger than the resolution'."""

    value: float
    low: float
    high: float
    p: float
    n: int
    clusters: int
    estimator: str
    note: str = ""


def with_clusters(plan: pd.DataFrame) -> pd.DataFrame:
    """The plan with `arm`, and `cluster`: the prompt, or the image where it was given."""
    given = plan["kind"] != "made"
    return plan.assign(
        arm=arm_labels(plan), cluster=plan["trajectory"].where(given, plan["prompt"])
    )


def describe(
    rows: pd.DataFrame, measures: Iterable[Measure], probe: str, instrument: str
) -> list[Finding]:
    """The mean of every measure by arm, over all images.

    Args:
        rows: one row an image and arm: trajectory, arm, checkpoint, vae, cluster, and the
            measures' columns (NaN: not measured).
        measures: which columns.
        probe: name of the probe.
        instrument: name of what measured.
    """
    findings = []
    measures = list(measures)
    for _, part in rows.groupby("arm", sort=False):
        subject, lean = _subject(part), _lean(part, measures)
        for m in measures:
            effect = mean_effect(lean, m)
            blank = _finding(subject, m, probe, instrument)
            finding = replace(
                _filled(blank, effect),
                headline=True,
                estimand=_estimand(lean),
                n_clusters=effect.clusters,
            )
            tested = not m.level or "against" in part
            family = _family(probe, subject)
            findings.append(_tested(finding, m, family) if tested else _described(finding))
    return findings


def of_groups(
    rows: pd.DataFrame,
    groups: pd.DataFrame,
    measures: Sequence[Measure],
    probe: str,
    instrument: str,
) -> list[Finding]:
    """The mean of every measure in each class of each label, by arm; arguments as below."""
    findings = []
    for _, part in rows.groupby("arm", sort=False):
        held, subject = part.join(groups, on="trajectory"), _subject(part)
        lean, estimand = _lean(held, measures), _estimand(part)
        for label in groups.columns:
            told = held[label].astype(str).to_numpy(object)
            for name in sorted({str(v) for v in groups[label].dropna().unique()} - {""}):
                own = lean[told == name]
                for m in measures:
                    blank = _finding(subject, m, probe, instrument)
                    blank = replace(
                        blank,
                        id=f"{blank.id}/{slug(label)}/{slug(name)}/own",
                        subject=blank.subject | {"group": label, "class": name},
                        estimand=estimand,
                    )
                    effect = mean_effect(own, m)
                    found = _described(_filled(blank, effect))
                    found = replace(found, n_clusters=effect.clusters)
                    findings.append(_of_own_reading(found) if label == m.own_group else found)
    return findings


def disparities(
    rows: pd.DataFrame,
    groups: pd.DataFrame,
    measures: Sequence[Measure],
    probe: str,
    instrument: str,
) -> list[Finding]:
    """How much more each group's images shift than the others', by arm.

    Args:
        rows: as in `describe`.
        groups: labels by trajectory (index), one column a label; empty strings and NaN are
            images without that label.
        measures: which columns.
        probe: name of the probe.
        instrument: name of what measured.

    Returns:
        A finding for every arm, measure and class of every label. Those of an arm and a label
        are a family of tests; a measure by groups of its own instrument's reading is no test.
    """
    findings = []
    for _, part in rows.groupby("arm", sort=False):
        held, subject = part.join(groups, on="trajectory"), _subject(part)
        labels = list(groups.columns)
        lean = _lean(held, measures)
        for label in labels:
            lean[label] = held[label].map(str, na_action="ignore").astype("category")
        for label in labels:
            told = lean[lean[label].notna() & (lean[label] != "")]
            others = [c for c in labels if c != label]
            family = _family(probe, subject, label)
            for name in classes_of(groups[label]):
                inside = (told[label] == name).to_numpy()
                for m in measures:
                    blank = _finding(subject, m, probe, instrument)
                    found = _disparity(told, inside, others, label, name, m, blank)
                    if label == m.own_group:
                        found = _of_own_reading(_described(found))
                    else:
                        found = _tested(found, m, family)
                    findings.append(found)
    return findings


def against(rows: pd.DataFrame, measures: Iterable[Measure], base: str) -> pd.DataFrame:
    """Every other VAE's numbers minus those of the VAE `base` on the same image."""
    columns = [m.metric.column for m in measures]
    own = rows[rows["vae"] == base].drop_duplicates("trajectory").set_index("trajectory")[columns]
    others = rows[rows["vae"] != base].assign(against=base)
    others[columns] = others[columns].to_numpy(float) - own.reindex(others["trajectory"]).to_numpy(
        float
    )
    return others


def classes_of(labels: pd.Series) -> list[str]:
    """The classes that findings name: of two, the second in order says all."""
    known = sorted({str(v) for v in labels.dropna().unique()} - {""})
    return known[1:] if len(known) == 2 else known


def mean_effect(part: pd.DataFrame, m: Measure) -> Effect:
    """Mean of one measure over the clusters (prompts, or images where each is its own)."""
    column = part[m.metric.column].to_numpy(float)
    seen = ~np.isnan(column)
    codes = pd.factorize(part["cluster"].to_numpy()[seen])[0]
    flat, sizes = column[seen][np.argsort(codes, kind="stable")], np.bincount(codes)
    if not len(flat):
        return Effect(nan, nan, nan, nan, 0, 0, "", "no image could be measured")
    if (flat == flat[0]).all() and np.isfinite(flat[0]):
        note = f"the same in every one of {len(flat)} images"
        return Effect(float(flat[0]), nan, nan, nan, len(flat), len(sizes), "mean", note)
    alone = _estimand(part) == "images like these"
    claimed = not m.level or "against" in part
    if not alone and sizes.min() < 2 <= len(sizes):
        # Seeds of a prompt with one image have no variance; prompts have, which is more.
        means = np.add.reduceat(flat, np.cumsum(sizes) - sizes) / sizes
        known_by = "mean over prompts, t over prompts (some have one image)"
        effect = _t(means, len(flat), m, known_by)
        return effect if claimed else effect._replace(p=nan)
    found = mean_of_sorted(flat, sizes, "prompts like these" if alone else "this suite")
    few = alone and len(sizes) < FEWEST_PROMPTS
    note = f"{len(sizes)} images; {FEWEST_PROMPTS} are needed for an interval" if few else ""
    estimator = "mean over images, t" if alone else "mean over prompts, t"
    se = (found.high - found.low) / 2 / stats.norm.ppf(0.975)
    p = _minimal_p(found.value, se, len(flat) - 1, m.metric.resolution) if claimed else nan
    return Effect(found.value, found.low, found.high, p, len(flat), len(sizes), estimator, note)


def _lean(part: pd.DataFrame, measures: Iterable[Measure]) -> pd.DataFrame:
    """What the arithmetic needs: columns of text are left out, since they are slow to pick from."""
    kept = part[[m.metric.column for m in measures]].astype(float)
    for name in ("cluster", "trajectory"):
        kept[name] = pd.factorize(part[name])[0]
    return kept.assign(against=True) if "against" in part else kept


def _disparity(
    told: pd.DataFrame,
    inside: NDArray[np.bool_],
    others: list[str],
    label: str,
    name: str,
    m: Measure,
    blank: Finding,
) -> Finding:
    """What the images `inside` the class `name` shift more than the rest of `told`."""
    x = told[m.metric.column].to_numpy()
    seen = ~np.isnan(x)
    x, inside, cluster = x[seen], inside[seen], told["cluster"].to_numpy()[seen]
    blank = replace(
        blank,
        id=f"{blank.id}/{slug(label)}/{slug(name)}",
        metric=m.metric.difference(f"extra {blank.metric.name}"),
        subject=blank.subject | {"group": label, "class": name, "against": "all others"},
        estimand="images like these",
        reference=Reference(null=0.0),
    )
    one = int(inside.sum())
    rest = len(inside) - one
    if min(one, rest) < 2:
        why = f"images of {name!r}: {one}, others: {rest}; at least two of each are needed"
        return replace(blank, n=one).not_measured(why)
    effect = None
    if len(np.unique(cluster)) < len(cluster):
        effect = _matched(x, inside, cluster, "prompt", m)
    else:
        known = told.loc[seen, others]
        keys = [c for c in others if known[c].notna().all()]
        if keys:
            alike = known.groupby(keys, sort=False, observed=True).ngroup().to_numpy()
            effect = _matched(x, inside, alike, ", ".join(keys), m)
    effect = effect or _unmatched(x[inside], x[~inside], m)
    return replace(_filled(blank, effect), n_clusters=effect.clusters)


def _matched(
    x: NDArray[np.float64],
    inside: NDArray[np.bool_],
    alike: NDArray[np.integer],
    what: str,
    m: Measure,
) -> Effect | None:
    """Of images that are alike (one number a kind), those inside minus those outside."""
    most = int(alike.max()) + 1
    counts = [np.bincount(alike[who], minlength=most) for who in (inside, ~inside)]
    sums = [np.bincount(alike[who], x[who], minlength=most) for who in (inside, ~inside)]
    both = (counts[0] > 0) & (counts[1] > 0)
    if both.sum() < FEWEST_MATCHES:
        return None
    difference = sums[0][both] / counts[0][both] - sums[1][both] / counts[1][both]
    return _t(difference, len(x), m, f"matched by {what}: {both.sum()} matches, t")


def _unmatched(a: NDArray[np.float64], b: NDArray[np.float64], m: Measure) -> Effect:
    n = len(a) + len(b)
    value = float(a.mean() - b.mean())
    if not varies(a) and not varies(b):
        note = "no image of a group differs from another of it"
        return Effect(value, nan, nan, nan, n, n, "difference of means", note)
    with warnings.catch_warnings():
        # SciPy warns of a group that hardly varies; then the other's variance makes the interval.
        warnings.simplefilter("ignore", RuntimeWarning)
        test = stats.ttest_ind(a, b, equal_var=False)
    bounds = test.confidence_interval(0.95)
    se = (bounds.high - bounds.low) / 2 / stats.t.ppf(0.975, test.df)
    p = _minimal_p(value, se, float(test.df), m.metric.resolution)
    return Effect(
        value,
        float(bounds.low),
        float(bounds.high),
        p,
        n,
        n,
        "difference of means, not matched, Welch's t",
    )


def _t(difference: np.ndarray, n: int, m: Measure, estimator: str) -> Effect:
    value, matches = float(difference.mean()), len(difference)
    if not varies(difference):
        note = f"the same in all {matches} matches"
        return Effect(value, nan, nan, nan, n, matches, estimator, note)
    se = float(stats.sem(difference))
    low, high = stats.t.interval(0.95, matches - 1, value, se)
    p = _minimal_p(value, se, matches - 1, m.metric.resolution)
    return Effect(value, float(low), float(high), p, n, matches, estimator)


def _minimal_p(value: float, se: float, df: float, resolution: float) -> float:
    """Two-sided p of 'the effect is at most the resolution' (minimal-effect test)."""
    if not np.isfinite(se) or se <= 0:
        return nan
    beyond = (abs(value) - resolution) / se
    return float(min(1.0, 2 * stats.t.sf(beyond, df)))


def _estimand(part: pd.DataFrame) -> Estimand:
    """Images that are each their own cluster are a sample; prompts with seeds are a suite."""
    alone = part["cluster"].nunique() == part["trajectory"].nunique()
    return "images like these" if alone else "this suite"


def _subject(part: pd.DataFrame) -> dict[str, str]:
    """Of which arm, and against which VAE."""
    first = part.iloc[0]
    subject = {k: str(first[k]) for k in ("checkpoint", "vae", "arm")}
    return subject | ({"baseline": str(first["against"])} if "against" in part else {})


def _finding(subject: dict[str, str], m: Measure, probe: str, instrument: str) -> Finding:
    versus = f"/{slug(subject['baseline'])}" if "baseline" in subject else ""
    return Finding(
        id=f"{probe}/{slug(m.metric.name)}/{subject['arm']}{versus}",
        probe=probe,
        metric=m.metric.difference() if versus else m.metric,
        subject=subject,
        reference=Reference(null=nan if m.level and not versus else 0.0),
        instrument=instrument,
    )


def _family(probe: str, subject: dict[str, str], label: str = "") -> str:
    """The family of tests: an arm, what it is held against, and the label of the groups."""
    against = f" against {subject['baseline']}" if "baseline" in subject else ""
    groups = f"/by {label}" if label else ""
    return f"{probe}/{subject['arm']}{against}{groups}"


def _tested(found: Finding, m: Measure, family: str) -> Finding:
    """The finding as a test of the report, of whether it goes beyond the resolution."""
    return replace(
        found,
        headline=True,
        family=family,
        reference=found.reference._replace(value=m.metric.resolution),
    )


def _described(found: Finding) -> Finding:
    """The finding with its interval and without a test."""
    return replace(found, headline=False, p=nan)


def _of_own_reading(found: Finding) -> Finding:
    """Say that zero is not what such groups score without an effect."""
    return replace(
        found, reference=Reference(), note="; ".join(filter(None, [OWN_READING, found.note]))
    )


def _filled(blank: Finding, effect: Effect) -> Finding:
    measured = np.isfinite(effect.value) or effect.value == inf
    return replace(
        blank,
        value=effect.value,
        low=effect.low,
        high=effect.high,
        p=effect.p,
        n=effect.n,
        estimator=effect.estimator,
        note=effect.note,
        status="measured" if measured else "not-measured",
    )
