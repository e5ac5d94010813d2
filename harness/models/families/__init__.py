"""Families of text-to-image pipelines, a module each: see `base` for what a family is.

A family names the classes of pipelines that it is for in `pipelines`. Modules of this package are
found by their place; other packages register a class under `diffusion_audit.families`. A pipeline
that no family names runs as `Other`.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from harness.models.families.base import Family
from harness.models.families.other import Other

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

GROUP = "diffusion_audit.families"


def family(pipe: DiffusionPipeline) -> Family:
    """The family of a loaded pipeline.

    Raises:
        AuditError: It generates no images from a prompt.
    """
    return families().get(type(pipe).__name__, Other)(pipe)


@cache
def families() -> dict[str, type[Family]]:
    """Families by the name of a pipeline's class."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    for entry in entry_points(group=GROUP):
        entry.load()
    found: dict[str, type[Family]] = {}
    waiting: list[type[Family]] = [Family]
    while waiting:
        one = waiting.pop()
        waiting += one.__subclasses__()
        found |= dict.fromkeys(one.__dict__.get("pipelines", ()), one)
    return found
