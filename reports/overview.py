"""The facts that head a report: what was audited, at which settings, how much there is."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from harness.json_types import JsonObject
from reports import ReportData
from reports.tables import show
from reports.text import clip

MAX_FACTS, MAX_ENTRIES = 12, 60
"""Entries of one card, and of any list of settings."""
HEX = re.compile("[0-9a-f]{32,}")


class Card(NamedTuple):
    """A checkpoint or VAE: all that is known of it as (key, value, whether set in mono)."""

    name: str
    kind: str
    entries: list[tuple[str, str, bool]]


def tiles(data: ReportData, cards: list[Card]) -> list[tuple[str, str]]:
    """The run in a few numbers: (number, what it counts)."""
    counts = Counter("VAE" if c.kind == "VAE" else "checkpoint" for c in cards)
    out = [(f"{n:,}", kind if n == 1 else f"{kind}s") for kind, n in sorted(counts.items())[::-1]]
    out += [
        (show(data.settings[key]), key)
        for key in ("prompts", "seeds", "seeds a prompt")
        if isinstance(data.settings.get(key), int)
    ]
    if {"planned", "made"} <= set(data.attrition.columns) and len(data.attrition):
        made, planned = (int(data.attrition[c].sum()) for c in ("made", "planned"))
        out.append((f"{made:,}", f"of {planned:,} images made"))
    return [*out, (f"{len(data.findings):,}", "findings")]


def audited_cards(audited: list[JsonObject]) -> list[Card]:
    """One card a checkpoint, with the digests of its components, and one a VAE."""
    held: dict[tuple[str, str, str], JsonObject] = {}
    for one in audited:
        name, kind = (clip(one.get(key) or "–", 120) for key in ("name", "kind"))
        vae = kind.upper() == "VAE"
        key = (name, "VAE", str(one.get("digest"))) if vae else (name, "checkpoint", "")
        values = held.setdefault(key, {})
        for field, value in one.items():
            if field in ("name", "kind") or value in (None, ""):
                continue
            component = field == "digest" and kind not in ("VAE", "checkpoint")
            word = kind if component else field
            several = word == "of" and word in values
            values[word] = f"{values[word]}, {value}" if several else value
    cards = [
        Card(name, kind, entries(values)[:MAX_FACTS]) for (name, kind, _), values in held.items()
    ]
    return sorted(cards, key=lambda c: c.kind == "VAE")


def entries(values: JsonObject) -> list[tuple[str, str, bool]]:
    """(key, value, whether it is a digest or path) of the first entries; long values are cut."""
    out = []
    for key, value in list(flat(values).items())[:MAX_ENTRIES]:
        name = clip(key.replace("_", " "), 80)
        mono = any(word in name for word in ("digest", "source", "revision", "spec"))
        out.append((name, show(value), mono or bool(HEX.fullmatch(str(value)))))
    return out


def flat(values: JsonObject) -> JsonObject:
    """Mappings within mappings told as one, their keys joined; at most two levels down."""
    out: JsonObject = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= {f"{key} · {k}": v for k, v in value.items()}
        else:
            out[str(key)] = value
    return out
