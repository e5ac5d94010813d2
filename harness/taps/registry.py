"""Which taps are attached: those that the instruments need; a run without such probes has none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.spec.schema import Spec
from harness.taps.record import Tap


def taps_of(spec: Spec, inputs: Iterable[frozenset[str]]) -> list[Tap]:
    """The taps that the spec's instruments need."""
    wanted = frozenset[str]().union(*inputs)
    return [make(spec) for name, make in _makers().items() if name in wanted]


def _makers() -> dict[str, Any]:
    from harness.taps.activations import ActivationsTap
    from harness.taps.attention_record import AttentionRecorder
    from harness.taps.guidance import GuidanceTap
    from harness.taps.trajectory import StepsTap

    makers = (AttentionRecorder, StepsTap, ActivationsTap, GuidanceTap)
    return {make.name: make for make in makers}
