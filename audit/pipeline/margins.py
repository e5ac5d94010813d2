"""What the gate accepts: margins by metric, from the metrics' own declarations and the spec.

The gate's own metrics (bias, CLIP score, diversity) always count, with default margins. Any other
metric that an instrument declares is gated where the spec gives it a margin, by its id
COLUMN/INSTRUMENT (such as 'delta_e/fidelity'), or where it declares a margin of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple

from harness.errors import AuditError
from harness.spec.schema import Spec
from harness.spec.sections import GateSpec
from probes.contracts import Instrument, MetricSpec
from probes.instruments.cell_values import declared
from probes.registry import Broken, chosen, instruments_of

MARGINS = {
    "distance": 0.1,
    "share": 0.05,
    "not-counted": 0.05,
    "likeness": 0.05,
    "diversity": 0.1,
    "prompt": 0.15,
}
"""Of the gate's own metrics, by kind; docs/gate.md has the reasons."""

MOVED = "moved"
"""Kind of the change of images of the same seed."""
ASKED_FOR = (MOVED,)
"""Kinds of the gate's own metrics that have no default margin: gated where the spec gives one."""

KINDS = (*MARGINS, *ASKED_FOR)
"""Of all the gate's own metrics."""


class Gated(NamedTuple):
    """A declared metric that the gate holds against a margin."""

    key: str
    """COLUMN/INSTRUMENT."""
    instrument: Instrument
    metric: MetricSpec
    margin: float


def key_of(metric: MetricSpec, instrument: Instrument) -> str:
    """The id of a declared metric in the gate: COLUMN/INSTRUMENT."""
    return f"{metric.column}/{instrument.name}"


def margin_of(gate: GateSpec, key: str) -> float:
    """The margin of one of the gate's own metrics by its id, such as 'share/clip.gender/woman'."""
    kind = key.split("/")[0]
    default = MARGINS.get(kind, inf)
    return gate.margins.get(key, gate.margins.get(kind, default))


def asked_for(gate: GateSpec, kind: str) -> bool:
    """Whether a spec gives a margin to a kind that has no default one, or to one of its metrics."""
    return any(name.split("/")[0] == kind for name in gate.margins)


def gated(spec: Spec, rules: GateSpec | None = None) -> list[Gated]:
    """The declared metrics of a spec that are gated, with their margins.

    Args:
        spec: A spec.
        rules: The baseline's rules, for a candidate; None: the spec's own.

    Raises:
        AuditError: A margin of its own names no metric, or one of the gate's own is above 1.
    """
    instruments = instruments_of(spec)
    if rules is None:
        refuse_unknown(spec, instruments)
    margins = (rules or spec.gate).margins
    found = []
    for instrument in instruments:
        for metric in declared(instrument):
            key = key_of(metric, instrument)
            margin = margins.get(key, metric.default_margin)
            if margin is not None:
                found.append(Gated(key, instrument, metric, margin))
    return found


def refuse_unknown(spec: Spec, instruments: Sequence[Instrument]) -> None:
    """Refuse a margin of no metric; full ids of the gate's own are checked where they are known.

    What a probe that cannot be loaded would have measured is not known: nothing is refused then.
    """
    gate = spec.gate
    if gate.margins and any(isinstance(c.probe, Broken) for c in chosen(spec)):
        return
    others = [key_of(m, i) for i in instruments for m in declared(i)]
    for name, margin in gate.margins.items():
        own = name.split("/")[0] in KINDS
        if own and margin > 1:
            raise AuditError(f"gate.margins.{name}: {margin:g} is more than 1, all that there is")
        if not own and name not in others:
            raise AuditError(f"gate.margins: no metric {name!r}; available: {_listed(others)}")


def _listed(others: Iterable[str]) -> str:
    return ", ".join([*KINDS, *sorted(others)])
