"""Keys of earlier versions and of other tools, moved to where they stand; each is said once."""

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


RENAMED = {
    "speed": "runtime",
    "weighting": "prompt_syntax",
    "errors": "confusion_matrix",
    "other_latent_spaces": "allow_latent_space_mismatch",
}
OF_OTHER_TOOLS = {
    "cfg_scale": "guidance",
    "guidance_scale": "guidance",
    "num_inference_steps": "steps",
    "sampler_name": "samplers",
    "sampler": "samplers",
}
"""Words of A1111's API and of diffusers that mean a key of ours."""
IN_RUNTIME = {"low_memory": "cpu_offload"}
IN_CHECKPOINT = {"parts": "components_from", "prediction": "prediction_type"}


def moved(raw: dict[object, object]) -> tuple[dict[object, object], list[str]]:
    """A spec's plain data with its old keys moved, and a sentence for each that says where to.

    Options of a probe that the spec does not name had no effect and are left out.
    """
    raw, said = _renamed(raw, RENAMED, "")
    raw, more = _of_other_tools(raw)
    said = said + more
    runtime, written = raw.get("runtime"), raw.get("checkpoints")
    if isinstance(runtime, dict):
        runtime, more = _renamed(runtime, IN_RUNTIME, "runtime.")
        raw, said = raw | {"runtime": runtime}, said + more
    if isinstance(written, dict):
        checkpoints = {}
        for name, one in written.items():
            checkpoints[name] = one
            if isinstance(one, dict):
                where = f"checkpoints.{name}."
                checkpoints[name], more = _renamed(one, IN_CHECKPOINT, where)
                said = said + more
        raw = raw | {"checkpoints": checkpoints}
    sections = {key: raw[key] for key in OPTIONS if key in raw}
    if not sections:
        return raw, said
    probes = named(raw.get("probes", ["attributes"]))
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


def _of_other_tools(raw: dict[object, object]) -> tuple[dict[object, object], list[str]]:
    """A spec with words of A1111's API under our own keys."""
    old = [key for key in OF_OTHER_TOOLS if key in raw and OF_OTHER_TOOLS[key] not in raw]
    said = [f"{key} is read as {OF_OTHER_TOOLS[key]}" for key in old]
    raw = {OF_OTHER_TOOLS[k] if k in old else k: v for k, v in raw.items()}
    if {"width", "height"} <= raw.keys() and "sizes" not in raw:
        said.append("width and height are read as sizes: [[width, height]]")
        sizes = [[raw["width"], raw["height"]]]
        raw = {k: v for k, v in raw.items() if k not in ("width", "height")} | {"sizes": sizes}
    if isinstance(raw.get("negative_prompt"), str) and "negatives" not in raw:
        said.append("negative_prompt is read as negatives: {listed: …}")
        text = raw["negative_prompt"]
        raw = {k: v for k, v in raw.items() if k != "negative_prompt"}
        raw = raw | {"negatives": {"listed": text}}
    return raw, said


def _renamed(
    held: dict[object, object], names: dict[str, str], where: str
) -> tuple[dict[object, object], list[str]]:
    """A mapping with its old keys renamed, in their places; one that has both keeps both."""
    old = [key for key in names if key in held and names[key] not in held]
    said = [f"{where}{k} is now called {where}{names[k]}; the old key is still read" for k in old]
    return {names[k] if k in old else k: v for k, v in held.items()}, said


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
