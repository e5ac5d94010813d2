"""What may be claimed of a finding, decided by its own fields alone.

Only a test of the report has a verdict: a finding with a family, whose p was adjusted over all
tests (`probes.error_control`). It is 'apart' where the adjusted p is at most 0.05 *and* its 95 %
interval leaves out what it is tested against: a share's target, a distance of zero, a change as
large as the resolution in either direction. All other tests are 'cannot tell', and so are tests
whose p could not be computed. A finding that is no test is described, with its interval. No
verdict says that a model meets its target.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import isfinite, isnan, nan
from typing import Literal

from probes.contracts import Finding

Verdict = Literal["apart", "cannot tell", "described", "not measured", "failed"]
Manner = Literal["share", "distance", "difference", "other"]

ALPHA = 0.05
ORDER: tuple[Verdict, ...] = ("failed", "apart", "described", "cannot tell", "not measured")
"""Verdicts in the order in which they are of use to a reader."""
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

    What it is tested against, where it is a test. Else a share's is the target of its class or
    its `null` (the share without the effect), a difference's is zero, and any other's its target
    or its `null`.
    """
    if isfinite(finding.tested_against):
        return finding.tested_against
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
    if finding.status == "failed":
        return "failed"
    if finding.status == "not-measured" or isnan(finding.value):
        return "not measured"
    if not finding.family:
        return "described"
    sure = has_interval(finding) and is_adjusted(finding) and finding.p <= ALPHA
    return "apart" if sure and leaves_out(finding) else "cannot tell"


def is_adjusted(finding: Finding) -> bool:
    """Whether its p was adjusted over all tests of the report."""
    return finding.adjustment != "none"


def leaves_out(finding: Finding) -> bool:
    """Whether the interval leaves out what the finding is tested against.

    A share is tested against one number. A distance is never negative, so only its lower bound
    counts. Of a change the direction is not known beforehand: it is tested against all changes
    up to `tested_against` in either direction.
    """
    against = target_value(finding)
    if isnan(against):
        return False
    if manner(finding) == "distance":
        return finding.low > against
    if manner(finding) == "share":
        return not finding.low <= against <= finding.high
    return finding.low > abs(against) or finding.high < -abs(against)


def verdict_label(finding: Finding) -> str:
    """The verdict in two or three words, for a reader who only scans."""
    words = {"share": "Off target", "distance": "Off target", "difference": "Differs"}
    labels: dict[Verdict, str] = {
        "apart": words.get(manner(finding), "Stands out"),
        "cannot tell": "We cannot tell",
        "described": "Measured",
        "not measured": "Not measured",
        "failed": "Failed",
    }
    return labels[verdict(finding)]


def is_measured(finding: Finding) -> bool:
    """Whether there is a number at all."""
    return verdict(finding) not in ("not measured", "failed")


def has_interval(finding: Finding) -> bool:
    """Whether both bounds are numbers."""
    return isfinite(finding.low) and isfinite(finding.high)


def headlines(findings: Iterable[Finding]) -> list[Finding]:
    """What heads a report: headline findings and all that failed, by verdict.

    Of one verdict, those of all prompts and images come before those of one prompt or group.
    """
    chosen = [f for f in findings if f.headline or f.status == "failed"]
    return sorted(
        chosen,
        key=lambda f: (ORDER.index(verdict(f)), "prompt" in f.subject or "group" in f.subject),
    )


def census(findings: Iterable[Finding]) -> dict[str, int]:
    """How many tests of the report have each verdict, by its label: every test is counted."""
    tests = [verdict_label(f) for f in findings if f.headline and f.family]
    ordered = ("Off target", "Differs", "Stands out", "We cannot tell", "Not measured", "Failed")
    return {label: tests.count(label) for label in ordered if label in tests}
