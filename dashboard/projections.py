"""Points of the latent map: images laid out on a plane so that similar ones are neighbours.

A run's own map (a figure of kind 'scatter+image') is shown as it is. Without one the plane is
that of the first two principal components of what the run holds: a classifier's image
embeddings, or the stored latents. A run of many images is drawn from `MOST` of them, picked by
the hash of their ids: always the same ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dashboard.queries import RunView
from harness.files.checksums import DamagedError, check_tensors

MOST = 20_000
BYTES = 200_000_000
"""Of the vectors that are held at once."""


class Source(NamedTuple):
    """Where a map's points come from."""

    kind: str
    """'figure', 'embeddings' or 'latents'."""
    name: str
    """Of the figure or instrument."""
    title: str
    facet: str = ""
    """Which plane of a figure that has several."""


class Map(NamedTuple):
    """A plane of images.

    Attributes:
        points: cell, x, y, and whatever else a figure holds of them.
        note: what the axes are, in words.
    """

    points: pd.DataFrame
    note: str


def sources(view: RunView) -> list[Source]:
    """The maps that a run can show, the best first."""
    found = []
    for e in view.figures:
        if e.kind == "scatter+image" and {"cell", "x", "y"} <= set(e.table.columns):
            facets = list(dict.fromkeys(e.table["facet"].astype(str))) if "facet" in e.table else []
            for facet in facets or [""]:
                title = f"{e.id}: {facet}" if facet else e.caption or e.id
                found.append(Source("figure", e.id, title, facet))
    for name, folder in view.instruments.items():
        if "embedding" in pq.read_schema(view.files.scores[folder][0]).names:
            title = f"Image embeddings of {name.removesuffix('.likeness')}, principal components"
            found.append(Source("embeddings", name, title))
    if view.files.latents:
        found.append(Source("latents", "", "Final latents, principal components"))
    return found


def lay_out(view: RunView, source: Source) -> Map:
    """The points of one map, rows in the plan's order."""
    if source.kind == "figure":
        figure = next(e for e in view.figures if e.id == source.name)
        table = figure.table
        if source.facet:
            table = table[table["facet"].astype(str) == source.facet]
        return Map(table.dropna(subset=["x", "y"]), f"As the probe lays them out. {figure.caption}")
    cells, vectors = _embeddings(view, source) if source.kind == "embeddings" else _latents(view)
    if len(cells) < 3:
        return Map(pd.DataFrame(columns=["cell", "x", "y"]), "Too few images for a map.")
    from sklearn.decomposition import PCA

    pca = PCA(2, svd_solver="randomized", random_state=0)
    plane = pca.fit_transform(vectors)
    one, two = 100 * pca.explained_variance_ratio_
    note = (
        f"The axes are the first two principal components: {one:.0f} % and {two:.0f} % of the "
        "variance. What lies apart differs; what lies together may still differ along other axes."
    )
    points = pd.DataFrame({"cell": cells, "x": plane[:, 0], "y": plane[:, 1]})
    return Map(points, note)


def sample(view: RunView, column: str, most: int) -> pd.DataFrame:
    """Rows of the plan, at most so many different values of a column, always the same ones."""
    return view.sql(
        f"""SELECT * FROM plan WHERE {column} IN
            (SELECT {column} FROM plan GROUP BY 1 ORDER BY hash({column}), 1 LIMIT ?)
            ORDER BY place""",
        [most],
    )


def _embeddings(view: RunView, source: Source) -> tuple[list[str], NDArray[np.float32]]:
    cells: list[str] = []
    parts: list[NDArray[np.float32]] = []
    wanted = set(sample(view, "cell", MOST)["cell"])
    room = BYTES
    for path in view.files.scores[view.instruments[source.name]]:
        try:
            table = pq.read_table(path, columns=["cell", "embedding"])
        except (OSError, ValueError):
            continue
        ids = table["cell"].to_pylist()
        keep = [i for i, cell in enumerate(ids) if cell in wanted]
        if not keep or room <= 0:
            continue
        held = table["embedding"].combine_chunks()
        flat = np.asarray(held.flatten(), np.float32).reshape(len(ids), -1)
        parts.append(flat[keep])
        cells += [ids[i] for i in keep]
        wanted -= set(cells[-len(keep) :])
        room -= parts[-1].nbytes
    return cells, np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def _latents(view: RunView) -> tuple[list[str], NDArray[np.float32]]:
    """One vector a trajectory, told by its first cell."""
    from safetensors import SafetensorError, safe_open

    cells: list[str] = []
    parts: list[NDArray[np.float32]] = []
    rows = sample(view, "trajectory", MOST).drop_duplicates("trajectory")
    room, strict = BYTES, view.held.format > 1
    for unit, part in rows.groupby("unit", sort=False):
        path = view.files.latents.get(str(unit))
        if path is None or room <= 0:
            continue
        try:
            with safe_open(path, "numpy") as file:
                held = set(file.keys())
                for row in part.itertuples():
                    if row.trajectory in held:
                        array = file.get_tensor(row.trajectory)
                        check_tensors([(row.trajectory, array)], file.metadata(), path, strict)
                        vector = array.astype(np.float32).ravel()
                        if parts and len(vector) != len(parts[0]):
                            continue  # another size of image has no place on this plane
                        cells.append(str(row.cell))
                        parts.append(vector)
                        room -= vector.nbytes
        except (OSError, SafetensorError, TypeError, DamagedError):
            continue  # removed, cut short, or bfloat16, which numpy does not know
    return cells, np.stack(parts) if parts else np.zeros((0, 1), np.float32)
