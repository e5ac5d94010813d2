"""The graph that ComfyUI stores in its images: which text made the image that was saved.

The walk goes from the saved image up its image and latent inputs. A node that changes an image
that is already there (a detailer, an upscaler with a text of its own) is passed; so is a sampler
that only reworks the latent of another one (denoise below 1, a later step to start at). What is
left is the sampler that began from noise: its text is the prompt. Node types that are not known
are followed where there is one way only, and named; where ways lead to different texts, or a text
cannot be read, there is no prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from harness.images.generation_text import Found
from harness.json_types import JsonObject

MAX_NODES = 3_000
SETTINGS = {
    "steps": "Steps",
    "sampler_name": "Sampler",
    "scheduler": "Schedule type",
    "cfg": "CFG scale",
    "seed": "Seed",
    "noise_seed": "Seed",
    "denoise": "Denoising strength",
}
"""ComfyUI's names of settings, and the WebUI's."""
TEXT_INPUTS = (
    *("text", "text_g", "text_l", "clip_l", "t5xxl", "llama", "value", "string", "prompt"),
    "populated_text",
)
"""Inputs of nodes that hold a prompt; a reroute's only input has no name."""
KNOWN_TEXT = ("CLIPTextEncode", "Conditioning", "Primitive", "Reroute", "ControlNet", "ShowText")
"""How the types of nodes begin that pass a text on as it is."""
DRAWN = ("wildcard", "random")
"""In the types of nodes whose text is a template: what was drawn from it stands elsewhere."""
LATENT_INPUTS = ("latent_image", "latent", "latents", "samples", "samples1", "samples2")
IMAGE_INPUTS = ("images", "image", "pixels", "image1", "image2", "destination", "source")
OTHER_INPUTS = (
    *("model", "clip", "vae", "control_net", "mask", "clip_vision", "style_model", "noise"),
    *("sampler", "sigmas", "upscale_model", "bbox_detector", "sam_model_opt", "detailer_hook"),
)
"""Inputs that carry neither an image nor a text."""
KNOWN = (
    *("SaveImage", "PreviewImage", "SaveAnimatedWEBP", "SaveAnimatedPNG", "SaveImageWebsocket"),
    *("VAEDecode", "VAEDecodeTiled", "VAEEncode", "VAEEncodeTiled", "VAEEncodeForInpaint"),
    *("LatentUpscale", "LatentUpscaleBy", "RepeatLatentBatch", "LatentFromBatch", "LatentCrop"),
    *("LatentComposite", "LatentBlend", "LatentRotate", "LatentFlip", "SetLatentNoiseMask"),
    *("ImageScale", "ImageScaleBy", "ImageScaleToTotalPixels", "ImageUpscaleWithModel"),
    *("ImageSharpen", "ImageBlur", "ImageQuantize", "ImageCrop", "ImageInvert", "ImageFromBatch"),
    *("ImageBatch", "ImageBlend", "ImageCompositeMasked", "ImagePadForOutpaint", "Reroute"),
    *("FaceDetailer", "FaceDetailerPipe", "DetailerForEach", "DetailerForEachDebug"),
    *("UltimateSDUpscale", "UltimateSDUpscaleNoUpscale", "ColorMatch", "RebatchImages"),
)
"""Node types on the way from the saved image to its sampler that are known to pass it on."""

Link = tuple[str, int]
Nodes = Mapping[str, Mapping[str, object]]


class Way(NamedTuple):
    """What the walk up from a saved image found: samplers from noise, and nodes to be named."""

    samplers: tuple[str, ...]
    unknown: tuple[str, ...]


def read_graph(text: str) -> Found:
    """Prompt, negative and settings of the graph that ComfyUI stores as `prompt` (API format).

    Texts that are joined before they reach the sampler are joined by a newline. Never raises.
    """
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return Found(note="a ComfyUI graph that is no JSON")
    nodes = nodes_of(graph)
    if not nodes:
        return Found(note="a ComfyUI graph without nodes")
    try:
        return _read(nodes)
    except RecursionError:
        return Found(tool="ComfyUI", note="a ComfyUI graph too deep to be followed")


def nodes_of(graph: object) -> dict[str, Mapping[str, object]]:
    """The nodes of a graph in API format; empty where it is none, or has too many."""
    if not isinstance(graph, dict) or len(graph) > MAX_NODES:
        return {}
    return {
        str(k): n
        for k, n in graph.items()
        if isinstance(n, dict) and isinstance(n.get("class_type"), str) and _inputs(n)
    }


def _read(nodes: Nodes) -> Found:
    ends = [k for k, n in nodes.items() if _saves(n, "save")]
    ends = ends or [k for k, n in nodes.items() if _saves(n, "preview")]
    walk = Walk(nodes)
    ways = [walk.up(end) for end in ends or list(nodes)]
    samplers = dict.fromkeys(s for way in ways for s in way.samplers)
    unknown = dict.fromkeys(u for way in ways for u in way.unknown)
    found = []
    for sampler in samplers:
        one, through = _of_sampler(nodes, sampler)
        found.append(one)
        unknown |= dict.fromkeys(through)
    named = f"unknown ComfyUI nodes: {', '.join(unknown)}"[:300] if unknown else ""
    if not found:
        return Found(tool="ComfyUI", note=named or "a ComfyUI graph without a sampler")
    if any((o.prompt, o.negative) != (found[0].prompt, found[0].negative) for o in found):
        return Found(tool="ComfyUI", note="a ComfyUI graph with several prompts")
    if not found[0].prompt and not named:
        named = "a ComfyUI graph whose text cannot be read"
    return found[0]._replace(tool="ComfyUI", note=named)


def _kind(node: Mapping[str, object]) -> str:
    return str(node.get("class_type", ""))


def _inputs(node: Mapping[str, object]) -> JsonObject:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _links(node: Mapping[str, object]) -> dict[str, Link]:
    """A node's inputs that come from other nodes: by name, the node and its output."""
    return {
        str(name): (str(value[0]), value[1])
        for name, value in _inputs(node).items()
        if isinstance(value, list) and len(value) == 2 and type(value[1]) is int
    }


def _saves(node: Mapping[str, object], word: str) -> bool:
    return word in _kind(node).casefold() and bool(_pictures(node))


def _pictures(node: Mapping[str, object]) -> list[str]:
    """The nodes that a node takes images or latents from, images first."""
    links = _links(node)
    named = [links[n][0] for n in (*IMAGE_INPUTS, *LATENT_INPUTS, "") if n in links]
    return list(dict.fromkeys(named))


class Walk:
    """Up from a node to the samplers that began from noise; each start is walked once."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.known: dict[str, Way] = {}

    def up(self, start: str) -> Way:
        """The samplers above a node, and the unknown types of nodes on the way."""
        if start not in self.known:
            self.known[start] = Way((), ())  # in a circle there is nothing more to find
            self.known[start] = self._up(start)
        return self.known[start]

    def _up(self, start: str) -> Way:
        queue, seen = [start], set()
        samplers: list[str] = []
        unknown: list[str] = []
        for name in queue:
            if name in seen or name not in self.nodes:
                continue
            seen.add(name)
            node = self.nodes[name]
            links, above = _links(node), _pictures(node)
            if "positive" in links or "guider" in links:
                if any(n in links for n in IMAGE_INPUTS):
                    queue += above  # it changes an image that is there already
                    continue
                earlier = self.up(above[0]) if above and _reworks(node) else Way((), ())
                samplers += earlier.samplers or [name]
                unknown += earlier.unknown
                continue
            if not above:
                others = [v[0] for k, v in links.items() if k not in OTHER_INPUTS]
                above = others if len(set(others)) == 1 else []
            if above and _kind(node) not in KNOWN and name != start:
                unknown.append(_kind(node))
            queue += above
        return Way(tuple(dict.fromkeys(samplers)), tuple(dict.fromkeys(unknown)))


def _reworks(node: Mapping[str, object]) -> bool:
    """Whether a sampler goes on from the latent that it gets, rather than from noise."""
    inputs = _inputs(node)
    denoise, start = inputs.get("denoise", 1), inputs.get("start_at_step", 0)
    return (
        (isinstance(denoise, int | float) and denoise < 1)
        or (isinstance(start, int | float) and start > 0)
        or inputs.get("add_noise") == "disable"
    )


def _of_sampler(nodes: Nodes, name: str) -> tuple[Found, list[str]]:
    """A sampler's texts and settings, and unknown nodes between text and sampler."""
    sampler = nodes[name]
    settings = {
        SETTINGS[key]: str(value)
        for key, value in _inputs(sampler).items()
        if key in SETTINGS and isinstance(value, str | int | float)
    }
    links = _links(sampler)
    if "guider" in links:
        links = _links(nodes.get(links["guider"][0], {}))
    reader = Texts(nodes)
    positive = reader.read(links.get("positive", links.get("conditioning")), "positive")
    unknown, whole = list(reader.unknown), reader.whole
    negative = Texts(nodes).read(links.get("negative"), "negative")
    # Part of a text would be a guess at the rest.
    prompt = "\n".join(positive) if whole else ""
    return Found(prompt, "\n".join(negative), settings), unknown


class Texts:
    """Collects the texts that reach an input; each node is read once."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.seen: set[str] = set()
        self.unknown: dict[str, None] = {}
        self.whole = True

    def read(self, link: Link | None, side: str) -> list[str]:
        """Texts in order, without repetitions.

        Args:
            link: Where the input comes from.
            side: 'positive' or 'negative'.
        """
        if link is None or link[0] in self.seen:
            return []
        if link[0] not in self.nodes:
            self.whole = False  # the node that wrote the text was left out
            return []
        self.seen.add(link[0])
        node = self.nodes[link[0]]
        if "ZeroOut" in _kind(node):
            return []
        links, inputs = _links(node), _inputs(node)
        drawn = any(word in _kind(node).casefold() for word in DRAWN)
        if drawn and not isinstance(inputs.get("populated_text"), str):
            self.unknown[_kind(node)] = None
            self.whole = False
            return []
        if drawn:
            return [inputs["populated_text"].strip()]
        if _kind(node) == "StringConcatenate":
            return self._joined(links, inputs, side)
        if "positive" in links and "negative" in links and link[1] in (0, 1):
            # Both sides pass through such a node (ControlNet): its first output is the positive.
            side = ("positive", "negative")[link[1]]
        texts: list[str] = []
        read = False
        for key, value in inputs.items():
            carries = key in TEXT_INPUTS or key == side
            if carries and isinstance(value, str):
                texts.append(value.strip())
                read = True
            elif key in links and (carries or key == "" or key.startswith("conditioning")):
                texts += self.read(links[key], side)
                read = True
                if not _kind(node).startswith(KNOWN_TEXT) and key in TEXT_INPUTS:
                    self.unknown[_kind(node)] = None  # it may change the text
        if not read:
            self.unknown[_kind(node)] = None
            onward = [v for k, v in links.items() if k not in (*OTHER_INPUTS, *IMAGE_INPUTS)]
            if len(onward) == 1:
                texts += self.read(onward[0], side)
            else:
                self.whole = False
        return [text for text in dict.fromkeys(texts) if text]

    def _joined(
        self, links: Mapping[str, Link], inputs: Mapping[str, object], side: str
    ) -> list[str]:
        parts = []
        for key in ("string_a", "string_b"):
            value = inputs.get(key, "")
            parts += self.read(links[key], side) if key in links else [str(value)]
        return [str(inputs.get("delimiter", "")).join(p for p in parts if p)]
