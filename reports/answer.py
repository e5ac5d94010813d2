"""The answer first: a few sentences that a person can act on, from the findings alone.

Per model and attribute: how many prompts are off target, in which direction, and the worst of
them. A mean share is never the headline, because opposite stereotypes cancel in it. Then what a
swap alone changes (a VAE, a checkpoint), then what other probes found apart. Only tests whose
verdict is 'apart' are said to be off or different; where there is none, the answer says so, with
what this much data would have missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite

from probes.contracts import Finding
from reports import off_target, vae_answer
from reports.off_target import Case, Group, case_of, plural
from reports.sentences import attribute, sentence
from reports.statement import Statement
from reports.text import clip, percent, points, quoted
from reports.verdicts import verdict

MOST = 12
"""Statements of an answer; the findings have them all."""
MOST_WAYS, MOST_WORST = 5, 2
"""Directions of one attribute that are named, and those of which the worst prompt is told."""
SWAPS = ("checkpoint", "vae", "adapters", "negative")


def answer(findings: Sequence[Finding]) -> list[Statement]:
    """The answer of a report: what failed, then the largest effects; what is not off target last.

    Args:
        findings: All findings, adjusted over the report.
    """
    stated = [
        *_of_attributes(findings),
        *_of_swaps(findings),
        *vae_answer.statements(findings),
        *_of_others(findings),
    ]
    stated.sort(key=lambda s: (not s.apart, -s.effect if isfinite(s.effect) else 0.0))
    stated = vae_answer.closest(findings) + stated
    failed = [f for f in findings if f.status == "failed"]
    if failed:
        named = clip(f"{failed[0].probe}: {failed[0].note}", 200)
        ids = tuple(f.id for f in failed)
        lead = "1 analysis failed" if len(failed) == 1 else f"{len(failed)} analyses failed"
        stated.insert(0, Statement(lead, named, float("nan"), False, ids))
    return stated[:MOST]


def _of_attributes(findings: Iterable[Finding]) -> list[Statement]:
    told = off_target.groups(findings)
    several = len({g.tests[0].instrument for g in told}) > len({g.about for g in told})
    return [_attribute_statement(arms, several) for arms in off_target.joined(told)]


def _attribute_statement(arms: list[Group], several: bool) -> Statement:
    """What an arm (or several that say the same) shows of one attribute."""
    one = max(arms, key=lambda g: len(g.flagged))
    by = f" (by {clip(one.tests[0].instrument, 40)})" if several else ""
    names = [clip(g.arm, 60) for g in arms]
    who = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    flagged, total = one.flagged, len(one.measured)
    if not one.measured:
        lead = f"{who}: {one.about}{by} could not be read: we cannot tell"
        return Statement(lead, clip(one.tests[0].note, 200), 0.0, False, (one.tests[0].id,))
    if not flagged:
        missed = [f.reference.null_q95 for f in one.tests if isfinite(f.reference.null_q95)]
        limit = (
            f"at this n sampling error alone puts a prompt up to {points(max(missed))} points off"
            if missed
            else ""
        )
        lead = f"{who}: {one.about}{by} is off target for none of {total} prompts"
        return Statement(lead, limit, 0.0, False, tuple(f.id for f in one.tests))
    ways: dict[str, list[Case]] = {}
    for case in (case_of(one, test) for test in flagged):
        ways.setdefault(case.name, []).append(case)
    told: list[str] = []
    for name, cases in sorted(ways.items(), key=lambda w: -max(c.gap for c in w[1])):
        more = f"{plural(name)} too often for {len(cases)}" if name else f"{len(cases)}"
        if len(told) < MOST_WORST:
            worst = max(cases, key=lambda c: c.gap)
            shown = f": {_share_text(worst)}" if worst.name else ""
            more += f" (most for {quoted(worst.prompt, 70)}{shown})"
        told.append(more)
    lead = f"{who}: {one.about}{by} is off target for {len(flagged)} of {total} prompts"
    ids = tuple(f.id for f in flagged)
    return Statement(lead, "; ".join(told[:MOST_WAYS]), one.effect, True, ids)


def _share_text(case: Case) -> str:
    """'98 % [92 %, 100 %] men, target 50 %', also where the other class was reported."""
    known = isfinite(case.low) and isfinite(case.high)
    bounds = f" [{percent(case.low)}, {percent(case.high)}]" if known else ""
    told = case.test.reference.targets.get(case.name)
    held = f", target {percent(told)}" if told is not None else ""
    return f"{percent(case.value)}{bounds} {plural(case.name)}{held}"


def _of_swaps(findings: Sequence[Finding]) -> list[Statement]:
    """What exchanging one factor alone changes in the shares of classes, over all prompts."""
    arms: dict[str, dict[str, str]] = {}  # a probe names the factors of an arm that it knows
    for f in findings:
        if "arm" in f.subject and "baseline" not in f.subject:
            known = {k: f.subject[k] for k in SWAPS if k in f.subject}
            arms.setdefault(f.subject["arm"], {}).update(known)
    means = {
        (f.subject["arm"], f.subject["attribute"], f.instrument, f.subject["class"]): f.value
        for f in findings
        if f.metric.kind == "share"
        and {"arm", "attribute", "class"} <= f.subject.keys()
        and not {"prompt", "baseline"} & f.subject.keys()
        and f.reading == "as counted"
        and f.estimand == "this suite"
    }
    grouped: dict[tuple[str, str, str, str], list[Finding]] = {}
    for f in findings:
        subject = f.subject
        if f.metric.kind != "shift" or not f.family or not f.reading or verdict(f) != "apart":
            continue
        if not {"arm", "baseline", "attribute", "class"} <= subject.keys():
            continue
        if len(_exchanged(arms, subject)) != 1:
            continue  # of two exchanges at once nobody can say which did it
        key = (subject["arm"], subject["baseline"], subject["attribute"], f.instrument)
        grouped.setdefault(key, []).append(f)
    out = []
    for (arm, base_name, name, instrument), found in grouped.items():
        found.sort(key=lambda f: -abs(f.value))
        told = []
        for f in found[:3]:
            both = [means.get((a, name, instrument, f.subject["class"])) for a in (base_name, arm)]
            sign = "+" if f.value > 0 else ""
            moved = f"{plural(f.subject['class'])} {sign}{points(f.value)} points"
            if None not in both:
                moved += f" ({percent(both[0] or 0.0)} to {percent(both[1] or 0.0)})"
            told.append(moved)
        (factor,) = _exchanged(arms, found[0].subject)
        kind = {"vae": "the VAE", "checkpoint": "the checkpoint"}.get(factor, factor)
        lead = f"{clip(arm, 80)} against {clip(base_name, 80)}: {kind} alone moves "
        lead += attribute(found[0])
        ids = tuple(f.id for f in found)
        out.append(Statement(lead, ", ".join(told), abs(found[0].value), True, ids))
    return out


def _exchanged(arms: Mapping[str, Mapping[str, str]], subject: Mapping[str, str]) -> list[str]:
    """The factors in which an arm and its baseline differ, of those that are known of both."""
    one = dict(arms.get(subject["arm"], {})) | {k: subject[k] for k in SWAPS if k in subject}
    other = arms.get(subject["baseline"], {})
    return [k for k in SWAPS if k in one and k in other and one[k] != other[k]]


def _of_others(findings: Sequence[Finding]) -> list[Statement]:
    """Tests of other probes that are apart: one a metric, the surest; others are counted."""
    held: dict[str, list[Finding]] = {}
    for f in findings:
        if not f.headline or not f.family or verdict(f) != "apart":
            continue
        if f.probe == vae_answer.PROBE and "arm" in f.subject:
            continue  # said above
        if f.metric.kind == "distance" or (f.metric.kind == "shift" and f.reading):
            continue  # said above
        if f.metric.kind == "share":
            continue
        held.setdefault(f.metric.name, []).append(f)
    out = []
    for found in held.values():
        found.sort(key=lambda f: f.p)
        others = len(found) - 1
        more = f"and in {others} more {'comparison' if others == 1 else 'comparisons'}"
        ids = tuple(f.id for f in found)
        lead = sentence(found[0]).removesuffix(".")
        out.append((found[0].p, Statement(lead, more if others else "", float("nan"), True, ids)))
    return [s for _, s in sorted(out, key=lambda pair: pair[0])]
