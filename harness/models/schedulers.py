"""Samplers by name, each on the checkpoint's own noise schedule or refused.

A scheduler of diffusers takes over another's settings and keeps those that it does not know
without a word, so that an arm could run on another noise schedule than its neighbour.
"""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch

from harness.errors import AuditError, reason

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++ 2m karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm++ sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
NOISE_SETTINGS = (
    *("rescale_betas_zero_snr", "trained_betas", "beta_start", "beta_end", "beta_schedule"),
    *("prediction_type", "timestep_spacing", "num_train_timesteps"),
)
"""Settings that say which noise the denoiser was trained on and what it predicts."""
SAME_SCHEDULE = 1e-6
"""Samplers put a last value of 0 up to 6e-8 (2 ** -24), so that they can divide by it."""


def sampler(own: Any, name: str) -> Any:
    """The scheduler of that name, on the checkpoint's own noise schedule.

    Args:
        own: Scheduler of the checkpoint.
        name: 'own', or a key of `SCHEDULERS`.

    Raises:
        AuditError: The checkpoint follows a flow, which only its own sampler does, or the sampler
            cannot follow its noise schedule.
    """
    if name == "own":
        return own
    if own is None or "beta_start" not in own.config:
        kind = type(own).__name__
        raise AuditError(f"samplers: {name!r} does not go with the checkpoint's {kind}; use 'own'")
    try:
        made = _scheduler(own, name)
    except (NotImplementedError, ValueError) as error:
        raise AuditError(
            f"samplers: {name!r} cannot follow the checkpoint's noise schedule "
            f"({reason(error, 120)}); use 'own'"
        ) from None
    unknown = ignored_settings(made)
    if unknown or not _same_schedule(own, made):
        what = ", ".join(unknown) or "one that its own sampler does not know"
        fitting = [n for n in SCHEDULERS if n != name and _follows(own, n)]
        raise AuditError(
            f"samplers: {name!r} does not follow the checkpoint's noise schedule ({what}); those "
            f"that do: {', '.join(['own', *fitting])}"
        )
    return made


def ignored_settings(scheduler: Any) -> list[str]:
    """Noise settings in a scheduler's configuration that its class does not know.

    Args:
        scheduler: Scheduler of diffusers, or None.

    Returns:
        Names of settings that are set (not False or None) and have no effect.
    """
    if scheduler is None:
        return []
    known = inspect.signature(type(scheduler).__init__).parameters
    config = scheduler.config
    return [k for k in NOISE_SETTINGS if config.get(k) not in (None, False) and k not in known]


def _scheduler(own: Any, name: str) -> Any:
    class_name, changes = SCHEDULERS[name]
    return getattr(diffusers, class_name).from_config(own.config, **changes)


def _follows(own: Any, name: str) -> bool:
    try:
        made = _scheduler(own, name)
    except (NotImplementedError, ValueError):
        return False
    return not ignored_settings(made) and _same_schedule(own, made)


def _same_schedule(own: Any, made: Any) -> bool:
    """Whether two schedulers add the same noise at every training step."""
    a, b = own.alphas_cumprod, made.alphas_cumprod
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=0, atol=SAME_SCHEDULE))
