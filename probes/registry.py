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
from typing import TYPE_CHECKING

import probes
from harness.errors import AuditError, one_line
from probes.contracts import Figure, Finding, Instrument, Probe

if TYPE_CHECKING:
    import pandas as pd

    from harness.plan.cells import Cell
    from harness.spec.schema import Spec

GROUP = "diffusion_audit.probes"
_REGISTRY: dict[str, Probe] = {}


class Broken:
    """Stands for a probe that cannot be loaded: its analysis fails with the reason.

    Attributes:
        name: name of the probe, as a spec says it.
        reason: why it cannot be loaded, in one line.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason

    def instruments(self, spec: Spec) -> tuple[Instrument, ...]:
        """None: there is nothing to measure with."""
        return ()

    def cells(self, spec: Spec, plan: pd.DataFrame) -> Iterable[Cell]:
        """None."""
        return ()

    def analyse(
        self,
        tables: Mapping[str, pd.DataFrame],
        plan: pd.DataFrame,
        failures: pd.DataFrame,
        labels: pd.DataFrame,
        spec: Spec,
    ) -> tuple[list[Finding], list[Figure]]:
        """Raises AuditError with the reason."""
        raise AuditError(f"the probe cannot be loaded: {self.reason}")


def register(probe: type[Probe]) -> type[Probe]:
    """Class decorator: add a probe to the registry under its name."""
    _REGISTRY[probe.name] = probe()
    return probe


def registry() -> dict[str, Probe]:
    """All probes by name: the folders of this package, and other packages' entry points."""
    return _broken() | _REGISTRY


@cache
def _broken() -> dict[str, Probe]:
    """Load every probe once; gives those that cannot be loaded."""
    failed: dict[str, Probe] = {}
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


def probes_of(spec: Spec) -> list[Probe]:
    """The probes that a spec names, in its order.

    Raises:
        AuditError: No such probe; lists those there are.
    """
    known = registry()
    for name in spec.probes:
        if name not in known:
            raise AuditError(
                f"probes: unknown probe {name!r}; available: {', '.join(sorted(known))} "
                "(docs/add-a-probe.md says how to add one)"
            )
    return [known[name] for name in dict.fromkeys(spec.probes)]


def instruments_of(spec: Spec) -> list[Instrument]:
    """The instruments of all probes that the spec names, each once."""
    made = [i for probe in probes_of(spec) for i in probe.instruments(spec)]
    return list({i.name: i for i in made}.values())
