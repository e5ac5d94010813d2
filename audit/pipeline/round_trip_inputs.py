"""The images that are sent through VAEs: those of a folder, or those of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audit.pipeline.imported_images import NO_PROMPT
from audit.pipeline.session import reopen
from harness.errors import AuditError
from harness.images import folder as given
from harness.images.stored import opened, pixels
from harness.progress import Say
from harness.spec.attributes import AttributeSpec
from harness.spec.prompts import MOST_PROMPTS
from harness.store.run import Run

Pixels = NDArray[np.uint8]


class Picture(NamedTuple):
    """One image to be sent round: who it is and how to read it."""

    digest: str
    prompt: str
    """Its prompt; the file's name where none was found."""
    labels: Mapping[str, str]
    size: tuple[int, int]
    """Width and height; (0, 0) where it cannot be read."""
    load: Callable[[], Pixels]
    mask: Callable[[], Pixels | None]


def images_of_folder(
    folder: Path, csv: Path | None, attributes: Sequence[AttributeSpec], say: Say
) -> list[Picture]:
    """The images of a folder; columns of the CSV are labels, `mask` names an image of skin.

    Args:
        folder: Where the images are.
        csv: As `harness.images.folder.read_folder`.
        attributes: Those whose labels must be classes.
        say: Where warnings go.

    Raises:
        AuditError: As `harness.images.folder.read_folder`, or a mask that is not there.
    """
    how = "write the classes as declared"
    found = given.read_folder(folder, csv, attributes, needed=("file",), how=how)
    for line in given.warnings_of(found, prompts=False):
        say(f"warning: {line}")
    # More prompts than a spec may have: then those without one share a name.
    few = len(found.images) <= MOST_PROMPTS
    pictures = []
    for image in found.images:
        pictures.append(
            Picture(
                image.sha256,
                image.prompt or (image.name if few else NO_PROMPT),
                image.labels,
                image.header.size,
                lambda path=image.path: given.load_image(path),  # type: ignore[misc]
                lambda path=image.mask: path and given.load_image(path),  # type: ignore[misc]
            )
        )
    return pictures


def images_of_run(folder: Path) -> list[Picture]:
    """What the first VAE of a run made of every trajectory, with the run's labels and masks."""
    audit = reopen(folder)
    plan = audit.run.read_plan()
    if plan is None:
        raise AuditError(f"{folder}: no plan here; run `audit run` first")
    labels = audit.run.labels()
    named = {
        str(cell): dict(zip(part["attribute"], part["class"], strict=True))
        for cell, part in labels.groupby("cell")
    }
    pictures = []
    for row in plan.drop_duplicates("trajectory").itertuples():
        png = audit.run.image(str(row.unit), str(row.vae_file), str(row.cell))
        if png is None:
            continue
        size = opened(png).size
        pictures.append(
            Picture(
                str(row.cell),
                str(row.prompt),
                named.get(str(row.cell), {}),
                size,
                lambda data=png: pixels(data),  # type: ignore[misc]
                lambda run=audit.run, t=str(row.trajectory): _mask_pixels(run, t),  # type: ignore[misc]
            )
        )
    return pictures


def _mask_pixels(run: Run, trajectory: str) -> Pixels | None:
    mask = run.read_mask(trajectory)
    return None if mask is None else np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
