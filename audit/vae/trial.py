"""`audit vae`: round trips from the command line, and their table in the terminal."""

from __future__ import annotations

from pathlib import Path

from audit.errors import AuditError
from audit.given.folder import classifier_name, classifier_spec
from audit.opening import Audit
from audit.plan import units_of
from audit.planning import begin
from audit.progress import Progress, Say, stopping, until
from audit.run import score, unmade, working
from audit.vae.examine import examine
from audit.vae.originals import pictures_of_folder, pictures_of_run
from audit.vae.roundtrip import ORIGINAL, RoundTripWorker, round_trip_audit, store_originals
from probes import Finding

COLUMNS = (
    ("PSNR", "PSNR dB", 1),
    ("SSIM", "SSIM", 3),
    ("MS-SSIM", "MS-SSIM", 3),
    ("colour difference (CIEDE2000)", "ΔE", 2),
    ("loss of detail", "detail lost", 3),
    ("lightness shift", "L* shift", 2),
)


def run(
    images: Path,
    csv: Path | None,
    vaes: tuple[str, ...],
    out: Path,
    longest: int,
    batch: int,
    attributes: tuple[str, ...],
    classifiers: tuple[str, ...],
    say: Say,
) -> Audit:
    """Send the pictures round and measure them; run again to resume.

    Raises:
        AuditError: Something that the user gave cannot be used.
    """
    if (images / "plan.parquet").exists():
        pictures = pictures_of_run(images)
    else:
        pictures = pictures_of_folder(images, csv)
    audit, plan, provenance, loaded = round_trip_audit(
        images.name,
        pictures,
        named(vaes),
        out,
        longest,
        batch,
        attributes,
        {classifier_name(text): classifier_spec(text) for text in classifiers},
    )
    with working(audit, say):
        begin(audit, plan, provenance)
        store_originals(audit, plan, pictures)
        for line in examine(audit, plan, loaded):
            say(line)
        worker = RoundTripWorker(audit.run, loaded, batch, audit.device)
        units = [u for u in units_of(plan) if unmade(audit.run, u)]
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
            if f is None or f.status != "measured":
                exact = values.get((name, "squared error"))
                same = metric == "PSNR" and exact is not None and exact.value == 0
                row.append("exact" if same else "–")
            elif f.low == f.low:
                row.append(f"{f.value:.{digits}f} [{f.low:.{digits}f}, {f.high:.{digits}f}]")
            else:
                row.append(f"{f.value:.{digits}f}")
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
