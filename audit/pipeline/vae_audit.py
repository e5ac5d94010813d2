"""Round trips of images through VAEs from end to end, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from audit.pipeline.imported_images import fitted
from audit.pipeline.plan import begin
from audit.pipeline.round_trip import (
    ORIGINAL,
    RoundTripWorker,
    cell_of,
    round_trip_audit,
    shrunk_size,
    store_originals,
)
from audit.pipeline.round_trip_inputs import images_of_folder, images_of_run
from audit.pipeline.round_trip_time import clock, pace
from audit.pipeline.run import score, unmade, working
from audit.pipeline.session import Audit
from audit.pipeline.vae_inspection import examine
from audit.pipeline.vae_table import COLUMNS, number_text
from harness.errors import AuditError
from harness.plan.cells import units_of
from harness.progress import Progress, Say, stopping, until
from harness.spec.attributes import load_attribute
from probes.contracts import Finding
from probes.vae.metrics import PSNR, SQUARED_ERROR


def run(
    images: Path,
    csv: Path | None,
    vaes: tuple[str, ...] | Mapping[str, object],
    out: Path,
    longest: int,
    batch: int,
    attributes: tuple[str, ...],
    classifiers: tuple[str, ...],
    say: Say,
) -> Audit:
    """Send the images round and measure them; run again to resume.

    Args:
        images: Folder of images, or run directory.
        csv: Table of labels by file name, or None.
        vaes: VAEs as on the command line, [NAME=]SOURCE; or by name a source or a loaded VAE: any
            object with `encode`, from images (n, 3, height, width) in [-1, 1] to latents, and
            `decode` back.
        out: Run directory to write to.
        longest: Longest side in pixels; larger images are scaled down to it.
        batch: Images per forward, at most.
        attributes: Attribute sets to measure before and after.
        classifiers: Classifiers to measure them with, [NAME=]SOURCE.
        say: Receives progress.

    Raises:
        AuditError: Something that the user gave cannot be used.
    """
    warnings: list[str] = []  # said once nothing is refused any more
    if (images / "plan.parquet").exists():
        pictures = images_of_run(images)
    else:
        declared = [load_attribute(a, Path()) for a in attributes]
        pictures = images_of_folder(images, csv, declared, warnings.append)
    audit, plan, provenance, loaded = round_trip_audit(
        images.name,
        pictures,
        dict(vaes) if isinstance(vaes, Mapping) else named(vaes),
        out,
        longest,
        batch,
        attributes,
        fitted(classifiers, [p.size for p in pictures], None),
    )
    for line in warnings:
        say(line)
    with working(audit, say):
        begin(audit, plan, provenance)
        store_originals(audit, plan, pictures)
        worker = RoundTripWorker(audit.run, loaded, batch, audit.device)
        units = [u for u in units_of(plan) if unmade(audit.run, u)]
        paces = {name: pace(way) for name, way in worker.codecs.items()} if units else {}
        for line in examine(audit, plan, loaded, paces, say):
            say(line)
        if units:
            ids = {str(t) for u in units for t in u.rows["trajectory"]}
            sizes = [shrunk_size(p.size, longest) for p in pictures if cell_of(p, longest) in ids]
            seconds = sum(w * h for w, h in sizes) * sum(paces.values())
            say(
                f"round trip: {len(ids)} images by {len(loaded)} VAEs on {audit.device}, "
                f"{len(units) * len(loaded)} forwards of up to {batch}, at least {clock(seconds)}"
            )
        progress = Progress("round trip", len(units), say)
        with stopping() as stopped:
            for unit in until(units, stopped):
                outcome = worker(unit)
                progress.step(outcome.unit, outcome.images, outcome.reason)
        stopped.check()
        score(audit, plan, say)
    return audit


def named(vaes: tuple[str, ...]) -> dict[str, str]:
    """NAME=SOURCE, or the last part of the source as its name.

    Raises:
        AuditError: Two VAEs of one name, or one that is called 'original'.
    """
    out: dict[str, str] = {}
    for text in vaes:
        name, _, source = text.rpartition("=")
        source = source or text
        name = name or source.rstrip("/").split("/")[-1].removeprefix("reference:")
        if name in out or name == ORIGINAL:
            raise AuditError(f"--vae {text!r}: {name!r} is taken; name it: --vae NAME={source}")
        out[name] = source
    return out


def table(findings: list[Finding]) -> list[str]:
    """One line a VAE: what it costs, with 95 % intervals."""
    values = {
        (f.subject["vae"], f.metric): f
        for f in findings
        if f.probe == "vae"
        and "group" not in f.subject
        and "baseline" not in f.subject
        and "vae" in f.subject
    }
    names = list(dict.fromkeys(vae for vae, _ in values))
    rows = [["VAE", *(title for _, title, _ in COLUMNS)]]
    for name in names:
        row = [name]
        for metric, _, digits in COLUMNS:
            f = values.get((name, metric))
            exact = values.get((name, SQUARED_ERROR))
            same = metric == PSNR and f is None and exact is not None and exact.value == 0
            row.append("exact" if same else number_text(f, digits))
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
