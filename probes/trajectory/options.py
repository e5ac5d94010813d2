"""Options of the probe `steps`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from probes.contracts import ProbeOptions


class Switch(ProbeOptions):
    """The causal test of when something is decided: exchange the prompt while denoising.

    Attributes:
        first: a prompt of the suite; its images are generated anew.
        second: what the denoiser reads from step s on.
        at: the steps s; 0 is the second prompt throughout, on the noise of the first.
    """

    first: str
    second: str
    at: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)


class StepsOptions(ProbeOptions):
    """Options of the probe `steps`.

    Attributes:
        watch: number of steps, the last among them, whose predicted image is decoded.
        switches: tests of when something is decided.
    """

    watch: Annotated[int, Field(ge=1, le=50)] = 5
    switches: tuple[Switch, ...] = ()
