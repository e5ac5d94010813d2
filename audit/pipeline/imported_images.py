"""An audit of images made elsewhere: every file becomes a given cell of an ordinary run."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from audit.pipeline.plan import LIBRARIES
from audit.pipeline.session import Audit
from harness.hashing import canonical_digest, sha256
from harness.images import folder as given
from harness.images.a1111 import write_parameters
from harness.images.copies import keep_one_of_each, labels_of
from harness.images.folder import GivenError, GivenImage
from harness.images.pixels import CONVERTED
from harness.images.png import png_bytes
from harness.json_types import JsonObject
from harness.models.open_clip_models import refuse_unknown
from harness.plan.cells import Cell
from harness.progress import Say
from harness.spec.attributes import AttributeSpec, load_attribute
from harness.spec.prompts import Prompt
from harness.spec.schema import Spec, parse_spec
from harness.spec.sections import Fit, InstrumentSpec
from harness.store.run import Run
from probes.instruments import kinds
from probes.instruments.crops import DEFAULT_FIT

BATCH = 16
FILE = "given"
NO_PROMPT = "(no prompt found)"


class Import(NamedTuple):
    """Imported images as an audit, before anything is written.

    Attributes:
        audit: the audit.
        plan: one row an image, arm and prompt; files with the same bytes are one image.
        provenance: as of every run.
        images: the files behind each cell of the plan, copies included.
        folder: where they lie.
    """

    audit: Audit
    plan: pd.DataFrame
    provenance: JsonObject
    images: Mapping[str, Sequence[GivenImage]]
    folder: Path


def given_audit(
    folder: Path,
    csv: Path | None,
    out: Path,
    attributes: Sequence[str | AttributeSpec],
    classifiers: Sequence[str],
    say: Say,
    label_map: Mapping[str, str] = MappingProxyType({}),
    fit: Fit | None = None,
    instruments: Mapping[str, InstrumentSpec] = MappingProxyType({}),
) -> Import:
    """The audit, plan and provenance of a folder of images. Nothing is written.

    A column `model` of the CSV makes arms; images of one prompt count as its seeds. Classifiers
    are loaded here, so that one that cannot be is refused before any image is copied.

    Args:
        folder: Where the images are.
        csv: As `harness.images.folder.read_folder`.
        out: Run folder.
        attributes: Attributes by name, YAML files, or attributes themselves.
        classifiers: As the command line names them.
        say: Where warnings go.
        label_map: Class or outcome by value of a label, for values that are no class.
        fit: How images that are not square are fitted; None for the default.
        instruments: Instruments that the attributes may name, with whole paths.

    Raises:
        AuditError: As `harness.images.folder.read_folder`, or an attribute or classifier is
        unknown.
    """
    declared = [load_attribute(a, Path()) if isinstance(a, str) else a for a in attributes]
    clip = [c for c in classifiers if any(a.by_clip for a in declared)]  # others need none
    found = given.read_folder(folder, csv, declared, label_map)
    images = found.images
    warnings = [*given.warnings_of(found), *_of_masks(images)]
    prompts = list(dict.fromkeys(i.prompt or NO_PROMPT for i in images))
    arms = list(dict.fromkeys(_arm(i) for i in images))
    raw: JsonObject = {
        "name": folder.name,
        "checkpoints": dict.fromkeys(arms, FILE),
        "prompts": {"list": prompts},
        "attributes": declared,
        "classifiers": fitted(clip, [i.header.size for i in images], fit),
        "instruments": dict(instruments),
        "batch_size": BATCH,
    }
    if label_map:
        raw["labels"] = {"map": dict(label_map)}
    spec = parse_spec(raw, Path("audit score"))
    kinds.refuse_unknown(spec)
    plan, by_cell = _plan(images, spec, prompts)
    for line in warnings:
        say(f"warning: {line}")
    audit = Audit(spec, Path.cwd(), Run(out), [Prompt(p, {}, "", {}) for p in prompts])
    for instrument in audit.instruments:
        instrument.cache_key()  # a classifier that cannot be loaded is found out now
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
            **_colours(images),
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return Import(audit, plan, provenance, by_cell, folder)


def store_images(imported: Import, say: Say) -> pd.DataFrame:
    """Copy the images into the run, as PNG without their own text chunks, with masks and labels.

    A file that is no image, is cut off or too large is missing with its reason. Of images with
    identical pixels one is kept for each arm and prompt, with the labels of all.

    Returns:
        The plan without copies, as it now stands in the run.
    """
    run, plan = imported.audit.run, imported.plan
    for unit, rows in plan.groupby("unit", sort=False):
        if run.images_path(str(unit), FILE).exists():
            continue
        cells = [str(c) for c in rows["cell"].drop_duplicates()]
        records = [_record(c, imported.images[c][0], imported.folder) for c in cells]
        run.write_images(str(unit), FILE, records)
    plan, members = keep_one_of_each(run, plan, imported.images, FILE, say)
    run.write_plan(plan)
    for cell, images in members.items():
        mask = next((i.mask for i in images if i.mask), None)
        if mask is not None and run.read_mask(cell) is None:
            run.write_mask(cell, png_bytes(given.load_image(mask), "mask"))
    run.write_labels("given", labels_of(members, say))
    return plan


def _record(cell: str, image: GivenImage, folder: Path) -> JsonObject:
    try:
        pixels = given.load_image(image.path)
    except GivenError as error:
        # The report names the file, not where it lay on this machine.
        reason = str(error).replace(f"{folder}/", "")
        return {"cell": cell, "png": None, "sha256": None, "reason": reason}
    text = write_parameters(image.prompt, image.negative, image.settings)
    png, digest = png_bytes(pixels, text), sha256(pixels.tobytes())
    return {"cell": cell, "png": png, "sha256": digest, "reason": None}


def given_cell(digest: str, prompt: str, prompt_index: int, seed: int) -> Cell:
    """An image that was not made here; its unit is cut later.

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


def _arm(image: GivenImage) -> str:
    return image.labels.get("model", FILE)


def _colours(images: Sequence[GivenImage]) -> dict[str, str]:
    """What decides pixels beyond the files: a run from before profiles were converted is another.

    Of images without profiles nothing is said, so that their runs go on.
    """
    converted = any(i.header.colour == CONVERTED for i in images)
    return {"colour profiles": "converted to sRGB"} if converted else {}


def _of_masks(images: Sequence[GivenImage]) -> list[str]:
    """What is to be said of the masks; one that is no image is refused."""
    other = 0
    for image in images:
        if image.mask is None:
            continue
        size = given.size_of(image.mask)
        if size == (0, 0):
            raise GivenError(f"{image.mask}: the mask of {image.name!r} cannot be read as an image")
        other += size != image.header.size
    text = f"{other} masks differ in size from their images: no skin is measured there"
    return [text] if other else []


def _plan(
    images: Sequence[GivenImage], spec: Spec, prompts: list[str]
) -> tuple[pd.DataFrame, dict[str, list[GivenImage]]]:
    """One row for each arm, prompt and different file; and the files behind each cell.

    `seed` is no order: two images have the same one only where the CSV gives both the same
    `pair`, or where they are the same file in the same arm. So nothing that pairs by prompt and
    seed pairs images that have nothing to do with each other, in one run or between two.
    """
    index = {prompt: i for i, prompt in enumerate(prompts)}
    first_prompt: dict[str, str] = {}
    rows: dict[tuple[str, str], Cell] = {}
    by_cell: dict[str, list[GivenImage]] = {}
    paired: dict[tuple[str, str, str], GivenImage] = {}
    for image in images:
        prompt, arm = image.prompt or NO_PROMPT, _arm(image)
        # A file under two prompts is two images: each is scored against its own.
        own = first_prompt.setdefault(image.sha256, prompt) == prompt
        cell = canonical_digest(["given", image.sha256, *([] if own else [prompt])])
        by_cell.setdefault(cell, []).append(image)
        if image.pair:
            first = paired.setdefault((arm, prompt, image.pair), image)
            if first.sha256 != image.sha256:
                raise GivenError(
                    f"pair {image.pair!r} is given to {first.name!r} and {image.name!r}, both of "
                    f"{arm!r} with the prompt {prompt[:60]!r}; a pair has one image of each model"
                )
        known = rows.get((arm, cell))
        if known is None:
            base = given_cell(cell, prompt, index[prompt], 0)
            rows[arm, cell] = base._replace(checkpoint=arm, negative_text=image.negative)
        if image.pair and not rows[arm, cell].pair:
            rows[arm, cell] = rows[arm, cell]._replace(pair=image.pair)
    cells = [c._replace(seed=_seed(c)) for c in rows.values()]
    plan = pd.DataFrame(cells, columns=Cell._fields)
    for start in range(0, len(plan), spec.batch_size):
        part = plan.index[start : start + spec.batch_size]
        plan.loc[part, "unit"] = canonical_digest(list(plan.loc[part, "cell"]))[:16]
    return plan, by_cell


def _seed(cell: Cell) -> int:
    """48 bits: a browser's numbers are exact up to 53."""
    named = f"pair\0{cell.pair}" if cell.pair else f"image\0{cell.checkpoint}\0{cell.cell}"
    return int.from_bytes(hashlib.sha256(named.encode()).digest()[:6], "big")


def fitted(
    classifiers: Sequence[str], sizes: Sequence[tuple[int, int]], fit: Fit | None
) -> dict[str, JsonObject]:
    """Classifiers of the command line for a spec, with how they take images that are not square.

    Args:
        classifiers: As the command line names them.
        sizes: Width and height of every image.
        fit: As asked for; None for the default. Without any image that is not square it is left
            out: there is nothing to fit, and scores of square images keep their folders.
    """
    uneven = any(width != height for width, height in sizes)
    named = {"fit": fit or DEFAULT_FIT} if uneven else {}
    return {classifier_name(c): classifier_spec(c) | named for c in classifiers}


def classifier_spec(text: str) -> JsonObject:
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
