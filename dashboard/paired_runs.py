"""The same arm in two runs, image by image: pairs of one prompt, noise and setting."""

from __future__ import annotations

import pandas as pd

from dashboard import outcomes
from dashboard.outcomes import Reading
from dashboard.queries import RunView
from probes.attributes.outcomes import reported_classes
from probes.statistics.intervals import paired_difference

ALIKE = ("arm", "prompt", "text", "negative_text", "noise", "sampler", "steps", "guidance")
SIZE = ("width", "height")
"""What two images must share to be a pair."""
COLUMNS = ("label", "value", "low", "high", "group", "facet", "pairs", "prompts")


def paired(a: RunView, b: RunView) -> pd.DataFrame:
    """Change of the share of each reported class from run `a` to run `b`, by arm.

    Args:
        a: The run that is taken as the earlier one.
        b: The other.

    Returns:
        One row an arm and class: label (the arm), value (b minus a, from -1 to 1) with its 95 %
        interval over the prompts of both, facet (attribute and class), pairs and prompts; empty
        where no image of both has the same prompt, noise and settings.
    """
    key = f"paired {b.folder} {b.opened}"  # every click of the page asks for it
    if key not in a.cache:
        a.cache[key] = _paired(a, b)
    return a.cache[key]


def _paired(a: RunView, b: RunView) -> pd.DataFrame:
    rows = []
    others = {(r.instrument, r.attribute.name): r for r in outcomes.readings(b)}
    for reading in outcomes.readings(a):
        other = others.get((reading.instrument, reading.attribute.name))
        if other is None:
            continue
        both = _read(a, reading).merge(
            _read(b, other), on=[*ALIKE, *SIZE], suffixes=("_a", "_b"), validate="one_to_one"
        )
        names = reading.attribute.class_names
        both = both[both["outcome_a"].isin(names) & both["outcome_b"].isin(names)]
        for arm, part in both.groupby("arm", sort=False):
            for name in reported_classes(reading.attribute):
                counts = len(part), part["prompt"].nunique()
                about = "", f"{reading.title} · {name}"
                rows.append((str(arm), *_difference(part, name), *about, *counts))
    return pd.DataFrame(rows, columns=COLUMNS)


def _read(run: RunView, reading: Reading) -> pd.DataFrame:
    names = ", ".join(f"p.{name}" for name in (*ALIKE, *SIZE))
    frame = run.sql(
        f"SELECT {names}, t.outcome FROM plan p "
        f"JOIN {outcomes.told(run, reading)} t USING (cell) WHERE p.requested_by = '' "
        "AND p.kind = 'made'"
    )
    return frame.drop_duplicates([*ALIKE, *SIZE])


def _difference(pairs: pd.DataFrame, name: str) -> tuple[float, float, float]:
    """Mean over prompts of the change of a class's share, with its interval for these prompts."""
    held = [
        ((part["outcome_b"] == name).astype(float), (part["outcome_a"] == name).astype(float))
        for _, part in pairs.groupby("prompt", sort=False)
    ]
    found = paired_difference([x for x, _ in held], [y for _, y in held], "this suite", 1.0)
    return found.value, found.low, found.high
