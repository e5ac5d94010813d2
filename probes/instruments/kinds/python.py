"""Installed instruments: packages' entry points, ours among them.

    [project.entry-points."diffusion_audit.instruments"]
    my-classifier = "my_package.module:factory"

The factory takes nothing and gives a `probes.instruments.labels.LabelModel`. A spec names what is
installed; it never names code.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from harness.errors import AuditError, one_line
from harness.spec.sections import Fit, InstrumentSpec
from harness.text import nearest
from probes.instruments.kinds import Kind, KindOptions, Reader, register
from probes.instruments.labels import LabelModel, LabelReader

GROUP = "diffusion_audit.instruments"


class PythonOptions(KindOptions):
    """An installed instrument.

    Attributes:
        python: its name among the installed ones; `audit doctor` lists them.
    """

    python: str


def installed() -> dict[str, EntryPoint]:
    """The installed instruments by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


@register
class Python(Kind[PythonOptions]):
    """An installed instrument by its name."""

    name = "python"
    Options = PythonOptions

    def reader(self, name: str, options: PythonOptions, common: InstrumentSpec, fit: Fit) -> Reader:
        """A reader of its labels."""
        return LabelReader(name, common, fit, lambda: opened(options.python))


def opened(name: str) -> LabelModel:
    """Make an installed instrument.

    Raises:
        AuditError: There is none of this name, or it cannot be made.
    """
    known = installed()
    if name not in known:
        raise AuditError(f"instruments: {name!r} is not installed; {nearest(name, tuple(known))}")
    try:
        model: LabelModel = known[name].load()()
    except AuditError:
        raise
    except Exception as error:
        raise AuditError(f"instruments: {name!r} cannot be made: {one_line(error)}") from error
    return model
