"""Keys of earlier versions' specs, moved to where they stand today; each move is said once."""

from __future__ import annotations

from typing import Any

OPTIONS = {
    "attention": "attention",
    "text": "text",
    "trajectory": "steps",
    "latents": "latents",
    "doses": "negatives",
}
"""Sections of a spec of 0.1.0, and the probes whose options they held."""


def moved(raw: dict[Any, Any]) -> tuple[dict[Any, Any], list[str]]:
    """A spec's plain data with its old keys moved, and a sentence for each that says where to.

    Options of a probe that the spec does not name had no effect and are left out.
    """
    sections = {key: raw[key] for key in OPTIONS if key in raw}
    if not sections:
        return raw, []
    probes = named(raw.get("probes", ["attributes"]))
    said = []
    for key, options in sections.items():
        probe = OPTIONS[key]
        said.append(
            f"{key}: options of a probe stand under its name now: 'probes: {{{probe}: {{…}}}}'; "
            "the old key is still read"
        )
        if isinstance(probes, dict) and probe in probes and isinstance(options, dict):
            probes = probes | {probe: options | (probes[probe] or {})}
    kept = {key: value for key, value in raw.items() if key not in sections}
    return kept | {"probes": probes}, said


def named(probes: Any) -> Any:
    """Options by probe, from a name, a list of names, or a mapping; anything else as it is."""
    if isinstance(probes, str):
        return {probes: {}}
    if isinstance(probes, list) and all(isinstance(p, str) for p in probes):
        return {p: {} for p in probes}
    if isinstance(probes, list) and all(isinstance(p, str | dict) for p in probes):
        return {k: v for p in probes for k, v in (named(p) if isinstance(p, str) else p).items()}
    if isinstance(probes, dict):
        return {name: {} if options is None else options for name, options in probes.items()}
    return probes
