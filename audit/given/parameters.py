"""The texts that A1111 and ComfyUI put into their pictures: prompt, negative and settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

SETTING = re.compile(r'\s*([^\s:,"][^:,"\n]*):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
SETTINGS_LINE = re.compile(r"Steps: \d+")
NEGATIVE_LINE = re.compile(r"^Negative prompt:", re.MULTILINE)
SAMPLER_SETTINGS = {
    "steps": "Steps",
    "sampler_name": "Sampler",
    "scheduler": "Schedule type",
    "cfg": "CFG scale",
    "seed": "Seed",
    "noise_seed": "Seed",
    "denoise": "Denoising strength",
}
"""ComfyUI's names of settings, and the WebUI's."""


TEXT_INPUTS = ("text", "text_g", "text_l", "clip_l", "t5xxl", "value", "string", "prompt")
"""Inputs of ComfyUI nodes that hold a prompt; a reroute's only input has no name."""


def write_parameters(prompt: str, negative: str, settings: Mapping[str, str]) -> str:
    """A `parameters` text as the A1111 WebUI writes it; `read_parameters` is its inverse.

    Never fails, so that no picture is lost over its text. The format cannot carry everything:
    spaces at the ends of the prompts are lost; settings without a number of 'Steps', by which
    their line is known, are left out; a prompt's own line that starts with 'Negative prompt:',
    or its last one if that reads as settings, is taken for them on reading.

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


def read_parameters(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative and settings of an A1111 `parameters` text.

    The settings are the last line, where it starts with 'Steps: <number>'; the negative is all
    between a line that starts with 'Negative prompt:' and the settings.
    """
    body, _, last = text.strip().rpartition("\n")
    settings: dict[str, str] = {}
    if SETTINGS_LINE.match(last):
        # One match after the other, not finditer: that takes quadratic time on hostile text.
        start = 0
        while found := SETTING.match(last, start):
            settings[found[1].strip()] = _unquoted(found[2])
            start = found.end()
    else:
        body = text
    negative = ""
    if found := NEGATIVE_LINE.search(body):
        body, negative = body[: found.start()], body[found.end() :]
    return body.strip(), negative.strip(), settings


def _quoted(value: str) -> str:
    plain = value.strip() == value and not re.search(r'[,:"\n]', value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _unquoted(value: str) -> str:
    value = value.strip()
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value


def read_graph(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative and settings of the graph that ComfyUI stores as `prompt` (API format).

    Walks from the saved image up to the sampler, and from its inputs `positive` and `negative`
    to the texts, through whatever conditioning lies between; several texts are joined by a
    newline. Where the graph saves pictures of different prompts it cannot be told which this
    is: no prompt.
    """
    try:
        graph = json.loads(text)
        if not isinstance(graph, dict):
            return "", "", {}
        nodes = {k: n for k, n in graph.items() if isinstance(n, dict) and _inputs(n)}
        saved = [k for k, n in nodes.items() if "Save" in _kind(n)]
        shown = [k for k, n in nodes.items() if "Preview" in _kind(n)]
        samplers = [_upstream_sampler(nodes, end) for end in saved or shown or nodes]
        found = [_of_sampler(nodes, sampler) for sampler in samplers if sampler is not None]
    except (ValueError, RecursionError):
        return "", "", {}
    if not found or any(other[:2] != found[0][:2] for other in found):
        return "", "", {}
    return found[0]


def _kind(node: Mapping[str, Any]) -> str:
    return str(node.get("class_type", ""))


def _inputs(node: Mapping[str, Any]) -> dict[str, Any]:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _links(node: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """A node's inputs that come from other nodes: by name, the node and its output."""
    return {
        name: (str(value[0]), value[1])
        for name, value in _inputs(node).items()
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)
    }


def _upstream_sampler(nodes: Mapping[str, Any], start: str) -> str | None:
    """The nearest node at or above `start` that is told what to draw."""
    queue, seen = [start], set()
    for name in queue:
        if name in seen or name not in nodes:
            continue
        seen.add(name)
        links = _links(nodes[name])
        if "positive" in links or "guider" in links:
            return name
        queue.extend(source for source, _ in links.values())
    return None


def _of_sampler(nodes: Mapping[str, Any], name: str) -> tuple[str, str, dict[str, str]]:
    sampler = nodes[name]
    settings = {
        SAMPLER_SETTINGS[key]: str(value)
        for key, value in _inputs(sampler).items()
        if key in SAMPLER_SETTINGS and isinstance(value, str | int | float)
    }
    links = _links(sampler)
    if "guider" in links:
        links = _links(nodes.get(links["guider"][0], {}))
    positive = links.get("positive", links.get("conditioning"))
    return (
        "\n".join(_texts(nodes, positive, "positive", set())),
        "\n".join(_texts(nodes, links.get("negative"), "negative", set())),
        settings,
    )


def _texts(
    nodes: Mapping[str, Any], link: tuple[str, int] | None, side: str, seen: set[str]
) -> list[str]:
    """Texts that reach a link, each node read once."""
    if link is None or link[0] in seen or link[0] not in nodes:
        return []
    seen.add(link[0])
    node = nodes[link[0]]
    if "ZeroOut" in _kind(node):
        return []
    links = _links(node)
    if "positive" in links and "negative" in links and link[1] in (0, 1):
        # Both sides pass through such a node (ControlNet): its first output is the positive.
        side = ("positive", "negative")[link[1]]
    texts = []
    for key, value in _inputs(node).items():
        carries = key in TEXT_INPUTS or key == side
        if carries and isinstance(value, str):
            texts.append(value.strip())
        elif key in links and (carries or key == "" or key.startswith("conditioning")):
            texts += _texts(nodes, links[key], side, seen)
    return [text for text in dict.fromkeys(texts) if text]
