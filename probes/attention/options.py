"""Options of the probe `attention`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from probes.contracts import ProbeOptions


class AttentionOptions(ProbeOptions):
    """Options of the probe `attention`.

    Attributes:
        maps: keep the maps of the first so many seeds of every prompt; numbers are kept of all.
        negative: also follow the negative prompt's half, where guidance has one.
        layers: also keep each layer's share of attention by word.
        stages: also keep the kept maps of so many equal parts of the noise levels; 0: of none.
    """

    maps: Annotated[int, Field(ge=0)] = 1
    negative: bool = False
    layers: bool = False
    stages: Annotated[int, Field(ge=0, le=10)] = 0
