"""What a finding says, in one plain sentence: pure functions of the finding.

What may be claimed is decided in `reports.verdicts`; here it is put into words, with the interval,
n and what a model without the effect would score. Shares are percentages, their differences and
distances percentage points.
"""

from __future__ import annotations

from math import isfinite, isnan

from probes.contracts import Finding
from reports.text import clip, number, percent, points, quoted
from reports.verdicts import (
    AGAINST,
    ALPHA,
    Verdict,
    has_interval,
    is_adjusted,
    is_measured,
    verdict,
)

PLURALS = {"woman": "women", "man": "men", "person": "people", "child": "children"}
OUTCOMES = {
    "cannot tell": "could not be read",
    "unreadable": "could not be read",
    "nobody": "showed nobody",
    "several": "showed several people",
}
ATTRIBUTES = {"gender presentation": "perceived gender presentation"}
ARM = ("checkpoint", "vae", "adapters", "negative")
NAMED = {*ARM, "arm", "prompt", "attribute", "group", "class", *AGAINST}
MOST_LOST = 0.05
"""The part of the planned images that may be missing without the sentence saying so."""


def sentence(finding: Finding) -> str:
    """The finding as one sentence, ending in what may be claimed of it."""
    claim = verdict(finding)
    if claim == "failed":
        return f"Failed: {finding.note or 'no reason was given'} ({topic(finding)})."
    if claim == "not measured":
        return f"{topic(finding)}: not measured: {finding.note or 'no reason was given'}."
    tellers = {"share": _share, "distance": _distance, "shift": _shift, "level": _level}
    return tellers[finding.metric.kind](finding, claim)


def scope(finding: Finding) -> str:
    """Of what the claim is made: these prompts only, or prompts like these."""
    if finding.estimand != "this suite":
        return finding.estimand
    return "this prompt only" if "prompt" in finding.subject else "these prompts only"


def topic(finding: Finding) -> str:
    """Who and what a finding is about, without its number."""
    what = _words(finding.metric.name)
    if "attribute" in finding.subject:
        what = f"{what} of {attribute(finding)}"
        what += f" ({finding.subject['class']})" if "class" in finding.subject else ""
    what += group(finding)
    if "prompt" in finding.subject:
        what += f" for {quoted(finding.subject['prompt'])}"
    return f"{who(finding)}{against(finding)}: {what}"


def against(finding: Finding) -> str:
    """' against faithful'; '' where it is a number of one arm alone."""
    subject = finding.subject
    other = next((clip(subject[key], 80) for key in AGAINST if key in subject), "")
    return f" against {other}" if other else ""


def who(finding: Finding) -> str:
    """The arm: its own name, or the checkpoint with what was exchanged in it."""
    subject = {key: clip(value, 80) for key, value in finding.subject.items()}
    others = [f"{key} {value}" for key, value in subject.items() if key not in NAMED]
    swaps = [f"VAE {subject['vae']}"] if "vae" in subject else []
    swaps += [f"adapters {subject['adapters']}"] if "adapters" in subject else []
    swaps += [f"negative {subject['negative']}"] if subject.get("negative") else []
    name = subject.get("checkpoint", "")
    if "arm" in subject:
        name, swaps = subject["arm"], []
    parts = ", ".join(swaps + others)
    return f"{name} with {parts}" if name and parts else name or parts or "all arms"


def group(finding: Finding) -> str:
    """Of whose images: ' where tone is dark'; '' where it is all of them."""
    if "group" not in finding.subject:
        return ""
    return f" where {_words(finding.subject['group'])} is {_words(finding.subject['class'])}"


def attribute(finding: Finding) -> str:
    """The attribute in words, '' where the finding has none."""
    name = _words(finding.subject.get("attribute", ""))
    return ATTRIBUTES.get(name, name)


def probability(finding: Finding) -> str:
    """'p < 0.001 after Benjamini-Hochberg in two levels'; empty where there is no p."""
    p = p_text(finding)
    if not p:
        return ""
    p = f"p {p}" if p.startswith("<") else f"p = {p}"
    return f"{p} after {clip(finding.adjustment, 80)}" if is_adjusted(finding) else p


def p_text(finding: Finding) -> str:
    """The p alone: '0.031', '< 0.001'; empty where there is none."""
    if not isfinite(finding.p):
        return ""
    digits = 3 if finding.p < 0.1 else 2
    return "< 0.001" if finding.p < 0.001 else f"{finding.p:.{digits}f}"


def value_text(finding: Finding) -> str:
    """The value with its unit and interval: '17 % [10 %, 27 %]', '33 points [23, 40]'."""
    if not is_measured(finding):
        return "–"
    value, low, high = (amount(finding, x) for x in (finding.value, finding.low, finding.high))
    unit = "" if finding.metric.kind == "share" else finding.metric.unit
    if _in_points(finding):
        unit = "point" if value in ("1", "−1") else "points"
    bounds = f" [{low}, {high}]" if has_interval(finding) else ""
    return f"{value} {unit}".rstrip() + bounds


def target_text(finding: Finding) -> str:
    """The target in words: '20 % each', 'man 40 %, woman 60 %'; '' where there is none."""
    shares = finding.reference.targets
    if len(shares) > 1 and len(set(shares.values())) == 1:
        return f"{percent(next(iter(shares.values())))} each"
    return clip(", ".join(f"{name} {percent(s)}".strip() for name, s in shares.items()), 120)


def amount(finding: Finding, value: float) -> str:
    """A number in the finding's own unit, without the unit; '–' where there is none."""
    if not isfinite(value):
        return "–"
    if finding.metric.kind == "share":
        return percent(value)
    return points(value) if _in_points(finding) else number(value)


def _share(finding: Finding, claim: Verdict) -> str:
    counted = finding.reading in ("", "as counted")
    kind = "" if counted else f", {_words(finding.metric.name)}"
    target = finding.reference.value
    held = f"the target ({percent(target)})" if isfinite(target) else "the target"
    if "class" not in finding.subject:
        told = f"{topic(finding)} is {value_text(finding)} of images ({_images(finding)})"
        return _close(finding, claim, told, held)
    told = (
        f"{who(finding)}{kind}: of images {_where(finding)}, {value_text(finding)} "
        f"{_read(finding)} ({_images(finding)})"
    )
    if claim == "described" and isfinite(target):
        return f"{told}; the target is {percent(target)}."
    if claim == "apart":
        off = points(abs(finding.value - target))
        p = f" ({probability(finding)})" if probability(finding) else ""
        return f"{told}; the target is {percent(target)}, this is off by {off} points{p}."
    return _close(finding, claim, told, held)


def _distance(finding: Finding, claim: Verdict) -> str:
    targets, null = target_text(finding), finding.reference.null
    target = f"its target, {targets}" if targets else "its target"
    about = attribute(finding) or _words(finding.metric.name)
    told = (
        f"{who(finding)}: {about} {_where(finding)} is {value_text(finding)} from {target} "
        f"({_images(finding)}{_by(finding)})"
    )
    if isfinite(null):
        told += (
            f"; a model that meets the target would be {amount(finding, null)} off on average at "
            "this n"
        )
    if isfinite(finding.reference.null_q95):
        told += f" and up to {amount(finding, finding.reference.null_q95)} in 95 % of runs"
    return _close(finding, claim, told, "a model that meets the target")


def _shift(finding: Finding, claim: Verdict) -> str:
    subject, other = finding.subject, against(finding)
    if "class" in subject and "group" not in subject and finding.reading:
        about = f"the share of images {_where(finding)} that {_read(finding)} differs by"
    else:
        of = f" of {attribute(finding)}" if attribute(finding) else ""
        of += f" ({subject['class']})" if "class" in subject and "group" not in subject else ""
        about = f"{_words(finding.metric.name)}{of}{group(finding)} {_where(finding)} is"
    told = f"{who(finding)}{other}: {about} {value_text(finding)} ({_counted(finding)})"
    what, limit = ("difference" if other else "change"), _limit(finding)
    if claim == "apart" and limit:
        told = f"{told[:-1]}; tested against a {what} of up to {limit})"
    return _close(finding, claim, told, f"a {what} of up to {limit}" if limit else f"no {what}")


def _level(finding: Finding, claim: Verdict) -> str:
    told = f"{topic(finding)} is {value_text(finding)} ({_counted(finding)})"
    if isfinite(finding.reference.null):
        null = amount(finding, finding.reference.null)
        told += f"; without the effect it would be {null} at this n"
    return _close(finding, claim, told, "that")


def _limit(finding: Finding) -> str:
    """What a change is tested against, with its unit; '' where that is no change at all."""
    limit = abs(finding.reference.value)
    if not finding.family or isnan(limit) or limit == 0:
        return ""
    unit = "points" if _in_points(finding) else finding.metric.unit
    return f"{amount(finding, limit)} {unit}".rstrip()


def _close(finding: Finding, claim: Verdict, told: str, held_against: str) -> str:
    """End a sentence: with p, or with why nothing more may be claimed."""
    p = probability(finding)
    if claim == "described" or (claim == "apart" and not p):
        return f"{told}."
    if claim == "apart":
        return f"{told[:-1]}; {p})." if told.endswith(")") else f"{told} ({p})."
    if not has_interval(finding):
        why = "there is no interval"
    elif not isfinite(finding.p):
        why = "there is no p"
    elif not is_adjusted(finding):
        why = "its p is not adjusted for the report's other tests"
    elif finding.p > ALPHA:
        why = p
    else:
        why = "the interval contains it"
    return f"{told}. We cannot tell it from {held_against}: {why}."


def _read(finding: Finding) -> str:
    name = finding.subject["class"]
    if name in OUTCOMES:
        return OUTCOMES[name] + _by(finding)
    about = attribute(finding)
    what = PLURALS.get(name) or clip(name, 80)
    if name not in PLURALS and about not in ("", name):
        what += f" ({about})"
    return f"are {what}{_by(finding)}" if finding.reading else f"were read as {what}"


def _by(finding: Finding) -> str:
    """Whose estimate a share is: ', as classified by X'; '' where the finding does not say."""
    instrument = clip(finding.instrument or "the instrument", 80)
    return {
        "": "",
        "as counted": f", as classified by {instrument}",
        "corrected": f", corrected for the confusion matrix of {instrument}",
        "prediction-powered": f", by {instrument} with people's labels",
    }[finding.reading]


def _where(finding: Finding) -> str:
    if "prompt" in finding.subject:
        return f"for {quoted(finding.subject['prompt'])}"
    if finding.estimand == "this suite":
        return "for these prompts"
    sampled = f" ({finding.n_clusters:,} sampled)" if finding.n_clusters else ""
    return f"for {finding.estimand}{sampled}"


def _images(finding: Finding) -> str:
    return f"{finding.n:,} image{'' if finding.n == 1 else 's'}{_lost(finding)}"


def _counted(finding: Finding) -> str:
    return f"n = {finding.n:,}{_lost(finding)}"


def _lost(finding: Finding) -> str:
    """' of 192 planned; 50 % were not counted', where that is more than `MOST_LOST`."""
    lost = 1 - finding.n / finding.planned if finding.planned else 0.0
    if lost <= MOST_LOST:
        return ""
    return f" of {finding.planned:,} planned; {percent(lost)} were not counted"


def _in_points(finding: Finding) -> bool:
    """A distance or a shift of shares, which is told in percentage points."""
    return finding.metric.kind in ("distance", "shift") and finding.metric.unit == "share"


def _words(name: str) -> str:
    return clip(name.replace("_", " ").replace("-", " "), 80)
