"""What the sampler believes the image to be at each step, and prompts exchanged on the way.

Predicted x0 is read from the sampler itself: its own `step` computes it, so that every sampler's
parameterisation and guidance are right by construction. Nothing that the pipeline gets is changed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from harness.json_types import JsonObject
from harness.models.families import family
from harness.models.families.base import Family
from harness.store.run import Run
from harness.taps import record as taps
from harness.taps.record import Record, Tap
from harness.taps.watched_steps import watched_steps

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin


class StepsTap:
    """The tap `steps`: keeps predicted x0 of some forwards, the last among them.

    Arrays: x0, (watched, channels, height, width), fp32, in the space of final latents. Notes:
    steps (their numbers, from 0), forwards, why (where the sampler tells no x0).
    """

    name = "steps"

    def __init__(self, watch: int) -> None:
        self.watch_count = watch
        self._done: list[Record] = []

    def cache_key(self) -> JsonObject:
        """Version and settings."""
        return {"version": "1", "watch": self.watch_count}

    @contextmanager
    def watch(self, pipe: DiffusionPipeline, rows: pd.DataFrame, count: int) -> Iterator[None]:
        """Follow one denoising."""
        steps = watched_steps(int(rows["steps"].iloc[0]), self.watch_count)
        seen: list[tuple[int, torch.Tensor]] = []
        forwards = [0]
        named, scheduler = family(pipe), pipe.scheduler
        if not named.inside:
            yield
            notes = {"steps": [], "forwards": -1, "why": "what is inside is not known here"}
            self._done = [Record({}, notes)] * count
            return
        height, width = int(rows["height"].iloc[0]), int(rows["width"].iloc[0])
        plain = scheduler.step

        @functools.wraps(plain)  # the pipeline asks for the signature
        def step(*args: Any, **kwargs: object) -> object:
            out = plain(*args, **kwargs)
            found = predicted(scheduler, out)
            if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
                found = on_the_flow(scheduler, args[0], args[2])
            if found is not None and forwards[0] in steps:
                found = named.latents(found[:count].detach(), height, width)
                seen.append((forwards[0], found.float().cpu()))
            forwards[0] += 1
            return out

        scheduler.step = step
        try:
            yield
        finally:
            del scheduler.step
        why = "" if seen else f"{type(scheduler).__name__} tells no predicted image"
        notes = {"steps": [s for s, _ in seen], "forwards": forwards[0], "why": why}
        self._done = [
            Record({"x0": np.stack([x[i].numpy() for _, x in seen])} if seen else {}, notes)
            for i in range(count)
        ]

    def records(self) -> list[Record]:
        """Of the batch just watched."""
        return self._done


def predicted(scheduler: SchedulerMixin, out: Any) -> torch.Tensor | None:
    """Predicted x0 from what a scheduler's step has returned or kept; None where it tells none.

    Most return it beside the next sample; multistep solvers that work on x0 keep it.
    """
    if isinstance(out, tuple) and len(out) > 1:
        found: torch.Tensor = out[1]
        return found
    for name in ("pred_original_sample", "denoised"):
        told: torch.Tensor | None = getattr(out, name, None)
        if told is not None:
            return told
    config = scheduler.config
    on_x0 = str(config.get("algorithm_type", "")).endswith("++") or config.get("predict_x0", False)
    kept = getattr(scheduler, "model_outputs", None)
    if on_x0 and kept and kept[-1] is not None:
        last: torch.Tensor = kept[-1]
        return last
    return None


def on_the_flow(
    scheduler: FlowMatchEulerDiscreteScheduler, velocity: torch.Tensor, sample: torch.Tensor
) -> torch.Tensor:
    """Predicted x0 of the step just taken: x = (1 − σ) x0 + σ noise, velocity = noise − x0."""
    return sample.float() - scheduler.sigmas[scheduler.step_index - 1] * velocity.float()


def predicted_latents(
    run: Run, watchers: Sequence[Tap], unit: str, rows: pd.DataFrame, step: int
) -> tuple[torch.Tensor, str]:
    """Predicted latents of some trajectories at one step, or why there are none."""
    tap = next((t for t in watchers if t.name == StepsTap.name), None)
    records = taps.read(run, taps.folder(tap), unit) if tap else {}
    found = []
    for trajectory in rows["trajectory"]:
        record = records.get(trajectory)
        if record is None or step not in record.notes["steps"]:
            return torch.zeros(0), record.notes["why"] if record else "its steps were not followed"
        found.append(torch.from_numpy(record.arrays["x0"][record.notes["steps"].index(step)]))
    return torch.stack(found), ""


def switching(
    named: Family, step: int, first: JsonObject, second: dict[str, torch.Tensor]
) -> JsonObject:
    """Arguments of a pipeline call that exchange the prompt before forward `step`.

    Args:
        named: The pipeline's family.
        step: From 1 on; the number of steps or more exchanges nothing.
        first: The call's own arguments so far.
        second: What the denoiser reads from then on, as `Generator.embed` gives it, one row an
            image. Of a guided batch the negative half stays.
    """
    fixed, renamed = named.fixed_over_steps & second.keys(), named.renamed_in_loop
    tensors = {renamed.get(key, key): v for key, v in second.items() if key not in fixed}

    def exchange(pipe: DiffusionPipeline, index: int, time: object, held: JsonObject) -> JsonObject:
        if index + 1 != step:
            return {}
        for key in fixed:  # no callback is given it, but the loop reads this very tensor
            first[key].copy_(second[key])
        return {
            key: torch.cat([held[key][: -len(value)], value.to(held[key])])
            for key, value in tensors.items()
        }

    return {
        "callback_on_step_end": exchange,
        "callback_on_step_end_tensor_inputs": list(tensors),
    }
