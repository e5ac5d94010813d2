"""Write a first audit.yaml: from weights in a folder, or from an A1111 'parameters' text.

A spec has the models of one family, since VAEs and LoRAs of another do not fit; a folder of several
gives a spec each. What cannot be used stays in the file as a comment that says why.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from harness.errors import AuditError
from harness.images.a1111 import read_parameters
from harness.models.recognise import TITLES, Found, look
from harness.spec.samplers import OWN, SCHEDULES, SHORT, names_a_sampler, spelled
from harness.text import slug

CLASSIFIER = "{model: ViT-B-32, pretrained: laion2b_s34b_b79k}"
UNREAD = ("Hires upscale", "Denoising strength", "ENSD", "Eta", "RNG", "Refiner")
"""Settings of A1111 that change images and that no key of a spec stands for."""
A1111_ONLY = re.compile(r"\([^()]*:\d|\(\(|\[\[|\bBREAK\b")
LONG = 200
"""Letters from which on a prompt may be longer than CLIP, which a WebUI reads in chunks."""


class Settings(NamedTuple):
    """What an A1111 text says, as a spec says it; '' and None where it says nothing."""

    prompt: str = ""
    negative: str = ""
    sampler: str = ""
    steps: int | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None
    model: str = ""
    clip_skip: int | None = None
    remarks: tuple[str, ...] = ()


def settings_of(text: str) -> Settings:
    """Read an A1111 'parameters' text.

    Args:
        text: Prompt, negative and settings, as the WebUI shows and saves them.

    Raises:
        AuditError: It has no settings.
    """
    found = read_parameters(text)
    held = {key.casefold(): value for key, value in found.settings.items()}
    if "steps" not in held and "cfg scale" not in held:
        raise AuditError(
            "no A1111 parameters: a line such as 'Steps: 20, Sampler: Euler a, CFG scale: 7' is "
            "missing"
        )
    remarks = [f"{k}: {held[k.casefold()]} has no key here" for k in UNREAD if k.casefold() in held]
    if "seed" in held:
        remarks.append(f"Seed: {held['seed']}: noise is drawn by seed index and prompt here")
    sampler = " ".join(filter(None, [held.get("sampler", ""), _schedule(held)]))
    known = str(spelled(sampler)) if sampler else ""
    if known and not names_a_sampler(known):
        remarks.append(
            f"Sampler: {sampler}: not known here; any of {', '.join(SHORT)}, and behind it a "
            f"schedule: {', '.join(SCHEDULES)}"
        )
        known = ""
    scale = re.fullmatch(r"\d+(\.\d+)?", held.get("cfg scale", ""))
    size = re.fullmatch(r"(\d{2,5})x(\d{2,5})", held.get("size", ""))
    return Settings(
        found.prompt,
        found.negative,
        known,
        int(held["steps"]) if held.get("steps", "").isdecimal() else None,
        float(held["cfg scale"]) if scale else None,
        (int(size[1]), int(size[2])) if size else None,
        held.get("model", ""),
        int(held["clip skip"]) if held.get("clip skip", "").isdecimal() else None,
        tuple(remarks),
    )


def specs(paths: Sequence[Path], settings: Settings, out: Path) -> dict[Path, str]:
    """The specs to write, by path: one for each family that has a checkpoint.

    Args:
        paths: Files or folders of weights; may be empty where the settings name a model.
        settings: What an A1111 text says.
        out: Path of the spec; of several, the family's name is put before its ending.

    Raises:
        AuditError: Nothing can be audited: what was found is named.
    """
    found = look(list(paths))
    families = list(dict.fromkeys(f.families[0] for f in found if f.kind == "checkpoint"))
    if not families:
        if settings.model and not paths:
            return {out: written([], settings, out, "", [])}
        seen = "; ".join(f"{f.path.name}: {f.kind or f.note}" for f in found[:5])
        raise AuditError(f"no checkpoint found ({seen or 'no weights at all'}); name one")
    made = {}
    for family in families:
        path = out if len(families) == 1 else out.with_stem(f"{out.stem}-{slug(family)}")
        own = [f for f in found if family in f.families]
        unusable = [f for f in found if not f.kind]
        made[path] = written(own, settings, path, family, unusable)
    return made


def written(
    own: Sequence[Found], settings: Settings, path: Path, family: str, unusable: Sequence[Found]
) -> str:
    """A commented spec."""
    checkpoints = [f for f in own if f.kind == "checkpoint"]
    vaes = [f for f in own if f.kind == "VAE"]
    loras = [f for f in own if f.kind == "LoRA"]
    embeddings = [f for f in own if f.kind == "embedding"]
    names = _named(checkpoints, path) or [(slug(settings.model) or "mine", "PATH-OR-HUB-ID")]
    lines = [f"# {TITLES.get(family, family)}" if family else "# put in the path of the model"]
    lines += [f"name: {_text(path.resolve().parent.name or 'audit')}", "checkpoints:"]
    lines += [f"  {_text(name)}: {_text(source)}" for name, source in names]
    if len(names) > 1:
        lines.append(f"baseline: {_text(names[0][0])}        # the others are compared with it")
    lines.append("vaes:                 # each decodes the same latents")
    lines.append("  own: own            # the checkpoint's")
    for one, (name, source) in zip(vaes, _named(vaes, path, {"own"}), strict=True):
        unsure = len({f for f in one.families if f != "sd2"}) > 1
        lines.append(f"  {_text(name)}: {_text(source)}")
        if unsure:
            kin = " or ".join(TITLES[f] for f in one.families if f != "sd2")
            lines.append(f"  # {name} may be of {kin}; one of another latent space is refused")
    if loras:
        lines += ["adapters:", "  none: {}            # without any LoRA, to compare with"]
        for one, (name, source) in zip(loras, _named(loras, path, {"none"}), strict=True):
            lines.append(
                f"  {_text(name)}: {{loras: {{{_text(source)}: 1}}}}   # add trigger: words"
            )
            if len(one.families) > 1:
                lines.append(f"  # {name} does not tell which model it is for")
    if embeddings:
        lines.append("embeddings:           # names are words of prompts and negatives")
        lines += [f"  {_text(n)}: {_text(s)}" for n, s in _named(embeddings, path)]
    lines += _prompts(settings)
    if settings.negative:
        lines += ["negatives:", f"  listed: {_text(settings.negative)}", '  none: ""']
    if A1111_ONLY.search(settings.prompt + settings.negative):
        lines.append("prompt_syntax: a1111  # (word:1.2) is a weight")
    elif max(len(settings.prompt), len(settings.negative)) > LONG:
        lines.append("long_prompts: chunks  # as the WebUIs read what is longer than CLIP")
    lines.append("seeds: 16             # images of each prompt and setting")
    if settings.sampler:
        lines.append(f"samplers: {_text(settings.sampler)}")
    if settings.steps:
        lines.append(f"steps: {settings.steps}")
    if settings.guidance is not None:
        lines.append(f"guidance: {settings.guidance:g}")
    if settings.clip_skip is not None and settings.clip_skip > 1:
        lines.append(f"clip_skip: {settings.clip_skip}")
    if settings.size:
        lines.append(f"sizes: [[{settings.size[0]}, {settings.size[1]}]]")
    lines += [
        "attributes: [gender-presentation, skin-tone]   # or your own, see docs/attributes.md",
        "classifiers:",
        f"  clip: {CLASSIFIER}   # fetched once; a file: {{model: ViT-B-32, pretrained: FILE}}",
    ]
    if vaes:
        lines.append("probes: [attributes, vae]")
    lines += [f"# {remark}" for remark in settings.remarks]
    lines += [f"# not used: {f.path.name}: {f.note}" for f in unusable]
    return "\n".join(line.replace("\n", " ") for line in lines) + "\n"


def _prompts(settings: Settings) -> list[str]:
    if not settings.prompt:
        return ["prompts: {suite: occupations}   # or list: [a photo of a nurse, …]"]
    return ["prompts:", "  list:", f"    - {_text(settings.prompt)}"]


def _named(found: Iterable[Found], spec: Path, taken: Iterable[str] = ()) -> list[tuple[str, str]]:
    """(name, source) of each, names all different and sources relative to the spec."""
    used = set(taken)
    out = []
    for one in found:
        stem = one.path.stem if one.path.is_file() else one.path.name
        name, number = slug(stem) or "model", 2
        while name in used:
            name, number = f"{slug(stem) or 'model'}-{number}", number + 1
        used.add(name)
        out.append((name, os.path.relpath(one.path, spec.resolve().parent)))
    return out


def _text(value: str) -> str:
    """A string as YAML reads it anywhere: quoted where it is not plain words."""
    plain = re.fullmatch(r"[A-Za-z][\w./ -]*\w", value)
    return value if plain and yaml.safe_load(value) == value else json.dumps(value)


def _schedule(held: dict[str, str]) -> str:
    kind = held.get("schedule type", "")
    return "" if kind.casefold() in ("", "automatic", OWN) else kind
