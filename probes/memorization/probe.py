"""Does it fetch from its training images? Two signs that need no data set.

A prompt whose image was learned by heart changes the denoiser's prediction more than others
(Wen et al., 'Detecting, Explaining, and Mitigating Memorization in Diffusion Models', ICLR 2024:
the norm of prediction with prompt − without), and gives much the same image at every seed.
Both are signs, not proof: a proof is the training image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import nan

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from harness.json_types import JsonObject
from harness.plan.cells import arm_labels
from harness.spec.schema import Spec
from harness.taps.record import Tap
from harness.text import slug
from probes.contracts import (
    AnalysisInput,
    Batch,
    Context,
    Figure,
    Finding,
    Instrument,
    MetricSpec,
    Probe,
    ProbeOptions,
    Reference,
    Result,
)
from probes.registry import register
from probes.statistics.intervals import mean_over_prompts

PROBE = "memory"
NORM = MetricSpec("guidance norm", "level", "of the prediction's unit", "lower", "norm")
DIVERSITY = MetricSpec("diversity of seeds", "level", "1 − cosine", None, span=2.0)
LABEL, LEARNED = "memorised", "yes"
"""Labels of this attribute and class, if any, say which prompts are learned by heart."""
FEWEST_TO_STAND_OUT = 10
RESAMPLES = 2000


class GuidanceNorm:
    """The tap's numbers of each image."""

    name = "guidance-norm"
    metrics = (NORM,)
    version = "1"
    inputs = frozenset({"guidance"})

    def cache_key(self) -> JsonObject:
        """Version."""
        return {"version": self.version, "name": self.name}

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell, norm (mean over forwards), first (of the first forward), note."""
        rows = []
        for cell, record in zip(batch.cells, batch.taps["guidance"], strict=True):
            why = "its denoising was not followed" if record is None else record.notes["why"]
            norms = np.zeros(0) if record is None or why else record.arrays["norm"]
            held = (float(norms.mean()), float(norms[0])) if len(norms) else (nan, nan)
            rows.append((cell, *held, why))
        return pd.DataFrame(rows, columns=["cell", "norm", "first", "note"])


@register
class MemoryProbe(Probe[ProbeOptions]):
    """Prompts that look learned by heart."""

    name = PROBE

    def instruments(self, options: ProbeOptions, spec: Spec) -> Sequence[Instrument]:
        """The guidance norm; image embeddings come with the probe `attributes`."""
        return (GuidanceNorm(),)

    def taps(self, options: ProbeOptions, spec: Spec) -> Sequence[Tap]:
        """What follows the guidance norm."""
        from harness.taps.guidance import GuidanceTap

        return (GuidanceTap(),)

    def analyse(self, given: AnalysisInput[ProbeOptions]) -> Result:
        """Norm and likeness of seeds by arm and prompt, and how well they tell labelled prompts."""
        tables, plan, labels, _, _ = given
        own = plan.drop_duplicates("trajectory")
        own = own.assign(arm=arm_labels(own))
        learned = labels[labels["attribute"] == LABEL].drop_duplicates("cell")
        truth = own["cell"].map(learned.set_index("cell")["class"])
        own = own.assign(learned=truth.map(lambda c: nan if c != c else float(c == LEARNED)))
        findings: list[Finding] = []
        figures: list[Figure] = []
        norms = own.merge(tables[GuidanceNorm.name].drop_duplicates("cell"), on="cell")
        held = norms.dropna(subset=["norm"])
        if not len(held):
            note = str(norms["note"].iloc[0]) if len(norms) else "no image was followed"
            findings.append(_blank("norm", {}, NORM).not_measured(note))
        for arm, part in held.groupby("arm", sort=False):
            by_prompt = {
                str(p): g["norm"].to_numpy() for p, g in part.groupby("prompt", sort=False)
            }
            found = _of_prompts(part, str(arm), NORM, by_prompt)
            findings += [*found, *_told(part, found, "norm")]
            figures.append(_bars(found, str(arm)))
        for name, table in tables.items():
            if name.endswith(".likeness") and "embedding" in table:
                shown = own.merge(table.drop_duplicates("cell"), on="cell")
                for arm, part in shown.groupby("arm", sort=False):
                    by_prompt = {
                        str(p): np.stack(list(g["embedding"])).astype(float)
                        for p, g in part.groupby("prompt", sort=False)
                        if len(g) > 1
                    }
                    reader = name.removesuffix(".likeness")
                    metric = DIVERSITY._replace(name=f"{DIVERSITY.name} ({reader})")
                    found = _of_prompts(part, str(arm), metric, by_prompt)
                    findings += [*found, *_told(part, found, "diversity")]
        return Result(findings, figures)


def spread_of_seeds(shown: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean 1 − cosine between images (n, width), with its jackknife t interval.

    Pairs share images, so that the interval goes by images left out one by one; NaN below 3.
    """
    unit = shown / np.linalg.norm(shown, axis=1, keepdims=True)
    apart, n = 1 - unit @ unit.T, len(unit)
    own = apart.sum(axis=1) - np.diag(apart)
    total = own.sum()
    value = float(total / (n * (n - 1)))
    if n < 3:
        return value, nan, nan
    without = (total - 2 * own) / ((n - 1) * (n - 2))
    se = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * se
    return value, value - half, value + half


def standing_out(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Robust z: distance from the median in scaled median absolute deviations.

    NaN below 10 values, or where half of them are equal.
    """
    if len(values) < FEWEST_TO_STAND_OUT:
        return np.full(len(values), nan)
    scale = scipy.stats.median_abs_deviation(values, scale="normal")
    if not scale:
        return np.full(len(values), nan)
    return np.asarray((values - np.median(values)) / scale)


def auc(learned: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, float, float]:
    """Area under the ROC curve, with a bootstrap interval over prompts.

    The chance that a memorized prompt scores above another one, ties counted half: Mann-Whitney's
    U over the number of pairs.

    Args:
        learned: Numbers of the memorized prompts.
        others: Those of the others.

    Returns:
        The area, 0 to 1, and the bounds of its 95 % percentile interval.

    Examples:
        >>> auc(np.array([3.0, 4.0]), np.array([1.0, 3.0]))[0]
        0.875
    """
    rng = np.random.default_rng(0)
    drawn = [rng.choice(x, (RESAMPLES, len(x))) for x in (learned, others)]
    pairs = len(learned) * len(others)
    areas = scipy.stats.mannwhitneyu(*drawn, axis=1, method="asymptotic").statistic / pairs
    low, high = np.quantile(areas, [0.025, 0.975])
    whole = scipy.stats.mannwhitneyu(learned, others, method="asymptotic").statistic / pairs
    return float(whole), float(low), float(high)


def _of_prompts(
    part: pd.DataFrame,
    arm: str,
    metric: MetricSpec,
    by_prompt: Mapping[str, NDArray[np.float64]],
) -> list[Finding]:
    """One finding a prompt: the number, its interval over seeds, and how far it stands out."""
    norm = metric == NORM
    rows = [
        (p, mean_over_prompts([v], "this suite") if norm else spread_of_seeds(v), len(v))
        for p, v in by_prompt.items()
    ]
    values = np.array([found[0] for _, found, _ in rows])
    findings = []
    for (prompt, (value, low, high), n), z in zip(rows, standing_out(values), strict=True):
        about = {"checkpoint": str(part["checkpoint"].iloc[0]), "arm": arm, "prompt": prompt}
        far = "" if z != z else f"{z:+.1f} robust standard deviations from the median prompt"
        findings.append(
            replace(
                _blank(slug(metric.name), about, metric),
                value=value,
                low=low,
                high=high,
                n=n,
                n_clusters=1,
                reference=Reference(null=float(np.median(values))),
                estimator="mean over seeds, t" if norm else "mean over pairs of seeds, jackknife",
                note=far,
            )
        )
    return findings


def _told(part: pd.DataFrame, found: list[Finding], key: str) -> list[Finding]:
    """How well the number tells prompts that labels call learned by heart, where there are any."""
    truth = part.dropna(subset=["learned"]).groupby("prompt")["learned"].max()
    values = pd.Series({f.subject["prompt"]: f.value for f in found}, dtype=float)
    values = values[values.index.isin(truth.index)] * (1 if key == "norm" else -1)
    learned = values[truth[values.index] == 1].to_numpy()
    others = values[truth[values.index] == 0].to_numpy()
    if not len(learned) or not len(others):
        return []
    value, low, high = auc(learned, others)
    measured = found[0].metric
    about = {k: v for k, v in found[0].subject.items() if k != "prompt"}
    return [
        replace(
            _blank(f"auc/{slug(measured.name)}", about, MetricSpec(f"AUC of {measured.name}")),
            value=value,
            low=low,
            high=high,
            reference=Reference(null=0.5),
            n=len(values),
            n_clusters=len(values),
            estimator="bootstrap over prompts",
            note=f"{len(learned)} prompts learned by heart, {len(others)} not",
        )
    ]


def _bars(found: list[Finding], arm: str) -> Figure:
    rows = [(f.subject["prompt"], f.value, f.low, f.high, arm, f.reference.null) for f in found]
    caption = (
        f"{arm}: how much the prompt changes the denoiser's prediction, mean over steps, with 95 % "
        "intervals over seeds; the dashed line is the median prompt. A prompt far above it may be "
        "memorized; look for its training image."
    )
    columns = ["label", "value", "low", "high", "group", "target"]
    alt = "Dots with intervals: the guidance norm of each prompt."
    shown = pd.DataFrame(rows, columns=columns)
    return Figure(f"memory/norm/{slug(arm)}", "bar", shown, caption, alt)


def _blank(key: str, about: dict[str, str], metric: MetricSpec) -> Finding:
    place = "/".join(slug(about[k]) for k in ("arm", "prompt") if k in about)
    return Finding(
        id=f"{PROBE}/{key}/{place}".rstrip("/"),
        probe=PROBE,
        metric=metric,
        subject=about,
        instrument=GuidanceNorm.name,
    )
