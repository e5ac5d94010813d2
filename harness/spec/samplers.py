"""Samplers by the names that people know: schedulers of diffusers, with the settings they mean.

Any other scheduler of diffusers goes by the name of its class, such as 'DEISMultistepScheduler'.
Behind either may stand the noise schedule that the WebUIs call schedule type: 'euler beta'.
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
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++ 2m karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm++ 2m sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
SCHEDULES = ("uniform", "karras", "exponential", "beta", "sgm uniform", "simple")
"""What `harness.models.schedules` has a formula for."""
CLASS = re.compile(r"[A-Z][A-Za-z0-9]*Scheduler")
"""The name of a class of schedulers; whether diffusers has it is seen where it is loaded."""
NAMED = (
    f"({'|'.join(map(re.escape, SHORT))}|{CLASS.pattern})( ({'|'.join(SCHEDULES)}))?"  # for editors
)


def split(name: str) -> tuple[str, str | None]:
    """A sampler's name and the schedule that stands behind it.

    >>> split("euler sgm uniform"), split("dpm++ 2m karras"), split("heun")
    (('euler', 'sgm uniform'), ('dpm++ 2m karras', None), ('heun', None))
    """
    if name not in SHORT:
        for schedule in sorted(SCHEDULES, key=len, reverse=True):
            if name.endswith(f" {schedule}"):
                return name.removesuffix(schedule).rstrip(), schedule
    return name, None


def spelled(name: object) -> object:
    """A sampler's name as it is spelled here: A1111 and others write capitals.

    >>> spelled("DPM++ 2M Karras"), spelled("Euler a"), spelled("DEISMultistepScheduler Beta")
    ('dpm++ 2m karras', 'euler a', 'DEISMultistepScheduler beta')
    """
    if not isinstance(name, str):
        return name
    small = " ".join(name.casefold().split())
    if small == OWN or split(small)[0] in SHORT:
        return small
    schedule = split(small)[1]
    return f"{name.strip()[: -len(schedule)].rstrip()} {schedule}" if schedule else name


def names_a_sampler(name: str) -> bool:
    """Whether a name is 'own', one of the short names, or that of a class, with a schedule or not.

    >>> names_a_sampler("euler beta"), names_a_sampler("own beta"), names_a_sampler("eulr")
    (True, False, False)
    """
    sampler, schedule = split(name)
    if sampler == OWN:
        return schedule is None
    return sampler in SHORT or bool(CLASS.fullmatch(sampler))


def class_of(name: str) -> tuple[str, JsonObject]:
    """Class and settings of a sampler's name other than 'own', without a schedule."""
    return SHORT.get(name, (name, {}))
