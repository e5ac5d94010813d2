"""Which probes there are: a folder of this package each, and the entry points of other packages.

A folder is a probe where it holds `probe.py`, whose class is decorated with `register`. Others
register theirs under `diffusion_audit.probes`, by the probe's name. One that cannot be loaded
fails in the runs that name it, and costs no other probe anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

import probes
from harness.errors import AuditError, one_line
from harness.spec.mistakes import mistakes
from probes.contracts import AnalysisInput, Instrument, Probe, ProbeOptions, Result

if TYPE_CHECKING:
    from harness.spec.schema import Spec
    from harness.taps.record import Tap

GROUP = "diffusion_audit.probes"
AnyProbe = Probe[Any]
_REGISTRY: dict[str, AnyProbe] = {}


class Chosen(NamedTuple):
    """A probe that a spec names, with its options."""

    probe: AnyProbe
    options: ProbeOptions


class Broken(Probe[ProbeOptions]):
    """Stands for a probe that cannot be loaded: its analysis fails with the reason.

    Args:
        name: Name of the probe, as a spec says it.
        reason: Why it cannot be loaded, in one line.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason  # type: ignore[misc]  # of this object alone

    def analyse(self, given: AnalysisInput[ProbeOptions]) -> Result:
        """Raises AuditError with the reason."""
        raise AuditError(f"the probe cannot be loaded: {self.reason}")


def register(probe: type[AnyProbe]) -> type[AnyProbe]:
    """Class decorator: add a probe to the registry under its name."""
    _REGISTRY[probe.name] = probe()
    return probe


def registry() -> dict[str, AnyProbe]:
    """All probes by name: the folders of this package, and other packages' entry points."""
    return _broken() | _REGISTRY


@cache
def _broken() -> dict[str, AnyProbe]:
    """Load every probe once; gives those that cannot be loaded."""
    failed: dict[str, AnyProbe] = {}
    for file in sorted(Path(probes.__path__[0]).glob("*/probe.py")):
        name = file.parent.name
        try:
            import_module(f"probes.{name}.probe")
        except Exception as error:
            failed[name] = Broken(name, f"probes.{name}: {one_line(error)}")
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            failed[entry.name] = Broken(entry.name, f"{entry.value}: {one_line(error)}")
    return failed


def mistakes_in(named: Mapping[str, object]) -> list[str]:
    """What is wrong with the probes and options that a spec names, one line each.

    Args:
        named: Options by probe, as the spec's key `probes` has them.
    """
    known, found = registry(), []
    for name, options in named.items():
        if name not in known:
            found.append(
                f"probes: unknown probe {name!r}; available: {', '.join(sorted(known))} "
                "(docs/add-a-probe.md says how to add one)"
            )
        elif not isinstance(known[name], Broken):
            model = known[name].Options
            try:
                model.model_validate(options)
            except ValidationError as error:
                found += mistakes(error, model, f"probes.{name}")
    return found


def chosen(spec: Spec) -> list[Chosen]:
    """The probes that a spec names with their options, in its order.

    Raises:
        AuditError: No such probe, or no such option: one line each.
    """
    found = mistakes_in(spec.probes)
    if found:
        raise AuditError("\n".join(found))
    known = registry()
    return [
        Chosen(
            known[name],
            ProbeOptions() if isinstance(known[name], Broken) else known[name].Options(**options),
        )
        for name, options in spec.probes.items()
    ]


def options_of(spec: Spec, name: str) -> ProbeOptions:
    """The options of one probe; its defaults where the spec does not name it."""
    model: type[ProbeOptions] = registry()[name].Options
    return model(**spec.probes.get(name, {}))


def instruments_of(spec: Spec) -> list[Instrument]:
    """The instruments of all probes that the spec names, each once."""
    made: list[Instrument] = []
    for probe, options in chosen(spec):
        made += probe.instruments(options, spec)
    return list({i.name: i for i in made}.values())


def taps_of(spec: Spec, instruments: Iterable[Instrument]) -> list[Tap]:
    """The taps that these instruments need, each once; a run without such probes has none."""
    wanted = frozenset[str]().union(*(i.inputs for i in instruments))
    made: list[Tap] = []
    for probe, options in chosen(spec):
        made += probe.taps(options, spec)
    return [tap for tap in {t.name: t for t in made}.values() if tap.name in wanted]
