"""Samplers by the names that people know: schedulers of diffusers, with the settings they mean.

Any other scheduler of diffusers goes by the name of its class, such as 'DEISMultistepScheduler'.
"""

from __future__ import annotations

import re

from harness.json_types import JsonObject

OWN = "own"
"""The checkpoint's own scheduler."""
SHORT: dict[str, tuple[str, JsonObject]] = {
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
CLASS = re.compile(r"[A-Z][A-Za-z0-9]*Scheduler")
"""The name of a class of schedulers; whether diffusers has it is seen where it is loaded."""


def spelled(name: object) -> object:
    """A sampler's name as it is spelled here: A1111 and others write capitals.

    >>> spelled("DPM++ 2M Karras"), spelled("Euler a"), spelled("DEISMultistepScheduler")
    ('dpm++ 2m karras', 'euler a', 'DEISMultistepScheduler')
    """
    small = name.strip().casefold() if isinstance(name, str) else ""
    return small if small in SHORT or small == OWN else name


def names_a_sampler(name: str) -> bool:
    """Whether a name is 'own', one of the short names, or that of a class."""
    return name == OWN or name in SHORT or bool(CLASS.fullmatch(name))


def class_of(name: str) -> tuple[str, JsonObject]:
    """Class and settings of a sampler's name other than 'own'."""
    return SHORT.get(name, (name, {}))
