"""Which pictures a report shows: X/Y grids of any two factors, and what VAEs changed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from harness.errors import SpecError
from harness.images.heat_map import HEAT, map_at, overlaid, place_of
from harness.plan.cells import ARM
from harness.store.run import Run
from harness.taps import record as taps
from harness.text import nearest
from probes.contracts import Figure

FACTORS = ("prompt", "seed", *ARM)
MOST_GRIDS = 4
MOST_ROWS, MOST_COLUMNS = 8, 8
MINUS = " minus "
AMPLIFIED = 8


class Pictures:
    """PNG bytes of a cell, of a difference ('CELL minus CELL') or of a cell under a heat map.

    Args:
        run: The run.
        plan: Its plan.
        attention: Folder of the attention tap, '' where there is none.
    """

    def __init__(self, run: Run, plan: pd.DataFrame, attention: str = "") -> None:
        self.run, self.attention = run, attention
        where = plan.drop_duplicates("cell").set_index("cell")
        self.where = where[["unit", "vae_file", "trajectory"]]

    def __call__(self, cell: str) -> bytes | None:
        """None where the run has no such picture."""
        if HEAT in cell:
            return self._heated(*cell.split(HEAT))
        if MINUS in cell:
            one, two = (self._pixels(part) for part in cell.split(MINUS))
            if one is None or two is None or one.shape != two.shape:
                return None
            apart = 128 + AMPLIFIED * (one.astype(int) - two)
            buffer = io.BytesIO()
            Image.fromarray(apart.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
            return buffer.getvalue()
        unit, file, _ = self.where.loc[cell]
        return self.run.image(str(unit), str(file), cell)

    def _heated(self, cell: str, word: str) -> bytes | None:
        png, unit = self(cell), str(self.where.at[cell, "unit"])
        record = taps.read(self.run, self.attention, unit).get(self.where.at[cell, "trajectory"])
        place = place_of(word)
        if png is None or record is None or place is None or place[0] not in record.arrays:
            return None
        plane = map_at(record.arrays[place[0]], place[1])
        return None if plane is None else overlaid(png, plane)

    def _pixels(self, cell: str) -> NDArray[np.uint8] | None:
        png = self(cell)
        return None if png is None else np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


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
    """The pictures that VAEs changed most: the reference, each VAE's, and the difference.

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
            apart = f"{row.cell}{MINUS}{first['cell']}"
            rows.append((name, f"{row.vae}, what changed", apart, ""))
    table = pd.DataFrame(rows, columns=["row", "column", "cell", "caption"])
    caption = (
        f"The {len(worst)} pictures that changed most. 'What changed' is the difference from the "
        f"first column, {AMPLIFIED} times amplified on grey."
    )
    alt = "A grid of pictures: a row a picture, a column a VAE and what it changed."
    return [Figure("grid/vae/changed", "grid", table, caption, alt)]


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
    alt = f"A grid of pictures: rows are {row}, columns are {column}."
    return Figure(f"grid/{row}/{column}", "grid", table.reset_index(drop=True), caption, alt)
