"""The plan: every image of an audit, known and countable before it is paid for.

A cell is one image; a trajectory is the denoising that gives its latents, shared by the cells
that differ only in the VAE. Both are named by the sha256 of all that decides their pixels.
Units are fixed batches of trajectories: cut once, never cut again, so that a resumed run
makes what an undisturbed one would have made.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from harness.hashing import canonical_digest
from harness.json_types import JsonObject
from harness.models.prompt_weights import weighs
from harness.models.textual_inversion import named_in
from harness.spec.prompts import Prompt
from harness.spec.schema import Spec
from harness.spec.sections import CheckpointSpec, strengths

ARM = (
    "checkpoint",
    "vae",
    "adapters",
    "negative",
    "sampler",
    "steps",
    "guidance",
    "width",
    "height",
)
"""The factors that make an arm: everything but prompt and seed."""
FACTS = (
    "prompt",
    "text",
    "negative_text",
    "checkpoint",
    "vae",
    "adapters",
    "sampler",
    "steps",
    "guidance",
    "width",
    "height",
    "seed",
    "noise",
    "unit",
)
"""What a person is told of a cell, in that order."""
NUMBERED = {
    "steps": "{:g} steps",
    "guidance": "CFG {:g}",
    "width": "{:g} wide",
    "height": "{:g} high",
}
"""How an arm's name says the factors that are numbers."""


class Cell(NamedTuple):
    """One image and all the names by which it is looked up: a row of the plan."""

    cell: str
    trajectory: str
    unit: str
    kind: str
    checkpoint: str
    vae: str
    negative: str
    sampler: str
    steps: int
    guidance: float
    width: int
    height: int
    prompt_index: int
    prompt: str
    group: str
    seed: int
    text: str
    """The prompt as encoded: trigger words and prompt."""
    negative_text: str
    noise: int
    """Seed of the starting noise's generator."""
    vae_file: str
    """Name of the images file: the VAE's digest, cut to 16 digits; more where `step` is set."""
    adapters: str = "none"
    requested_by: str = ""
    """The probe that asked for it; '' for the spec's own grid."""
    step: int = -1
    """Of a predicted image: after which forward, from 0; -1 for a finished one."""
    switch: int = -1
    """From which step on the denoiser reads `second_text`; -1 for never."""
    second_text: str = ""
    pair: str = ""
    """Of an imported image: what it may be paired by with images of the same prompt in other
    arms, as its CSV says; '' for nothing. Generated images are paired by their starting noise."""


class Arm(NamedTuple):
    """What the plan must know of one checkpoint: digests by component, its VAEs, its size."""

    digests: Mapping[str, str]
    """text_encoder and denoiser."""
    schedulers: Mapping[str, str]
    """Digest by sampler name."""
    vaes: Mapping[str, str]
    """Digest by name in the spec."""
    size: tuple[int, int]
    """Its own width and height."""
    files: Mapping[str, str] = {}
    """Digest of every LoRA and embedding by its source in the spec."""
    reads_negative: Mapping[float, bool] = {}
    """Whether the negative has an effect, by guidance scale; above 1 where that is not said."""
    inside: bool = True
    """Whether its denoising can be followed: else no predicted images and no switches."""
    skipped_layers: int = 0
    """Of its text encoders, by clip_skip."""
    chunks: Callable[[str], int] = lambda text: 1
    """Number of chunks that it reads a text in."""


Wishes = Callable[[Spec, pd.DataFrame], Iterable[Cell]]
"""From a spec and its grid to the cells that a probe wants beyond it."""


class Unit(NamedTuple):
    """A fixed batch: trajectories that are denoised together."""

    id: str
    rows: pd.DataFrame
    """Rows of the plan, several for a trajectory where several VAEs decode it."""


def noise_seed(prompt: str, seed: int, shared: bool) -> int:
    """Seed of the starting noise: shared by all arms, and by prompts only where asked.

    Shared noise across prompts correlates them and breaks every interval over prompts.
    """
    text = f"{'' if shared else prompt}\0{seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def make_plan(
    spec: Spec,
    prompts: list[Prompt],
    arms: Mapping[str, Arm],
    previous: pd.DataFrame | None = None,
    wishes: Sequence[Wishes] = (),
    held: Mapping[str, str] = {},
) -> pd.DataFrame:
    """All cells of a spec, with their units.

    Args:
        spec: The spec.
        prompts: Its resolved prompts.
        arms: Digests of what each checkpoint loads to.
        previous: The run's plan so far: what is in it keeps its unit.
        wishes: What probes want beyond the grid.
        held: Unit by cell of the images that the run holds, where its plan is lost.
    """
    grid = pd.DataFrame(list(_cells(spec, prompts, arms)), columns=Cell._fields)
    own = set(grid["trajectory"])
    wanted = [
        cell if cell.trajectory in own else _told_apart(spec, arms[cell.checkpoint], cell)
        for wish in wishes
        for cell in wish(spec, grid)
        if arms[cell.checkpoint].inside or (cell.step < 0 and cell.switch < 0)
    ]
    plan = pd.concat([grid, pd.DataFrame(wanted, columns=Cell._fields)]) if wanted else grid
    plan = plan.drop_duplicates(["cell", *ARM, "requested_by", "second_text"], ignore_index=True)
    known = {t: held[c] for t, c in zip(plan["trajectory"], plan["cell"], strict=True) if c in held}
    if previous is not None:
        known = dict(zip(previous["trajectory"], previous["unit"], strict=True))
    plan["unit"] = [known.get(t, "") for t in plan["trajectory"]]
    fresh = plan[plan["unit"] == ""].drop_duplicates("trajectory")
    # Images of one batch are as long as its longest text, which would change its neighbours.
    fresh = fresh.assign(
        chunks=[
            max(arms[c].chunks(t) for t in texts)
            for c, *texts in zip(
                *(fresh[k] for k in ("checkpoint", "text", "negative_text", "second_text")),
                strict=True,
            )
        ]
    )
    settings = [*(f for f in ARM if f not in ("vae", "negative")), "switch", "chunks"]
    assigned: dict[str, str] = {}
    for _, group in fresh.groupby(settings, sort=False):
        trajectories = list(group["trajectory"])
        for start in range(0, len(trajectories), spec.batch_size):
            batch = trajectories[start : start + spec.batch_size]
            unit = canonical_digest(batch)[:16]
            assigned.update(dict.fromkeys(batch, unit))
    new = plan["unit"] == ""
    plan.loc[new, "unit"] = [assigned[t] for t in plan.loc[new, "trajectory"]]
    return plan


def units_of(plan: pd.DataFrame) -> list[Unit]:
    """The plan's units in order: those of one checkpoint follow each other."""
    order = {unit: i for i, unit in enumerate(dict.fromkeys(plan["unit"]))}
    grouped = {str(unit): rows for unit, rows in plan.groupby("unit", sort=False)}
    return [Unit(unit, grouped[unit]) for unit in sorted(grouped, key=order.__getitem__)]


def arm_labels(plan: pd.DataFrame) -> pd.Series:
    """A short name of each row's arm: only the factors that vary."""
    varying = [f for f in ARM if plan[f].nunique() > 1] or ["checkpoint"]
    parts = [
        plan[f].map(NUMBERED[f].format) if f in NUMBERED else plan[f].astype(str) for f in varying
    ]
    label = parts[0]
    for part in parts[1:]:
        label = label + " · " + part
    return label


def _cells(spec: Spec, prompts: list[Prompt], arms: Mapping[str, Arm]) -> Iterator[Cell]:
    seeds = spec.seeds.numbers
    for name, checkpoint in spec.checkpoints.items():
        arm = arms[name]
        for sampler, steps, guidance, size, negative, adapters in _settings(spec, checkpoint, arm):
            # Without guidance the negative is never read: such cells are one and the same.
            read = arm.reads_negative.get(guidance, guidance > 1)
            negative_text = spec.negatives.get(negative, negative) if read else ""
            for index, prompt in enumerate(prompts):
                text = text_of(spec, name, adapters, prompt.text)
                added = _added(spec, name, adapters, arm, text, negative_text)
                for seed in seeds:
                    noise = seed
                    if not spec.seeds.literal:
                        noise = noise_seed(prompt.text, seed, spec.seeds.shared)
                    trajectory = canonical_digest(
                        {
                            "text_encoder": arm.digests["text_encoder"],
                            "denoiser": arm.digests["denoiser"],
                            "scheduler": arm.schedulers[sampler],
                            "text": text,
                            "negative": negative_text,
                            "noise": noise,
                            "steps": steps,
                            "guidance": guidance,
                            "size": size,
                        }
                        | added
                    )
                    for vae, digest in arm.vaes.items():
                        yield Cell(
                            cell=canonical_digest({"trajectory": trajectory, "vae": digest}),
                            trajectory=trajectory,
                            unit="",
                            kind="made",
                            checkpoint=name,
                            vae=vae,
                            negative=negative,
                            sampler=sampler,
                            steps=steps,
                            guidance=guidance,
                            width=size[0],
                            height=size[1],
                            prompt_index=index,
                            prompt=prompt.text,
                            group=prompt.group,
                            seed=seed,
                            text=text,
                            negative_text=negative_text,
                            noise=noise,
                            vae_file=digest[:16],
                            adapters=adapters,
                        )


def text_of(spec: Spec, checkpoint: str, adapters: str, prompt: str) -> str:
    """What is encoded: the triggers of adapters and checkpoint, and the prompt."""
    return spec.adapters[adapters].trigger + spec.checkpoints[checkpoint].trigger + prompt


def _added(
    spec: Spec, checkpoint: str, adapters: str, arm: Arm, text: str, negative: str
) -> JsonObject:
    """What else decides a trajectory's pixels: nothing of what is not used."""
    added: JsonObject = {
        name: True for name in ("compile", "channels_last") if getattr(spec.runtime, name)
    }
    if arm.skipped_layers:
        added["skipped layers"] = arm.skipped_layers
    if arguments := spec.arguments_of(checkpoint):
        added["arguments"] = arguments
    loras = strengths(spec.checkpoints[checkpoint].loras, spec.adapters[adapters].loras)
    if loras:
        added["loras"] = [[arm.files[source], *both] for source, both in loras.items()]
    return added | _reading(spec, arm, (text, negative))


def _reading(spec: Spec, arm: Arm, texts: tuple[str, ...]) -> JsonObject:
    """How texts are read beyond their letters: embeddings that they name, and weights."""
    read: JsonObject = {}
    named = named_in("\n".join(texts), spec.embeddings)
    if named:
        read["embeddings"] = [[name, arm.files[spec.embeddings[name]]] for name in named]
    if spec.prompt_syntax != "none" and any(weighs(t) for t in texts):
        read["weighting"] = spec.prompt_syntax
    if any(arm.chunks(t) > 1 for t in texts):
        read["chunks"] = True
    return read


def _told_apart(spec: Spec, arm: Arm, cell: Cell) -> Cell:
    """A probe's cell, named also by how its own texts are read (a dose, a second prompt)."""
    read = _reading(spec, arm, (cell.text, cell.negative_text, cell.second_text))
    if not read:
        return cell
    trajectory = canonical_digest({"trajectory": cell.trajectory} | read)
    name = canonical_digest({"trajectory": trajectory, "vae": cell.vae_file})
    return cell._replace(cell=name, trajectory=trajectory)


def _settings(
    spec: Spec, checkpoint: CheckpointSpec, arm: Arm
) -> Iterable[tuple[str, int, float, tuple[int, int], str, str]]:
    samplers = [checkpoint.sampler] if checkpoint.sampler else list(spec.samplers)
    steps = [checkpoint.steps] if checkpoint.steps else spec.steps
    guidance = spec.guidance if checkpoint.guidance is None else [checkpoint.guidance]
    negatives = list(spec.negatives) if checkpoint.negative is None else [checkpoint.negative]
    sizes = spec.sizes or [arm.size]
    return itertools.product(samplers, steps, guidance, sizes, negatives, spec.adapters)
