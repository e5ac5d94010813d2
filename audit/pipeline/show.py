"""One image of a run: how it was made, and making it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from audit.pipeline.session import Audit, reopen
from harness.errors import SpecError
from harness.files.atomic import write_atomic
from harness.hashing import sha256
from harness.images.stored import pixels
from harness.plan.cells import FACTS


def lines(folder: Path, cell: str, save: Path | None, again: bool) -> list[str]:
    """What is known of a cell; its image saved, or made again, where asked.

    Raises:
        SpecError: No such cell, or several that begin so.
    """
    audit = reopen(folder)
    plan = audit.run.read_cells()
    if plan is None:
        raise SpecError(f"{folder}: no plan here")
    found = plan[plan["cell"].str.startswith(cell)]
    ids = found["cell"].unique()
    if len(ids) != 1:
        many = f"{len(ids)} cells begin with it" if len(ids) else "no cell of the plan begins so"
        raise SpecError(f"{cell!r}: {many}; give more letters of an id from the report")
    row = found.iloc[0]
    text = [f"cell {row['cell']}"] + [f"  {key}: {row[key]}" for key in FACTS]
    png = audit.run.image(str(row["unit"]), str(row["vae_file"]), str(row["cell"]))
    if png is None:
        missing = audit.run.missing_images().set_index("cell")["reason"]
        reason = missing.get(str(row["cell"])) or audit.run.failures().get(
            str(row["unit"]), "not made yet"
        )
        return [*text, f"  image: missing ({reason})"]
    stored = sha256(pixels(png).tobytes())
    text.append(f"  pixels: sha256 {stored}")
    if save is not None:
        write_atomic(save, png)
        text.append(f"  saved: {save}")
    if again:
        if row["kind"] != "made":
            raise SpecError(f"{cell!r}: is {row['kind']!r} and cannot be made again by itself")
        made = sha256(_remake(audit, plan, row).tobytes())
        same = "the same pixels, bit for bit" if made == stored else f"OTHER pixels, sha256 {made}"
        text.append(f"  made again: {same}")
    return text


def _remake(audit: Audit, plan: pd.DataFrame, row: pd.Series) -> np.ndarray:
    """The pixels of one cell, made anew in a batch of its own."""
    from harness.generate.worker import GenerateWorker

    worker = GenerateWorker(audit.run, audit.checkpoints, audit.taps)
    generator = worker.use(str(row["checkpoint"]))
    latents = generator.denoise(row.to_frame().T)
    image = generator.decode(worker.vaes[str(row["vae"])], latents)[0]
    worker.close()
    made: np.ndarray = (image * 255).round().astype(np.uint8)
    return made
