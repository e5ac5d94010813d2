"""Damage every kind of file of a run, bit by bit: is it noticed, and does running again mend it?

Each round copies a small run, damages a random part of its files (a flipped bit in three of four,
a truncation otherwise), and then

1. reads each damaged file by the run's own reader, which must raise `DamagedError`, and each image
   alone, which must give the bytes that were written or raise `DamagedError`;
2. opens the run as `audit report` and the dashboard do, which must name the file or refuse;
3. runs the audit again, which must name every damaged file, set it aside, and leave the run byte
   for byte as it was; a label, which cannot be made again, must be named as missing.

Run by `python -m validation.simulations.flips [FLIPS]`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from audit.pipeline import analyse, vae_audit
from audit.pipeline.run import complete
from audit.pipeline.session import Audit, open_audit, reopen
from dashboard.queries import RunView
from dashboard.run_index import RunError
from harness.errors import AuditError
from harness.files.checksums import DamagedError
from harness.json_types import JsonObject
from harness.store.damage import PATTERNS, refuse
from harness.store.run import Run
from reports.writers import write_report

SPEC: JsonObject = {
    "name": "flips",
    "checkpoints": {"balanced": "reference:balanced"},
    "vaes": {"own": "own", "pale": "reference:pale"},
    "prompts": {"list": ["a portrait of a doctor", "a portrait of a farmer"]},
    "seeds": 2,
    "steps": 2,
    "guidance": 3,
    "attributes": ["world-gender"],
    "classifiers": {"small": "reference:balanced"},
    "probes": ["attributes", "vae", "latents", "text"],
    "batch_size": 2,
    "device": "cpu",
    "dtype": "float32",
}
OUTCOMES = (
    "silent on reading",
    "silent on opening",
    "silent on running",
    "not mended",
    "traceback",
)
"""What must never be counted."""
IRREPLACEABLE = ("labels", "failures")
Again = Callable[[Path, Callable[[str], None]], None]


class Subject(NamedTuple):
    """A run to be damaged.

    Attributes:
        folder: The whole run.
        again: Runs the command that made it again, on a copy.
    """

    folder: Path
    again: Again


def generated(folder: Path) -> Subject:
    """A run of `audit run` with labels, a sample, taps and a failure.

    Args:
        folder: Folder to make it in.
    """
    path = folder / "audit.yaml"
    path.write_text(yaml.safe_dump(SPEC))

    def again(run: Path, say: Callable[[str], None]) -> None:
        audit = open_audit(path, run)
        complete(audit, say)
        _report(audit)

    again(folder / "run", lambda text: None)
    run = Run(folder / "run")
    plan = run.read_plan()
    assert plan is not None
    cells = list(plan["cell"])
    sample = pd.DataFrame({"cell": cells, "pi": 1.0, "drawn": True})
    run.write_sample("world-gender", sample)
    for cell in cells[:2]:
        run.append_labels([(cell, "world-gender", "woman", "ada")])
    run.write_failure("0" * 16, "RuntimeError: an example")
    again(folder / "run", lambda text: None)
    return Subject(folder / "run", again)


def round_trips(folder: Path) -> Subject:
    """A run of `audit vae` on four images with masks.

    Args:
        folder: Folder to make it in.
    """
    images = folder / "images"
    (images / "masks").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(4):
        pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 16:48] = 255
        # A mask is no image of the folder.
        Image.fromarray(mask).save(images / "masks" / f".{i}.png")
        rows.append({"file": f"{i}.png", "mask": f"masks/.{i}.png", "tone": "ab"[i % 2]})
    pd.DataFrame(rows).to_csv(folder / "images.csv", index=False)

    def again(run: Path, say: Callable[[str], None]) -> None:
        vaes = ("reference:faithful", "reference:pale")
        _report(vae_audit.run(images, folder / "images.csv", vaes, run, 64, 2, (), (), say))

    again(folder / "run", lambda text: None)
    return Subject(folder / "run", again)


def simulate(
    subjects: Iterable[Subject], flips: int, seed: int = 0, share: float = 1 / 3
) -> pd.DataFrame:
    """Damage runs until so many files have been damaged.

    Args:
        subjects: Runs; the flips are divided among them evenly.
        flips: Files to damage, at least; a round is always finished.
        seed: Seed of the random numbers.
        share: Share of a run's files that a round damages, 0 to 1.

    Returns:
        One row a kind of file: damaged, the columns of `OUTCOMES`, and named (said by the run that
        was run again).
    """
    rng = np.random.default_rng(seed)
    counts: dict[str, Counter[str]] = {}
    subjects = list(subjects)
    for subject in subjects:
        done = 0
        while done < flips / len(subjects):
            done += _round(subject, rng, share, counts)
    columns = ["damaged", *OUTCOMES, "named"]
    rows = {kind: [held[c] for c in columns] for kind, held in sorted(counts.items())}
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _round(
    subject: Subject, rng: np.random.Generator, share: float, counts: dict[str, Counter[str]]
) -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        shutil.copytree(subject.folder, folder)
        files = sorted({p for pattern in PATTERNS for p in folder.glob(pattern)})
        # What is kept twice is lost only with both copies: without the set-up a run is refused, a
        # sample must be drawn again.
        samples = [p for p in files if p.parent.name == "label-samples"]
        twice = [[folder / "plan.parquet", folder / "provenance.json"], samples]
        spared = {pair[int(rng.integers(len(pair)))] for pair in twice if pair}
        chosen = [p for p in files if p not in spared and rng.random() < share]
        whole = {p: p.read_bytes() for p in files}
        for path in chosen:
            path.write_bytes(damaged(whole[path], rng))
        kinds = {p: p.relative_to(folder).parts[0] for p in chosen}
        for path in chosen:
            held = counts.setdefault(kinds[path], Counter())
            held["damaged"] += 1
            held.update(_reading(Run(folder), path))
        for path in _unnamed_on_opening(folder, chosen):
            counts[kinds[path]]["silent on opening"] += 1
        said: list[str] = []
        try:
            subject.again(folder, said.append)
        except Exception as error:
            print(f"traceback: {type(error).__name__}: {error}", file=sys.stderr)
            for path in chosen:
                counts[kinds[path]]["traceback"] += 1
            return len(chosen)
        for path in chosen:
            name = str(path.relative_to(folder))
            named = any(name in text for text in said)
            counts[kinds[path]]["named" if named else "silent on running"] += 1
            if kinds[path] in IRREPLACEABLE:
                mended = not path.exists() or path.read_bytes() == whole[path]
            elif kinds[path] in ("report", "findings.parquet"):
                # They hold the time, and lack the labels that are gone.
                mended = path.exists() and not isinstance(_raised(Run(folder), path), Exception)
            else:
                mended = path.exists() and path.read_bytes() == whole[path]
            if not mended:
                print(f"not mended: {name}", file=sys.stderr)
                counts[kinds[path]]["not mended"] += 1
    return len(chosen)


def _report(audit: Audit) -> None:
    """Analyse, and write the report for programs: drawing it would cost most of a round."""
    data = analyse.report_data(audit, *analyse.analyse(audit))
    write_report(data, audit.run.folder / "report", ("json",))


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A file's content with one bit flipped, or, once in four, cut short."""
    if rng.random() < 0.25:
        return data[: int(rng.integers(len(data)))]
    at, bit = int(rng.integers(len(data))), int(rng.integers(8))
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def _reading(run: Run, path: Path) -> list[str]:
    raised = _raised(run, path)
    if raised is None:
        return ["silent on reading"]
    return [] if isinstance(raised, AuditError) else ["traceback"]


def _raised(run: Run, path: Path) -> Exception | None:
    """What a file's own reader raises; an image may be read alone, and then only its own bytes."""
    parts = path.relative_to(run.folder).parts
    readers: dict[str, Callable[[], Any]] = {
        "latents": lambda: run.read_latents(path.stem),
        "taps": lambda: run.read_taps(parts[1], path.stem),
        "images": lambda: run.read_images(parts[1], path.stem),
        "scores": lambda: run.read_scores(parts[1], {parts[2]}),
        "masks": lambda: run.read_mask(path.stem),
        "labels": run.labels,
        "label-samples": lambda: run.read_parquet(path),
        "failures": run.failures,
        "plan.parquet": run.read_plan,
        "provenance.json": run.provenance,
        "spec.yaml": lambda: run.read_text("spec.yaml"),
        "findings.parquet": lambda: run.read_table("findings.parquet"),
    }
    try:
        readers.get(parts[0], lambda: run.read_json("/".join(parts)))()
        if parts[0] == "images":
            return None
    except Exception as error:
        if not isinstance(error, AuditError):
            print(f"{path.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return error
    return None


def _unnamed_on_opening(folder: Path, chosen: list[Path]) -> list[Path]:
    """Damaged files that neither a report refuses nor the dashboard names."""
    names = {p: p.relative_to(folder).as_posix() for p in chosen}
    serious = [p for p in chosen if p.name not in ("findings.parquet", "report.json")]
    refused = False
    try:
        refuse(Run(folder))
        reopen(folder)
    except DamagedError:
        refused = True
    if serious and not refused:
        return serious
    shown = set(names.values())  # all, where the plan is damaged and nothing is shown
    with suppress(RunError):
        view = RunView(folder)
        shown = set(view.damaged)
        view.close()
    listed = ("images", "scores", "latents", "labels", "failures")
    return [p for p in chosen if names[p].split("/")[0] in listed and names[p] not in shown]


def main() -> None:
    """Print the table."""
    flips = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as temporary:
        one, two = Path(temporary) / "one", Path(temporary) / "two"
        one.mkdir()
        two.mkdir()
        table = simulate([generated(one), round_trips(two)], flips, share=0.95)
    table.loc["all"] = table.sum()
    print("| file | " + " | ".join(table.columns) + " |")
    print("|---" * (1 + len(table.columns)) + "|")
    for row in table.itertuples():
        print("| " + " | ".join(map(str, row)) + " |")
    sys.exit(int(table.loc["all", list(OUTCOMES)].sum() > 0))


if __name__ == "__main__":
    main()
