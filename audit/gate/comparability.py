"""What makes two arms incomparable."""

from __future__ import annotations

from audit.gate.baseline import Side, needed_instruments
from harness.json_types import JsonObject


def differences(baseline: Side, candidate: Side) -> list[str]:
    """What makes two arms incomparable, in words; empty: nothing."""
    a, b = baseline.spec, candidate.spec
    found = [
        f"{name}: {value!r} -> {candidate.settings.get(name)!r}"
        for name, value in baseline.settings.items()
        if candidate.settings.get(name) != value
    ]
    if a.seeds.shared or b.seeds.shared:
        found.append("seeds.shared: cells that share noise across prompts are not independent")
    prompts = [list(dict.fromkeys(side.cells["prompt"])) for side in (baseline, candidate)]
    lost, added = _beyond(prompts[0], prompts[1]), _beyond(prompts[1], prompts[0])
    if lost:
        found.append(f"suite: {_prompts(lost)} gone, such as {lost[0]!r}")
    if added:
        found.append(f"suite: {_prompts(added)} new, such as {added[0]!r}")
    if not lost and not added and baseline.targets != candidate.targets:
        found.append("suite: the prompts' own targets differ")
    found += _changed("attribute", *(_attributes(side) for side in (baseline, candidate)))
    found += _changed("classifier", *(_thresholds(side) for side in (baseline, candidate)))
    names = needed_instruments(a)
    names += dict.fromkeys(key.partition("/")[2] for key in baseline.measured)
    missing = [k for k in baseline.measured if f"value:{k}" not in candidate.cells]
    if missing:
        found.append(f"gate.margins: {missing[0]!r} is not measured in the candidate")
    found += _changed("instrument", *(_digests(s, names) for s in (baseline, candidate)))
    return found


def _beyond(one: list[str], other: list[str]) -> list[str]:
    held = set(other)
    return [x for x in one if x not in held]


def _prompts(those: list[str]) -> str:
    return "1 prompt is" if len(those) == 1 else f"{len(those)} prompts are"


def _changed(what: str, a: JsonObject, b: JsonObject) -> list[str]:
    return [
        f"{what} {name}: {_short(a.get(name))} -> {_short(b.get(name))}"
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def _short(value: object) -> str:
    if value is None:
        return "not there"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _attributes(side: Side) -> JsonObject:
    words = {"title", "note", "target_source"}
    return {a.name: a.model_dump(mode="json", exclude=words) for a in side.spec.attributes}


def _thresholds(side: Side) -> JsonObject:
    readers = side.spec.classifiers | side.spec.instruments
    return {n: f"cannot_tell_below {c.cannot_tell_below}" for n, c in readers.items()}


def _digests(side: Side, names: list[str]) -> JsonObject:
    return {n: side.instruments[n] for n in names if n in side.instruments}
