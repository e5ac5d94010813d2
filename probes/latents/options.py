"""Options of the probe `latents`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from probes.contracts import ProbeOptions


class LatentsOptions(ProbeOptions):
    """Options of the probe `latents`.

    Attributes:
        watch: number of steps, the last among them, whose activations are kept.
        umap: also draw UMAP planes.
    """

    watch: Annotated[int, Field(ge=1, le=50)] = 3
    umap: bool = True
