"""Open an audit: a spec, its run directory, and the device it works on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from audit.pipeline.margins import refuse_unknown
from harness.errors import AuditError, SpecError, SpecMistakes, reading
from harness.files.yaml_files import read_yaml
from harness.json_types import JsonObject
from harness.spec.old_keys import named
from harness.spec.prompts import Prompt, resolve_prompts
from harness.spec.schema import Spec, load_spec, parse_spec, read_own_spec
from harness.spec.sections import InstrumentSpec
from harness.store.damage import refuse
from harness.store.run import Run
from probes import registry
from probes.contracts import Instrument
from probes.instruments import kinds
from probes.registry import Chosen, chosen, instruments_of, taps_of

if TYPE_CHECKING:
    import torch

    from harness.generate.loaded import Checkpoints
    from harness.taps.record import Tap

MOST_IMAGES = 2_000_000
"""Images of one plan: at ten a second, more than two days."""
MOST_KEY = "AUDIT_MOST_IMAGES"


@dataclass(frozen=True)
class Audit:
    """A spec with all that is needed to work on it; what it asks for is resolved once, when needed.

    Attributes:
        spec: the spec.
        base: folder that its paths are relative to.
        run: run directory.
        prompts: its resolved prompts.
    """

    spec: Spec
    base: Path
    run: Run
    prompts: list[Prompt]

    @cached_property
    def device(self) -> str:
        """The device that models run on."""
        from harness.models import loading

        return loading.pick_device(self.spec.device)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        from harness.models import loading

        return loading.pick_dtype(self.spec.dtype, self.device)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """What loads the spec's checkpoints, one at a time."""
        from harness.generate.loaded import Checkpoints

        return Checkpoints(self.spec, self.base, self.device, self.dtype)

    @cached_property
    def probes(self) -> list[Chosen]:
        """The probes that the spec names, with their options."""
        return chosen(self.spec)

    @cached_property
    def instruments(self) -> list[Instrument]:
        """The instruments of all these probes; a classifier is loaded when first used, once."""
        return instruments_of(self.spec)

    @cached_property
    def taps(self) -> list[Tap]:
        """The taps that the instruments need."""
        return taps_of(self.spec, self.instruments)


def open_audit(spec_path: Path, folder: Path) -> Audit:
    """Read a spec for a run directory that may or may not exist."""
    run = Run(folder)
    _ = run.format  # a later version's is refused before anything is read or written
    spec = load_spec(spec_path, mistakes_in)
    return _audit(spec, spec_path.parent.resolve(), run, spec_path)


def reopen(folder: Path) -> Audit:
    """Open an existing run by its own copy of the spec.

    Raises:
        SpecError: The folder holds no run.
        DamagedError: One of the run's files is not what was written.
    """
    run = Run(folder)
    refuse(run)
    path = folder / "spec.yaml"
    with reading(folder / "provenance.json", SpecError, "run the same command again to write it"):
        known = run.provenance()
    if known is None or not path.exists():
        raise SpecError(f"{folder}: no run here (spec.yaml and provenance.json are missing)")
    base = known.get("base") if isinstance(known, dict) else None
    if not isinstance(base, str) or not isinstance(known.get("made with"), dict):
        raise SpecError(
            f"{folder / 'provenance.json'}: lacks 'base' or 'made with': was it edited?"
        )
    return _audit(parse_spec(read_own_spec(path), path), Path(base), run, path)


def _audit(spec: Spec, base: Path, run: Run, path: Path) -> Audit:
    try:
        prompts = resolve_prompts(spec.prompts, base)
    except AuditError as error:
        raise SpecError(f"{path}: prompts: {error}") from None
    refuse_too_many(spec, len(prompts), path)
    audit = Audit(beside(spec, base), base, run, prompts)
    try:
        kinds.refuse_unknown(spec)
        refuse_unknown(spec, audit.instruments)
    except AuditError as error:
        raise SpecError(f"{path}: {error}") from None
    return audit


def beside(spec: Spec, base: Path) -> Spec:
    """The spec with whole paths of classifiers and instruments: they are relative to its folder.

    open_clip would take them from the working directory, which is another at the next command.
    """
    classifiers = {
        name: one.model_copy(update={"model": kinds.whole(one.model, base)})
        for name, one in spec.classifiers.items()
    }
    return spec.model_copy(
        update={"classifiers": classifiers, "instruments": kinds.beside(spec.instruments, base)}
    )


def read_instruments(path: Path) -> dict[str, InstrumentSpec]:
    """The instruments of a spec file, or of a file with that key alone, with whole paths.

    Args:
        path: The file; what else it holds is not looked at.

    Raises:
        SpecMistakes: One line for each mistake.
    """
    raw = read_yaml(path, SpecError)
    brought = raw.get("instruments") if isinstance(raw, dict) else None
    if not isinstance(brought, dict) or not brought:
        raise SpecError(f"{path}: no key `instruments` with a mapping of them")
    found = kinds.mistakes_in(brought)
    if found:
        raise SpecMistakes([f"{path}: {line}" for line in found])
    with reading(f"{path}: instruments", SpecError):
        named = {str(name): InstrumentSpec(**options) for name, options in brought.items()}
    return kinds.beside(named, path.parent)


def mistakes_in(raw: JsonObject) -> list[str]:
    """What is wrong with the probes and instruments that a spec names, one line each.

    Args:
        raw: The spec as plain data.
    """
    wanted = named(raw.get("probes", {}))
    probes = wanted if isinstance(wanted, dict) else {}
    brought = raw.get("instruments", {})
    return [
        *registry.mistakes_in({n: v for n, v in probes.items() if isinstance(n, str)}),
        *kinds.mistakes_in(brought if isinstance(brought, dict) else {}),
    ]


def refuse_too_many(spec: Spec, prompts: int, path: Path) -> None:
    """Refuse a grid that nobody meant, before anything is built or loaded for it.

    Args:
        spec: The spec.
        prompts: Number of its prompts.
        path: The spec's file, for the message.

    Raises:
        SpecError: More images than `MOST_IMAGES` or the environment's AUDIT_MOST_IMAGES.
    """
    with reading(f"{MOST_KEY} {os.environ.get(MOST_KEY)!r}", SpecError, "give a whole number"):
        most = int(os.environ.get(MOST_KEY, MOST_IMAGES))
    crossed = prod(
        len(levels) or 1
        for levels in (
            *(spec.checkpoints, spec.vaes, spec.negatives, spec.adapters),
            *(spec.samplers, spec.steps, spec.guidance, spec.sizes),
        )
    )
    count = crossed * prompts * spec.seeds.count
    if count > most:
        raise SpecError(
            f"{path}: {count:,} images ({prompts:,} prompts x {spec.seeds.count:,} seeds x "
            f"{crossed:,} settings); at most {most:,} are planned: name fewer, or set "
            f"{MOST_KEY} to a larger number"
        )
