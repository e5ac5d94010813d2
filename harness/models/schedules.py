"""Noise schedules by the WebUIs' names: at which noise levels a sampler steps.

The levels are sigmas, the noise's deviation beside an image's of 1, as k-diffusion counts them
(github.com/crowsonkb/k-diffusion). diffusers has three of the formulas, and takes some of them
over another range by class; here one formula goes with every sampler that steps from level to
level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.errors import AuditError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

Levels = NDArray[np.float64]
RHO = 7.0
"""Of Karras et al. 2022 (arXiv 2206.00364), eq. 5."""
BETA = 0.6
"""Both parameters of the beta distribution (arXiv 2407.12173)."""
SWITCHES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def levels(schedule: str, trained: Levels, steps: int) -> Levels:
    """Noise levels of a schedule, the largest first, without the 0 at its end.

    >>> levels("simple", np.array([1.0, 2.0, 3.0, 4.0]), 2)
    array([4., 2.])

    Args:
        schedule: One of `harness.spec.samplers.SCHEDULES`.
        trained: Levels that the denoiser was trained on, the smallest first.
        steps: Number of levels.
    """
    return _FORMULAS[schedule](trained, steps)


def trained_levels(scheduler: SchedulerMixin) -> Levels:
    """Levels that a checkpoint was trained on, the smallest first."""
    kept = scheduler.alphas_cumprod.double().numpy()
    return np.sqrt((1 - kept) / kept)


def follow(scheduler: SchedulerMixin, schedule: str) -> SchedulerMixin:
    """A scheduler like this one that steps at a schedule's levels.

    Args:
        scheduler: Made from its configuration alone.
        schedule: One of `harness.spec.samplers.SCHEDULES`.

    Raises:
        AuditError: It does not step from level to level, as DDIM does not.
    """
    kind = type(scheduler)
    trained = trained_levels(scheduler)
    made: Any
    if hasattr(kind, "_convert_to_exponential"):
        # Its own place for a schedule, in which second-order samplers put their steps between.
        known = [s for s in SWITCHES if s in scheduler.config]
        changes = dict.fromkeys(known, False) | {"use_exponential_sigmas": True}
        made = kind.from_config(scheduler.config, **changes)
        made._convert_to_exponential = lambda in_sigmas, num_inference_steps: levels(
            schedule, trained, num_inference_steps
        )
    elif kind.__name__ == "EulerAncestralDiscreteScheduler":  # it has no such place
        made = kind.from_config(scheduler.config)
        made.set_timesteps = _stepping(made, schedule, trained)
    else:
        raise AuditError(
            f"schedule: {schedule!r}: {kind.__name__} does not step from noise level to level"
        )
    made.register_to_config(schedule=schedule)
    return made


def _stepping(scheduler: Any, schedule: str, trained: Levels) -> Callable[..., None]:
    plain = scheduler.set_timesteps

    def set_timesteps(num_inference_steps: int, device: str | torch.device | None = None) -> None:
        plain(num_inference_steps, device=device)
        wanted = levels(schedule, trained, num_inference_steps)
        scheduler.sigmas = torch.tensor([*wanted, 0.0], dtype=torch.float32)
        scheduler.timesteps = torch.tensor(
            _steps_of(wanted, trained), dtype=torch.float32, device=device
        )

    return set_timesteps


def _steps_of(wanted: Levels, trained: Levels) -> Levels:
    """Training steps at which those levels are, between two by the level's logarithm."""
    return np.interp(np.log(wanted), np.log(trained), np.arange(len(trained)))


def _at_steps(steps: Levels, trained: Levels) -> Levels:
    return np.exp(np.interp(steps, np.arange(len(trained)), np.log(trained)))


def _uniform(trained: Levels, steps: int) -> Levels:
    """Training steps in equal distances, from the last to the first."""
    return _at_steps(np.linspace(len(trained) - 1, 0, steps), trained)


def _sgm_uniform(trained: Levels, steps: int) -> Levels:
    """As uniform, the first training step left out: the 0 behind stands in its place."""
    return _at_steps(np.linspace(len(trained) - 1, 0, steps + 1)[:-1], trained)


def _simple(trained: Levels, steps: int) -> Levels:
    """Every so many-th training level, counted from the last."""
    back = 1 + (np.arange(steps) * (len(trained) / steps)).astype(int)
    return trained[-back]


def _karras(trained: Levels, steps: int) -> Levels:
    last, first = trained[0] ** (1 / RHO), trained[-1] ** (1 / RHO)
    return (first + np.linspace(0, 1, steps) * (last - first)) ** RHO


def _exponential(trained: Levels, steps: int) -> Levels:
    return np.exp(np.linspace(np.log(trained[-1]), np.log(trained[0]), steps))


def _beta(trained: Levels, steps: int) -> Levels:
    from scipy import stats

    parts = stats.beta.ppf(1 - np.linspace(0, 1, steps), BETA, BETA)
    return trained[0] + parts * (trained[-1] - trained[0])


_FORMULAS: dict[str, Callable[[Levels, int], Levels]] = {
    "uniform": _uniform,
    "karras": _karras,
    "exponential": _exponential,
    "beta": _beta,
    "sgm uniform": _sgm_uniform,
    "simple": _simple,
}
