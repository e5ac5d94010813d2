"""Kinds of instruments that a spec can bring: one module each, found here.

`instruments: {NAME: {KIND: …, options}}`. A kind is a module of this folder whose class is
decorated with `register`; its options are a pydantic model that has a field of the kind's own name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import AuditError, one_line
from harness.models.safetensors_header import WeightsError
from harness.spec.attributes import AttributeSpec
from harness.spec.json_schema import Described
from harness.spec.mistakes import mistakes
from harness.spec.schema import Spec
from harness.spec.sections import Fit, InstrumentSpec
from harness.text import nearest
from probes.contracts import Instrument
from probes.instruments.crops import fit_of


class KindOptions(Described, BaseModel):
    """Base of a kind's options: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Opt = TypeVar("Opt", bound=KindOptions)


class Reader(Protocol):
    """One opened instrument of a spec, for every attribute that names it."""

    def instrument(self, attribute: AttributeSpec) -> Instrument:
        """What reads one attribute."""
        ...


class Kind(Generic[Opt]):
    """One kind of instrument.

    Attributes:
        name: The key that names it in a spec.
        Options: Its options, with a field of that name.
        paths: Options that are files or folders beside the spec.
    """

    name: ClassVar[str]
    Options: type[Opt]
    paths: ClassVar[tuple[str, ...]] = ()

    def reader(self, name: str, options: Opt, common: InstrumentSpec, fit: Fit) -> Reader:
        """Make the reader of one instrument; nothing is loaded before it is used.

        Args:
            name: Its name in the spec.
            options: The kind's.
            common: What is common to all kinds.
            fit: How it takes images that are not square.
        """
        raise NotImplementedError


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Say which instrument it is that cannot be loaded.

    Args:
        name: Its name in the spec.
    """
    try:
        yield
    except WeightsError as error:
        raise AuditError(f"instruments.{name}: {error}") from None


AnyKind = Kind[Any]
_KINDS: dict[str, AnyKind] = {}


def register(kind: type[AnyKind]) -> type[AnyKind]:
    """Class decorator: add a kind under its name."""
    _KINDS[kind.name] = kind()
    return kind


@cache
def _load() -> None:
    for file in sorted(Path(__path__[0]).glob("*.py")):
        if file.stem != "__init__":
            import_module(f"{__name__}.{file.stem}")


def kinds() -> dict[str, AnyKind]:
    """All kinds by name."""
    _load()
    return _KINDS


LOCAL = "local-dir:"
"""What open_clip puts before a folder."""
INSTALLED = "python"
"""The kind of an instrument that a spec names without declaring it."""


def kind_of(name: str, spec: Mapping[str, object]) -> AnyKind:
    """The kind that the options of an instrument name.

    Raises:
        AuditError: None, or several.
    """
    found = [k for k in kinds() if k in spec]
    if len(found) != 1:
        said = " and ".join(found) or ", ".join(map(repr, spec)) or "nothing"
        raise AuditError(
            f"instruments.{name}: name one of {', '.join(sorted(kinds()))}, not {said}"
        )
    return kinds()[found[0]]


def mistakes_in(named: Mapping[str, object]) -> list[str]:
    """What is wrong with the instruments that a spec brings, one line each.

    Args:
        named: The spec's key `instruments`, as plain data.
    """
    found = []
    common = set(InstrumentSpec.model_fields)
    for name, options in named.items():
        if not isinstance(options, Mapping):
            found.append(
                f"instruments.{name}: {options!r}; give a mapping such as {{onnx: FILE, labels: …}}"
            )
            continue
        own = {str(k): v for k, v in options.items() if k not in common}
        try:
            model = kind_of(name, own).Options
        except AuditError as error:
            found.append(str(error))
            continue
        try:
            model.model_validate(own)
        except ValidationError as error:
            found += mistakes(error, model, f"instruments.{name}")
    return found


def refuse_unknown(spec: Spec) -> None:
    """Refuse an attribute whose instrument is neither in the spec nor installed.

    Raises:
        AuditError: One line with what there is.
    """
    from probes.instruments.kinds.python import installed

    known = ("clip", "colorimetry", *spec.instruments, *installed())
    for attribute in spec.attributes:
        for name in attribute.own_instruments:
            if name not in known:
                raise AuditError(
                    f"attributes: {attribute.name}: no instrument {name!r}; {nearest(name, known)} "
                    "(docs/instruments.md says how to bring one)"
                )


def beside(named: Mapping[str, InstrumentSpec], base: Path) -> dict[str, InstrumentSpec]:
    """Instruments with their paths whole: they are relative to the folder of their spec."""
    found = {}
    for name, one in named.items():
        options = one.options
        paths = kind_of(name, options).paths
        options |= {k: whole(v, base, k in paths) for k, v in options.items() if type(v) is str}
        found[name] = InstrumentSpec(**one.model_dump(include=set(InstrumentSpec.model_fields)),
                                     **options)  # fmt: skip
    return found


def whole(value: str, base: Path, path: bool = False) -> str:
    """A path relative to the spec's folder, whole: other commands run in other folders.

    Args:
        value: An option.
        base: The spec's folder.
        path: Whether the option is a path; else it is one where it begins with 'local-dir:'.
    """
    prefix = "" if path else LOCAL
    if not value.startswith(prefix):
        return value
    return prefix + str((base / Path(value.removeprefix(prefix)).expanduser()).resolve())


def instruments(spec: Spec) -> list[Instrument]:
    """Every attribute by every instrument of its own, each instrument opened once.

    Raises:
        AuditError: One of them cannot be: one line with its name.
    """
    readers: dict[str, Reader] = {}
    made = []
    for attribute in spec.attributes:
        for name in attribute.own_instruments:
            if name not in readers:
                readers[name] = _reader(name, spec)
            made.append(readers[name].instrument(attribute))
    return made


def _reader(name: str, spec: Spec) -> Reader:
    common = spec.instruments.get(name) or InstrumentSpec.model_validate({INSTALLED: name})
    kind = kind_of(name, common.options)
    try:
        options = kind.Options(**common.options)
    except ValidationError as error:
        raise AuditError(f"instruments.{name}: {one_line(error)}") from None
    reader: Reader = kind.reader(name, options, common, fit_of(common, spec))
    return reader
