"""What can be read where: attributes in the noise, the U-Net's levels, the latents, the image.

A linear probe is fitted to read an attribute from each set of features and tried on prompts that
it has not seen. That the starting noise already tells the attribute is a finding, not a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import skimage

from harness.json_types import JsonObject
from harness.plan.cells import arm_labels
from harness.spec.schema import Spec
from harness.taps.record import Tap
from harness.text import slug
from probes.attributes.outcomes import outcome_frame, readings
from probes.contracts import (
    AnalysisInput,
    Batch,
    Context,
    Figure,
    Finding,
    Instrument,
    MetricSpec,
    Probe,
    Reference,
    Result,
)
from probes.latents.options import LatentsOptions
from probes.registry import register
from probes.statistics.intervals import FEWEST_PROMPTS, Estimand, mean_share_over_prompts

PROBE = "latents"
ACCURACY = MetricSpec("linear-probe accuracy", "level", "of images", "higher", span=1.0)
NOISE, FINAL = "starting noise", "final latents"
SIDE = 16


class Features:
    """Features of each image: noise, blocks at the watched steps, final latents."""

    name = "latents"
    version = "1"
    inputs = frozenset({"activations", "latents"})

    def __init__(self, watch: int) -> None:
        self.watch = watch

    def cache_key(self) -> JsonObject:
        """Version and settings."""
        return {"version": self.version, "name": self.name, "watch": self.watch, "side": SIDE}

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows of cell, feature, values (a list of float32); none for an image made elsewhere.

        Latents and noise are averaged down to at most 16 positions a side.
        """
        rows: list[tuple[str, str, np.ndarray]] = []
        for cell, record, latent in zip(
            batch.cells, batch.taps["activations"], batch.latents, strict=True
        ):
            if record is not None and record.arrays:
                rows.append((cell, NOISE, record.arrays["noise"].ravel()))
                for block in record.notes["blocks"]:
                    for step, values in zip(
                        record.notes["steps"], record.arrays[block], strict=True
                    ):
                        rows.append((cell, f"{block}, step {step + 1}", values))
            if latent is not None and np.isfinite(latent).all():
                factor = max(1, -(-max(latent.shape[1:]) // SIDE))
                small = skimage.measure.block_reduce(latent, (1, factor, factor), np.mean)
                rows.append((cell, FINAL, small.astype(np.float32).ravel()))
        return pd.DataFrame(rows, columns=["cell", "feature", "values"])


@register
class LatentsProbe(Probe[LatentsOptions]):
    """Which attribute can be read at which step and level."""

    name = PROBE
    Options = LatentsOptions

    def instruments(self, options: LatentsOptions, spec: Spec) -> Sequence[Instrument]:
        """The features; the classifiers' own come from the probe `attributes`."""
        return (Features(options.watch),)

    def taps(self, options: LatentsOptions, spec: Spec) -> Sequence[Tap]:
        """What follows noise and activations."""
        from harness.taps.activations import ActivationsTap

        return (ActivationsTap(options.watch),)

    def analyse(self, given: AnalysisInput[LatentsOptions]) -> Result:
        """Linear probes by arm, feature and attribute; planes of the first arm's features."""
        tables, plan, labels, spec, options = given
        own = plan.drop_duplicates("trajectory")
        own = own.assign(arm=arm_labels(own))
        features = _features(tables)
        if not len(features):
            return Result([_unmeasured({}, "no image's denoising was followed")])
        read: dict[str, pd.Series] = {}
        for attribute, classifier, instrument in readings(spec):
            if instrument in tables:
                frame = outcome_frame(tables, own, labels, attribute, instrument, classifier)
                classes = frame["outcome"].where(frame["outcome"].isin(attribute.class_names))
                read[instrument] = pd.Series(classes.to_numpy(), index=frame["cell"])
        findings: list[Finding] = []
        figures: list[Figure] = []
        for number, (arm, part) in enumerate(own.groupby("arm", sort=False)):
            held = part.merge(features, on="cell")
            for feature, rows in held.groupby("feature", sort=False):
                about = {"checkpoint": str(rows["checkpoint"].iloc[0]), "arm": str(arm)}
                about["feature"] = str(feature)
                for instrument, outcome in read.items():
                    findings.append(_read(rows, outcome, about, instrument))
            if number == 0 and read:
                instrument, outcome = next(iter(read.items()))
                figures += _planes(held, outcome, str(arm), instrument, options.umap)
        return Result(findings, _lines(findings) + figures)


def _features(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The features of all cells, the classifiers' image embeddings among them."""
    parts = []
    if "feature" in tables[Features.name]:
        parts.append(tables[Features.name])
    for name, table in tables.items():
        if name.endswith(".likeness") and "embedding" in table:
            shown = table[["cell", "embedding"]].rename(columns={"embedding": "values"})
            parts.append(shown.assign(feature=f"image, {name.removesuffix('.likeness')}"))
    if not parts:
        return pd.DataFrame(columns=["cell", "feature", "values"])
    return pd.concat(parts).drop_duplicates(["cell", "feature"])


def _read(
    rows: pd.DataFrame, outcome: pd.Series, about: dict[str, str], instrument: str
) -> Finding:
    """One attribute read from one feature of one arm, on prompts left out."""
    about = about | {"attribute": instrument.partition(".")[2], "classifier": instrument}
    classes = rows["cell"].map(outcome[~outcome.index.duplicated()])
    rows, classes = rows[classes.notna()], classes[classes.notna()]
    x = np.stack(list(rows["values"])).astype(float) if len(rows) else np.zeros((0, 1))
    # Imported here: scikit-learn takes a while, and most runs have no such probe.
    from probes.statistics.linear_probe import linear_probe, silhouette

    found = linear_probe(x, classes.to_numpy(str), rows["prompt"].to_numpy(str))
    if found is None:
        why = "one class alone, or one prompt alone: there is nothing to tell apart"
        return _unmeasured(about, why)
    right = pd.Series(found.right).groupby(rows["prompt"].to_numpy())
    counts, totals = right.sum().to_numpy(), right.count().to_numpy()
    like: Estimand = "prompts like these" if len(counts) >= FEWEST_PROMPTS else "this suite"
    value, low, high = mean_share_over_prompts(counts, totals, like)
    return replace(
        _finding(about),
        value=value,
        low=low,
        high=high,
        n=len(rows),
        n_clusters=len(counts),
        reference=Reference(null=max(found.chance, found.majority)),
        estimand=like,
        estimator="logistic regression, prompts left out, mean over prompts",
        instrument=instrument,
        note=f"labels permuted: {found.chance:.1%}; the commonest class: {found.majority:.1%}; "
        f"silhouette {silhouette(x, classes.to_numpy(str)):.2f}",
    )


def _unmeasured(about: dict[str, str], why: str) -> Finding:
    return _finding(about).not_measured(why)


def _finding(about: dict[str, str]) -> Finding:
    keys = ("arm", "classifier", "feature")
    place = "/".join(slug(about[k]) for k in keys if k in about)
    return Finding(
        id=f"{PROBE}/read/{place}".rstrip("/"),
        probe=PROBE,
        metric=ACCURACY,
        subject=about,
    )


def _lines(findings: list[Finding]) -> list[Figure]:
    rows = [
        (f.subject["feature"], f.value, f.low, f.high, f.subject["arm"], f.subject["attribute"])
        + (f.reference.null,)
        for f in findings
        if f.status == "measured"
    ]
    if not rows:
        return []
    columns = ["label", "value", "low", "high", "group", "facet", "target"]
    caption = (
        "Share of images whose attribute a linear probe reads from a set of features, on prompts "
        "that it was not fitted to, with 95 % intervals; the tick is what labels at random or the "
        "commonest class would give. Blocks run from fine (down 1) to coarse (middle) and back."
    )
    alt = "Dots with intervals: how well an attribute is read from each set of features."
    return [Figure("latents/read", "bar", pd.DataFrame(rows, columns=columns), caption, alt)]


def _planes(
    held: pd.DataFrame, outcome: pd.Series, arm: str, instrument: str, umap: bool
) -> list[Figure]:
    """PCA planes of noise, middle, final latents and image, then UMAP's of the same."""
    names = list(dict.fromkeys(held["feature"]))
    # A transformer has no middle: its last block with both streams stands for it.
    middle = [n for n in names if n.startswith(("middle", "block"))][-1:]
    chosen = [n for n in names if n in (NOISE, FINAL) or n in middle or n.startswith("image")]
    classes = held["cell"].map(outcome[~outcome.index.duplicated()].astype(object))
    classes = classes.astype(object).fillna("not told")
    figures = []
    from probes.statistics.linear_probe import FEWEST, Plane, pca_plane, umap_plane

    ways = [("PCA", pca_plane)]
    if umap:
        ways.append(("UMAP", umap_plane))
    for title, way in ways:
        rows: list[tuple[float, float, str, str, str]] = []
        for feature in chosen:
            own = held["feature"] == feature
            x = np.stack(list(held.loc[own, "values"])).astype(float)
            if len(x) < FEWEST:
                continue
            plane: Plane = way(x)
            told = f"{feature}; trustworthiness {plane.trust:.2f}"
            if len(plane.explained):
                told += f", {plane.explained[:2].sum():.0%} of variance"
            for (px, py), name, cell in zip(
                plane.points, classes[own], held.loc[own, "cell"], strict=True
            ):
                rows.append((px, py, str(name), told, str(cell)))
        if not rows:
            continue
        columns = ["x", "y", "group", "facet", "cell"]
        caption = (
            f"{title} of features of {arm}, one point an image, coloured by what {instrument} "
            "reads. "
            + (
                "The plane shows the two directions of largest variance."
                if title == "PCA"
                else "Seed 0. Distances between groups and sizes of groups mean nothing."
            )
        )
        alt = f"Points in a plane, one an image, coloured by {instrument}."
        shown = pd.DataFrame(rows, columns=columns)
        figures.append(Figure(f"latents/{title.lower()}", "scatter+image", shown, caption, alt))
    return figures
