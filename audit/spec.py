"""The spec: one YAML file that says what is audited.

    name: my-finetune
    checkpoints:
      base: runwayml/stable-diffusion-v1-5
      mine: {source: my-finetune.safetensors, trigger: "mystyle, ", guidance: 5}
    vaes: {own: own, mse: vae-ft-mse.safetensors}
    prompts: {suite: occupations}
    seeds: 16
    attributes: [gender-presentation]
    classifiers: {clip: {model: ViT-B-32, pretrained: laion2b_s34b_b79k}}

Every factor given as a list or a mapping is crossed with all others. Paths are relative to
the spec's own folder. Unknown keys are refused with the nearest valid name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from audit.attributes import AttributeSpec, load_attribute
from audit.errors import AuditError
from audit.inside import AttentionSpec, DosesSpec, LatentsSpec, TextSpec, TrajectorySpec
from audit.prompts import PromptsSpec, nearest

SAMPLERS = (
    "own",
    "ddim",
    "euler",
    "euler a",
    "heun",
    "lms",
    "dpm++ 2m",
    "dpm++ 2m karras",
    "dpm++ sde",
    "unipc",
    "lcm",
)


class SpecError(AuditError):
    """The spec cannot be used; the message is one line naming file, key and value."""


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _from_source(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


def _from_model(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class Strict(BaseModel):
    """Base of all parts of the spec: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _from_number(value: Any) -> Any:
    alone = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {"denoiser": value, "text_encoder": value} if alone else value


Weight = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]


class Strength(Strict):
    """How strongly a LoRA acts; one number stands for both."""

    denoiser: Weight = 0.0
    text_encoder: Weight = 0.0


Loras = dict[str, Annotated[Strength, BeforeValidator(_from_number)]]


def strengths(*named: Loras) -> dict[str, tuple[float, float]]:
    """The LoRAs that act together: strength on denoiser and text encoders by file.

    A file named twice gets the sum. One of strength 0 is no LoRA and left out.
    """
    total: dict[str, tuple[float, float]] = {}
    for loras in named:
        for source, one in loras.items():
            before = total.get(source, (0.0, 0.0))
            total[source] = (before[0] + one.denoiser, before[1] + one.text_encoder)
    return {source: both for source, both in total.items() if both != (0, 0)}


class AdapterSpec(Strict):
    """One level of the factor 'adapters'.

    Attributes:
        loras: strength by file: a number, or one for denoiser and one for text_encoder.
        trigger: words put before every prompt, such as a LoRA's own or an embedding's name.
    """

    loras: Loras = {}
    trigger: str = ""


class CheckpointSpec(Strict):
    """A pipeline's weights, with component swaps and its own recommended settings.

    Attributes:
        source: diffusers folder, .safetensors file, hub id or 'reference:NAME'.
        revision: commit of a hub id.
        text_encoder: another checkpoint, or a folder of a text encoder, to take it from.
        denoiser: another checkpoint, or a folder of a U-Net, to take it from.
        loras: LoRA files that always act on this checkpoint, with their strengths.
        parts: a diffusers folder that gives a single file what it lacks: VAE, text encoders,
            tokenizers.
        prediction: what a single file's denoiser predicts, where the file does not tell.
        vae: the VAE that 'own' means for this checkpoint: another checkpoint, a folder, a file.
        trigger: words put before every prompt.
        negative: the negative to use in place of the crossed ones.
        sampler: sampler to use in place of the crossed ones; so with steps and guidance.
    """

    source: str
    revision: str | None = None
    text_encoder: str | None = None
    denoiser: str | None = None
    vae: str | None = None
    loras: Loras = {}
    parts: str | None = None
    prediction: Literal["epsilon", "v"] | None = None
    trigger: str = ""
    negative: str | None = None
    sampler: str | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance: Annotated[float, Field(ge=0, le=100)] | None = None


class SeedsSpec(Strict):
    """Seed indices start … start + count - 1.

    Attributes:
        shared: True gives all prompts the same starting noise (X/Y grids); claims from such
            a run lean on few noises, and every interval says so.
    """

    count: Annotated[int, Field(ge=1)]
    start: Annotated[int, Field(ge=0)] = 0
    shared: bool = False


class ClassifierSpec(Strict):
    """An open_clip model.

    Attributes:
        model: open_clip architecture, 'hf-hub:owner/name', 'local-dir:folder' or
            'reference:NAME'.
        pretrained: open_clip tag; not with a prefix.
        cannot_tell_below: the outcome is 'cannot tell' where the likeliest class has less
            than this probability.
        faces: score the largest detected face instead of the whole image; no face: 'nobody'.
    """

    model: str
    pretrained: str | None = None
    cannot_tell_below: Annotated[float, Field(ge=0, le=1)] = 0.6
    faces: bool = False


class SpeedSpec(Strict):
    """What makes a GPU faster or lets a small one do; see docs/checkpoints.md.

    Attributes:
        compile: torch.compile the denoiser. Changes the last bits: part of a cell's identity.
        channels_last: keep a U-Net's weights channels-last. As `compile`.
        low_memory: keep all weights on the GPU only while they work. The same
            arithmetic, so no part of the identity; no effect on the CPU.
    """

    compile: bool = False
    channels_last: bool = False
    low_memory: bool = False


MARGINS = {
    "distance": 0.1,
    "share": 0.05,
    "not-counted": 0.05,
    "likeness": 0.05,
    "diversity": 0.1,
    "prompt": 0.15,
}
"""What the gate accepts unless told otherwise; docs/gate.md has the reasons."""


class GateSpec(Strict):
    """What `audit gate` accepts of a candidate; read from the baseline's spec.

    Attributes:
        estimand: the question that the verdict answers.
        margins: how much worse a metric may get, by its kind (such as 'share') or by its full
            id (such as 'share/clip.gender-presentation/woman'), which goes first. Likeness and
            diversity: as a part of the baseline's own mean. 'prompt': how much worse any single
            prompt may get, in shares and as such a part.
        common: the share of the cells planned by both arms that both must have made; with less
            the verdict is ERROR.
    """

    estimand: Literal["this suite", "prompts like these"] = "this suite"
    margins: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    common: Annotated[float, Field(gt=0, le=1)] = 0.9

    @field_validator("margins")
    @classmethod
    def _known_kinds(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            kind = name.split("/")[0]
            if kind not in MARGINS:
                raise ValueError(f"{name!r}: {kind!r} is no metric; {nearest(kind, MARGINS)}")
        return value

    def margin(self, metric: str) -> float:
        """The margin of a metric by its id."""
        kind = metric.split("/")[0]
        return self.margins.get(metric, self.margins.get(kind, MARGINS[kind]))


class Spec(Strict):
    """All of one audit. See the module's docstring for an example."""

    name: str = "audit"
    checkpoints: dict[str, Annotated[CheckpointSpec, BeforeValidator(_from_source)]] = Field(
        min_length=1
    )
    vaes: dict[str, str] = Field(default={"own": "own"}, min_length=1)
    prompts: PromptsSpec
    other_latent_spaces: bool = Field(False, description="also decode what no VAE here encoded")
    negatives: dict[str, str] = Field(default={"none": ""}, min_length=1)
    adapters: dict[str, AdapterSpec] = Field(default={"none": AdapterSpec()}, min_length=1)
    embeddings: dict[str, str] = Field({}, description="textual inversions: file by name")
    weighting: Literal["none", "a1111"] = Field("none", description="how prompts carry weights")
    seeds: Annotated[
        SeedsSpec, BeforeValidator(lambda v: {"count": v} if isinstance(v, int) else v)
    ] = SeedsSpec(count=8)
    samplers: Annotated[list[str], BeforeValidator(_as_list)] = Field(["own"], min_length=1)
    steps: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], BeforeValidator(_as_list)] = Field(
        [25], min_length=1
    )
    guidance: Annotated[list[Annotated[float, Field(ge=0, le=100)]], BeforeValidator(_as_list)] = (
        Field([7.5], min_length=1)
    )
    sizes: list[tuple[int, int]] = Field(default=[], description="width, height; empty: own")
    attributes: list[AttributeSpec] = []
    classifiers: dict[str, Annotated[ClassifierSpec, BeforeValidator(_from_model)]] = {}
    probes: Annotated[list[str], BeforeValidator(_as_list)] = Field(["attributes"], min_length=1)
    baseline: str | None = Field(None, description="checkpoint the others are compared with")
    gate: GateSpec = GateSpec()
    speed: SpeedSpec = SpeedSpec()
    attention: AttentionSpec = AttentionSpec()
    text: TextSpec = TextSpec()
    trajectory: TrajectorySpec = TrajectorySpec()
    latents: LatentsSpec = LatentsSpec()
    doses: DosesSpec = DosesSpec()
    errors: str | None = Field(None, description="CSV of a classifier's measured errors")
    labels: str | None = Field(None, description="CSV of people's labels on this run's images")
    batch_size: Annotated[int, Field(ge=1, le=512)] = 8
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"

    @field_validator("samplers")
    @classmethod
    def _known_samplers(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in SAMPLERS:
                raise ValueError(f"{name!r} is no sampler; {nearest(name, SAMPLERS)}")
        return value

    @field_validator("attributes", mode="before")
    @classmethod
    def _load_attributes(cls, value: Any, info: Any) -> Any:
        base = (info.context or {}).get("base", Path())
        return [
            v if isinstance(v, AttributeSpec) else load_attribute(v, base) for v in _as_list(value)
        ]

    @field_validator("embeddings")
    @classmethod
    def _names_are_words(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not name.strip() or any(c in name for c in "()[]<>|:, "):
                raise ValueError(f"{name!r}: a name is one word without brackets, as in a prompt")
        if len({name.casefold() for name in value}) < len(value):
            raise ValueError(f"{list(value)}: case does not tell names in a prompt apart")
        return value

    @field_validator("sizes")
    @classmethod
    def _sizes_of_eight(cls, value: list[tuple[int, int]]) -> list[tuple[int, int]]:
        for width, height in value:
            if width % 8 or height % 8 or min(width, height) < 8:
                raise ValueError(f"{width} x {height}: width and height must be multiples of 8")
        return value

    def model_post_init(self, context: Any) -> None:
        """Check what spans several keys."""
        if self.baseline is not None and self.baseline not in self.checkpoints:
            known = tuple(self.checkpoints)
            raise ValueError(
                f"baseline: {self.baseline!r} is no checkpoint; {nearest(self.baseline, known)}"
            )
        if any(a.instrument == "clip" for a in self.attributes) and not self.classifiers:
            raise ValueError("attributes: name at least one classifier to measure them with")

    def digest(self) -> str:
        """sha256 of the spec's canonical JSON."""
        return canonical_digest(self.model_dump(mode="json"))


def canonical_digest(value: Any) -> str:
    """sha256, in hex, of the canonical JSON (sorted keys, no spaces) of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def load_spec(path: Path) -> Spec:
    """Read and check a spec file.

    Raises:
        SpecError: One line naming the file, the key, the value and what would be right.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f" line {place.line + 1}" if place else ""
        raise SpecError(f"{path}:{line} is not YAML: {getattr(error, 'problem', error)}") from None
    return parse_spec(raw, path)


def parse_spec(raw: Any, path: Path) -> Spec:
    """Check plain data as the spec that `path` holds; errors as `load_spec`."""
    if not isinstance(raw, dict):
        raise SpecError(f"{path}: a spec is a mapping of keys, not {type(raw).__name__}")
    try:
        return Spec.model_validate(raw, context={"base": path.parent})
    except ValidationError as error:
        raise SpecError(f"{path}: {_one_line(error)}") from None
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from None


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "spec"
    if first["type"] == "extra_forbidden":
        valid = _fields_at(tuple(first["loc"][:-1]))
        return f"{key}: unknown key; {nearest(str(first['loc'][-1]), valid)}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{key}: missing"
    if first["type"] == "value_error":
        return message if message.startswith(f"{key}:") else f"{key}: {message}"
    return f"{key}: {message}, not {first['input']!r}"


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    by_section: dict[str, type[BaseModel]] = {
        "checkpoints": CheckpointSpec,
        "adapters": AdapterSpec,
        "classifiers": ClassifierSpec,
        "seeds": SeedsSpec,
        "prompts": PromptsSpec,
        "attributes": AttributeSpec,
        "gate": GateSpec,
        "speed": SpeedSpec,
        "attention": AttentionSpec,
        "text": TextSpec,
        "trajectory": TrajectorySpec,
        "latents": LatentsSpec,
        "doses": DosesSpec,
    }
    model = by_section.get(str(location[0]), Spec) if location else Spec
    return list(model.model_fields)


def spec_schema() -> dict[str, Any]:
    """JSON schema of the spec, for editors."""
    return Spec.model_json_schema()
