"""An audit of images made elsewhere: every file becomes a given cell of an ordinary run."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from audit.checkpoints.classifiers import refuse_unknown
from audit.checkpoints.models import pick_device, pick_dtype
from audit.damage import lost
from audit.given import images as given
from audit.given.parameters import write_parameters
from audit.names import inside
from audit.opening import Audit
from audit.plan import Cell
from audit.planning import LIBRARIES
from audit.png import png_bytes
from audit.progress import Say
from audit.prompts import Prompt
from audit.spec import Spec, canonical_digest, parse_spec
from audit.store import Run, sha256

BATCH = 16
FILE = "given"
NO_PROMPT = "(no prompt found)"
NO_LABELS = ("model", "mask")
"""Columns of the CSV that say something else: the arm, and where skin is."""


def given_audit(
    folder: Path,
    csv: Path | None,
    out: Path,
    attributes: tuple[str, ...],
    classifiers: tuple[str, ...],
    say: Say,
) -> tuple[Audit, pd.DataFrame, dict[str, Any]]:
    """The audit, plan and provenance of a folder of images. Nothing is written.

    A column `model` of the CSV makes arms; pictures of one prompt count as its seeds.

    Raises:
        ValueError: As `audit.given.images.read_folder`, or an attribute or classifier is unknown.
    """
    images = given.read_folder(folder, csv)
    without = given.without_prompt(images)
    if without:
        say(f"warning: {without} of {len(images)} images have no prompt; name them in a CSV")
    prompts = list(dict.fromkeys(i.prompt or NO_PROMPT for i in images))
    arms = list(dict.fromkeys(i.labels.get("model", FILE) for i in images))
    raw = {
        "name": folder.name,
        "checkpoints": dict.fromkeys(arms, FILE),
        "prompts": {"list": prompts},
        "attributes": list(attributes),
        "classifiers": {classifier_name(c): classifier_spec(c) for c in classifiers},
        "batch_size": BATCH,
    }
    spec = parse_spec(raw, folder)
    if all(a.instrument != "clip" for a in spec.attributes):
        spec = spec.model_copy(update={"classifiers": {}})  # colours need none
    plan = _plan(images, spec, prompts)
    device = pick_device(spec.device)
    audit = Audit(
        spec,
        Path.cwd(),
        Run(out),
        device,
        pick_dtype(spec.dtype, device),
        [Prompt(p, {}, "", {}) for p in prompts],
    )
    digest = canonical_digest(sorted(i.sha256 for i in images))
    provenance = {
        "spec": spec.digest(),
        "base": str(Path.cwd()),
        "audited": [
            {"kind": "given images", "name": a, "source": folder.name, "digest": digest}
            for a in arms
        ],
        "made with": {
            "batch size": BATCH,
            "device": "elsewhere",
            "dtype": "",
            "libraries": {name: version(name) for name in LIBRARIES},
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return audit, plan, provenance


def store_images(audit: Audit, plan: pd.DataFrame, folder: Path, csv: Path | None) -> None:
    """Copy the images into the run, as PNG without their own text chunks, with masks and labels.

    A file that is no image, is cut off or too large is missing with its reason.

    Raises:
        ValueError: A mask that the CSV names is not there or cannot be read.
    """
    by_digest = {canonical_digest(["given", i.sha256]): i for i in given.read_folder(folder, csv)}
    for unit, rows in plan.groupby("unit", sort=False):
        masks = [audit.run.mask_path(str(t)) for t in rows["trajectory"].unique()]
        held = audit.run.images_path(str(unit), FILE).exists()
        if held and not any(lost(audit.run, m) for m in masks):
            continue
        records = []
        for row in rows.drop_duplicates("cell").itertuples():
            image = by_digest[str(row.cell)]
            try:
                pixels = given.load_image(image.path)
            except given.GivenError as error:
                # The report names the file, not where it lay on this machine.
                reason = str(error).replace(f"{folder}/", "")
                record = {"cell": row.cell, "png": None, "sha256": None, "reason": reason}
            else:
                text = write_parameters(image.prompt, image.negative, image.settings)
                png = png_bytes(pixels, text)
                record = {"cell": row.cell, "png": png, "sha256": sha256(pixels.tobytes())}
                record["reason"] = None
            records.append(record)
            mask = image.labels.get("mask")
            if mask:
                pixels = given.load_image(inside(folder, mask, csv))
                audit.run.write_mask(str(row.trajectory), png_bytes(pixels, "mask"))
        if not held:
            audit.run.write_images(str(unit), FILE, records)
    rows = [
        (cell, label, value, "given")
        for cell, image in by_digest.items()
        for label, value in image.labels.items()
        if label not in NO_LABELS
    ]
    audit.run.write_labels("given", rows)


def given_cell(digest: str, prompt: str, prompt_index: int, seed: int) -> Cell:
    """A picture that was not made here; its unit is cut later.

    Its settings are not known, or vary from file to file and are no arms: they stay in the PNG's
    text.
    """
    return Cell(
        cell=digest,
        trajectory=digest,
        unit="",
        kind="given",
        checkpoint=FILE,
        vae=FILE,
        negative="",
        sampler=FILE,
        steps=0,
        guidance=0.0,
        width=0,
        height=0,
        prompt_index=prompt_index,
        prompt=prompt,
        group="",
        seed=seed,
        text=prompt,
        negative_text="",
        noise=0,
        vae_file=FILE,
    )


def _plan(images: list[given.GivenImage], spec: Spec, prompts: list[str]) -> pd.DataFrame:
    seen: dict[tuple[str, str], int] = {}
    cells = []
    for image in images:
        prompt, arm = image.prompt or NO_PROMPT, image.labels.get("model", FILE)
        seed = seen.get((arm, prompt), 0)
        seen[arm, prompt] = seed + 1
        digest = canonical_digest(["given", image.sha256])
        cell = given_cell(digest, prompt, prompts.index(prompt), seed)
        cells.append(cell._replace(checkpoint=arm, negative_text=image.negative))
    plan = pd.DataFrame(cells, columns=Cell._fields)
    starts = range(0, len(plan), spec.batch_size)
    for start in starts:
        part = plan.index[start : start + spec.batch_size]
        plan.loc[part, "unit"] = canonical_digest(list(plan.loc[part, "cell"]))[:16]
    return plan


def classifier_spec(text: str) -> dict[str, str]:
    """A classifier as the command line names it: ARCHITECTURE:TAG, or a source with a prefix.

    Raises:
        WeightsError: There is none of that name; known before any image is copied.
    """
    model, pretrained = text, ""
    if text.startswith("local-dir:"):  # of the command line: relative to the working directory
        folder = Path(text.removeprefix("local-dir:")).expanduser()
        model = f"local-dir:{folder.resolve()}"
    elif not text.startswith(("hf-hub:", "reference:")) and ":" in text:
        model, pretrained = text.split(":", 1)
    refuse_unknown(model, pretrained or None)
    return {"model": model} | ({"pretrained": pretrained} if pretrained else {})


def classifier_name(text: str) -> str:
    """What a classifier of the command line is called: the last part of its source."""
    return text.rstrip("/").split("/")[-1].removeprefix("reference:")
