"""How a classifier of one's own errs, on one's own labelled images.

A confusion matrix says how often it is right; what an audit needs to know besides is how large a
difference of shares its errors alone could fake. Of two groups that a class is equally common in,
with p of the class, a classifier that finds it at rates h and k, and sees it where it is not at
rates f and g, tells p (h - k) + (1 - p) (f - g) more of the one: at most the larger of |h - k| and
|f - g|, whatever p is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep

from audit.pipeline.imported_images import given_audit, store_images
from audit.pipeline.plan import begin
from audit.pipeline.run import score, working
from harness.errors import AuditError
from harness.files.csv_tables import read_table
from harness.progress import Say
from harness.spec.attributes import CLIP, OUTCOMES, AttributeSpec
from harness.spec.sections import InstrumentSpec
from probes.attributes.outcomes import calibration, outcomes, readings
from probes.instruments.kinds.python import installed
from probes.statistics.intervals import Interval, share_interval

GROUP = "group"
FEWEST = 10
"""Images of a class in a group, below which nothing is said of how often it is found."""
BINS = 10
PROMPT = "labelled images"


class Checked(NamedTuple):
    """What was found of one classifier on one attribute.

    Attributes:
        attribute: its name.
        instrument: the instrument's, as a confusion matrix names it.
        rows: one a labelled image: group, true, outcome, certainty (of the likeliest class).
        temperature: that fits its probabilities to the labels; 1: as they are, or too few.
        classes: the attribute's.
    """

    attribute: str
    instrument: str
    rows: pd.DataFrame
    temperature: float
    classes: tuple[str, ...]


class Faked(NamedTuple):
    """A difference of shares between two groups that errors alone could make, in points.

    Attributes:
        groups: the two.
        name: the class.
        value: the largest, whatever the true share is, 0 to 1.
        low: lower 95 % bound, 0 where the groups may be alike.
        high: upper one.
    """

    groups: tuple[str, str]
    name: str
    value: float
    low: float
    high: float


def check(
    folder: Path,
    csv: Path | None,
    attribute: AttributeSpec,
    classifier: str,
    instruments: Mapping[str, InstrumentSpec],
    out: Path,
    say: Say,
) -> Checked:
    """Score labelled images and hold what is told against the labels.

    Args:
        folder: Images; without a table in folders named as the classes, which may lie in folders
            named as groups.
        csv: Columns file, the attribute's name (its label) and, if there are groups, group.
        attribute: What is labelled.
        classifier: An instrument by its name, or a classifier as `audit score` takes it.
        instruments: Those that `classifier` may name, beside the installed ones.
        out: Run folder; a new one.
        say: Where progress goes.

    Raises:
        AuditError: A label is no class, the classifier is unknown, or no image has a label.
    """
    table = _labels(folder, csv, attribute)
    own = classifier in (*instruments, *installed()) or not attribute.by_clip
    read_by = (classifier,) if own else (CLIP,)
    attribute = AttributeSpec.model_validate(attribute.model_dump() | {"instrument": read_by})
    out.mkdir(parents=True, exist_ok=True)
    named = out / "labelled.csv"
    table.rename(columns={"label": attribute.name, GROUP: "model"}).to_csv(named, index=False)
    imported = given_audit(
        folder, named, out, [attribute], [classifier], say, {}, None, instruments
    )
    audit = imported.audit
    with working(audit, say):
        begin(audit, imported.plan, imported.provenance)
        plan = store_images(imported, say)
        score(audit, plan, say)
    reading = next(iter(readings(audit.spec)))
    run_folder = audit.run.instruments()[reading.instrument]
    scores = audit.run.read_scores(run_folder, set(plan["unit"])).drop_duplicates("cell")
    if scores.empty:
        raise AuditError(
            f"{reading.instrument}: no image could be read: {_first(audit.run.failures())}"
        )
    labels = audit.run.labels().drop_duplicates("cell").set_index("cell")["class"]
    groups = plan.drop_duplicates("cell").set_index("cell")["checkpoint"]
    true = scores["cell"].map(labels)
    names = attribute.class_names
    rows = pd.DataFrame(
        {
            GROUP: scores["cell"].map(groups),
            "true": true,
            "outcome": outcomes(scores, attribute, reading.classifier.cannot_tell_below, 1.0),
            "certainty": scores[[f"class:{n}" for n in names]].max(axis=1),
            "likeliest": scores[[f"class:{n}" for n in names]].to_numpy().argmax(axis=1),
        }
    )
    rows["likeliest"] = [names[i] for i in rows["likeliest"]]
    rows = rows[true.isin(names)].reset_index(drop=True)
    if rows.empty:
        raise AuditError(f"{folder}: no image has a label of {attribute.name}: {', '.join(names)}")
    temperature = calibration(scores, attribute, true)
    return Checked(attribute.name, reading.instrument, rows, temperature, names)


def confusion(checked: Checked) -> pd.DataFrame:
    """Counts for a spec's `confusion_matrix`: attribute, instrument, true, outcome, count."""
    counts = checked.rows.groupby(["true", "outcome"]).size().rename("count").reset_index()
    counts.insert(0, "instrument", checked.instrument)
    counts.insert(0, "attribute", checked.attribute)
    return counts


def found(rows: pd.DataFrame, name: str) -> Interval:
    """How often images of a class are told as it, with a Wilson interval."""
    own = rows["true"] == name
    return share_interval(int((own & (rows["outcome"] == name)).sum()), int(own.sum()))


def calibration_error(rows: pd.DataFrame) -> float:
    """Expected calibration error (Guo et al. 2017): |certainty - part that is right|, 10 bins."""
    right = (rows["likeliest"] == rows["true"]).to_numpy(float)
    sure = rows["certainty"].to_numpy(float)
    at = np.minimum((sure * BINS).astype(int), BINS - 1)
    parts = [(at == b) for b in np.unique(at)]
    return float(sum(abs(right[p].mean() - sure[p].mean()) * p.mean() for p in parts))


def faked(checked: Checked) -> list[Faked]:
    """By class the two groups between which errors alone could fake the largest difference.

    The bounds are those of the difference that is larger, of Newcombe's intervals. Groups with
    fewer than `FEWEST` images of the class, or of the others, are left out.
    """
    out = []
    for name in checked.classes:
        rates = {}
        for group, rows in checked.rows.groupby(GROUP):
            own = rows["true"] == name
            told = rows["outcome"] == name
            if min(own.sum(), (~own).sum()) >= FEWEST:
                rates[str(group)] = [(int((told & w).sum()), int(w.sum())) for w in (own, ~own)]
        pairs = [
            _largest(a, b, name, rates[a], rates[b])
            for i, a in enumerate(rates)
            for b in list(rates)[i + 1 :]
        ]
        out += [max(pairs, key=lambda f: f.value)] if pairs else []
    return out


def _largest(
    a: str, b: str, name: str, one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> Faked:
    best = Faked((a, b), name, -1.0, nan, nan)
    for (k, n), (m, size) in zip(one, other, strict=True):
        difference = k / n - m / size
        low, high = confint_proportions_2indep(k, n, m, size, method="newcomb", compare="diff")
        if difference < 0:
            low, high = -high, -low
        if abs(difference) > best.value:
            best = Faked((a, b), name, abs(difference), max(float(low), 0.0), float(high))
    return best


def lines(checked: Checked) -> Iterator[str]:
    """What was found, in sentences and a table."""
    rows, names = checked.rows, checked.classes
    columns = [*names, *(o for o in OUTCOMES if (rows["outcome"] == o).any())]
    yield f"{checked.instrument} on {len(rows):,} labelled images"
    for group in _groups(rows):
        part = rows if group is None else rows[rows[GROUP] == group]
        yield ""
        yield "all images" if group is None else f"group {group}"
        yield f"{'labelled':<20}{'images':>8}  " + "".join(f"{c[:16]:>17}" for c in columns)
        for name in names:
            own = part[part["true"] == name]
            counts = "".join(f"{int((own['outcome'] == c).sum()):>17}" for c in columns)
            rate = found(part, name)
            told = "no image" if own.empty else f"told {_percent(rate)}"
            yield f"{name[:19]:<20}{len(own):>8}  {counts}   {told}"
    yield ""
    error = calibration_error(rows)
    fit = (
        f"; a temperature of {checked.temperature:.2f} fits it to these labels"
        if checked.temperature != 1
        else ""
    )
    yield f"its certainty misses how often it is right by {error:.1%} on average{fit}"
    fakes = faked(checked)
    if not fakes:
        yield (
            "how large a difference its errors alone could fake between groups: we cannot tell, "
            f"that needs two groups with {FEWEST} labelled images of each class"
        )
    for fake in fakes:
        yield (
            f"between {fake.groups[0]} and {fake.groups[1]} its errors alone could fake up to "
            f"{100 * fake.value:.0f} points [{100 * fake.low:.0f}, {100 * fake.high:.0f}] of "
            f"{fake.name}: smaller differences say nothing without a confusion matrix of each"
        )


def _groups(rows: pd.DataFrame) -> list[str | None]:
    named = sorted(set(map(str, rows[GROUP])))
    return [None, *named] if len(named) > 1 else [None]


def _percent(rate: Interval) -> str:
    return f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}]"


def _labels(folder: Path, csv: Path | None, attribute: AttributeSpec) -> pd.DataFrame:
    """Columns file, label and group."""
    if csv is not None:
        columns, rows = read_table(csv)
        if "file" not in columns or attribute.name not in columns:
            raise AuditError(
                f"{csv}: needs the columns file and {attribute.name} (its label); it has "
                f"{', '.join(columns)}"
            )
        held = [(r["file"], r[attribute.name], r.get(GROUP, "")) for r in rows]
    else:
        held = list(_by_folder(folder, attribute.class_names))
    table = pd.DataFrame(held, columns=["file", "label", GROUP])
    return table.assign(**{GROUP: table[GROUP].replace("", "all"), "prompt": PROMPT})


def _by_folder(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    known = {name.casefold(): name for name in names}
    seen = False
    for path in sorted(folder.rglob("*")):
        label = known.get(path.parent.name.casefold())
        if label is None or not path.is_file() or path.is_symlink():
            continue
        seen = True
        inside = path.relative_to(folder)
        yield inside.as_posix(), label, "/".join(inside.parts[:-2])
    if not seen:
        raise AuditError(
            f"{folder}: no folder is named as a class ({', '.join(names)}); put images into such "
            "folders, or give --csv with the columns file and the attribute's name"
        )


def _first(failures: Mapping[str, str]) -> str:
    return next(iter(failures.values()), "no reason is kept")
