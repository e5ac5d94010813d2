"""The contracts between a run and what is said of it.

A run's images become rows (instruments), rows become findings and figures (analyses).
Report, gate and dashboard know nothing else of a probe: `Finding` and `Figure` are the
narrow waist. A probe never generates: it asks for cells, so that everything made is planned,
resumable, shared and countable before it is paid for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import nan
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import pandas as pd

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.plan.cells import Cell
    from harness.spec.schema import Spec
    from harness.taps.record import Record
    from probes.statistics.intervals import Estimand

Kind = Literal["bar", "line", "scatter+image", "heat-over-image", "strip", "grid", "table"]


class Finding(NamedTuple):
    """One claim, with all that is needed to weigh it.

    A headline with a `family` and a p is a test of the report: `probes.error_control` adjusts its p
    over all of them, and only tests have a verdict. All else is described.

    `low` and `high` bound a 95 % interval. `null` is what a model without the effect scores
    at this n, `null_q95` the 95 % point of that, `p` the probability of a value at least as
    far out. Numbers that were not measured are NaN, never zero.
    """

    id: str
    """Stable across runs: probe/metric/subject."""
    probe: str
    metric: str
    subject: dict[str, str]
    """Of what: {"checkpoint": …, "vae": …, "prompt": …, "attribute": …, "class": …}."""
    value: float
    low: float = nan
    high: float = nan
    estimand: Estimand = "this suite"
    estimator: str = ""
    headline: bool = False
    n: int = 0
    n_clusters: int = 0
    null: float = nan
    null_q95: float = nan
    p: float = nan
    target: str = ""
    unit: str = ""
    higher_is_better: bool | None = None
    instrument: str = ""
    status: Literal["measured", "not-measured", "failed"] = "measured"
    note: str = ""
    tested_against: float = nan
    """The value that p tests against, in the finding's unit; NaN where nothing is tested."""
    family: str = ""
    """The family of tests that p is adjusted in, such as 'ARM/ATTRIBUTE/INSTRUMENT'; '': none."""
    adjustment: str = "none"
    """How p was adjusted over the report's tests: 'none', or the procedure's name."""
    p_unadjusted: float = nan
    """The p of this test alone; NaN where p was not adjusted."""
    reading: Literal["", "as counted", "corrected", "prediction-powered"] = ""
    """Which estimate of a share this is: what the classifier said, that corrected for its
    confusion matrix, or with people's labels."""
    planned: int = 0
    """Images planned for this number, of which `n` were counted; 0: not known."""


class Figure(NamedTuple):
    """One figure with the table behind it: all that report and dashboard draw.

    Columns by kind:
        bar: label, value, low, high, group; optionally target, facet.
        line: x, value, low, high, group; optionally facet.
        scatter+image: x, y, group, cell (the image behind a point); optionally facet.
        grid, heat-over-image, strip: row, column, cell (ids to look up in the run's pictures,
            which also know a cell under a heat map: see `reports.image_grids`), caption.
        table: any.
        others: as the probe that makes them documents.
    """

    id: str
    kind: Kind
    table: pd.DataFrame
    caption: str
    alt: str


class Batch(NamedTuple):
    """Images to be measured together.

    Attributes:
        cells: one id an image.
        prompts: the prompt of each image.
        images: each (height, width, 3), uint8 sRGB; sizes may differ.
        references: the picture that each is held against, of the same size: the original of a
            round trip, or what the first VAE made of the same latents. Empty unless an
            instrument needs "references"; None where there is none.
        masks: where skin is, each (height, width) bool; as `references` by need.
        latents: final latents, each (channels, height, width) float32, before scaling is undone;
            as `references` by need.
        taps: by need ("attention", "steps", "activations", "guidance"), the record of each image's
            denoising, as `harness.taps.record` keeps it; None where the image was not made here.
    """

    cells: tuple[str, ...]
    prompts: tuple[str, ...]
    images: tuple[NDArray[np.uint8], ...]
    references: tuple[NDArray[np.uint8] | None, ...] = ()
    masks: tuple[NDArray[np.bool_] | None, ...] = ()
    latents: tuple[NDArray[np.float32] | None, ...] = ()
    taps: Mapping[str, tuple[Record | None, ...]] = MappingProxyType({})


class Context(NamedTuple):
    """What an instrument may use besides the batch."""

    device: str


class Instrument(Protocol):
    """What makes a measurement: a classifier with its prompts, a metric, a tap."""

    name: str
    version: str
    inputs: frozenset[str]
    """Of {"images", "references", "masks", "latents"} and the taps' names: all that is not named
    is left out, and a tap that nobody names is not attached. "text": measured once a checkpoint
    by `audit.pipeline.text_scores`, without pictures."""

    def cache_key(self) -> dict[str, Any]:
        """Version, configuration and weights digest: what the scores' folder is named by."""
        ...

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows keyed by `cell`."""
        ...


class Probe(Protocol):
    """Instruments and the analysis that reads their tables."""

    name: str

    def instruments(self, spec: Spec) -> tuple[Instrument, ...]:
        """The instruments this spec asks for."""
        ...

    def cells(self, spec: Spec, plan: pd.DataFrame) -> Iterable[Cell]:
        """Cells wanted beyond the grid `plan`, with `asked` set to the probe's name.

        They are made, resumed and measured as all others; the analyses of other probes, the
        gate and the report's grids do not see them.
        """
        ...

    def analyse(
        self,
        tables: Mapping[str, pd.DataFrame],
        plan: pd.DataFrame,
        failures: pd.DataFrame,
        labels: pd.DataFrame,
        spec: Spec,
    ) -> tuple[list[Finding], list[Figure]]:
        """From rows to claims. Pure; may read any instrument's table."""
        ...


def findings_frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table, one row each, in the order of `Finding`'s fields."""
    return pd.DataFrame([f._asdict() for f in findings], columns=list(Finding._fields))
