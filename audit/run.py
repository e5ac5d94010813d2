"""One audit, step by step: open the spec, plan, generate, score.

Each step looks at what the run directory already holds and does the rest, so that running
the same command again goes on where the last one stopped.
"""

from __future__ import annotations

import io
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

import reference
from audit import models, taps
from audit.adapters import digest_of_lora
from audit.embeddings import digest_of_embedding
from audit.executors import Executor, InProcess
from audit.generate import GenerateWorker, Generator, extras_of, sampler
from audit.plan import Arm, Unit, make_plan, text_of, units_of
from audit.prompts import Prompt, resolve_prompts
from audit.spec import Spec, SpecError, canonical_digest, load_spec, parse_spec
from audit.store import Run
from audit.text_scores import score_texts
from audit.weighting import looks_weighted
from probes import Batch, Context, Instrument, probes_of

LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow")
Say = Callable[[str], None]


class Audit(NamedTuple):
    """A spec with all that is needed to work on it."""

    spec: Spec
    base: Path
    run: Run
    device: str
    dtype: torch.dtype
    prompts: list[Prompt]


NEEDED = {
    "errors": ["attribute", "instrument", "true", "outcome", "count"],
    "labels": ["cell", "attribute", "class"],
}
"""Columns of the tables that a spec may name."""


class Stopped(Exception):
    """Ctrl-C was pressed: stopped between two batches."""


def open_audit(spec_path: Path, folder: Path) -> Audit:
    """Read a spec for a run directory that may or may not exist."""
    return _audit(load_spec(spec_path), spec_path.parent.resolve(), Run(folder), spec_path)


def reopen(folder: Path) -> Audit:
    """Open an existing run by its own copy of the spec.

    Raises:
        SpecError: The folder holds no run.
    """
    run = Run(folder)
    known = run.read_json("provenance.json")
    path = folder / "spec.yaml"
    if known is None or not path.exists():
        raise SpecError(f"{folder}: no run here (spec.yaml and provenance.json are missing)")
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return _audit(parse_spec(raw, path), Path(known["base"]), run, path)


def _audit(spec: Spec, base: Path, run: Run, path: Path) -> Audit:
    device = models.pick_device(spec.device)
    try:
        prompts = resolve_prompts(spec.prompts, base)
    except ValueError as error:
        raise SpecError(f"{path}: prompts: {error}") from None
    return Audit(spec, base, run, device, models.pick_dtype(spec.dtype, device), prompts)


def plan_audit(audit: Audit, say: Say) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Load every checkpoint once, name what it is, and lay out all cells.

    Returns:
        The plan, and the provenance. Nothing is written.
    """
    for key, source in (("errors", audit.spec.errors), ("labels", audit.spec.labels)):
        if source is not None:
            read_table(audit, key, source)
    for instrument in instruments_of(audit.spec):
        instrument.identity()  # a classifier that cannot be loaded is found out now
    files, added = _added_files(audit)
    arms: dict[str, Arm] = {}
    audited: list[dict[str, str | None]] = []
    for name, spec in audit.spec.checkpoints.items():
        # Not compiled: to plan, nothing is drawn.
        speed = audit.spec.speed.model_copy(update={"compile": False})
        checkpoint = models.load_checkpoint(
            name, spec, audit.base, audit.device, audit.dtype, speed
        )
        names = {spec.sampler} if spec.sampler else set(audit.spec.samplers)
        vaes = {}
        for vae_name, source in audit.spec.vaes.items():
            vae = models.load_vae(
                vae_name,
                source,
                audit.base,
                checkpoint.pipe,
                audit.dtype,
                audit.spec.other_latent_spaces,
            )
            vaes[vae_name] = models.digest_of(vae)
            digest = vaes[vae_name]
            audited.append(
                {"kind": "VAE", "name": vae_name, "of": name, "source": source, "digest": digest}
            )
        try:
            generator = Generator(
                checkpoint.pipe, audit.spec.batch_size, extras_of(audit.spec, name, audit.base)
            )
            side = generator.family.side() if not audit.spec.sizes else 0
            for level in audit.spec.adapters:
                generator.adapt(level)  # one that does not fit is found out now
        except ValueError as error:
            raise SpecError(f"checkpoints.{name}: {error}") from None
        for sentence in generator.family.not_measured:
            say(f"{name}: not measured: {sentence}")
        _warn_of_long_prompts(audit, name, generator, say)
        arms[name] = Arm(
            digests=checkpoint.digests,
            schedulers={
                s: models.scheduler_digest(sampler(generator.own_scheduler, s)) for s in names
            },
            vaes=vaes,
            size=(side, side),
            files=files,
            reads_negative=generator.family.reads_negative,
        )
        audited += [
            {
                "kind": kind.replace("_", " "),
                "name": name,
                "source": spec.source,
                "digest": digest,
                "revision": checkpoint.revision,
            }
            for kind, digest in checkpoint.digests.items()
            if kind in ("text_encoder", "denoiser")
        ]
    audited += added
    loras = any(one["kind"] == "LoRA" for one in added)
    libraries = (*LIBRARIES, "peft") if loras else LIBRARIES
    wishes = [probe.cells for probe in probes_of(audit.spec)]
    plan = make_plan(audit.spec, audit.prompts, arms, audit.run.read_cells(), wishes)
    provenance = {
        "spec": audit.spec.digest(),
        "base": str(audit.base),
        "audited": audited,
        "made with": {
            "batch size": audit.spec.batch_size,
            "device": audit.device,
            "dtype": str(audit.dtype).removeprefix("torch."),
            "libraries": {name: version(name) for name in libraries},
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return plan, provenance


def begin(audit: Audit, plan: pd.DataFrame, provenance: dict[str, Any]) -> None:
    """Write spec, plan and provenance; refuse to mix pixels of two set-ups in one run.

    Raises:
        SpecError: The run was made with another batch size, device, precision or library.
    """
    before = audit.run.read_json("provenance.json")
    if before is not None and before["made with"] != provenance["made with"]:
        changed = [
            f"{key} {before['made with'].get(key)} -> {value}"
            for key, value in provenance["made with"].items()
            if before["made with"].get(key) != value
        ]
        raise SpecError(
            f"{audit.run.folder}: made with another set-up ({'; '.join(changed)}), which changes "
            "pixels; use another run folder, or the old set-up"
        )
    audit.run.write_json("provenance.json", provenance)
    dumped = yaml.safe_dump(audit.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    audit.run.write_text("spec.yaml", dumped)
    audit.run.write_plan(plan)


def generate(audit: Audit, plan: pd.DataFrame, say: Say, executor: Executor | None = None) -> None:
    """Make all images that the run does not hold yet.

    Raises:
        Stopped: Ctrl-C; what is done is kept.
    """
    watched = taps.taps_of(audit.spec)
    units = [
        u for u in units_of(plan) if unmade(audit.run, u) or taps.untapped(audit.run, u.id, watched)
    ]
    workers: list[GenerateWorker] = []

    def make_worker() -> GenerateWorker:
        workers.append(GenerateWorker(audit.run, audit.spec, audit.base, audit.device, audit.dtype))
        return workers[-1]

    progress = Progress("generate", len(units), say)
    try:
        with stopping() as stopped:
            outcomes = (executor or InProcess()).run(make_worker, _until(units, stopped))
            for outcome in outcomes:
                progress.step(outcome.unit, outcome.images, outcome.reason)
    finally:
        for worker in workers:
            worker.close()
    if stopped():
        raise Stopped


def score(audit: Audit, plan: pd.DataFrame, say: Say) -> None:
    """Measure all images with all instruments that have not measured them yet.

    Raises:
        Stopped: Ctrl-C; what is done is kept.
    """
    instruments = instruments_of(audit.spec)
    if not instruments:
        return
    folders = {i.name: f"{i.name}@{canonical_digest(i.identity())[:12]}" for i in instruments}
    audit.run.write_json("instruments.json", folders)
    context = Context(audit.spec, audit.device)
    for instrument in instruments:
        if "text" in instrument.needs:
            score_texts(audit, folders[instrument.name], say)
    instruments = [i for i in instruments if "text" not in i.needs]
    tapped = {t.name: taps.folder(t) for t in taps.taps_of(audit.spec)}
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
        for unit, vae, missing in _until(work, stopped):
            needs = frozenset().union(*(i.needs for i in missing))
            batch = read_batch(audit.run, unit, vae, needs, tapped)
            for instrument in missing:
                rows = instrument.measure(batch, context)
                audit.run.write_scores(folders[instrument.name], unit.id, vae, rows)
            progress.step(unit.id, len(batch.cells), "")
    if stopped():
        raise Stopped


def instruments_of(spec: Spec) -> list[Instrument]:
    """The instruments of all probes that the spec names, each once."""
    made = [i for probe in probes_of(spec) for i in probe.instruments(spec)]
    return list({i.name: i for i in made}.values())


def read_batch(
    run: Run,
    unit: Unit,
    vae: str,
    needs: frozenset[str] = frozenset({"images"}),
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
    if "references" in needs:
        held = unit.rows.drop_duplicates("trajectory").set_index("trajectory")
        known: dict[str, NDArray[np.uint8]] = {}
        for file, part in held.groupby("vae_file"):
            known |= _pixels(run, unit.id, str(file), set(part["cell"]))
        batch = batch._replace(
            references=tuple(known.get(str(held.at[t, "cell"])) for t in trajectories)
        )
    if "masks" in needs:
        batch = batch._replace(masks=tuple(run.read_mask(t) for t in trajectories))
    if "latents" in needs:
        of_vae = f"{unit.id}-{vae}"  # a round trip has latents of its own by every VAE
        name = of_vae if run.latents_path(of_vae).exists() else unit.id
        stored = run.read_latents(name) if run.latents_path(name).exists() else {}
        batch = batch._replace(
            latents=tuple(stored[t].float().numpy() if t in stored else None for t in trajectories)
        )
    records = {}
    for name in needs & set(tapped):
        found = taps.read(run, tapped[name], unit.id)
        records[name] = tuple(found.get(t) for t in trajectories)
    return batch._replace(taps=records)


def _pixels(run: Run, unit: str, vae: str, cells: set[str]) -> dict[str, NDArray[np.uint8]]:
    """Pixels of the cells that one images file holds."""
    if not run.images_path(unit, vae).exists():
        return {}
    table = run.read_images(unit, vae)
    table = table[table["png"].notna() & table["cell"].isin(cells)]
    return {
        str(cell): np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        for cell, png in zip(table["cell"], table["png"], strict=True)
    }


def read_table(audit: Audit, key: str, source: str) -> pd.DataFrame:
    """A CSV that the spec names under `key`.

    Raises:
        SpecError: It cannot be read, or lacks a column.
    """
    if source.startswith("reference:"):
        path = reference.MODELS.parent / source.removeprefix("reference:")
    else:
        path = audit.base / source
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise SpecError(f"{key}: {source}: cannot be read ({error})") from None
    missing = [c for c in NEEDED[key] if c not in table]
    if missing:
        needed = ", ".join(NEEDED[key])
        raise SpecError(f"{key}: {source}: column {missing[0]!r} is missing; needed: {needed}")
    return table


class Progress:
    """Progress with rate and time left: a bar on a terminal, one line a unit otherwise."""

    def __init__(self, stage: str, total: int, say: Say) -> None:
        self.stage, self.total, self.say = stage, total, say
        self.done = self.images = 0
        self.started = time.monotonic()

    def step(self, unit: str, images: int, reason: str) -> None:
        """One unit is done, or failed for a reason."""
        self.done += 1
        self.images += images
        elapsed = time.monotonic() - self.started
        left = elapsed / self.done * (self.total - self.done)
        text = (
            f"{self.stage} {self.done}/{self.total} {unit} {self.images / elapsed:.1f} images/s, "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )
        if reason:
            self.say(f"{self.stage} {self.done}/{self.total} {unit} failed: {reason}")
        elif sys.stderr.isatty():
            end = "\n" if self.done == self.total else ""
            sys.stderr.write(f"\r\x1b[K{text}{end}")
            sys.stderr.flush()
        else:
            self.say(text)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """While open, the first Ctrl-C only asks to stop between batches; the second is itself."""
    pressed: list[int] = []

    def on_interrupt(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        sys.stderr.write("\nstopping after this batch; press Ctrl-C again to stop at once\n")

    try:
        before = signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # not the main thread: Ctrl-C is somebody else's to handle
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def _until(items: list[Any], stopped: Callable[[], bool]) -> Iterator[Any]:
    for item in items:
        if stopped():
            return
        yield item


def unmade(run: Run, unit: Unit) -> bool:
    """Whether an images file of the unit is still missing."""
    files = unit.rows["vae_file"].unique()
    return any(not run.images_path(unit.id, file).exists() for file in files)


def _fitting(instruments: list[Instrument], unit: Unit, vae: str) -> list[Instrument]:
    """The instruments for one images file: of predicted pictures only their pixels are measured."""
    rows = unit.rows[unit.rows["vae_file"] == vae]
    if "step" not in rows or (rows["step"] < 0).any():
        return instruments
    return [i for i in instruments if i.needs <= {"images"}]


def _unscored(
    run: Run, instruments: list[Instrument], folders: dict[str, str], unit: str, vae: str
) -> list[Instrument]:
    return [i for i in instruments if not run.scores_path(folders[i.name], unit, vae).exists()]


def _added_files(audit: Audit) -> tuple[dict[str, str], list[dict[str, str | None]]]:
    """Digest of every LoRA and embedding by its source, and how provenance names them.

    Raises:
        SpecError: One line naming the key, the file, what was found and what would be right.
    """
    spec = audit.spec
    loras = [(f"checkpoints.{n}.loras", s) for n, c in spec.checkpoints.items() for s in c.loras]
    loras += [(f"adapters.{n}.loras", s) for n, a in spec.adapters.items() for s in a.loras]
    words = [(f"embeddings.{name}", source) for name, source in spec.embeddings.items()]
    digests: dict[str, str] = {}
    named: list[dict[str, str | None]] = []
    for kind, digest_of, sources in (
        ("LoRA", digest_of_lora, loras),
        ("embedding", digest_of_embedding, words),
    ):
        for key, source in sources:
            try:
                digest = digests.get(source) or digest_of(audit.base / Path(source).expanduser())
            except (OSError, ValueError) as error:
                raise SpecError(f"{key}: {error}") from None
            digests[source] = digest
            name = key.split(".")[1]
            named.append({"kind": kind, "name": name, "source": source, "digest": digest})
    return digests, named


def _warn_of_long_prompts(audit: Audit, name: str, generator: Generator, say: Say) -> None:
    reader = generator.family.reader()
    if reader is None:
        return
    tokenizer, limit = reader
    texts = [
        text_of(audit.spec, name, a, p.text) for a in audit.spec.adapters for p in audit.prompts
    ]
    for text in dict.fromkeys([*texts, *audit.spec.negatives.values()]):
        if audit.spec.weighting == "none" and looks_weighted(text):
            say(
                f"warning: {text[:60]!r} is read as written, brackets and numbers too; to have "
                "them weigh words, set weighting: a1111"
            )
        plain = "".join(part.text for part in generator.read(text))
        ids = tokenizer(plain, truncation=False, verbose=False).input_ids
        if len(ids) > limit:
            cut = tokenizer.decode(ids[limit - 1 : -1])
            say(f"warning: {text[:60]!r} has {len(ids)} tokens, {limit} fit; not seen: {cut!r}")
