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

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from harness.errors import AuditError, SpecError, SpecMistakes
from harness.files.yaml_files import LARGEST, read_yaml
from harness.hashing import canonical_digest
from harness.json_types import JsonObject
from harness.spec.attributes import AttributeSpec, load_attribute
from harness.spec.json_schema import ONE_ALONE
from harness.spec.label_classes import check_label_map
from harness.spec.mistakes import mistakes
from harness.spec.old_keys import moved, named
from harness.spec.prompts import PromptsSpec
from harness.spec.samplers import spelled
from harness.spec.sections import (
    AdapterSpec,
    CheckpointSpec,
    ClassifierSpec,
    ClipSkip,
    GateSpec,
    Guidance,
    GuidanceRescale,
    InstrumentSpec,
    LabelsSpec,
    RuntimeSpec,
    Sampler,
    SamplerSpec,
    Seed,
    SeedsSpec,
    SizeConditioning,
    Steps,
    Strict,
)
from harness.text import nearest, slug

LARGEST_SIDE = 8192
"""Of a generated image, in pixels."""


def _from_source(value: object) -> Any:
    return {"source": value} if isinstance(value, str) else value


def _from_seeds(value: object) -> Any:
    if isinstance(value, list):
        return {"literal": value}
    return {"count": value} if isinstance(value, int) else value


def _from_names(value: object) -> Any:
    """Samplers by name, however they are given."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list):
        return value
    return {n if isinstance(n, str) else str(n): {"sampler": n} for n in map(spelled, names)}


def _from_model(value: object) -> Any:
    return {"model": value} if isinstance(value, str) else value


def _from_file(value: object) -> Any:
    return {"file": value} if isinstance(value, str) else value


class Spec(Strict, BaseModel):
    """All of one audit; lists and mappings are crossed with each other.

    Attributes:
        name: what the report calls this audit.
        checkpoints: by name, a diffusers folder, .safetensors file, hub id or 'reference:NAME', or
            a mapping with its own settings.
        vaes: by name, a folder, a file, or 'own' for each checkpoint's; all decode the same
            latents.
        prompts: where prompts come from.
        allow_latent_space_mismatch: also decode latents that no VAE of this checkpoint's kind
            encoded.
        negatives: by name, the text of a negative prompt; '' for none.
        adapters: by name, LoRAs that act together and their trigger words.
        embeddings: textual inversions, file by name.
        prompt_syntax: notation in which prompts carry weights: a1111, or none.
        long_prompts: what becomes of a prompt longer than the text encoder: it is 'cut', or read in
            'chunks' as the WebUIs do. Not given: in chunks with prompt_syntax: a1111, else cut.
        seeds: number of images of each prompt and setting, a list of literal seeds, or a mapping.
        samplers: one or several: a short name, the class of a scheduler of diffusers, or 'own', the
            checkpoint's scheduler; behind it may stand a schedule, as in 'euler beta'. Or by name,
            samplers with a schedule and arguments of their class.
        steps: number of denoising steps, one or several.
        guidance: scale of classifier-free guidance, one or several; at 1 or below it is off.
        clip_skip: layer of CLIP that the denoiser reads, counted from the end as the WebUIs do: 1
            is the last; 2, which most anime models are made for, leaves one out (clip_skip=1 of
            diffusers). SDXL reads the second last anyway, by 1 and by 2.
        guidance_rescale: how much of the spread that guidance adds is taken back, 0 to 1
            (arXiv 2305.08891, section 3.4); 0.7 is usual with zero_terminal_snr.
        size_conditioning: what SDXL gets as an image's size and crop beside the prompt.
        sizes: width and height in pixels, multiples of 8; empty: the checkpoint's own.
        attributes: built-in names, YAML files or declared sets of classes.
        classifiers: by name, an open_clip model that reads attributes off images.
        instruments: by name, what else reads attributes: an ONNX file, a folder of transformers, an
            installed instrument, a table; attributes name them as their `instrument`.
        probes: what is measured: names, or options by name; see the pages in docs/.
        baseline: name of the checkpoint that the others are compared with.
        gate: what `audit gate` accepts.
        runtime: what makes a GPU faster or lets a small one do.
        confusion_matrix: CSV of how a classifier errs: attribute, instrument, true, outcome, count.
        labels: people's labels on this run's images: a CSV (cell, attribute, class), or
            file and map.
        batch_size: images of one forward pass; pixels depend on it.
        device: where models run: cpu, cuda, cuda:1 (the second GPU), mps; auto takes a GPU where
            there is one.
        dtype: precision of the weights; auto is float16 on a GPU and float32 on the CPU.
    """

    name: str = "audit"
    checkpoints: dict[
        str,
        Annotated[
            CheckpointSpec,
            BeforeValidator(_from_source, json_schema_input_type=str | CheckpointSpec),
        ],
    ] = Field(min_length=1)
    vaes: dict[str, str] = Field(default={"own": "own"}, min_length=1)
    prompts: PromptsSpec
    allow_latent_space_mismatch: bool = False
    negatives: dict[str, str] = Field(default={"none": ""}, min_length=1)
    adapters: dict[str, AdapterSpec] = Field(default={"none": AdapterSpec()}, min_length=1)
    embeddings: dict[str, str] = {}
    prompt_syntax: Literal["none", "a1111"] = "none"
    long_prompts: Literal["cut", "chunks"] | None = None
    seeds: Annotated[
        SeedsSpec,
        BeforeValidator(
            _from_seeds, json_schema_input_type=Annotated[int, Field(ge=1)] | list[Seed] | SeedsSpec
        ),
    ] = SeedsSpec(count=8)
    samplers: Annotated[
        dict[str, SamplerSpec],
        BeforeValidator(
            _from_names,
            json_schema_input_type=Sampler | list[Sampler] | dict[str, Sampler | SamplerSpec],
        ),
    ] = Field({"own": SamplerSpec(sampler="own")}, min_length=1)
    steps: Annotated[list[Steps], ONE_ALONE] = Field([25], min_length=1)
    guidance: Annotated[list[Guidance], ONE_ALONE] = Field([7.5], min_length=1)
    clip_skip: ClipSkip = 1
    guidance_rescale: GuidanceRescale = 0.0
    size_conditioning: SizeConditioning = SizeConditioning()
    sizes: list[tuple[int, int]] = []
    attributes: list[AttributeSpec] = []
    classifiers: dict[
        str,
        Annotated[
            ClassifierSpec,
            BeforeValidator(_from_model, json_schema_input_type=str | ClassifierSpec),
        ],
    ] = {}
    instruments: dict[str, InstrumentSpec] = {}
    probes: Annotated[
        dict[str, JsonObject],
        BeforeValidator(named, json_schema_input_type=str | list[str] | dict[str, JsonObject]),
    ] = Field({"attributes": {}}, min_length=1)
    baseline: str | None = None
    gate: GateSpec = GateSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    confusion_matrix: str | None = None
    labels: Annotated[
        LabelsSpec | None, BeforeValidator(_from_file, json_schema_input_type=str | LabelsSpec)
    ] = None
    batch_size: Annotated[int, Field(ge=1, le=512)] = 8
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$")] = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"

    _notices: tuple[str, ...] = PrivateAttr(())

    @property
    def in_chunks(self) -> bool:
        """Whether a prompt longer than the text encoder is read in chunks."""
        return (self.long_prompts or {"a1111": "chunks"}.get(self.prompt_syntax)) == "chunks"

    def clip_skip_of(self, checkpoint: str) -> int:
        """Which layer a checkpoint reads: its own setting, or that of all.

        Args:
            checkpoint: Its name.
        """
        return self.checkpoints[checkpoint].clip_skip or self.clip_skip

    def arguments_of(self, checkpoint: str) -> JsonObject:
        """Further arguments that a checkpoint's pipeline is called with, as diffusers names them.

        Args:
            checkpoint: Its name.
        """
        own = self.checkpoints[checkpoint]
        rescale = own.guidance_rescale
        if rescale is None:
            rescale = self.guidance_rescale
        sizes = own.size_conditioning or self.size_conditioning
        return ({"guidance_rescale": rescale} if rescale else {}) | sizes.arguments

    @property
    def notices(self) -> tuple[str, ...]:
        """What its author should know of the keys that it is written with."""
        return self._notices

    @field_validator(
        "attributes",
        mode="before",
        json_schema_input_type=str | AttributeSpec | list[str | AttributeSpec],
    )
    @classmethod
    def _load_attributes(cls, value: Any, info: ValidationInfo) -> object:
        base = (info.context or {}).get("base", Path())
        return [
            v if isinstance(v, AttributeSpec) else load_attribute(v, base)
            for v in (value if isinstance(value, list) else [value])
        ]

    @field_validator("embeddings")
    @classmethod
    def _names_are_words(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            # diffusers names textual inversions with angle brackets: '<cat-toy>'.
            plain = name[1:-1] if name.startswith("<") and name.endswith(">") else name
            if not plain.strip() or any(c in plain for c in "()[]<>|:, "):
                raise AuditError(f"{name!r}: a name is one word as in a prompt: 'x' or '<x>'")
        if len({name.casefold() for name in value}) < len(value):
            raise AuditError(f"{list(value)}: case does not tell names in a prompt apart")
        return value

    @field_validator("sizes")
    @classmethod
    def _sizes_of_eight(cls, value: list[tuple[int, int]]) -> list[tuple[int, int]]:
        for width, height in value:
            if (
                width % 8
                or height % 8
                or min(width, height) < 8
                or max(width, height) > LARGEST_SIDE
            ):
                raise AuditError(
                    f"{width} x {height}: width and height must be multiples of 8, at most "
                    f"{LARGEST_SIDE}"
                )
        return value

    def model_post_init(self, context: object) -> None:
        """Check what spans several keys."""
        if self.baseline is not None and self.baseline not in self.checkpoints:
            known = tuple(self.checkpoints)
            raise AuditError(
                f"baseline: {self.baseline!r} is no checkpoint; {nearest(self.baseline, known)}"
            )
        if any(a.by_clip for a in self.attributes) and not self.classifiers:
            raise AuditError("attributes: name at least one classifier to measure them with")
        self._refuse_double_names()
        if self.labels is not None:
            check_label_map(self.labels.map, self.attributes)

    def _refuse_double_names(self) -> None:
        """Instruments are named by classifier and attribute, spelled as `slug` does."""
        seen: dict[str, str] = {}
        attributes = [a.name for a in self.attributes]
        kinds = ["likeness", *attributes]
        names = [(f"attributes: {a!r}", a) for a in attributes]
        names += [(f"classifiers.{c}", f"{slug(c)}.{k}") for c in self.classifiers for k in kinds]
        names += [(f"instruments.{i}", f"{slug(i)}.{k}") for i in self.instruments for k in kinds]
        for what, name in names:
            if name in seen:
                raise AuditError(f"{what} and {seen[name]} would both be {name!r}: rename one")
            seen[name] = what

    def digest(self) -> str:
        """sha256 of the spec's canonical JSON."""
        return canonical_digest(self.model_dump(mode="json"))


def load_spec(path: Path, also: Callable[[JsonObject], list[str]] | None = None) -> Spec:
    """Read and check a spec file; arguments as `parse_spec`.

    Raises:
        SpecError: A line for each mistake, naming the file, the key, the value and what would be
            right.
    """
    return parse_spec(read_yaml(path, SpecError), path, also)


def read_own_spec(path: Path) -> Any:
    """The plain data of the spec that a run folder keeps: the whole of it, with all defaults."""
    return read_yaml(path, SpecError, largest=8 * LARGEST)


def parse_spec(
    raw: object, path: Path, also: Callable[[JsonObject], list[str]] | None = None
) -> Spec:
    """Check plain data as the spec that `path` holds; errors as `load_spec`.

    Args:
        raw: Plain data.
        path: The spec's file, whose folder its paths are relative to.
        also: What else is wrong, by those who know the options of probes and instruments: one line
            a mistake.
    """
    if not isinstance(raw, dict):
        raise SpecError(f"{path}: a spec is a mapping of keys, not {type(raw).__name__}")
    raw, notices = moved(raw)
    found: list[str] = []
    try:
        spec = Spec.model_validate(raw, context={"base": path.parent})
        spec._notices = tuple(notices)
    except ValidationError as error:
        found = mistakes(error, Spec)
    except AuditError as error:
        found = [str(error)]
    if also is not None:
        found += also({str(key): value for key, value in raw.items()})
    if found:
        raise SpecMistakes([f"{path}: {line}" for line in found])
    return spec
