"""The text that the A1111 WebUI and its relatives put into images: prompt, negative, settings.

    a photo of a nurse
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: v1-5
    Template: a photo of a {nurse|cook}

Forge, reForge, SD.Next, Fooocus (in its 'a1111' scheme), stable-diffusion.cpp and Civitai write
the same; extensions add lines after the settings, which are settings too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from harness.images.generation_text import Found

SETTING = re.compile(r'\s*([^\s:,"][^:,"\n]*):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
JSON_SETTING = re.compile(r'\s*([^\s:,"][^:,"\n]{0,60}):\s*(?=[\[{])')
SETTINGS_LINE = re.compile(r"\s*Steps: \d+")
NEGATIVE_LINE = re.compile(r"^Negative prompt:", re.MULTILINE)
ADDED_LINE = re.compile(r"([A-Z][A-Za-z0-9 _-]{0,40}): ?(.*)")
LOOSE_LINE = re.compile(
    r"^\W*(prompt|negative[ _]?prompt|steps|sampler|seed|cfg[ _]?scale|guidance[ _]?scale|size|"
    r"model|scheduler|width|height)\W*[:=]",
    re.IGNORECASE,
)
KNOWN = frozenset(
    name.casefold()
    for name in (
        *("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model", "Model hash"),
        *("Denoising strength", "Clip skip", "Version", "VAE", "VAE hash", "Hires upscale", "App"),
        *("Distilled CFG Scale", "Guidance", "ENSD", "Eta", "RNG", "Backend", "Pipeline", "Hashes"),
    )
)
"""Settings by which their line is known where something follows it."""
ENOUGH = 3
"""Known settings in one line that make it the settings, wherever it stands."""
MAX_CHARS = 2_000_000


def write_parameters(prompt: str, negative: str, settings: Mapping[str, str]) -> str:
    """A `parameters` text as the A1111 WebUI writes it; `read_parameters` is its inverse.

    Never fails, so that no image is lost over its text. The format cannot carry everything:
    spaces at the ends of the prompts are lost; settings without a number of 'Steps', by which
    their line is known, are left out; a prompt's own line that starts with 'Negative prompt:',
    or one that reads as settings, is taken for them on reading.

    Args:
        prompt: may hold commas, quotes and newlines.
        negative: left out where empty.
        settings: by name; names without punctuation.
    """
    lines = [prompt.strip()]
    if negative.strip():
        lines.append(f"Negative prompt: {negative.strip()}")
    if settings.get("Steps", "").isdecimal():
        ordered = {"Steps": settings["Steps"], **settings}
        lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in ordered.items()))
    return "\n".join(lines)


def read_parameters(text: str) -> Found:
    """Prompt, negative and settings of an A1111 `parameters` text.

    The settings are the last line that starts with 'Steps: NUMBER' or holds at least three known
    settings; with fewer it must be the last line of all. Lines after it are settings as well. The
    negative is all between a line that starts with 'Negative prompt:' and the settings. A text
    that lists settings in another way is not A1111's: it gives no prompt. Never raises.

    Args:
        text: As stored in the image.
    """
    if len(text) > MAX_CHARS:
        return Found(note="a parameters text of more than 2 MB")
    lines = text.strip().split("\n")
    at = _settings_at(lines)
    settings: dict[str, str] = {}
    if at is None:
        loose = [x for x in lines if LOOSE_LINE.match(x) and not NEGATIVE_LINE.match(x)]
        if len(loose) > 1:
            return Found(note="a parameters text of an unknown kind")
        body = text
    else:
        settings = _settings(lines[at]) | _added(lines[at + 1 :])
        body = "\n".join(lines[:at])
    negative = ""
    if found := NEGATIVE_LINE.search(body):
        body, negative = body[: found.start()], body[found.end() :]
    return Found(body.strip(), negative.strip(), settings, "A1111")


def _settings_at(lines: list[str]) -> int | None:
    for at in reversed(range(len(lines))):
        last = at == len(lines) - 1
        if last and SETTINGS_LINE.match(lines[at]):
            return at
        known = len({k.casefold() for k in _settings(lines[at])} & KNOWN) if ":" in lines[at] else 0
        if known >= ENOUGH:
            return at
    return None


def _settings(line: str) -> dict[str, str]:
    """'name: value, name: value' by name; values may be quoted, or JSON."""
    settings: dict[str, str] = {}
    # One match after the other, not finditer: that takes quadratic time on hostile text.
    start = 0
    while start < len(line):
        if nested := JSON_SETTING.match(line, start):
            try:
                _, end = json.JSONDecoder().raw_decode(line, nested.end())
            except (ValueError, RecursionError):
                pass
            else:
                settings[nested[1].strip()] = line[nested.end() : end]
                start = end + 1 if line[end : end + 1] == "," else end
                continue
        found = SETTING.match(line, start)
        if not found:
            break
        settings[found[1].strip()] = _unquoted(found[2])
        start = found.end()
    return settings


def _added(lines: list[str]) -> dict[str, str]:
    """Lines after the settings, 'Name: value' each; a value may go on in the next line."""
    added: dict[str, str] = {}
    name = "Added"
    for line in lines:
        if found := ADDED_LINE.match(line):
            name = found[1]
            added[name] = found[2].strip()
        elif line.strip() or name in added:
            added[name] = f"{added[name]}\n{line}" if name in added else line
    return {name: value.strip() for name, value in added.items()}


def _quoted(value: str) -> str:
    plain = value.strip() == value and not re.search(r'[,:"\n]', value)
    return value if plain and value[:1] not in "[{" else json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    value = value.strip()
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value
