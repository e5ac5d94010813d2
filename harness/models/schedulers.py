"""Samplers by name, each on the checkpoint's own noise schedule or refused.

A scheduler of diffusers takes over another's settings and keeps those that it does not know
without a word, so that an arm could run on another noise schedule than its neighbour.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import diffusers
import torch

from harness.errors import AuditError, reason
from harness.spec.samplers import OWN, SHORT, class_of
from harness.text import nearest

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

NOISE_SETTINGS = (
    *("rescale_betas_zero_snr", "trained_betas", "beta_start", "beta_end", "beta_schedule"),
    *("prediction_type", "timestep_spacing", "num_train_timesteps"),
)
"""Settings that say which noise the denoiser was trained on and what it predicts."""
SAME_SCHEDULE = 1e-6
"""Samplers put a last value of 0 up to 6e-8 (2 ** -24), so that they can divide by it."""


def sampler(own: SchedulerMixin, name: str) -> SchedulerMixin:
    """The scheduler of that name, on the checkpoint's own noise schedule.

    Args:
        own: Scheduler of the checkpoint.
        name: 'own', a short name, or the name of a scheduler's class in diffusers.

    Raises:
        AuditError: The checkpoint follows a flow, which only its own sampler does, or the sampler
            cannot follow its noise schedule.
    """
    if name == OWN:
        return own
    if own is None or "beta_start" not in own.config:
        kind = type(own).__name__
        raise AuditError(f"samplers: {name!r} does not go with the checkpoint's {kind}; use 'own'")
    known = scheduler_classes()
    if class_of(name)[0] not in known:
        raise AuditError(
            f"samplers: {name!r} is no scheduler of diffusers {diffusers.__version__}; "
            f"{nearest(name, known)}"
        )
    try:
        made = _scheduler(own, name)
    except (NotImplementedError, ValueError, TypeError, ImportError) as error:
        raise AuditError(
            f"samplers: {name!r} cannot follow the checkpoint's noise schedule "
            f"({reason(error, 120)}); use 'own'"
        ) from None
    unknown = ignored_settings(made)
    if unknown or not _same_schedule(own, made):
        what = ", ".join(unknown) or "one that its own sampler does not know"
        fitting = [n for n in SHORT if n != name and _follows(own, n)]
        raise AuditError(
            f"samplers: {name!r} does not follow the checkpoint's noise schedule ({what}); those "
            f"that do: {', '.join([OWN, *fitting])}"
        )
    return made


def scheduler_classes() -> list[str]:
    """Names of the schedulers for images that diffusers has."""
    return [
        name
        for name in dir(diffusers)
        if name.endswith("Scheduler") and not name.startswith(("Flax", "KarrasVe", "ScoreSde"))
    ]


def ignored_settings(scheduler: SchedulerMixin) -> list[str]:
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


def _scheduler(own: SchedulerMixin, name: str) -> SchedulerMixin:
    class_name, changes = class_of(name)
    return getattr(diffusers, class_name).from_config(own.config, **changes)


def _follows(own: SchedulerMixin, name: str) -> bool:
    try:
        made = _scheduler(own, name)
    except (NotImplementedError, ValueError, TypeError, ImportError):
        return False
    return not ignored_settings(made) and _same_schedule(own, made)


def _same_schedule(own: SchedulerMixin, made: SchedulerMixin) -> bool:
    """Whether two schedulers add the same noise at every training step."""
    a, b = own.alphas_cumprod, getattr(made, "alphas_cumprod", torch.zeros(0))
    if a.shape != b.shape:
        return False
    return bool(torch.allclose(a.double(), b.double(), rtol=0, atol=SAME_SCHEDULE))
