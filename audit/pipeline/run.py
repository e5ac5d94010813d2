"""Make and measure the images of an audit.

Each step looks at what the run directory already holds and does the rest, so that running
the same command again goes on where the last one stopped.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.pipeline.plan import begin, plan_audit
from audit.pipeline.session import Audit
from audit.pipeline.text_scores import score_texts
from harness.errors import one_line
from harness.files.checksums import DamagedError
from harness.files.locks import holding
from harness.files.names import file_name
from harness.generate.executor import Executor, InProcess
from harness.generate.worker import GenerateWorker
from harness.hashing import canonical_digest
from harness.images.stored import pixels
from harness.plan.cells import Unit, units_of
from harness.progress import Progress, Say, stopping, until
from harness.store.damage import Damage, announce, check, lost, set_aside
from harness.store.run import INSTRUMENTS, Run
from harness.store.run_folder import DiskFullError
from harness.taps import record as taps
from probes.contracts import Batch, Context, Finding, Instrument


@contextmanager
def working(audit: Audit, say: Say) -> Iterator[None]:
    """Work on a run alone, with its damaged files set aside before and what is written checked.

    Raises:
        BusyError: Another process works on the same units.
        NewerFormatError: A later version of diffusion-audit wrote the run.
        DamagedError: A file was not written as it should have been; it is set aside.
    """
    run = audit.run
    with holding(run.folder):
        announce(run, say)
        check(run, say)
        yield
        found = check(run, say)
        if found:
            raise DamagedError(found[0].path, f"{found[0].reason}, right after it was written")


def complete(audit: Audit, say: Say) -> None:
    """Plan, make and measure all that the run does not hold yet.

    Raises:
        Stopped: Ctrl-C; what is done is kept.
        BusyError: Another process works on the same units.
        DiskFullError: No space is left; what is done is kept.
    """
    with working(audit, say):
        plan, provenance = plan_audit(audit, say)
        begin(audit, plan, provenance)
        _announce(audit, plan, say)
        generate(audit, plan, say)
        score(audit, plan, say)


def _announce(audit: Audit, plan: pd.DataFrame, say: Say) -> None:
    """Say what is going to be done; how long it takes is known once a batch is done."""
    todo = [u.rows for u in units_of(plan) if _unfinished(audit, u)]
    if todo:
        rows = pd.concat(todo)
        images, denoisings = rows["cell"].nunique(), rows["trajectory"].nunique()
        say(
            f"to make: {images} images from {denoisings} denoisings in {len(todo)} batches; then "
            f"instruments ({len(audit.instruments)}), probes ({len(audit.probes)}) and the report; "
            "each stage says how long"
        )


def _unfinished(audit: Audit, unit: Unit) -> bool:
    return unmade(audit.run, unit) or bool(taps.untapped(audit.run, unit.id, audit.taps))


def generate(audit: Audit, plan: pd.DataFrame, say: Say, executor: Executor | None = None) -> None:
    """Make all images that the run does not hold yet.

    Raises:
        Stopped: Ctrl-C; what is done is kept.
        DiskFullError: No space is left; what is done is kept.
    """
    watched = audit.taps
    units = [u for u in units_of(plan) if _unfinished(audit, u)]
    workers: list[GenerateWorker] = []

    def make_worker() -> GenerateWorker:
        workers.append(GenerateWorker(audit.run, audit.checkpoints, watched, say))
        return workers[-1]

    progress = Progress("generate", len(units), say)
    before = audit.run.written
    try:
        with stopping() as stopped:
            outcomes = (executor or InProcess()).run(make_worker, until(units, stopped))
            for outcome in outcomes:
                progress.step(outcome.unit, outcome.images, outcome.reason)
        for worker in workers:
            worker.flush()
    except DiskFullError as full:
        each = (audit.run.written - before) / (progress.done + 1)
        rest = round(each * (len(units) - progress.done))
        raise DiskFullError(full.path, full.needed, full.why, rest) from None
    finally:
        for worker in workers:
            worker.close()
    stopped.check()


def score(audit: Audit, plan: pd.DataFrame, say: Say) -> None:
    """Measure all images with all instruments that have not measured them yet.

    An instrument that raises on a unit has failed there: the traceback is kept below the run's
    `failures`, the other instruments and units go on, and the next run tries again.

    Raises:
        Stopped: Ctrl-C; what is done is kept.
        DiskFullError: No space is left; what is done is kept.
    """
    instruments = audit.instruments
    if not instruments:
        return
    folders = {
        i.name: f"{file_name(i.name)}@{canonical_digest(i.cache_key())[:12]}" for i in instruments
    }
    audit.run.write_json(INSTRUMENTS, folders)
    context = Context(audit.device)
    for instrument in instruments:
        if "text" in instrument.inputs:
            folder = folders[instrument.name]
            with attempt(audit.run, folder, "text", say):
                score_texts(audit, folder, say)
    instruments = [i for i in instruments if "text" not in i.inputs]
    tapped = {t.name: taps.folder(t) for t in audit.taps}
    work = [
        (unit, vae, missing)
        for unit in units_of(plan)
        for vae in unit.rows["vae_file"].unique()
        if audit.run.images_path(unit.id, vae).exists()
        and (
            missing := _unscored(
                audit.run, _fitting(instruments, unit, str(vae)), folders, unit.id, vae
            )
        )
    ]
    progress = Progress("score", len(work), say)
    with stopping() as stopped:
        for unit, vae, missing in until(work, stopped):
            inputs = frozenset().union(*(i.inputs for i in missing))
            try:
                batch = read_batch(audit.run, unit, vae, inputs, tapped)
            except DamagedError as error:  # since all files were checked
                set_aside(audit.run, Damage(error.path, error.reason), say)
                for instrument in missing:
                    name = f"{unit.id}-{vae}"
                    audit.run.write_traceback(folders[instrument.name], name, str(error))
                progress.step(unit.id, 0, "a file is damaged; run the same command again")
                continue
            for instrument in missing if batch.cells else ():  # all of them may have failed
                folder = folders[instrument.name]
                with attempt(audit.run, folder, f"{unit.id}-{vae}", say):
                    rows = instrument.measure(batch, context)
                    audit.run.write_scores(folder, unit.id, vae, rows)
            progress.step(unit.id, len(batch.cells), "")
    stopped.check()


@contextmanager
def attempt(run: Run, step: str, name: str, say: Say) -> Iterator[None]:
    """Do what another's code may fail at: an exception is kept with its traceback, and said.

    Args:
        run: The run.
        step: As of `Run.write_traceback`.
        name: As of `Run.write_traceback`.
        say: Where the failure is said.

    Raises:
        DiskFullError: It ends everything.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        reason = one_line(error)
        path = run.write_traceback(step, name, f"{reason}\n\n{traceback.format_exc()}")
        say(f"{step.split('@')[0]} failed: {reason} (traceback: {path})")
    else:
        run.clear_traceback(step, name)


def problems(audit: Audit, findings: Sequence[Finding]) -> list[str]:
    """What of an audit failed, one line each: such a run ends with exit code 1.

    Args:
        audit: The audit.
        findings: What was found.
    """
    lines = []
    failed = audit.run.failures()
    if failed:
        lines.append(f"{len(failed)} units failed, for example: {next(iter(failed.values()))}")
    plan = audit.run.read_cells()
    if plan is not None:
        missing = audit.run.missing_images()
        # An imported file that is no image, and its round trips, or a step that a sampler does not
        # have, is no failure.
        lost_files = (plan["kind"] == "given") & plan["cell"].isin(missing["cell"])
        tried = ~plan["trajectory"].isin(plan.loc[lost_files, "trajectory"])
        if "step" in plan:
            tried &= plan["step"] < 0
        missing = missing[missing["cell"].isin(plan.loc[tried, "cell"])]
        if len(missing):
            reason = missing["reason"].iloc[0]
            lines.append(f"{len(missing)} images are missing, for example: {reason}")
    lines += [f"{f.probe}: failed: {f.note}" for f in findings if f.status == "failed"]
    return lines


def read_batch(
    run: Run,
    unit: Unit,
    vae: str,
    inputs: frozenset[str] = frozenset({"images"}),
    tapped: Mapping[str, str] = MappingProxyType({}),
) -> Batch:
    """The images of one unit by one VAE, as instruments take them.

    The reference of an image is what the plan's first VAE made of the same trajectory. `tapped`
    names the folder of each tap.
    """
    rows = unit.rows[unit.rows["vae_file"] == vae].drop_duplicates("cell").set_index("cell")
    images = _pixels(run, unit.id, vae, set(rows.index))
    cells = tuple(images)
    trajectories = [str(rows.at[c, "trajectory"]) for c in cells]
    batch = Batch(cells, tuple(str(rows.at[c, "prompt"]) for c in cells), tuple(images.values()))
    if "references" in inputs:
        held = unit.rows.drop_duplicates("trajectory").set_index("trajectory")
        known: dict[str, NDArray[np.uint8]] = {}
        for file, part in held.groupby("vae_file"):
            known |= _pixels(run, unit.id, str(file), set(part["cell"]))
        batch = batch._replace(
            references=tuple(known.get(str(held.at[t, "cell"])) for t in trajectories)
        )
    if "masks" in inputs:
        batch = batch._replace(masks=tuple(run.read_mask(t) for t in trajectories))
    if "latents" in inputs:
        of_vae = f"{unit.id}-{vae}"  # a round trip has latents of its own by every VAE
        name = of_vae if run.latents_path(of_vae).exists() else unit.id
        stored = run.read_latents(name) if run.latents_path(name).exists() else {}
        batch = batch._replace(
            latents=tuple(stored[t].float().numpy() if t in stored else None for t in trajectories)
        )
    records = {}
    for name in inputs & set(tapped):
        found = taps.read(run, tapped[name], unit.id)
        records[name] = tuple(found.get(t) for t in trajectories)
    return batch._replace(taps=records)


def _pixels(run: Run, unit: str, vae: str, cells: set[str]) -> dict[str, NDArray[np.uint8]]:
    """Pixels of the cells that one images file holds."""
    if not run.images_path(unit, vae).exists():
        return {}
    table = run.read_images(unit, vae)
    table = table[table["png"].notna() & table["cell"].isin(cells)]
    return {str(cell): pixels(png) for cell, png in zip(table["cell"], table["png"], strict=True)}


def unmade(run: Run, unit: Unit) -> bool:
    """Whether a file of the unit is still missing: of its images, or one that was damaged."""
    files = unit.rows["vae_file"].unique()
    if any(not run.images_path(unit.id, file).exists() for file in files):
        return True
    latents = [unit.id, *(f"{unit.id}-{file}" for file in files)]
    masks = [run.mask_path(str(t)) for t in unit.rows["trajectory"].unique()]
    return any(lost(run, path) for path in [*map(run.latents_path, latents), *masks])


def _fitting(instruments: list[Instrument], unit: Unit, vae: str) -> list[Instrument]:
    """The instruments for one images file: of predicted images only their pixels are measured."""
    rows = unit.rows[unit.rows["vae_file"] == vae]
    if "step" not in rows or (rows["step"] < 0).any():
        return instruments
    return [i for i in instruments if i.inputs <= {"images"}]


def _unscored(
    run: Run, instruments: list[Instrument], folders: dict[str, str], unit: str, vae: str
) -> list[Instrument]:
    return [i for i in instruments if not run.scores_path(folders[i.name], unit, vae).exists()]
