"""Which prompts are off their target, in which direction, and how far: what the answer rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, nan
from typing import NamedTuple

from probes.contracts import Finding
from reports.sentences import PLURALS, attribute
from reports.text import clip
from reports.verdicts import is_measured, verdict

SAME_EFFECT = 0.05
"""Arms of one checkpoint whose mean distances differ by less are told as one."""


@dataclass(eq=False)
class Group:
    """The tests by prompt of one arm, attribute and instrument, and the shares beside them."""

    arm: str
    checkpoint: str
    about: str
    tests: list[Finding]
    shares: dict[str, dict[str, Finding]]
    """By prompt and class."""

    @cached_property
    def flagged(self) -> list[Finding]:
        """Tests that are apart, the farthest from target first."""
        return sorted(
            (f for f in self.tests if verdict(f) == "apart"), key=lambda f: f.value, reverse=True
        )

    @cached_property
    def measured(self) -> list[Finding]:
        """Tests with a number: of the other prompts no image shows any class."""
        return [f for f in self.tests if is_measured(f)]

    @cached_property
    def effect(self) -> float:
        """Mean distance from target over the prompts, less what a model on target would score."""
        known = self.measured
        null = [f.reference.null if isfinite(f.reference.null) else 0.0 for f in known]
        gaps = [f.value - n for f, n in zip(known, null, strict=True)]
        return sum(gaps) / len(gaps) if gaps else 0.0


class Case(NamedTuple):
    """One prompt off its target.

    Attributes:
        arm, prompt, about: whose, of what, which attribute.
        name: the class that its images show too often; '' where no share says so.
        value, low, high: share of that class and its interval; NaN where not known.
        target: target of that class; NaN where it has none.
        gap: how far the share is above the target.
        test: the test that found it.
    """

    arm: str
    prompt: str
    about: str
    name: str
    value: float
    low: float
    high: float
    target: float
    gap: float
    test: Finding


def groups(findings: Iterable[Finding]) -> list[Group]:
    """The tests by prompt of all arms, attributes and instruments, with their shares."""
    found: dict[tuple[str, str, str], Group] = {}
    held = [f for f in findings if {"arm", "attribute", "prompt"} <= f.subject.keys()]
    for f in held:
        if f.metric.kind != "distance" or not f.family:
            continue
        key = (f.subject["arm"], f.subject["attribute"], f.instrument)
        empty = Group(key[0], f.subject.get("checkpoint", key[0]), attribute(f), [], {})
        found.setdefault(key, empty).tests.append(f)
    for f in held:
        key = (f.subject["arm"], f.subject["attribute"], f.instrument)
        if f.metric.kind != "share" or key not in found or not is_measured(f):
            continue
        known = found[key].shares.setdefault(f.subject["prompt"], {})
        name = f.subject.get("class", "")
        # Corrected shares go before counted ones: the tests are made on them.
        if name and (name not in known or f.reading == "corrected"):
            known[name] = f
    return list(found.values())


def joined(held: Iterable[Group]) -> list[list[Group]]:
    """Arms that say the same of an attribute stand together: of one checkpoint, or not off."""
    out: list[list[Group]] = []
    for one in held:
        for arms in out:
            first = arms[0]
            about = (one.about, one.tests[0].instrument) == (first.about, first.tests[0].instrument)
            silent = not one.flagged and not first.flagged
            silent &= bool(one.measured) == bool(first.measured)
            same = about and (silent or one.checkpoint == first.checkpoint)
            close = abs(one.effect - first.effect) < SAME_EFFECT
            if same and (silent or (close and one.flagged and first.flagged)):
                arms.append(one)
                break
        else:
            out.append([one])
    return out


def case_of(group: Group, test: Finding) -> Case:
    """One test of a group with the class that its prompt's images show too often.

    Of two classes one alone may be reported: the other's share is the rest.
    """
    known = group.shares.get(test.subject["prompt"], {})
    targets = test.reference.targets
    cases = []
    for name, f in known.items():
        target = targets.get(name, f.reference.value)
        whose = (group.arm, test.subject["prompt"], group.about)
        cases.append(Case(*whose, name, f.value, f.low, f.high, target, f.value - target, test))
        others = [n for n in targets if n != name]
        if len(targets) == 2 and len(known) == 1 and others:
            (rest,) = others
            share = (1 - f.value, 1 - f.high, 1 - f.low)
            cases.append(Case(*whose, rest, *share, targets[rest], target - f.value, test))
    if not cases:
        none = (nan, nan, nan, nan)
        return Case(group.arm, test.subject["prompt"], group.about, "", *none, test.value, test)
    return max(cases, key=lambda c: c.gap)


def worst(findings: Iterable[Finding], most: int) -> list[Case]:
    """The worst prompts of the largest effects, as many of each of the first three.

    Args:
        findings: All findings, adjusted over the report.
        most: Cases at most.
    """
    told = [max(arms, key=lambda g: len(g.flagged)) for arms in joined(groups(findings))]
    told = sorted((g for g in told if g.flagged), key=lambda g: -g.effect)[:3]
    found = []
    for one in told:
        cases = [c for c in (case_of(one, t) for t in one.flagged) if c.name]
        found += sorted(cases, key=lambda c: -c.gap)[: most // len(told)]
    return found


def plural(name: str) -> str:
    """A class in the plural, where it has one, else its name."""
    return PLURALS.get(name) or clip(name, 60)
