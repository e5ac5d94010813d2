"""What classifiers told of each image, with their doubts: tables beside the plan.

Outcomes are told by the probe's own function, so the dashboard counts what the report counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from dashboard.queries import Filters, RunView
from harness.spec.attributes import AttributeSpec
from harness.spec.sections import ClassifierSpec, InstrumentSpec
from harness.store.run import Run
from probes.attributes.outcomes import monk_frame, outcome_frame
from probes.attributes.outcomes import readings as spec_readings
from probes.statistics.intervals import mean_share_over_prompts


class Reading(NamedTuple):
    """One attribute as one instrument reads it."""

    instrument: str
    attribute: AttributeSpec
    classifier: ClassifierSpec | InstrumentSpec | None
    """None: by colorimetry."""

    @property
    def title(self) -> str:
        """The attribute in words."""
        return self.attribute.title or self.attribute.name


def readings(view: RunView) -> list[Reading]:
    """All that the run's scores tell of attributes, in the spec's order."""
    if view.spec is None:
        return []
    found = []
    for attribute in view.spec.attributes:
        if attribute.by_colour:
            found.append(Reading("skin", attribute, None))
        found += [
            Reading(r.instrument, attribute, r.classifier)
            for r in spec_readings(view.spec)
            if r.attribute is attribute
        ]
    return [r for r in found if r.instrument in view.instruments]


def told(view: RunView, reading: Reading) -> str:
    """Table of cell, outcome, certainty and 'class:NAME' of one reading; made once.

    `certainty` is the probability of the likeliest class, NaN by colorimetry.
    """
    name = f"told {reading.instrument} {reading.attribute.name}"
    known = view.kept(name)
    if known:
        return known
    scores = view.sql(f"SELECT DISTINCT ON (cell) * FROM {view.scores(reading.instrument)}")
    plan = view.sql("SELECT cell FROM plan ORDER BY place")
    labels = Run(view.folder).labels(view.files.labels)  # those that are not damaged
    tables = {reading.instrument: scores}
    if reading.classifier is None:
        frame = monk_frame(tables, plan, labels, reading.attribute)
        frame["certainty"] = np.nan
        return view.keep(name, frame[["cell", "outcome", "certainty"]])
    frame = outcome_frame(
        tables, plan, labels, reading.attribute, reading.instrument, reading.classifier
    )
    classes = [f"class:{n}" for n in reading.attribute.class_names]
    scores["certainty"] = scores[classes].max(axis=1)
    frame = frame.merge(scores[["cell", "certainty", *classes]], on="cell", how="left")
    return view.keep(name, frame[["cell", "outcome", "certainty", *classes]])


def shares(view: RunView, reading: Reading, filters: Filters) -> pd.DataFrame:
    """Shares of the filtered images by arm and class, with the report's intervals.

    Prompts weigh alike and are taken as fixed ('this suite'); each class's share is of the
    images that were told one of the classes.

    Returns:
        label (the class), value, low, high, group (the arm), target (NaN where prompts have
        targets of their own), n.
    """
    where, values = view.where(filters)
    counted = view.sql(
        f"""SELECT p.arm, p.prompt, t.outcome, count(*) AS n FROM plan p
            JOIN {told(view, reading)} t USING (cell) {where} GROUP BY ALL""",
        values,
    )
    names = reading.attribute.class_names
    targets = reading.attribute.shares()
    rows = []
    table = counted.pivot_table(
        index=["arm", "prompt"], columns="outcome", values="n", aggfunc="sum", fill_value=0
    ).reindex(columns=list(names), fill_value=0)
    order = {arm: i for i, arm in enumerate(view.arms)}
    for arm in sorted(set(counted["arm"]), key=order.__getitem__):
        part = table[table.index.get_level_values("arm") == arm]
        part = part[part.sum(axis=1) > 0]
        n = part.sum(axis=1).tolist()
        for name in names:
            value, low, high = (
                mean_share_over_prompts(part[name].tolist(), n, "this suite")
                if n
                else (np.nan, np.nan, np.nan)
            )
            rows.append((name, value, low, high, arm, targets.get(name, np.nan), int(sum(n))))
    columns = ["label", "value", "low", "high", "group", "target", "n"]
    return pd.DataFrame(rows, columns=columns)


def not_told(view: RunView, reading: Reading, filters: Filters) -> pd.DataFrame:
    """By arm: images, and how many of them were told no class, by what they were."""
    where, values = view.where(filters)
    rows = view.sql(
        f"""SELECT p.arm, coalesce(t.outcome, 'no image') AS outcome, count(*) AS n FROM plan p
            LEFT JOIN {told(view, reading)} t USING (cell) {where} GROUP BY ALL""",
        values,
    )
    table = rows.pivot_table(index="arm", columns="outcome", values="n", fill_value=0)
    others = [c for c in table.columns if c not in reading.attribute.class_names]
    out = table[others].astype(int)
    out.insert(0, "images", table.sum(axis=1).astype(int))
    return out.reindex([a for a in view.arms if a in out.index]).reset_index()


def uncertain(
    view: RunView, reading: Reading, filters: Filters, limit: int, offset: int = 0
) -> pd.DataFrame:
    """Images of which the classifier was least sure, first: the plan's rows with its doubts."""
    where, values = view.where(filters)
    where = f"{where} AND" if where else "WHERE"
    return view.sql(
        f"""SELECT p.*, t.* EXCLUDE (cell) FROM plan p JOIN {told(view, reading)} t USING (cell)
            {where} t.certainty IS NOT NULL ORDER BY t.certainty, p.place LIMIT ? OFFSET ?""",
        [*values, limit, offset],
    )


def disagreeing(view: RunView, one: Reading, other: Reading, limit: int) -> pd.DataFrame:
    """Images that two instruments tell differently: the plan's rows, outcome, other."""
    return view.sql(
        f"""SELECT p.*, a.outcome, b.outcome AS other FROM plan p
            JOIN {told(view, one)} a USING (cell) JOIN {told(view, other)} b USING (cell)
            WHERE a.outcome <> b.outcome ORDER BY p.place LIMIT ?""",
        [limit],
    )
