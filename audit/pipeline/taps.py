"""The taps that a spec's instruments need; a run without such probes has none."""

from __future__ import annotations

from harness.spec.schema import Spec
from harness.taps import registry
from harness.taps.record import Tap
from probes.registry import instruments_of


def taps_of(spec: Spec) -> list[Tap]:
    """The taps that the spec's instruments need."""
    return registry.taps_of(spec, (i.inputs for i in instruments_of(spec)))
