"""A finding as it stands on the page: worded, on its scale, with links to what is behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

from probes.contracts import Figure, Finding
from reports.grids import file_name, is_grid
from reports.sentences import scope, sentence
from reports.strips import sheet_of, strip_of
from reports.text import clip
from reports.verdicts import is_measured, verdict, verdict_label


class Meter(NamedTuple):
    """Where an interval lies on a scale from 0 to 100 %; what is not known is None."""

    value: float
    low: float | None
    high: float | None
    target: float | None
    alt: str


class Headline(NamedTuple):
    """One headline finding, worded."""

    verdict: str
    label: str
    sentence: str
    small: str
    meter: Meter | None
    links: list[tuple[str, str]]
    """(word, address) of its figure and its images."""


class Links:
    """Where a finding's figure and images are: anchors of the page, or files beside it.

    Args:
        figures: All figures.
        anchors: Anchors of the figures by id.
        seen: Strips and sheets by id.
    """

    def __init__(
        self,
        figures: Sequence[Figure],
        anchors: Mapping[str, str],
        seen: Mapping[str, Figure],
    ) -> None:
        self.anchors, self.seen = anchors, seen
        self.by_subject: dict[tuple[str, str], str] = {}
        self.by_probe: dict[str, str] = {}
        for one in figures:
            if one.id in seen or one.ranking:
                continue
            about = (one.subject.get("attribute", ""), one.subject.get("instrument", ""))
            if all(about):
                self.by_subject.setdefault(about, one.id)
            self.by_probe.setdefault(one.probe, one.id)
        self.grids = any(is_grid(e) and e.id not in seen for e in figures)

    def of(self, finding: Finding) -> list[tuple[str, str]]:
        """(word, address) of the figure and the images, as far as there are any."""
        out = []
        about = (finding.subject.get("attribute", ""), finding.instrument)
        drawn = self.by_subject.get(about) or self.by_probe.get(finding.probe)
        if drawn:
            out.append(("figure", f"#{self.anchors[drawn]}"))
        strip, sheet = strip_of(finding.id), sheet_of(finding.subject.get("prompt", ""))
        if strip in self.seen:
            out.append(("images", f"#{self.anchors[strip]}"))
        elif sheet in self.seen:
            out.append(("images", f"grids/{file_name(sheet)}"))
        elif self.grids:
            out.append(("images", "#grids"))
        return out


def headline(finding: Finding, links: Links | None = None) -> Headline:
    """Word one finding."""
    small = [scope(finding), finding.estimator, finding.instrument]
    if is_measured(finding):
        small.append(finding.note)
    return Headline(
        verdict(finding).replace(" ", "-"),
        verdict_label(finding),
        clip(sentence(finding), 700),
        " · ".join(clip(s, 160) for s in small if s),
        meter(finding),
        links.of(finding) if links else [],
    )


def meter(finding: Finding) -> Meter | None:
    """The finding on a scale from 0 to 100 %, where it is a share or a distance of shares."""
    how, held = finding.metric.kind, finding.reference
    numbers = (finding.value, finding.low, finding.high)
    if how not in ("share", "distance") or not is_measured(finding):
        return None
    if any(isfinite(x) and not 0 <= x <= 1 for x in numbers):
        return None
    chance = held.null_q95 if isfinite(held.null_q95) else held.null
    target = held.value if how == "share" else chance
    value, low, high, mark = (100 * x if isfinite(x) else None for x in (*numbers, target))
    assert value is not None, "a finding without a value is not measured"
    known = low is not None and high is not None
    mark_name = "target" if how == "share" else "chance"
    described = f"{value:.0f} %"
    described += f", interval {low:.0f} to {high:.0f} %" if known else ", no interval"
    described += f", {mark_name} {mark:.0f} %" if mark is not None else ""
    return Meter(value, low if known else None, high if known else None, mark, described)
