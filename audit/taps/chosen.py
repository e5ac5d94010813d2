"""Which taps are attached: those that the instruments need; a run without such probes has none."""

from __future__ import annotations

from typing import Any

from audit.spec import Spec
from audit.taps.store import Tap
from probes import instruments_of


def taps_of(spec: Spec) -> list[Tap]:
    """The taps that the spec's instruments need."""
    wanted = frozenset[str]().union(*(i.needs for i in instruments_of(spec)))
    return [make(spec) for name, make in _makers().items() if name in wanted]


def _makers() -> dict[str, Any]:
    from audit.taps.activations import ActivationsTap
    from audit.taps.attention_record import AttentionRecorder
    from audit.taps.guidance import GuidanceTap
    from audit.taps.steps import StepsTap

    makers = (AttentionRecorder, StepsTap, ActivationsTap, GuidanceTap)
    return {make.name: make for make in makers}
