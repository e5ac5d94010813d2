"""Copies of one image among imported files: counted once, with the labels of all.

An image that a folder holds eight times says no more than one: n, intervals and p count it once.
Two files are copies where their pixels are identical, as decoded, upright and in sRGB, and arm
and prompt are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from harness.images.folder import GivenImage
from harness.progress import Say
from harness.store.run import Run

Members = Mapping[str, Sequence[GivenImage]]


def keep_one_of_each(
    run: Run, plan: pd.DataFrame, images: Members, file: str, say: Say
) -> tuple[pd.DataFrame, Members]:
    """The plan with one row for each arm, prompt and different image.

    Args:
        run: The run; all images are stored.
        plan: One row for each arm, prompt and different file.
        images: The files behind each cell of the plan.
        file: Name of the images files.
        say: Where the number of copies is said.

    Returns:
        The plan without copies, and the files behind each of its cells, the kept one first.
    """
    digests = _pixel_digests(run, plan, file)
    kept: dict[tuple[str, str, str], str] = {}
    members: dict[str, dict[str, GivenImage]] = {}
    stays, files = [], 0
    for row in plan.itertuples():
        cell, arm, prompt = str(row.cell), str(row.checkpoint), str(row.prompt)
        # Bytes of another shape can be the same, of a page of one colour for example.
        shape = images[cell][0].header.size
        same = f"{digests[cell]} {shape}" if cell in digests else cell
        first = kept.setdefault((arm, prompt, same), cell)
        stays.append(first == cell)
        own = [i for i in images[cell] if i.labels.get("model", file) == arm]
        files += len(own)
        members.setdefault(first, {}).update({i.name: i for i in own})
    copies = files - sum(stays)
    if copies:
        say(
            f"warning: {copies} of {files} files are copies: their pixels are identical to those "
            f"of another file with the same model and prompt. {sum(stays)} images are counted"
        )
    alone = {cell: list(named.values()) for cell, named in members.items()}
    return plan[stays].reset_index(drop=True), alone


def labels_of(members: Members, say: Say) -> list[tuple[str, str, str, str]]:
    """The labels of images, rows of `harness.store.run.LABEL_COLUMNS`; copies give theirs to one.

    Where copies have different labels the first file's counts, and the number of such images is
    said.
    """
    rows, torn = [], []
    for cell, images in members.items():
        labels: dict[str, str] = {}
        for image in images:
            for label, value in image.labels.items():
                if label != "model" and labels.setdefault(label, value) != value:
                    torn.append(f"{images[0].name} and {image.name} ({label})")
        rows += [(cell, label, value, "given") for label, value in labels.items()]
    if torn:
        say(
            f"warning: {len(torn)} copies have another label than the image that is kept, such as "
            f"{torn[0]}; the first file's label counts"
        )
    return rows


def _pixel_digests(run: Run, plan: pd.DataFrame, file: str) -> dict[str, str]:
    """sha256 of the pixels by cell; images that could not be read have none."""
    digests: dict[str, str] = {}
    for unit in plan["unit"].unique():
        digests |= run.pixel_digests(str(unit), file)
    return digests
