"""Samplers by name, each on the checkpoint's own noise schedule or refused.

A scheduler of diffusers takes over another's settings and keeps those that it does not know
without a word, so that an arm could run on another noise schedule than its neighbour.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import diffusers
import torch

from harness.errors import AuditError, reason
from harness.json_types import JsonObject
from harness.models.schedules import follow
from harness.spec.samplers import OWN, SHORT, class_of
from harness.text import nearest

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

NOISE_SETTINGS = (
    *("rescale_betas_zero_snr", "trained_betas", "beta_start", "beta_end", "beta_schedule"),
    *("prediction_type", "timestep_spacing", "num_train_timesteps"),
)
"""Settings that say which noise the denoiser was trained on and what it predicts."""
TRAINED = frozenset(NOISE_SETTINGS) - {"timestep_spacing"}
"""Those of them that a sampler may not change."""
SAME_SCHEDULE = 1e-6
"""Samplers put a last value of 0 up to 6e-8 (2 ** -24), so that they can divide by it."""


def sampler(
    own: SchedulerMixin,
    name: str,
    schedule: str | None = None,
    arguments: Mapping[str, object] = MappingProxyType({}),
) -> SchedulerMixin:
    """The scheduler of that name, on the checkpoint's own noise schedule.

    Args:
        own: Scheduler of the checkpoint.
        name: 'own', a short name, or the name of a scheduler's class in diffusers.
        schedule: One of `harness.spec.samplers.SCHEDULES`: at which noise levels it steps.
        arguments: Of its class, in place of the checkpoint's.

    Raises:
        AuditError: The checkpoint follows a flow, which only its own sampler does, or the sampler
            cannot follow its noise schedule, or it does not take that schedule or those arguments.
    """
    if name == OWN and not schedule and not arguments:
        return own
    _check_own(own, name, schedule)
    class_name, changes = (type(own).__name__, {}) if name == OWN else class_of(name)
    known = scheduler_classes()
    if class_name not in known:
        raise AuditError(
            f"samplers: {name!r} is no scheduler of diffusers {diffusers.__version__}; "
            f"{nearest(name, known)}"
        )
    _check_arguments(class_name, arguments)
    try:
        made = _scheduler(own, class_name, changes | dict(arguments))
        if schedule:
            made = follow(made, schedule)
        if schedule or arguments:
            made.set_timesteps(4)  # what does not go together is often found out only here
    except (NotImplementedError, ValueError, TypeError, ImportError, AttributeError) as error:
        with_what = f" with {dict(arguments)}" if arguments else ""
        raise AuditError(
            f"samplers: {name!r}{with_what} cannot follow the checkpoint's noise schedule "
            f"({reason(error, 120)}); use 'own'"
        ) from None
    if name == OWN:
        return made
    # A schedule stands in the place of a spacing.
    unknown = [k for k in ignored_settings(made) if not (schedule and k == "timestep_spacing")]
    if unknown or not _same_schedule(own, made):
        what = ", ".join(unknown) or "one that its own sampler does not know"
        fitting = [n for n in SHORT if n != name and _follows(own, n)]
        raise AuditError(
            f"samplers: {name!r} does not follow the checkpoint's noise schedule ({what}); those "
            f"that do: {', '.join([OWN, *fitting])}"
        )
    return made


def with_zero_terminal_snr(own: SchedulerMixin) -> SchedulerMixin:
    """A checkpoint's scheduler whose last training step is noise alone (arXiv 2305.08891).

    Args:
        own: Scheduler of the checkpoint. Where its class does not know the setting, DDIM, as in
            the paper, stands in its place.

    Raises:
        AuditError: The checkpoint follows a flow, whose last step is noise alone anyway.
    """
    if not _is_of_betas(own):
        kind = type(own).__name__
        raise AuditError(f"zero_terminal_snr: does not go with the checkpoint's {kind}")
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    knows = "rescale_betas_zero_snr" in inspect.signature(type(own).__init__).parameters
    return _scheduler(own, type(own).__name__ if knows else "DDIMScheduler", changes)


def _is_of_betas(own: SchedulerMixin) -> bool:
    """Whether the checkpoint was trained on noise by betas, and not on a flow."""
    return own is not None and "beta_start" in own.config


def _check_own(own: SchedulerMixin, name: str, schedule: str | None) -> None:
    """Refuse what only a checkpoint that was trained on noise by betas can do."""
    if _is_of_betas(own) or (own is not None and name == OWN and not schedule):
        return
    what = f"schedule {schedule!r}" if schedule else repr(name)
    advice = "use 'own', and arguments of its class" if schedule else "use 'own'"
    kind = type(own).__name__
    raise AuditError(f"samplers: {what} does not go with the checkpoint's {kind}; {advice}")


def _check_arguments(class_name: str, arguments: Mapping[str, object]) -> None:
    known = list(inspect.signature(getattr(diffusers, class_name).__init__).parameters)[1:]
    for key in arguments:
        if key not in known:
            raise AuditError(
                f"samplers: arguments: {key!r}: {class_name} has no such argument; "
                f"{nearest(key, known)}"
            )
        if key in TRAINED:
            raise AuditError(
                f"samplers: arguments: {key!r} says what the denoiser was trained on, and is the "
                "checkpoint's"
            )


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


def _scheduler(own: SchedulerMixin, class_name: str, changes: JsonObject) -> SchedulerMixin:
    return getattr(diffusers, class_name).from_config(own.config, **changes)


def _follows(own: SchedulerMixin, name: str) -> bool:
    try:
        made = _scheduler(own, *class_of(name))
    except (NotImplementedError, ValueError, TypeError, ImportError):
        return False
    return not ignored_settings(made) and _same_schedule(own, made)


def _same_schedule(own: SchedulerMixin, made: SchedulerMixin) -> bool:
    """Whether two schedulers add the same noise at every training step."""
    a, b = own.alphas_cumprod, getattr(made, "alphas_cumprod", torch.zeros(0))
    if a.shape != b.shape:
        return False
    return bool(torch.allclose(a.double(), b.double(), rtol=0, atol=SAME_SCHEDULE))
