"""The sections of a spec: checkpoints, adapters, seeds, classifiers, labels, runtime and gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from harness.errors import AuditError
from harness.json_types import JsonObject
from harness.spec.json_schema import Described
from harness.spec.samplers import NAMED, OWN, SCHEDULES, SHORT, names_a_sampler, spelled, split


def _as_text(value: object) -> Any:
    """A label map in text: YAML takes 0 and 1 for numbers, and an empty value for null."""
    if not isinstance(value, dict):
        return value
    text = [
        ["" if v is None else str(v) if type(v) is int else v for v in kv] for kv in value.items()
    ]
    return dict(text)


class Strict(Described, BaseModel):
    """Base of all parts of the spec: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _from_number(value: object) -> Any:
    alone = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {"denoiser": value, "text_encoder": value} if alone else value


Steps = Annotated[int, Field(ge=1, le=1000)]

ClipSkip = Annotated[int, Field(ge=1, le=24)]

Guidance = Annotated[float, Field(ge=0, le=100)]

GuidanceRescale = Annotated[float, Field(ge=0, le=1)]


def _known_sampler(name: str) -> str:
    if not names_a_sampler(name):
        raise AuditError(
            f"{name!r} is no sampler; available: {', '.join([OWN, *SHORT])}, or the class of a "
            "scheduler of diffusers, such as DEISMultistepScheduler; behind it may stand a "
            f"schedule: {', '.join(SCHEDULES)}"
        )
    return name


Sampler = Annotated[
    str,
    BeforeValidator(spelled, json_schema_input_type=str),
    AfterValidator(_known_sampler),
    Field(
        json_schema_extra={
            "anyOf": [{"enum": [OWN, *SHORT]}, {"pattern": f"^{NAMED}$"}],
        }
    ),
]


def _known_schedule(name: object) -> object:
    small = name.strip().casefold() if isinstance(name, str) else name
    if small not in SCHEDULES:
        raise AuditError(f"{name!r} is no schedule; available: {', '.join(SCHEDULES)}")
    return small


Schedule = Annotated[
    str,
    BeforeValidator(_known_schedule, json_schema_input_type=str),
    Field(json_schema_extra={"enum": list(SCHEDULES)}),
]


class SamplerSpec(Strict):
    """One level of the factor 'samplers'; a name alone stands for `sampler`.

    Attributes:
        sampler: a short name, the class of a scheduler of diffusers, or 'own', the checkpoint's.
            Behind it may stand a schedule: 'euler beta'.
        schedule: at which noise levels it steps, as the WebUIs call it; else as its class does.
        arguments: of the scheduler's class, such as {solver_order: 3}.
    """

    sampler: Sampler
    schedule: Schedule | None = None
    arguments: JsonObject = {}

    @model_validator(mode="before")
    @classmethod
    def _schedule_in_name(cls, given: Any) -> Any:
        """A schedule that stands behind the sampler's name."""
        if isinstance(given, str):
            given = {"sampler": given}
        if not isinstance(given, dict) or given.get("schedule"):
            return given
        sampler = spelled(given.get("sampler"))
        if not isinstance(sampler, str) or not names_a_sampler(sampler):
            return given
        name, schedule = split(sampler)
        return given | {"sampler": name} | ({"schedule": schedule} if schedule else {})


Pair = tuple[Annotated[int, Field(ge=0, le=16384)], Annotated[int, Field(ge=0, le=16384)]]


class SizeConditioning(Strict):
    """What SDXL is told of an image's size and crop beside the prompt; not given: as drawn.

    Attributes:
        original_size: width and height that the image is said to have had; small ones give images
            that look scaled up.
        crop: pixels that are said to be cut off at the left and at the top.
        target_size: width and height that it is said to have been cut to.
    """

    original_size: Pair | None = None
    crop: Pair | None = None
    target_size: Pair | None = None

    @property
    def arguments(self) -> JsonObject:
        """As diffusers has it: height first."""
        given = {
            "original_size": self.original_size,
            "crops_coords_top_left": self.crop,
            "target_size": self.target_size,
        }
        return {key: (pair[1], pair[0]) for key, pair in given.items() if pair is not None}


Weight = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]


class Strength(Strict):
    """How strongly a LoRA acts; one number stands for both.

    Attributes:
        denoiser: strength on the denoiser, -10 to 10; 1 as trained, 0 not at all.
        text_encoder: strength on the text encoders, -10 to 10.
    """

    denoiser: Weight = 0.0
    text_encoder: Weight = 0.0


Loras = dict[
    str,
    Annotated[Strength, BeforeValidator(_from_number, json_schema_input_type=Weight | Strength)],
]


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
        denoiser: another checkpoint, a folder of a U-Net, or a GGUF file, to take it from.
        loras: LoRA files that always act on this checkpoint, with their strengths.
        components_from: a diffusers folder that gives a single file what it lacks: VAE, text
            encoders, tokenizers.
        prediction_type: what a single file's denoiser predicts, where the file does not tell.
        vae: the VAE that 'own' means for this checkpoint: another checkpoint, a folder, a file.
        trigger: words put before every prompt.
        negative: the negative to use in place of the crossed ones.
        sampler: sampler to use in place of the crossed ones.
        steps: number of denoising steps in place of the crossed ones.
        guidance: guidance scale in place of the crossed ones.
        clip_skip: in place of the spec's.
        guidance_rescale: in place of the spec's.
        size_conditioning: in place of the spec's.
        zero_terminal_snr: its last training step is noise alone, as of checkpoints trained for v
            that way; a file that says so itself needs no word.
    """

    source: str
    revision: str | None = None
    text_encoder: str | None = None
    denoiser: str | None = None
    vae: str | None = None
    loras: Loras = {}
    components_from: str | None = None
    prediction_type: Literal["epsilon", "v"] | None = None
    trigger: str = ""
    negative: str | None = None
    sampler: str | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None
    clip_skip: ClipSkip | None = None
    guidance_rescale: GuidanceRescale | None = None
    size_conditioning: SizeConditioning | None = None
    zero_terminal_snr: bool = False


Seed = Annotated[int, Field(ge=0, le=10**15)]


class SeedsSpec(Strict):
    """Seed indices start … start + count - 1, or literal seeds.

    Attributes:
        count: number of seeds, so of images of each prompt and setting.
        start: first seed index.
        literal: seeds as the noise's generator takes them, such as [42, 43], the same for every
            prompt: what a plain pipeline makes of them on the CPU's generator. In place of count
            and start.
        shared: True gives all prompts the same starting noise (X/Y grids); claims from such
            a run lean on few noises, and every interval says so.
    """

    count: Annotated[int, Field(ge=1)]
    start: Seed = 0
    literal: tuple[Seed, ...] = ()
    shared: bool = False

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, given: Any) -> Any:
        """Literal seeds say themselves how many there are, and are shared by all prompts."""
        literal = given.get("literal") if isinstance(given, dict) else None
        if not isinstance(literal, list | tuple) or not literal:
            return given
        return given | {"count": len(literal), "start": literal[0], "shared": True}

    @model_validator(mode="after")
    def _each_once(self) -> SeedsSpec:
        if len(set(self.literal)) < len(self.literal):
            raise AuditError(f"literal: {list(self.literal)} names a seed twice")
        return self

    @property
    def numbers(self) -> Sequence[int]:
        """The seeds, in their order."""
        return self.literal or range(self.start, self.start + self.count)


Fit = Literal["crop", "pad", "resize", "crops"]

Faces = bool | Literal["lbp", "dlib"]

DEFAULT_FIT: Fit = "crops"
"""For images that are not square; docs/simulations/crops.md has the table."""


class ClassifierSpec(Strict):
    """An open_clip model.

    Attributes:
        model: open_clip architecture, 'hf-hub:owner/name', 'local-dir:folder' (relative to the
            spec's own folder) or 'reference:NAME'.
        pretrained: open_clip tag; not with a prefix.
        cannot_tell_below: the outcome is 'cannot tell' where the likeliest class has less
            than this probability.
        faces: score the largest detected face instead of the whole image; no face: 'nobody'. True
            or 'lbp': by a cascade that knows frontal faces alone; 'dlib': by dlib's detector, with
            the extra [faces].
        fit: how an image that is not square is fitted to the classifier's square: 'crop' its
            middle, 'pad' it with `pad_colour`, 'resize' it without its proportions, or take the
            mean over overlapping 'crops'. Not given: 'crop' where all images are square, which
            cuts nothing, else DEFAULT_FIT; see docs/simulations/crops.md.
        pad_colour: what 'pad' fills up with: grey levels or a colour as '#rrggbb'.
    """

    model: str
    pretrained: str | None = None
    cannot_tell_below: Annotated[float, Field(ge=0, le=1)] = 0.6
    faces: Faces = False
    fit: Fit | None = None
    pad_colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = "#808080"


class InstrumentSpec(Strict):
    """What else reads attributes off images: one kind with its options, see docs/instruments.md.

    Attributes:
        cannot_tell_below: the outcome is 'cannot tell' where the likeliest class has less
            than this probability.
        faces: read the largest detected face instead of the whole image; no face: 'nobody'.
        fit: as of a classifier.
        pad_colour: as of a classifier.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    cannot_tell_below: Annotated[float, Field(ge=0, le=1)] = 0.6
    faces: Faces = False
    fit: Fit | None = None
    pad_colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = "#808080"

    @property
    def options(self) -> JsonObject:
        """What its kind knows: its own key and the options beside it."""
        return dict(self.model_extra or {})


class LabelsSpec(Strict):
    """People's labels; a path alone stands for `file`.

    Attributes:
        file: CSV with the columns cell, attribute, class and, if several people, rater.
        map: class, outcome or '' (no label) by the value written in the file, for values that
            are no class, such as {F: woman}.
    """

    file: str | None = None
    map: Annotated[dict[str, str], BeforeValidator(_as_text)] = {}


class RuntimeSpec(Strict):
    """What makes a GPU faster or lets a small one do; see docs/checkpoints.md.

    Attributes:
        compile: torch.compile the denoiser. Changes the last bits: part of a cell's identity.
        channels_last: keep a U-Net's weights channels-last. As `compile`.
        cpu_offload: keep all weights on the GPU only while they work. The same
            arithmetic, so no part of the identity; no effect on the CPU.
    """

    compile: bool = False
    channels_last: bool = False
    cpu_offload: bool = False


class GateSpec(Strict):
    """What `audit gate` accepts of a candidate; read from the baseline's spec.

    Attributes:
        estimand: the question that the verdict answers.
        margins: how much worse a metric may get, by its kind (such as 'share') or by its full
            id (such as 'share/clip.gender-presentation/woman'), which goes first. Likeness and
            diversity: as a part of the baseline's own mean. 'prompt': how much worse any single
            prompt may get, in shares and as such a part. Any other metric of an instrument:
            COLUMN/INSTRUMENT (such as 'delta_e/fidelity'), in its own unit.
        common: the share of the cells planned by both arms that both must have made; with less
            the verdict is ERROR.
    """

    estimand: Literal["this suite", "prompts like these"] = "this suite"
    margins: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = {}
    common: Annotated[float, Field(gt=0, le=1)] = 0.9
