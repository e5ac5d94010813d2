"""Load open_clip models so that nothing in their folders runs.

open_clip passes a folder's `tokenizer_kwargs` on to transformers (`trust_remote_code` among them),
looks up names in the configuration on the hub, and takes a pickle where it prefers one. So the
folder is checked first, weights are always a safetensors file that is named to open_clip, and
tokenizers are built here, from files that were checked, and without code of their own.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import open_clip
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2

import reference
from harness.errors import reading
from harness.json_types import JsonObject
from harness.library_logs import quiet_libraries
from harness.models.config_check import SLACK
from harness.models.folders import check_folder, read_config
from harness.models.pickle_scan import refusal
from harness.models.safetensors_header import WeightsError, read_header

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER, HUB, REFERENCE = "local-dir:", "hf-hub:", "reference:"
CONFIG = "open_clip_config.json"
PREFERRED = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
"""As open_clip looks for them; then model.safetensors, then the first."""
TOKENIZER_SETTINGS = (
    *("clean", "strip_sep_token", "language", "reduction_mask", "additional_special_tokens"),
    *("use_fast", "padding_side", "truncation_side", "do_lower_case"),
)
"""What a configuration may pass to a tokenizer."""
NEEDED_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What is fetched of a hub id: data."""
_TIMM_NAME = re.compile(r"[\w.\-]+")


class Classifier(NamedTuple):
    """A CLIP model with what prepares its inputs."""

    model: Any
    preprocess: Any
    tokenizer: PreTrainedTokenizerBase


def load_classifier(name: str, source: str, pretrained: str | None) -> Classifier:
    """Load an open_clip model on the CPU.

    Args:
        name: Its name in the spec, for messages.
        source: An architecture of open_clip, 'hf-hub:owner/name', 'local-dir:FOLDER' or
            'reference:NAME'.
        pretrained: With an architecture: a tag of open_clip or a .safetensors file.

    Raises:
        WeightsError: One line with the classifier and what is wrong with it.
    """
    what = f"classifiers.{name}: {source!r}"
    try:
        if source.startswith(REFERENCE):
            with reading(what, WeightsError):
                folder = reference.component("classifier", source.removeprefix(REFERENCE))
            return _from_folder(folder)
        if source.startswith(FOLDER):
            return _from_folder(Path(source.removeprefix(FOLDER)).expanduser())
        if source.startswith(HUB):
            return _from_folder(_fetched(source.removeprefix(HUB), NEEDED_FILES), fetch=True)
        return _built_in(source, pretrained)
    except WeightsError as error:
        text = str(error)
        raise WeightsError(text if text.startswith(what) else f"{what}: {text}") from None


def refuse_unknown(source: str, pretrained: str | None) -> None:
    """Refuse a classifier that cannot be there, before anything is read or copied for it.

    Args:
        source: As in `load_classifier`; what the hub holds is not asked.
        pretrained: As in `load_classifier`.

    Raises:
        WeightsError: One line with the source and what would be right.
    """
    if source.startswith(REFERENCE):
        with reading(f"classifier {source!r}", WeightsError):
            reference.component("classifier", source.removeprefix(REFERENCE))
    elif source.startswith(FOLDER):
        folder = Path(source.removeprefix(FOLDER)).expanduser()
        if not (folder / CONFIG).is_file():
            raise WeightsError(f"classifier {source!r}: no {CONFIG} in {str(folder)!r}")
    elif not source.startswith(HUB):
        tags = open_clip.list_pretrained_tags_by_model(source)
        if open_clip.get_model_config(source.replace("/", "-")) is None:
            raise WeightsError(
                f"classifier {source!r}: no architecture of open_clip; name one "
                "(ViT-B-32:laion2b_s34b_b79k), hf-hub:owner/name, local-dir:FOLDER or "
                "reference:NAME"
            )
        if pretrained not in tags and not Path(pretrained or "").is_file():
            raise WeightsError(
                f"classifier {source!r}: no pretrained {pretrained!r}; open_clip has "
                f"{', '.join(tags[:8])}, or name a .safetensors file"
            )


def _built_in(source: str, pretrained: str | None) -> Classifier:
    """An architecture that open_clip itself describes."""
    config = open_clip.get_model_config(source.replace("/", "-"))
    if config is None:
        raise WeightsError(
            "no architecture of open_clip; name one (ViT-B-32), hf-hub:owner/name, "
            "local-dir:FOLDER or reference:NAME"
        )
    if pretrained is None:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(source)[:8])
        raise WeightsError(
            f"needs `pretrained`: a .safetensors file, or a tag of open_clip: {tags}"
        )
    tag = open_clip.get_pretrained_cfg(source.replace("/", "-"), pretrained)
    if tag:
        _refuse_pickled(tag, pretrained)
    else:
        read_header(Path(pretrained))  # refuses what is no safetensors file
    with reading(f"pretrained {pretrained!r}", WeightsError), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # QuickGELU: as the tag was trained
        model = open_clip.create_model(source, pretrained=pretrained, require_pretrained=True)
        text = config.get("text_cfg", {})
        # A hub tokenizer that asks for code is refused instead of asking the terminal.
        safely = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
        tokenizer = open_clip.get_tokenizer(source, **safely)
    return Classifier(model.eval(), _transform(model), tokenizer)


def _refuse_pickled(tag: JsonObject, name: str) -> None:
    """Fetch a tag's weights, as open_clip is about to, and refuse any but safetensors."""
    if not tag.get("hf_hub") and not str(tag.get("url", "")).endswith(".safetensors"):
        raise WeightsError(
            f"pretrained {name!r} is offered as a pickle alone ({tag.get('url', '')!a}), which "
            "is not read: `audit convert` it, and name the .safetensors file as pretrained"
        )
    with reading(f"pretrained {name!r} cannot be fetched", WeightsError):
        file = Path(open_clip.download_pretrained(tag))
    if file.suffix != ".safetensors":
        raise WeightsError(refusal(file))


def _from_folder(folder: Path, fetch: bool = False) -> Classifier:
    """A folder with open_clip_config.json; with `fetch` it may name parts of the hub."""
    if not folder.is_dir():
        raise WeightsError(f"no such folder: {str(folder)!r}")
    if not (folder / CONFIG).is_file():
        raise WeightsError(f"no {CONFIG} in {str(folder)!r}")
    check_folder(folder)
    config = read_config(folder / CONFIG)
    path = str(folder / CONFIG)
    model_cfg = config.get("model_cfg")
    if not isinstance(model_cfg, dict) or not all(
        isinstance(model_cfg.get(part), dict) for part in ("text_cfg", "vision_cfg")
    ):
        raise WeightsError(f"{path!r} lacks 'model_cfg' with 'text_cfg' and 'vision_cfg'")
    text, vision = dict(model_cfg["text_cfg"]), model_cfg["vision_cfg"]
    settings = text.get("tokenizer_kwargs") or {}
    _check_towers(path, text, vision, settings)
    changed: JsonObject = {}
    if text.get("hf_model_name"):
        text |= {"hf_model_name": _tower(folder, text["hf_model_name"], fetch)}
        changed = {"text_cfg": text | {"hf_model_pretrained": False}}
    weights = _weights(folder)
    header = read_header(weights)
    bare: JsonObject = {"load_weights": False, "pretrained_text": False}
    # open_clip warns that no weights are loaded yet: they are, from safetensors alone, below.
    with reading(path, WeightsError), quiet_libraries():
        import torch

        with torch.device("meta"):  # nothing is allocated before the sizes are known
            built = open_clip.create_model(
                f"{FOLDER}{folder}", device=torch.device("meta"), **bare, **changed
            )
    wanted = sum(t.numel() for t in built.state_dict().values())
    if wanted > 2 * header.numbers + SLACK:
        raise WeightsError(
            f"{path!r} describes a model of {wanted:,} numbers; {weights.name} holds "
            f"{header.numbers:,}"
        )
    with reading(path, WeightsError), quiet_libraries():
        model = open_clip.create_model(f"{FOLDER}{folder}", **bare, **changed)
    with reading(str(weights), WeightsError):
        open_clip.load_checkpoint(model, str(weights))
    with reading(f"tokenizer of {str(folder)!r}", WeightsError):
        tokenizer = _tokenizer(folder, text, settings, fetch)
    with reading(path, WeightsError):
        return Classifier(model.eval(), _transform(model), tokenizer)


def _check_towers(path: str, text: JsonObject, vision: JsonObject, settings: object) -> None:
    if not isinstance(settings, dict):
        raise WeightsError(f"{path!r}: tokenizer_kwargs is no mapping")
    for key in settings:
        if key not in TOKENIZER_SETTINGS:
            raise WeightsError(
                f"{path!r}: tokenizer_kwargs.{ascii(str(key)[:60])[1:-1]} is not passed on; known: "
                f"{', '.join(TOKENIZER_SETTINGS)}"
            )
    timm = vision.get("timm_model_name")
    if timm is not None and not (isinstance(timm, str) and _TIMM_NAME.fullmatch(timm)):
        raise WeightsError(
            f"{path!r}: timm_model_name {str(timm)[:60]!a} is no architecture of timm"
        )


def _tower(folder: Path, named: object, fetch: bool) -> str:
    """Folder with the configuration of a text tower of transformers."""
    if (folder / "config.json").is_file():
        return str(folder)
    if not fetch or not isinstance(named, str):
        raise WeightsError(
            f"its text tower is {str(named)[:60]!a} of transformers: put that model's "
            "config.json into the folder; no name in a folder is looked up"
        )
    return str(_fetched(named, ("config.json",)))


def _tokenizer(folder: Path, text: JsonObject, settings: JsonObject, fetch: bool) -> Any:
    length = text.get("context_length", 77)
    named = text.get("hf_tokenizer_name")
    if not named:
        return open_clip.SimpleTokenizer(context_length=length, **settings)
    own = any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer_config.json"))
    if not own and fetch and isinstance(named, str):
        folder = _fetched(named, ("*.json", "*.txt", "*.model"))
    return HFTokenizer(
        str(folder),
        context_length=length,
        tokenizer_mode=text.get("tokenizer_mode"),
        **settings | {"trust_remote_code": False, "local_files_only": True},
    )


def _fetched(hub_id: str, patterns: tuple[str, ...]) -> Path:
    """A snapshot of a hub id, of one commit, checked; code in it is not fetched."""
    from huggingface_hub import snapshot_download

    with reading(f"the hub id {hub_id[:80]!a} cannot be had", WeightsError):
        folder = Path(snapshot_download(hub_id, allow_patterns=list(patterns)))
    check_folder(folder)
    return folder


def _weights(folder: Path) -> Path:
    """The folder's safetensors file."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise WeightsError(
            f"no .safetensors in {str(folder)!r}; of a pickle, `audit convert` makes one"
        )
    named = {p.name: p for p in found}
    order = (*PREFERRED, "model.safetensors", found[0].name)
    return next(named[name] for name in order if name in named)


def _transform(model: Any) -> Any:
    return image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
