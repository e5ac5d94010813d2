"""From scores to outcomes: what each image is counted as, and how often that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from harness.errors import AuditError
from harness.plan.cells import ARM
from harness.spec.attributes import OUTCOMES, AttributeSpec
from harness.spec.schema import Spec
from harness.spec.sections import ClassifierSpec, InstrumentSpec
from harness.text import slug
from probes.statistics.corrected_shares import ErrorTable

CANNOT_TELL = "cannot tell"
FEWEST_TO_CALIBRATE = 50


class Reading(NamedTuple):
    """One attribute as one classifier or instrument of the spec reads it."""

    attribute: AttributeSpec
    classifier: ClassifierSpec | InstrumentSpec
    instrument: str
    """Name of the instrument, such as 'clip.gender-presentation'."""


def readings(spec: Spec) -> Iterator[Reading]:
    """Every attribute by every classifier, classifiers outermost; then by instruments of its own.

    Skin tone by colorimetry is read from a mask, by `monk_frame`.
    """
    for name, classifier in spec.classifiers.items():
        for attribute in spec.attributes:
            if attribute.by_clip:
                yield Reading(attribute, classifier, f"{slug(name)}.{attribute.name}")
    for attribute in spec.attributes:
        for name in attribute.own_instruments:
            own = spec.instruments.get(name, InstrumentSpec())
            yield Reading(attribute, own, f"{slug(name)}.{attribute.name}")


class Errors(NamedTuple):
    """Measured errors of one instrument on one attribute."""

    table: ErrorTable
    worst_prompt: str
    """The prompt on which it errs most, or '' where prompts were not recorded."""
    worst_accuracy: float


def outcomes(
    scores: pd.DataFrame, attribute: AttributeSpec, cannot_tell_below: float, temperature: float
) -> pd.Series:
    """What each image is counted as.

    'nobody' or 'several' where that is likelier than one person; else the likeliest class, or
    'cannot tell' where it has less than `cannot_tell_below` after calibration.

    Args:
        scores: Rows of `ClipAttribute.measure`.
        attribute: Which classes.
        cannot_tell_below: 0 to 1.
        temperature: Divides the log probabilities; 1 leaves them as they are.

    Returns:
        One name a row of `scores`.
    """
    names = np.array(attribute.class_names)
    classes = scores[[f"class:{n}" for n in names]].to_numpy(float)
    tempered = _temper(classes, temperature)
    found = np.where(
        tempered.max(axis=1) >= cannot_tell_below, names[tempered.argmax(axis=1)], CANNOT_TELL
    )
    beside = scores[["nobody", "several"]].to_numpy(float)
    people = np.column_stack([np.nan_to_num(beside), 1 - np.nan_to_num(beside).sum(axis=1)])
    counted = people.argmax(axis=1)
    found = np.where(counted == 0, "nobody", np.where(counted == 1, "several", found))
    return pd.Series(found, index=scores.index)


def calibration(scores: pd.DataFrame, attribute: AttributeSpec, labels: pd.Series) -> float:
    """Temperature that makes the class probabilities fit people's labels best.

    Minimises the negative log likelihood (Guo et al. 2017). With fewer than 50 labelled images
    it is 1: nothing is changed.

    Args:
        scores: Rows of `ClipAttribute.measure`.
        attribute: Which classes.
        labels: Class of each row; others and NaN are left out.
    """
    names = list(attribute.class_names)
    known = labels.isin(names).to_numpy()
    if known.sum() < FEWEST_TO_CALIBRATE:
        return 1.0
    classes = scores.loc[known, [f"class:{n}" for n in names]].to_numpy(float)
    truth = np.array([names.index(label) for label in labels[known]])

    def loss(log_temperature: float) -> float:
        tempered = _temper(classes, float(np.exp(log_temperature)))
        return float(-np.log(tempered[np.arange(len(truth)), truth] + 1e-12).mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    return float(np.exp(best.x))


def measured_errors(
    rows: pd.DataFrame, attribute: AttributeSpec, instrument: str, cells: pd.DataFrame
) -> Errors | None:
    """One instrument's error table from rows of attribute, instrument, true, outcome, count.

    Args:
        rows: As `harness.spec.schema`'s `errors` file holds them; a column `prompt` is optional,
        and so
            are columns named as the settings of an arm: such a row counts only for cells made
            with that setting, an empty field for all.
        attribute: Which classes.
        instrument: Name of the instrument, such as 'clip.gender-presentation'.
        cells: Rows of the plan: the images that the errors are for.

    Returns:
        None where the rows say nothing of this attribute and instrument at these settings.

    Raises:
        AuditError: A class or outcome is not declared, or a class has no labelled image.
    """
    rows = rows[(rows["attribute"] == attribute.name) & (rows["instrument"] == instrument)]
    for setting in [s for s in ARM if s in rows]:
        rows = rows[rows[setting].isna() | rows[setting].isin(cells[setting].unique())]
    if rows.empty:
        return None
    names, columns = attribute.class_names, (*attribute.class_names, *OUTCOMES)
    for column, valid in (("true", names), ("outcome", columns)):
        unknown = sorted(set(rows[column]) - set(valid))
        if unknown:
            raise AuditError(f"errors: {column} {unknown[0]!r} is none of {', '.join(valid)}")
    counts = (
        rows.pivot_table(index="true", columns="outcome", values="count", aggfunc="sum")
        .reindex(index=list(names), columns=list(columns))
        .fillna(0)
        .to_numpy(int)
    )
    for name, labelled in zip(names, counts.sum(axis=1), strict=True):
        if labelled < 1:
            raise AuditError(
                f"errors: no labelled image of {name!r} ({attribute.name}, {instrument}); a "
                "confusion matrix needs at least 1 image of each class"
            )
    worst, accuracy = "", float("nan")
    if "prompt" in rows:
        right = rows["count"].where(rows["true"] == rows["outcome"], 0)
        by_prompt = right.groupby(rows["prompt"]).sum() / rows.groupby("prompt")["count"].sum()
        worst, accuracy = str(by_prompt.idxmin()), float(by_prompt.min())
    return Errors(ErrorTable(names, columns, counts), worst, accuracy)


def outcome_frame(
    tables: Mapping[str, pd.DataFrame],
    plan: pd.DataFrame,
    labels: pd.DataFrame,
    attribute: AttributeSpec,
    instrument: str,
    classifier: ClassifierSpec | InstrumentSpec,
) -> pd.DataFrame:
    """The plan with what each image is counted as.

    Returns:
        The plan's rows with `outcome` (a class, 'nobody', 'several', 'cannot tell', or NaN
        where there is no image) and `label` (a person's, or NaN).
    """
    scores = tables[instrument]
    own = labels[labels["attribute"] == attribute.name].drop_duplicates("cell")
    label = own.set_index("cell")["class"]
    if len(scores):
        temperature = calibration(scores, attribute, scores["cell"].map(label))
        found = outcomes(scores, attribute, classifier.cannot_tell_below, temperature)
        outcome = pd.Series(found.to_numpy(), index=scores["cell"].to_numpy())
        outcome = outcome[~outcome.index.duplicated()]
    else:
        outcome = pd.Series(dtype=object)
    return plan.assign(outcome=plan["cell"].map(outcome), label=plan["cell"].map(label))


def monk_frame(
    tables: Mapping[str, pd.DataFrame],
    plan: pd.DataFrame,
    labels: pd.DataFrame,
    attribute: AttributeSpec,
) -> pd.DataFrame:
    """As `outcome_frame`, by colorimetry: the nearest Monk swatch, NaN without a mask of skin."""
    scores = tables["skin"]
    outcome = pd.Series(dtype=object)
    if len(scores):
        tones = scores.dropna(subset=["monk"]).drop_duplicates("cell").set_index("cell")["monk"]
        outcome = tones.map(lambda t: attribute.class_names[int(t)])
    own = labels[labels["attribute"] == attribute.name].drop_duplicates("cell")
    label = own.set_index("cell")["class"]
    return plan.assign(outcome=plan["cell"].map(outcome), label=plan["cell"].map(label))


def read_as(
    tables: Mapping[str, pd.DataFrame],
    plan: pd.DataFrame,
    labels: pd.DataFrame,
    spec: Spec,
    attribute: str,
    instrument: str,
) -> pd.Series:
    """What each image is counted as, by cell; empty where the spec has no such reading."""
    plan = plan.drop_duplicates("cell")  # arms may share an image
    for one in spec.attributes:
        if one.name == attribute and one.by_colour and instrument in tables:
            frame = monk_frame(tables, plan, labels, one)
            return frame.set_index("cell")["outcome"]
    for own, classifier, name in readings(spec):
        if (own.name, name) == (attribute, instrument) and name in tables:
            frame = outcome_frame(tables, plan, labels, own, name, classifier)
            return frame.set_index("cell")["outcome"]
    return pd.Series(dtype=object)


def prompt_targets(
    tables: Mapping[str, pd.DataFrame], attribute: AttributeSpec
) -> dict[str, dict[str, float]]:
    """Targets by prompt where prompts have their own."""
    if "targets" not in tables:
        return {}
    rows = tables["targets"]
    rows = rows[rows["attribute"] == attribute.name]
    return {
        str(prompt): attribute.shares(dict(zip(part["class"], part["share"], strict=True)))
        for prompt, part in rows.groupby("prompt")
    }


def counts_of(outcome: pd.Series, names: tuple[str, ...]) -> np.ndarray:
    """How often each name is among the outcomes, (len(names),)."""
    counted = outcome.value_counts()
    return np.array([int(counted.get(name, 0)) for name in names])


class PromptCounts(NamedTuple):
    """How often each outcome is among each prompt's images.

    Attributes:
        prompts: in order of first appearance.
        names: the classes, then `OUTCOMES`.
        counts: (prompts, names).
        lost: (prompts,) planned images that are not there.
    """

    prompts: list[str]
    names: tuple[str, ...]
    counts: NDArray[np.int64]
    lost: NDArray[np.int64]

    def of(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Columns of some names, (prompts, len(names))."""
        return self.counts[:, [self.names.index(n) for n in names]]


def counts_by_prompt(part: pd.DataFrame, classes: tuple[str, ...]) -> PromptCounts:
    """Count the outcomes of some rows of `outcome_frame`, prompt by prompt, in one pass."""
    row, prompts = pd.factorize(part["prompt"])
    names = (*classes, *OUTCOMES)
    column = pd.Categorical(part["outcome"], categories=list(names)).codes
    known = column >= 0
    shape = (len(prompts), len(names))
    flat = np.bincount(row[known] * shape[1] + column[known], minlength=shape[0] * shape[1])
    lost = np.bincount(row[part["outcome"].isna().to_numpy()], minlength=len(prompts))
    return PromptCounts([str(p) for p in prompts], names, flat.reshape(shape), lost)


def subject_of(part: pd.DataFrame, attribute: str) -> dict[str, str]:
    """The arm of some rows of the plan, in words, and the attribute."""
    first = part.iloc[0]
    arm = {k: str(first[k]) for k in ARM if k in ("checkpoint", "vae", "negative")}
    if first["adapters"] != "none":
        arm["adapters"] = str(first["adapters"])
    return arm | {"arm": str(first["arm"]), "attribute": attribute}


def reported_classes(attribute: AttributeSpec) -> tuple[str, ...]:
    """The classes whose shares are said: of two, the second says all."""
    names = attribute.class_names
    return names[1:] if len(names) == 2 else names


def _temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    if temperature == 1:
        return probabilities
    powered = np.exp(np.log(probabilities + 1e-12) / temperature)
    tempered: np.ndarray = powered / powered.sum(axis=1, keepdims=True)
    return tempered
