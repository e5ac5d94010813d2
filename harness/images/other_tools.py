"""JSON that generators other than A1111 and ComfyUI put into images: prompt, negative, settings.

Fooocus, SwarmUI, InvokeAI (three generations), NovelAI, Easy Diffusion and Draw Things. Each is
known by keys that only it writes; a JSON object of another tool is no prompt, whatever its keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from harness.images.generation_text import Found

MAX_CHARS = 8_000_000
NAMES = {
    **dict.fromkeys(("steps", "num_inference_steps", "Steps"), "Steps"),
    **dict.fromkeys(("sampler", "sampler_name", "Sampler"), "Sampler"),
    "scheduler": "Schedule type",
    **dict.fromkeys(
        ("cfg_scale", "cfgscale", "guidance_scale", "Guidance Scale", "scale"), "CFG scale"
    ),
    **dict.fromkeys(("seed", "Seed"), "Seed"),
    **dict.fromkeys(
        ("base_model", "model", "use_stable_diffusion_model", "Stable Diffusion model"), "Model"
    ),
}
"""The tools' names of settings, and the WebUI's."""
EASY = {"num_inference_steps", "guidance_scale", "use_stable_diffusion_model"}
EASY_OLD = {"Steps", "Guidance Scale", "Stable Diffusion model"}
DREAM = re.compile(r'\s*"((?:[^"\\]|\\.)*)"(.*)', re.DOTALL)
DREAM_SETTING = re.compile(r"-(s|S|C|A|W|H) ?(\S+)")
DREAM_NAMES = {"s": "Steps", "S": "Seed", "C": "CFG scale", "A": "Sampler"}
BRACKETS = re.compile(r"\[([^\[\]]*)\]")


def read_json(text: str) -> Any:
    """JSON of a stranger, or None where it is none, too long or too deep."""
    if len(text) > MAX_CHARS:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def looks_like_json(text: str) -> bool:
    """Whether a text is meant as JSON, whole or not; '{red|blue} hair' is not."""
    return re.match(r'\s*(\{\s*["}]|\[\s*[\[{"\]])', text) is not None


def read_object(value: object) -> Found:
    """Prompt, negative and settings of a tool's JSON object; never raises.

    Args:
        value: Parsed JSON.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        return Found(note="JSON of an unknown tool")
    for known, read in READERS:
        if known(value):
            return read(value)
    return Found(note="JSON of an unknown tool")


def read_dream(text: str) -> Found:
    """The oldest texts of InvokeAI: a quoted prompt with [negatives], and command-line options."""
    found = DREAM.fullmatch(text[:MAX_CHARS])
    if not found:
        return Found(tool="InvokeAI", note="a Dream text that cannot be read")
    settings = {DREAM_NAMES[k]: v for k, v in DREAM_SETTING.findall(found[2]) if k in DREAM_NAMES}
    prompt, negative = _in_brackets(found[1].replace('\\"', '"'))
    return Found(prompt, negative, settings, "InvokeAI")


def read_easy(chunks: Mapping[str, str]) -> Found | None:
    """Easy Diffusion's PNG: one text chunk a setting; None where it is another tool's."""
    old = "Prompt" in chunks and EASY_OLD & set(chunks)
    if not old and not ("prompt" in chunks and EASY & set(chunks)):
        return None
    return _easy(dict(chunks))


def _easy(value: Mapping[str, object]) -> Found:
    prompt, negative = (
        ("prompt", "negative_prompt") if "prompt" in value else ("Prompt", "Negative Prompt")
    )
    return _found(value, value.get(prompt), value.get(negative), "Easy Diffusion")


def _swarm(value: Mapping[str, object]) -> Found:
    own = value["sui_image_params"]
    if not isinstance(own, dict):
        return Found(tool="SwarmUI", note="SwarmUI's text cannot be read")
    return _found(own, own.get("prompt"), own.get("negativeprompt"), "SwarmUI")


def _fooocus(value: Mapping[str, object]) -> Found:
    return _found(value, value.get("prompt"), value.get("negative_prompt"), "Fooocus")


def _invoke(value: Mapping[str, object]) -> Found:
    model = value.get("model")
    if isinstance(model, dict):
        value = {**value, "model": model.get("name", model.get("model_name", ""))}
    return _found(value, value.get("positive_prompt"), value.get("negative_prompt"), "InvokeAI")


def _invoke_of_2022(value: Mapping[str, object]) -> Found:
    image = value["image"]
    if not isinstance(image, dict):
        return Found(tool="InvokeAI", note="InvokeAI's text cannot be read")
    said = image.get("prompt")
    if isinstance(said, list):
        texts = [p.get("prompt") for p in said if isinstance(p, dict)]
        said = texts[0] if len(texts) == 1 else None
    if not isinstance(said, str):
        return Found(tool="InvokeAI", note="InvokeAI's text holds several prompts or none")
    prompt, negative = _in_brackets(said)
    return _found(image, prompt, negative, "InvokeAI")


def _novel(value: Mapping[str, object]) -> Found:
    """NovelAI's comment; from its fourth model on, characters have captions of their own."""
    said, negative = value.get("prompt"), value.get("uc")
    for key in ("v4_prompt", "v4_negative_prompt"):
        captions = _captions(value.get(key))
        if captions and key == "v4_prompt":
            said = captions
        elif captions:
            negative = captions
    return _found(value, said, negative, "NovelAI")


def _captions(value: object) -> str:
    caption = value.get("caption") if isinstance(value, dict) else None
    if not isinstance(caption, dict):
        return ""
    people = caption.get("char_captions")
    people = people if isinstance(people, list) else []
    texts = [caption.get("base_caption")]
    texts += [p.get("char_caption") for p in people if isinstance(p, dict)]
    return "\n".join(t.strip() for t in texts if isinstance(t, str) and t.strip())


def _draw_things(value: Mapping[str, object]) -> Found:
    return _found(value, value.get("c"), value.get("uc"), "Draw Things")


def _found(settings: Mapping[str, object], prompt: object, negative: object, tool: str) -> Found:
    if not isinstance(prompt, str) or not prompt.strip():
        return Found(tool=tool, note=f"{tool}'s text holds no prompt")
    return Found(
        prompt.strip(),
        negative.strip() if isinstance(negative, str) else "",
        {
            NAMES[k]: str(v)
            for k, v in settings.items()
            if k in NAMES and isinstance(v, str | int | float) and not isinstance(v, bool)
        },
        tool,
    )


def _in_brackets(text: str) -> tuple[str, str]:
    """Prompt and negative of InvokeAI's first syntax, where [brackets] hold the negative."""
    negatives = [n.strip() for n in BRACKETS.findall(text)]
    return re.sub(r"\s{2,}", " ", BRACKETS.sub("", text)).strip(" ,"), ", ".join(
        filter(None, negatives)
    )


def _has(*keys: str) -> Any:
    return lambda value: all(key in value for key in keys)


READERS = (
    (_has("sui_image_params"), _swarm),
    (lambda v: "positive_prompt" in v and ("app_version" in v or "cfg_scale" in v), _invoke),
    (lambda v: isinstance(v.get("image"), dict) and "app_id" in v, _invoke_of_2022),
    (
        lambda v: (
            "prompt" in v
            and (str(v.get("version", "")).startswith("Fooocus") or "base_model_hash" in v)
        ),
        _fooocus,
    ),
    (lambda v: "uc" in v and ("prompt" in v or "v4_prompt" in v), _novel),
    (lambda v: "prompt" in v and bool(EASY & set(v)), _easy),
    (lambda v: "Prompt" in v and bool(EASY_OLD & set(v)), _easy),
    (lambda v: "c" in v and ("uc" in v or "v2" in v) and "steps" in v, _draw_things),
)
"""How each tool's object is known, and what reads it."""
