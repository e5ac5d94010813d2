"""What may be claimed of a finding, decided by its own fields alone.

Only a test of the report has a verdict: a finding with a family, whose p was adjusted over all
tests (`probes.error_control`). It is 'apart' where the adjusted p is at most 0.05 *and* its 95 %
interval leaves out what it is tested against: a share's target, a distance of zero, a change as
large as the resolution in either direction. All other tests are 'cannot tell', and so are tests
whose p could not be computed. A finding that is no test is described, with its interval. No
verdict says that a model meets its target.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite, isnan
from typing import Literal

from probes.contracts import Finding, MetricKind

Verdict = Literal["apart", "cannot tell", "described", "not measured", "failed"]

ALPHA = 0.05
ORDER: tuple[Verdict, ...] = ("failed", "apart", "described", "cannot tell", "not measured")
"""Verdicts in the order in which they are of use to a reader."""
AGAINST = ("baseline", "against")
"""Keys of a subject that name what an arm is compared with."""
APART: dict[MetricKind, str] = {
    "share": "Off target",
    "distance": "Off target",
    "shift": "Differs",
    "level": "Stands out",
}
"""What a test that is apart is called, by the kind of its metric."""


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
    up to the reference in either direction.
    """
    held = finding.reference.value
    if isnan(held):
        return False
    if finding.metric.kind == "distance":
        return finding.low > held
    if finding.metric.kind == "share":
        return not finding.low <= held <= finding.high
    return finding.low > abs(held) or finding.high < -abs(held)


def verdict_label(finding: Finding) -> str:
    """The verdict in two or three words, for a reader who only scans."""
    labels: dict[Verdict, str] = {
        "apart": APART[finding.metric.kind],
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
    ordered = dict.fromkeys((*APART.values(), "We cannot tell", "Not measured", "Failed"))
    return {label: tests.count(label) for label in ordered if label in tests}
