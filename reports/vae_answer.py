"""What the answer says of VAEs: how close each comes, what it shifts, whose images most.

A VAE is held against the first one of the run or, where it is alone, against the originals. Copies
are named once: VAEs whose numbers are equal to the last digit make the same images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, nan
from typing import NamedTuple

from probes.contracts import Finding
from probes.vae.metrics import (
    CHROMA_SHIFT,
    DELTA_E,
    DETAIL_LOSS,
    FIDELITY,
    LIGHTNESS_SHIFT,
    MS_SSIM,
    PSNR,
    SKIN,
    SKIN_ITA,
    SKIN_LIGHTNESS,
    SQUARED_ERROR,
    SSIM,
    derived,
)
from reports.sentences import amount, group, value_text
from reports.statement import Statement
from reports.text import clip
from reports.verdicts import has_interval, is_measured, verdict

PROBE = "vae"
MOST_SHIFTS = 3
KNOWN = {one.name: metric for metric in (*FIDELITY, *SKIN) for one in derived(metric)}
"""The metric of an image by the name of any metric that is derived from it."""
SAID_ELSEWHERE = (SQUARED_ERROR, SKIN_ITA)
"""PSNR and the lightness of skin say the same in better known units."""
WORDS = {
    LIGHTNESS_SHIFT: ("images", "lighter", "darker", LIGHTNESS_SHIFT.unit),
    SKIN_LIGHTNESS: ("skin", "lighter", "darker", SKIN_LIGHTNESS.unit),
    CHROMA_SHIFT: ("colours", "stronger", "weaker", CHROMA_SHIFT.unit),
    DELTA_E: ("colours", "farther off", "less far off", DELTA_E.unit),
    SSIM: ("SSIM", "higher", "lower", ""),
    MS_SSIM: ("MS-SSIM", "higher", "lower", ""),
    DETAIL_LOSS: ("loss of detail", "larger", "smaller", ""),
}
"""By metric: what changes, how where the number is above or below zero, the unit that is said."""


class Shifts(NamedTuple):
    """One VAE's tests against the first VAE, or against the originals.

    Attributes:
        arm: the VAE, with its checkpoint where there are several.
        baseline: the arm that it is held against; '' for the originals or the first VAE's images.
        overall: tests over all images, the largest first.
        groups: tests of one group's images against all others', the largest first.
    """

    arm: str
    baseline: str
    overall: list[Finding]
    groups: list[Finding]


def statements(findings: Iterable[Finding]) -> list[Statement]:
    """One a VAE, of what it shifts and whose images most; those with the largest effects first.

    Args:
        findings: All findings, adjusted over the report.
    """
    return [_statement(one) for one in shifts(findings)]


def of_vaes(findings: Iterable[Finding]) -> list[Finding]:
    """The probe's measured findings of an arm."""
    return [f for f in findings if f.probe == PROBE and is_measured(f) and "arm" in f.subject]


def over_all_images(findings: Iterable[Finding]) -> list[Finding]:
    """Each arm's own numbers over all of its images: of no group, against no other arm."""
    return [f for f in of_vaes(findings) if not {"group", "baseline"} & f.subject.keys()]


def copies(findings: Iterable[Finding]) -> dict[str, str]:
    """Arms whose every number equals an earlier arm's: which arm that is."""
    numbers: dict[str, list[tuple[str, float]]] = {}
    for f in over_all_images(findings):
        numbers.setdefault(f.subject["arm"], []).append((f.metric.name, f.value))
    first: dict[tuple[tuple[str, float], ...], str] = {}
    found = {}
    for arm, known in numbers.items():
        known_as = first.setdefault(tuple(sorted(known)), arm)
        if known_as != arm:
            found[arm] = known_as
    return found


def closest(findings: Iterable[Finding]) -> list[Statement]:
    """How close VAEs come to the originals of a round trip; nothing for a decode swap.

    Args:
        findings: All findings.
    """
    own = over_all_images(findings)
    same = copies(own)
    known = [f for f in own if f.metric.name == PSNR.name and has_originals(f)]
    ranked = sorted((f for f in known if f.subject["arm"] not in same), key=lambda f: -f.value)
    if not ranked:
        return []
    parts = [f"{clip(f.subject['arm'], 60)} {value_text(f)}" for f in ranked]
    parts += [f"{clip(a, 60)} makes the same images as {clip(b, 60)}" for a, b in same.items()]
    what = "1 VAE, and how close it comes" if len(ranked) == 1 else "VAEs by how close they come"
    lead = f"{what} to the originals (PSNR of {ranked[0].n:,} images)"
    return [Statement(lead, "; ".join(parts), nan, False, tuple(f.id for f in ranked))]


def has_originals(finding: Finding) -> bool:
    """Whether it is of a round trip: images that were given are sampled one by one."""
    return finding.estimand == "images like these"


def shifts(findings: Iterable[Finding]) -> list[Shifts]:
    """The tests of every VAE that is no copy, those with the largest effects first.

    Args:
        findings: All findings, adjusted over the report.
    """
    own = of_vaes(findings)
    same = copies(own)
    held: dict[tuple[str, str], Shifts] = {}
    for f in own:
        arm, base = f.subject["arm"], f.subject.get("baseline", "")
        if not f.family or KNOWN.get(f.metric.name) in SAID_ELSEWHERE or {arm, base} & same.keys():
            continue
        one = held.setdefault((arm, base), Shifts(arm, base, [], []))
        (one.groups if "group" in f.subject else one.overall).append(f)
    paired = {arm for arm, base in held if base}
    found = [one for (arm, base), one in held.items() if base or arm not in paired]
    for one in found:
        one.overall.sort(key=size, reverse=True)
        one.groups.sort(key=size, reverse=True)
    return sorted(found, key=lambda one: -max(map(size, one.overall + one.groups)))


def size(finding: Finding) -> float:
    """How many times the largest change that counts as none; what is not apart comes last."""
    limit = abs(finding.reference.value)
    times = abs(finding.value) / limit if limit > 0 else inf
    return times if verdict(finding) == "apart" else -1 / (1 + times)


def shift_text(finding: Finding) -> str:
    """'skin 5.5 L* [3.7, 7.3] lighter'; of another metric its name and number."""
    metric = KNOWN.get(finding.metric.name)
    if metric not in WORDS:
        return f"{_name(finding)} {'+' if finding.value > 0 else ''}{value_text(finding)}"
    noun, up, down, unit = WORDS[metric]
    ends = (finding.low, finding.high) if finding.value >= 0 else (-finding.high, -finding.low)
    low, high = (amount(finding, end) for end in ends)
    bounds = f" [{low}, {high}]" if has_interval(finding) else ""
    number = f"{amount(finding, abs(finding.value))} {unit}".rstrip()
    return f"{noun} {number}{bounds} {up if finding.value >= 0 else down}"


def direction(finding: Finding) -> str:
    """'skin lighter': what shifts, and where to, without the number."""
    metric = KNOWN.get(finding.metric.name)
    if metric not in WORDS:
        return _name(finding)
    noun, up, down, _ = WORDS[metric]
    return f"{noun} {up if finding.value >= 0 else down}"


def _name(finding: Finding) -> str:
    """A metric's name; of the share of a class, which one of what."""
    metric = KNOWN.get(finding.metric.name, finding.metric)
    return clip(metric.column if metric.unit == "share" and metric.column else metric.name, 80)


def listed(texts: Sequence[str]) -> str:
    """The first few, and how many more there are; '' where there is none."""
    more = len(texts) - MOST_SHIFTS
    return ", ".join(texts[:MOST_SHIFTS]) + (f" and {more} more" if more > 0 else "")


def most_affected(one: Shifts) -> str:
    """The group whose images shift most, against all others; '' where there are no groups."""
    if not one.groups:
        return ""
    first = one.groups[0]
    said = f"{group(first).strip()}: {shift_text(first)} than for all others"
    if verdict(first) == "apart":
        return f"most {said}"
    return f"no group is clearly affected more; the largest difference is {said}"


def _statement(one: Shifts) -> Statement:
    arm, base = clip(one.arm, 80), clip(one.baseline, 80)
    tests = [*one.overall, *one.groups[:1]]
    reference = "the originals" if any(map(has_originals, one.overall)) else "the first VAE"
    clear = [shift_text(f) for f in one.overall if verdict(f) == "apart"]
    overall = listed(clear) or "no clear shift over all images"
    found = [f for f in tests if verdict(f) == "apart"]
    return Statement(
        f"{arm} against {base or reference}",
        "; ".join(filter(None, [overall, most_affected(one)])),
        nan,
        bool(found),
        tuple(f.id for f in found or tests),
    )
