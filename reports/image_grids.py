"""Which images a report shows: X/Y grids of any two factors, and what VAEs changed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import SpecError
from harness.images.heat_map import map_at
from harness.images.image_ref import AMPLIFICATION, ImageRef, read_ref, rendered
from harness.plan.cells import ARM
from harness.store.run import Run
from harness.taps import record as taps
from harness.text import nearest
from probes.contracts import Figure

FACTORS = ("prompt", "seed", *ARM)
GRIDS = "image grids"
"""What stands for a probe in the figures of images alone."""
MOST_GRIDS = 4
MOST_ROWS, MOST_COLUMNS = 8, 8


class Pictures:
    """PNG bytes of a run's images, of differences of two and of images under a heat map.

    Args:
        run: The run.
        plan: Its plan.
        attention: Folder of the attention tap, '' where there is none.
    """

    def __init__(self, run: Run, plan: pd.DataFrame, attention: str = "") -> None:
        self.run, self.attention = run, attention
        where = plan.drop_duplicates("cell").set_index("cell")
        self.where = where[["unit", "vae_file", "trajectory"]]

    def __call__(self, text: str) -> bytes | None:
        """PNG bytes of a reference, see `harness.images.image_ref`; None: there is no such one."""
        return rendered(read_ref(text), self._png, self._map)

    def _png(self, cell: str) -> bytes | None:
        if cell not in self.where.index:
            return None
        unit, file, _ = self.where.loc[cell]
        return self.run.image(str(unit), str(file), cell)

    def _map(self, ref: ImageRef) -> NDArray[np.generic] | None:
        unit, _, trajectory = self.where.loc[ref.cell]
        record = taps.read(self.run, self.attention, str(unit)).get(str(trajectory))
        name, index = ref.array
        if record is None or name not in record.arrays:
            return None
        return map_at(record.arrays[name], index)


def grid_figures(plan: pd.DataFrame, wanted: Sequence[str] = ()) -> list[Figure]:
    """Labelled X/Y grids: two factors vary, all others stay at their first level.

    Raises:
        SpecError: A factor that does not exist or does not vary.
    """
    given = plan["kind"] == "given"
    if given.any():  # imported images share no noise: they are laid out in their order
        order = plan.groupby(["prompt", *ARM], sort=False).cumcount()
        plan = plan.assign(seed=plan["seed"].where(~given, order))
    varying = [f for f in FACTORS if plan[f].nunique() > 1]
    pairs = [_pair(text, plan) for text in wanted]
    if not wanted:
        arms = [f for f in varying if f not in ("prompt", "seed")]
        pairs = [("prompt", f) for f in arms] + list(combinations(arms, 2))
        pairs = (pairs or [("prompt", "seed")])[:MOST_GRIDS]
    return [_grid(plan, row, column) for row, column in pairs]


def difference_grid(plan: pd.DataFrame, scores: pd.DataFrame) -> list[Figure]:
    """The images that VAEs changed most: the reference, each VAE's, and the difference.

    Args:
        plan: The plan; the first VAE of a trajectory is the reference.
        scores: Rows of `probes.vae.fidelity`; without any there is no such grid.
    """
    if "mse" not in scores or plan["vae"].nunique() < 2:
        return []
    errors = plan["cell"].map(scores.drop_duplicates("cell").set_index("cell")["mse"])
    worst = errors.groupby(plan["trajectory"]).max().nlargest(MOST_ROWS).index
    rows = []
    for number, trajectory in enumerate(worst, 1):
        own = plan[plan["trajectory"] == trajectory].drop_duplicates("vae")
        first = own.iloc[0]
        name = f"{number}. {first['prompt']}"
        rows.append((name, str(first["vae"]), str(first["cell"]), ""))
        for row in own.iloc[1:].itertuples():
            rows.append((name, str(row.vae), str(row.cell), ""))
            apart = str(ImageRef(str(row.cell), minus=str(first["cell"])))
            rows.append((name, f"{row.vae}, what changed", apart, ""))
    table = pd.DataFrame(rows, columns=["row", "column", "cell", "caption"])
    caption = (
        f"The {len(worst)} images that changed most. 'What changed' is the difference from the "
        f"first column, {AMPLIFICATION} times amplified on grey."
    )
    alt = "A grid of images: a row an image, a column a VAE and what it changed."
    return [Figure("grid/vae/changed", "grid", table, caption, alt, GRIDS)]


def _pair(text: str, plan: pd.DataFrame) -> tuple[str, str]:
    parts = [p.strip() for p in text.split(",")]
    if len(parts) != 2:
        raise SpecError(f"--grid {text!r}: name two factors, such as 'prompt,checkpoint'")
    for part in parts:
        if part not in FACTORS:
            raise SpecError(f"--grid {text!r}: {part!r} is no factor; {nearest(part, FACTORS)}")
    return parts[0], parts[1]


def _grid(plan: pd.DataFrame, row: str, column: str) -> Figure:
    rest = plan
    for factor in FACTORS:
        if factor not in (row, column):
            rest = rest[rest[factor] == rest[factor].iloc[0]]
    rows = list(dict.fromkeys(rest[row]))[:MOST_ROWS]
    columns = list(dict.fromkeys(rest[column]))[:MOST_COLUMNS]
    rest = rest[rest[row].isin(rows) & rest[column].isin(columns)]
    fixed = ", ".join(
        f"{f} {rest[f].iloc[0]}"
        for f in ("prompt", "checkpoint", "vae", "guidance", "steps", "seed")
        if f not in (row, column)
    )
    table = pd.DataFrame(
        {
            "row": rest[row].astype(str),
            "column": rest[column].astype(str),
            "cell": rest["cell"],
            "caption": "",
        }
    )
    imported = (rest["kind"] == "given").any()
    noise = "" if imported else ", same starting noise in every row"
    caption = f"{row} by {column}{noise}; {fixed}"
    alt = f"A grid of images: rows are {row}, columns are {column}."
    return Figure(f"grid/{row}/{column}", "grid", table.reset_index(drop=True), caption, alt, GRIDS)
