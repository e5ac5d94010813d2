"""A run as one Parquet file, for viewers of other people (Embedding Atlas, Spotlight, notebooks).

One row an image: how it was made, what every classifier told of it, every number that was
scored, its place on the map (x, y), and a thumbnail in the layout of Hugging Face's datasets
(a struct of bytes and path), which these viewers read.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dashboard import outcomes, projections
from dashboard.images import thumbnail
from dashboard.queries import RunView
from harness.files.atomic import replacing
from harness.plan.cells import ARM

ROWS = 2000
"""Of a row group; thumbnails of so many images are held at once."""
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SETTINGS = (
    "cell",
    "trajectory",
    "arm",
    *ARM,
    "prompt",
    "seed",
)


def export(folder: Path, file: Path, side: int) -> tuple[int, int]:
    """Write a run's images as one table; the file is there whole or not at all.

    Args:
        folder: the run.
        file: where to.
        side: longest side of a thumbnail in px; 0 leaves them out.

    Returns:
        Rows and columns.

    Raises:
        RunError: No run there.
    """
    view = RunView(folder)
    table = wide(view)
    cells = table["cell"].tolist()
    plain = pa.Table.from_pandas(table, preserve_index=False)
    schema = plain.schema.remove_metadata()
    if side:
        schema = schema.append(pa.field("image", IMAGE))
    try:
        with (
            replacing(file) as whole,
            pq.ParquetWriter(whole, schema, compression="zstd") as writer,
        ):
            for start in range(0, len(cells), ROWS):
                part = plain.slice(start, ROWS).replace_schema_metadata()
                if side:
                    own = cells[start : start + ROWS]
                    pictures = view.images(own)
                    images = [
                        {"bytes": thumbnail(pictures[c], side), "path": f"{c[:16]}.webp"}
                        if c in pictures
                        else None
                        for c in own
                    ]
                    part = part.append_column("image", pa.array(images, IMAGE))
                writer.write_table(part)
    finally:
        view.close()
    return len(cells), len(schema)


def wide(view: RunView) -> pd.DataFrame:
    """One row a cell that has an image: settings, outcomes, numbers of all scores, x and y.

    A score is named INSTRUMENT/COLUMN; lists are left out. x and y are NaN beyond the number of
    images that a map holds (`maps.MOST`).
    """
    made = view.images_table()
    names = ", ".join(SETTINGS)
    table = view.sql(
        f"""SELECT {names} FROM plan SEMI JOIN (SELECT cell FROM {made} WHERE there)
            USING (cell) ORDER BY place"""
    )
    for reading in outcomes.readings(view):
        told = view.sql(f"SELECT cell, outcome FROM {outcomes.told(view, reading)}")
        name = f"{reading.instrument}/{reading.attribute.name}/outcome"
        if reading.instrument.endswith(f".{reading.attribute.name}"):
            name = f"{reading.instrument}/outcome"
        table[name] = table["cell"].map(told.set_index("cell")["outcome"])
    for instrument in view.instruments:
        scores = view.sql(f"SELECT DISTINCT ON (cell) * FROM {view.scores(instrument)}")
        plain = scores.set_index("cell").select_dtypes(["number", "bool"])
        own = plain.reindex(table["cell"]).reset_index(drop=True)
        table = pd.concat([table, own.add_prefix(f"{instrument}/")], axis=1)
    found = projections.sources(view)
    table["x"] = table["y"] = float("nan")
    if found:
        points = (
            projections.lay_out(view, found[0]).points.drop_duplicates("cell").set_index("cell")
        )
        for axis in ("x", "y"):
            table[axis] = table["cell"].map(points[axis])
    return table
