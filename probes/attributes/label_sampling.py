"""People's labels on a run's own images: which to label, in which order, and how they agree.

Which images: each is drawn by itself with a known probability (Poisson sampling) that grows
with the instruments' uncertainty, so that labels go where they tell most (Zrnic and Candès,
Active statistical inference, 2024). The whole table of probabilities is kept in the run: what
the labels say of all images rests on it. Labels are only ever added, each in a file of its
own, so that several people can label at once; of one person's labels of one image the last
counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import SpecError
from harness.spec.attributes import OUTCOMES, AttributeSpec
from harness.spec.label_classes import check_label_map, resolve_labels
from harness.spec.schema import Spec, parse_spec, read_own_spec
from harness.store.damage import refuse
from harness.store.run import LABEL_COLUMNS, WITHDRAWN, Run
from harness.text import nearest, slug
from probes.attributes.label_agreement import kappa_table
from probes.attributes.outcomes import readings

FLOOR = 0.1
"""Uncertainty that even the surest image is reckoned with. An instrument can be sure and
wrong: without a floor its confident errors would hardly ever be seen."""


def sample(run_path: Path, attribute: str, n: int, seed: int) -> pd.DataFrame:
    """Draw about n images of a run to be labelled, or read those drawn before.

    An image's probability is in proportion to its uncertainty, at least `FLOOR`; see
    `uncertainty`. The number drawn is random, n on average. The sample is kept: later calls
    return it, whatever their n and seed.

    Args:
        run_path: The run.
        attribute: One of the run's attributes.
        n: Images wanted, at least 1; where the run has no more than n, all are drawn.
        seed: Of the draw.

    Returns:
        Columns cell and pi (0 to 1, above 0), one row a drawn image, in the plan's order.

    Raises:
        SpecError: No run, no such attribute, no images, or images still to be made.
    """
    run, spec = _open(run_path)
    declared = attribute_of(spec, attribute)
    kept = run.read_sample(declared.name)
    if kept is None:
        refuse(run)
        if n < 1:
            raise SpecError(f"--n {n}: at least 1 image must be labelled")
        cells = _pictures(run)
        unsure = _uncertainties(run, spec, declared, cells)
        pi = probabilities(unsure, n)
        drawn = np.random.default_rng(seed).random(len(cells)) < pi
        run.write_sample(declared.name, pd.DataFrame({"cell": cells, "pi": pi, "drawn": drawn}))
        kept = run.read_sample(declared.name)
        assert kept is not None
    return kept.loc[kept["drawn"], ["cell", "pi"]].reset_index(drop=True)


def queue(run_path: Path, attribute: str, labeller: str) -> list[str]:
    """Cells of the kept sample that a labeller has not labelled yet.

    The order is random, another for everybody, and the same at every call: whoever stops early
    has labelled a random part of the sample.

    Raises:
        SpecError: No run, no such attribute, no sample yet, or no name.
    """
    run, spec = _open(run_path)
    name = attribute_of(spec, attribute).name
    person = _person(labeller)
    labels = run.labels()
    own = labels[(labels["attribute"] == name) & (labels["rater"] == person)]
    left = set(_drawn(run, name)) - set(own["cell"])
    return sorted(left, key=lambda c: hashlib.sha256(f"{person}/{name}/{c}".encode()).digest())


def add(run_path: Path, attribute: str, cell: str, labeller: str, outcome: str) -> None:
    """Keep one label; see `add_all`."""
    add_all(run_path, attribute, labeller, [(cell, outcome)])


def add_all(
    run_path: Path, attribute: str, labeller: str, labels: Sequence[tuple[str, str]]
) -> None:
    """Keep labels of one person, all or, where one is refused, none.

    Args:
        run_path: Run directory.
        attribute: Name of one of its attributes.
        labeller: Who labels; any name.
        labels: (cell of the kept sample, outcome) in the order given: of one cell the last
            counts. An outcome is a class of the attribute, 'nobody', 'several', 'cannot tell',
            or '' (`store.WITHDRAWN`), which takes the person's label of that cell back.

    Raises:
        SpecError: One of these is not as said.
    """
    run, spec = _open(run_path)
    declared = attribute_of(spec, attribute)
    person = _person(labeller)
    drawn = set(_drawn(run, declared.name))
    for cell, outcome in labels:
        if outcome != WITHDRAWN:
            _check_outcome(outcome, declared)
        if cell not in drawn:
            raise SpecError(f"{cell[:12]!r} is not in the sample drawn for {declared.name!r}")
    run.append_labels([(cell, declared.name, outcome, person) for cell, outcome in labels])


def add_table(
    run_path: Path, table: pd.DataFrame, mapping: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, int]:
    """Keep many labels at once: columns cell, attribute, class and, if several people, rater.

    Args:
        run_path: The run.
        table: One label a row.
        mapping: Class, outcome or '' (no label) by value, for values that are no class.

    Returns:
        Labels kept, and how many of them are of images outside the kept samples.

    Raises:
        SpecError: A column is missing, or the first row that is wrong, by its line in a CSV.
            Nothing is kept then.
        LabelError: Values that are no class; nothing is kept then.
    """
    run, spec = _open(run_path)
    for column in LABEL_COLUMNS[:3]:
        if column not in table:
            needed = ", ".join(LABEL_COLUMNS[:3])
            raise SpecError(f"column {column!r} is missing; needed: {needed}; optional: rater")
    table = table.assign(**{c: table[c].map(_text) for c in LABEL_COLUMNS if c in table})
    plan = run.read_plan()
    cells = set() if plan is None else set(plan["cell"])
    check_label_map(mapping, spec.attributes)
    for line, (attribute, cell) in enumerate(
        zip(table["attribute"], table["cell"], strict=True), 2
    ):
        try:
            attribute_of(spec, attribute)
            if cell not in cells:
                raise SpecError(f"cell {cell[:70]!r} is not in this run's plan")
        except SpecError as error:
            raise SpecError(f"line {line}: {error}") from None
    how = "translate with --label-map VALUE=CLASS"
    table = resolve_labels(table, spec.attributes, mapping, "the table", how)
    drawn = {a: _drawn_cells(run, a) for a in table["attribute"].unique()}
    rows = [
        (str(r["cell"]), str(r["attribute"]), str(r["class"]), str(r.get("rater", "")))
        for r in table.to_dict("records")
    ]
    run.append_labels(rows)
    return len(rows), sum(cell not in drawn[attribute] for cell, attribute, _, _ in rows)


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()


def _drawn_cells(run: Run, attribute: str) -> set[str]:
    known = run.read_sample(attribute)
    return set() if known is None else set(known.loc[known["drawn"], "cell"])


def agreement(run_path: Path, attribute: str) -> pd.DataFrame:
    """How far labellers agree on a run's images; see `kappa_table`."""
    run, spec = _open(run_path)
    return kappa_table(_labels(run, spec), attribute_of(spec, attribute))


def agreement_lines(run_path: Path) -> list[str]:
    """Agreement on every attribute of a run, one line each number of labels an image has."""
    run, spec = _open(run_path)
    labels = _labels(run, spec)
    lines = []
    for attribute in spec.attributes:
        for row in kappa_table(labels, attribute).itertuples():
            told = f"kappa {row.kappa:.2f}" if row.kappa == row.kappa else "no kappa"
            told += f" [{row.low:.2f}, {row.high:.2f}]" if row.low == row.low else ""
            told += f" ({row.note})" if row.note else ""
            lines.append(
                f"{attribute.name}: {row.images} images with {row.raters} labels each: "
                f"{row.agreement:.0%} of pairs agree, {told}"
            )
    return lines or ["no image has labels of two people yet: nothing to compare"]


def uncertainty(scores: pd.DataFrame, attribute: AttributeSpec) -> NDArray[np.float64]:
    """How unsure an instrument is of each image: 0 (sure) to 1 (all outcomes equally likely).

    √(1 − Σ p²), the standard deviation of the outcome by the instrument's own probabilities, as
    a part of its largest. It is what images are best drawn by if the instrument is calibrated
    (Zrnic and Candès 2024, section 3; Neyman 1934).

    Args:
        scores: Rows of `probes.instruments.clip.ClipAttribute`.
        attribute: Which classes.
    """
    classes = scores[[f"class:{n}" for n in attribute.class_names]].to_numpy(float)
    beside = np.nan_to_num(scores[["nobody", "several"]].to_numpy(float))
    all_outcomes = np.column_stack([classes * (1 - beside.sum(axis=1, keepdims=True)), beside])
    most = 1 - 1 / len(attribute.class_names)
    spread: NDArray[np.float64] = np.sqrt((1 - (all_outcomes**2).sum(axis=1)).clip(0) / most)
    return np.minimum(np.nan_to_num(spread, nan=1.0), 1.0)


def probabilities(unsure: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Probabilities in proportion to uncertainty, at least `FLOOR`, that add up to n.

    Where one would exceed 1 it is 1, and the others take the rest.

    Args:
        unsure: (N,) 0 to 1.
        n: Images wanted on average; N or more draws all.
    """
    size = np.maximum(unsure, FLOOR)
    pi = np.ones(len(size))
    free = np.full(len(size), len(size) > n)
    while free.any():
        pi[free] = size[free] * (n - (~free).sum()) / size[free].sum()
        over = free & (pi > 1)
        if not over.any():
            break
        pi[over] = 1
        free &= ~over
    return pi


def attribute_of(spec: Spec, name: str) -> AttributeSpec:
    """An attribute of a spec by its name.

    Raises:
        SpecError: It has no such attribute; quotes the nearest.
    """
    known = {a.name: a for a in spec.attributes}
    if slug(name) not in known:
        hint = nearest(name, tuple(known)) if known else "this run has no attributes"
        raise SpecError(f"attribute {name!r} is not in this run; {hint}")
    return known[slug(name)]


def _check_outcome(outcome: str, attribute: AttributeSpec) -> None:
    valid = (*attribute.class_names, *OUTCOMES)
    if outcome not in valid:
        raise SpecError(f"{outcome!r} is no outcome of {attribute.name!r}; one of: {valid}")


def _labels(run: Run, spec: Spec) -> pd.DataFrame:
    mapping = spec.labels.map if spec.labels else {}
    return resolve_labels(run.labels(), spec.attributes, mapping, f"{run.folder / 'labels'}")


def _person(labeller: str) -> str:
    if not labeller.strip():
        raise SpecError("labeller: a name is missing; any will do")
    return labeller.strip()


def _open(folder: Path) -> tuple[Run, Spec]:
    """The run and its spec, without what makes images (torch).

    Raises:
        SpecError: The folder holds no run, or part of it lies elsewhere.
    """
    path = folder / "spec.yaml"
    if not path.exists():
        raise SpecError(f"{folder}: no run here (spec.yaml is missing)")
    root = folder.resolve()
    for name in ("labels", "label-samples"):
        if not (folder / name).resolve().is_relative_to(root):
            raise SpecError(f"{folder / name}: points out of the run; labels stay inside it")
    run = Run(folder)
    _ = run.format  # a later version's is refused
    return run, parse_spec(read_own_spec(path), path)


def _drawn(run: Run, attribute: str) -> list[str]:
    kept = run.read_sample(attribute)
    if kept is None:
        raise SpecError(
            f"{run.folder}: no sample is drawn for {attribute!r} yet; run `audit labels sample "
            f"{run.folder} --attribute {attribute} --n 200`"
        )
    return [str(c) for c in kept.loc[kept["drawn"], "cell"]]


def _pictures(run: Run) -> list[str]:
    """All cells that have an image, each once, in the plan's order."""
    plan = run.read_plan()
    if plan is None:
        raise SpecError(f"{run.folder}: no plan here; run `audit run` first")
    files = set(run.image_files())
    failed = set(run.failures())
    waiting = plan[~plan["unit"].isin(failed)].drop_duplicates(["unit", "vae_file"])
    left = [u for u in zip(waiting["unit"], waiting["vae_file"], strict=True) if u not in files]
    if left:
        raise SpecError(
            f"{run.folder}: {len(left)} of {len(waiting)} batches are not made yet, and a sample "
            "drawn now would never hold them; finish the run first"
        )
    made = {cell for unit, vae in files for cell in run.made_cells(unit, vae)}
    cells = [c for c in dict.fromkeys(plan["cell"]) if c in made]
    if not cells:
        raise SpecError(f"{run.folder}: the run holds no images to label")
    return cells


def _uncertainties(
    run: Run, spec: Spec, attribute: AttributeSpec, cells: list[str]
) -> NDArray[np.float64]:
    """The mean uncertainty over the run's classifiers; 1 where none has read an image."""
    folders = run.instruments()
    plan = run.read_plan()
    assert plan is not None
    columns = []
    for reading in readings(spec):
        if reading.attribute.name != attribute.name:
            continue
        folder = folders.get(reading.instrument)
        scores = run.read_scores(folder, set(plan["unit"])) if folder else pd.DataFrame()
        if len(scores):
            scores = scores.drop_duplicates("cell")
            found = pd.Series(uncertainty(scores, attribute), index=scores["cell"].to_numpy())
            columns.append(found.reindex(cells).fillna(1.0).to_numpy())
    return np.mean(columns, axis=0) if columns else np.ones(len(cells))
