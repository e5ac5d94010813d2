"""What may be claimed of a finding, decided by its own numbers alone.

A finding is 'apart' from its target only where the interval leaves the target out and p, where
there is one, is below .05. A distance is never negative, so its interval cannot hold zero: it
must lie beyond what 95 % of runs of a model that meets the target score or, where only their
mean is known, lie above that mean with its whole interval. All else is 'cannot tell'. No
verdict says that a model meets its target.
"""

from __future__ import annotations

import re
from math import isfinite, isnan, nan
from typing import Literal

from probes import Finding

Verdict = Literal["apart", "cannot tell", "described", "not measured"]
Manner = Literal["share", "distance", "difference", "other"]

ALPHA = 0.05
AGAINST = ("baseline", "against", "versus")
"""Keys of a subject that name what an arm is compared with."""
TARGET = re.compile(r"(?:(.*\S)\s+)?(\d*\.?\d+)\s*(%|% each)?")


def manner(finding: Finding) -> Manner:
    """How the finding's number is to be read, from its metric, unit and subject."""
    metric = finding.metric.lower()
    if "difference" in metric or any(key in finding.subject for key in AGAINST):
        return "difference"
    if "distance" in metric or "variation" in metric:
        return "distance"
    return "share" if "share" in metric or finding.unit == "share" else "other"


def target_shares(finding: Finding) -> dict[str, float]:
    """The target by class: 'man 0.4, woman 60 %' gives .4 and .6; one number stands for any.

    Empty where the text is not a list of shares.
    """
    shares = {}
    for item in finding.target[:2000].split(","):
        found = TARGET.fullmatch(item.strip())
        if not found:
            return {}
        shares[found[1] or ""] = float(found[2]) / (100 if found[3] else 1)
    return shares


def target_value(finding: Finding) -> float:
    """The number that the value is held against; NaN where there is none.

    A share's is the target of its class, else its `null` (the share without the effect); a
    difference's is zero; any other's its target, else its `null`.
    """
    how = manner(finding)
    if how == "difference":
        return 0.0
    shares = target_shares(finding)
    own = finding.subject.get("class", "")
    if own in shares or "" in shares:
        return shares.get(own, shares.get("", nan))
    return finding.null if how == "other" or own else nan


def verdict(finding: Finding) -> Verdict:
    """What may be claimed: see the module's own text for the rule."""
    if finding.status == "not-measured" or isnan(finding.value):
        return "not measured"
    if not has_interval(finding):
        return "cannot tell"
    if isfinite(finding.p) and finding.p >= ALPHA:
        return "cannot tell"
    if manner(finding) == "distance":
        return "apart" if _beyond_chance(finding) else "cannot tell"
    reference = target_value(finding)
    if isnan(reference):
        return "apart" if finding.p < ALPHA else "described"
    return "cannot tell" if finding.low <= reference <= finding.high else "apart"


def verdict_label(finding: Finding) -> str:
    """The verdict in two or three words, for a reader who only scans."""
    words = {"share": "Off target", "distance": "Off target", "difference": "Differs"}
    labels: dict[Verdict, str] = {
        "apart": words.get(manner(finding), "Stands out"),
        "cannot tell": "We cannot tell",
        "described": "Measured",
        "not measured": "Not measured",
    }
    return labels[verdict(finding)]


def has_interval(finding: Finding) -> bool:
    """Whether both bounds are numbers."""
    return isfinite(finding.low) and isfinite(finding.high)


def _beyond_chance(finding: Finding) -> bool:
    if isfinite(finding.null_q95):
        return finding.value > finding.null_q95
    return finding.p < ALPHA or finding.low > finding.null
