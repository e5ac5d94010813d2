"""The contracts between a run and what is said of it.

A run's images become rows (instruments), rows become findings and figures (analyses).
Report, gate and dashboard know nothing else of a probe: `Finding` and `Figure` are the
narrow waist. A probe never generates: it asks for cells, so that everything made is planned,
resumable, shared and countable before it is paid for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, nan
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict

from harness.json_types import JsonObject
from harness.spec.json_schema import Described

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.plan.cells import Cell
    from harness.spec.schema import Spec
    from harness.taps.record import Record, Tap
    from probes.statistics.intervals import Estimand

MetricKind = Literal["share", "distance", "shift", "level"]
Better = Literal["higher", "lower", "target", None]
Reading = Literal["", "as counted", "corrected", "prediction-powered"]
Status = Literal["measured", "not-measured", "failed"]
Kind = Literal["bar", "line", "scatter+image", "heat-over-image", "strip", "grid", "table"]


class MetricSpec(NamedTuple):
    """What a number is: declared once, beside what measures it.

    Report, gate, `audit plan --detect` and dashboard read these fields and nothing else of a
    metric, so that a new one needs no line of theirs.

    Attributes:
        name: its name in the field's words, as reports say it: 'mean share', 'SSIM'.
        kind: how it is read. 'share': from 0 to 1, held against a target. 'distance': never
            negative, 0 without the effect. 'shift': a change or a difference, in either direction.
            'level': any other number, which has no zero to be held against.
        unit: its unit; '' where it has none.
        better: which way is better; 'target': the nearer to the target; None: neither.
        column: the column of its instrument's table that holds it for each image; '' where it is
            computed from several.
        span: between the least and the largest value there can be; infinite where there is none.
        resolution: an effect up to this size is what rounding to 8 bits could do.
        default_margin: the loss that a gate lets pass unless told otherwise; None: no gate on it.
    """

    name: str
    kind: MetricKind = "level"
    unit: str = ""
    better: Better = None
    column: str = ""
    span: float = inf
    resolution: float = 0.0
    default_margin: float | None = None

    def difference(self, name: str = "") -> MetricSpec:
        """The metric of a difference of two such numbers.

        Args:
            name: its own name; '': the metric's with 'difference' behind it.
        """
        return self._replace(name=name or f"{self.name} difference", kind="shift")


class Reference(NamedTuple):
    """What a number is held against.

    Attributes:
        value: of a share, its target; of a distance 0; of a shift, the largest change that counts
            as none, in either direction. In the metric's unit; NaN: nothing.
        null: what a model without the effect scores on average at this n.
        null_q95: the 95 % point of that.
        targets: the target of each class, 0 to 1; empty where there is none.
    """

    value: float = nan
    null: float = nan
    null_q95: float = nan
    targets: Mapping[str, float] = {}


NO_REFERENCE = Reference()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim, with all that is needed to weigh it; nothing is parsed back out of its words.

    A headline with a `family` and a p is a test of the report: `probes.error_control` adjusts its p
    over all of them, and only tests have a verdict. All else is described.

    Numbers that were not measured are NaN, never zero.

    Attributes:
        id: probe/metric/subject; stable across runs.
        probe: name of the probe.
        metric: what the number is.
        subject: of what: {"checkpoint": …, "vae": …, "prompt": …, "attribute": …, "class": …}.
        value: the number, in the metric's unit.
        low: lower bound of its 95 % interval.
        high: upper bound of it.
        p: probability, where the reference holds, of a value at least as far out.
        n: images (or texts) behind it.
        n_clusters: prompts (or other clusters) that these fall in.
        planned: images planned for it, of which `n` were counted; 0: not known.
        estimand: for what the number is meant.
        estimator: how it was computed.
        reference: what it is held against.
        reading: which estimate of a share it is: what the classifier said, that corrected for its
            confusion matrix, or with people's labels.
        instrument: what measured.
        headline: whether it belongs at the head of a report.
        family: the tests that p is adjusted with, such as 'ARM/ATTRIBUTE/INSTRUMENT'; '': none.
        adjustment: how p was adjusted over the report's tests: 'none', or the procedure's name.
        p_unadjusted: p of this test alone; NaN where p was not adjusted.
        status: whether there is a number.
        note: what else a reader should know; the reason, where there is no number.
    """

    id: str
    probe: str
    metric: MetricSpec
    subject: dict[str, str] = field(default_factory=dict)
    value: float = nan
    low: float = nan
    high: float = nan
    p: float = nan
    n: int = 0
    n_clusters: int = 0
    planned: int = 0
    estimand: Estimand = "this suite"
    estimator: str = ""
    reference: Reference = NO_REFERENCE
    reading: Reading = ""
    instrument: str = ""
    headline: bool = False
    family: str = ""
    adjustment: str = "none"
    p_unadjusted: float = nan
    status: Status = "measured"
    note: str = ""

    def not_measured(self, why: str) -> Finding:
        """The same finding without a number: `why` comes first in its note.

        Args:
            why: reason, as an end of the sentence 'not measured: …'.
        """
        note = "; ".join(filter(None, [why, self.note]))
        return replace(self, value=nan, low=nan, high=nan, p=nan, status="not-measured", note=note)


REQUIRED: dict[Kind, tuple[str, ...]] = {
    "bar": ("label", "value", "low", "high", "group"),
    "line": ("x", "value", "low", "high", "group"),
    "scatter+image": ("x", "y", "group"),
    "grid": ("row", "column", "cell"),
    "heat-over-image": ("row", "column", "cell"),
    "strip": ("row", "column", "cell"),
    "table": (),
}
"""Columns that the table of a figure must have, by the figure's kind."""


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure with the table behind it: all that report and dashboard draw.

    Attributes:
        id: probe/what/of what; stable across runs.
        kind: how it is drawn. bar: dots with intervals; scatter+image: points in a plane, each
            with its image; grid, heat-over-image and strip: images in rows and columns.
        table: the columns `REQUIRED`; bar and scatter+image optionally facet, bar also target;
            scatter+image optionally cell (the image behind a point); grids optionally caption and
            reason (why there is no image). A `cell` is a reference to an image, as text: see
            `harness.images.image_ref`.
        caption: what it shows and how to read it.
        alt: what it shows, for those who do not see it.
        probe: name of the probe; set when the analyses are put together.
        subject: of what: {"attribute": …, "instrument": …}; empty where it is of the whole run.
        ranking: whether it ranks the arms, which is shown first.
        leads: whether it stands open under the answer.
    """

    id: str
    kind: Kind
    table: pd.DataFrame
    caption: str
    alt: str
    probe: str = ""
    subject: dict[str, str] = field(default_factory=dict)
    ranking: bool = False
    leads: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError where the kind is unknown or the table lacks a column of its kind."""
        if self.kind not in REQUIRED:
            kinds = ", ".join(REQUIRED)
            raise ValueError(f"figure {self.id!r}: kind {self.kind!r} is none of {kinds}")
        missing = [c for c in REQUIRED[self.kind] if c not in self.table]
        if missing and not self.table.empty:
            raise ValueError(
                f"figure {self.id!r} of kind {self.kind!r} lacks column {missing[0]!r}; "
                f"it has {', '.join(map(str, self.table.columns))}"
            )


class Batch(NamedTuple):
    """Images to be measured together.

    Attributes:
        cells: one id an image.
        prompts: the prompt of each image.
        images: each (height, width, 3), uint8 sRGB; sizes may differ.
        references: the image that each is held against, of the same size: the original of a
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
    by `audit.pipeline.text_scores`, without images.

    An instrument may declare `metrics`, a tuple of `MetricSpec` whose columns its table has: each
    can be gated. Where it has several rows a cell, `by_cell(table)` gives one a cell."""

    def cache_key(self) -> JsonObject:
        """Version, configuration and weights digest: what the scores' folder is named by."""
        ...

    def measure(self, batch: Batch, context: Context) -> pd.DataFrame:
        """Rows keyed by `cell`."""
        ...


class ProbeOptions(Described, BaseModel):
    """Base of a probe's options, and the options of one that has none.

    In a spec they stand under the probe's name: `probes: {attention: {stages: 3}}`. Unknown keys
    are errors; the docstring's section 'Attributes' is what `audit schema` says of each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


Opt = TypeVar("Opt", bound=ProbeOptions)


class AnalysisInput(NamedTuple, Generic[Opt]):
    """What an analysis may read.

    Attributes:
        tables: scores by instrument's name, of any probe's; 'targets' (prompt, attribute, class,
            share), 'errors' and 'drawn.ATTRIBUTE' where the run has them.
        plan: one row a cell: the grid, and what this probe asked for.
        labels: people's labels: cell, attribute, class, rater.
        spec: the spec.
        options: this probe's options.
    """

    tables: Mapping[str, pd.DataFrame]
    plan: pd.DataFrame
    labels: pd.DataFrame
    spec: Spec
    options: Opt


class Result(NamedTuple):
    """What an analysis says."""

    findings: Sequence[Finding]
    figures: Sequence[Figure] = ()


class Probe(Generic[Opt]):
    """Instruments and the analysis that reads their tables: one folder or module each.

    Attributes:
        name: name of the probe, as a spec says it.
        Options: its options; nothing by default.
    """

    name: ClassVar[str]
    Options: ClassVar[type[ProbeOptions]] = ProbeOptions

    def instruments(self, options: Opt, spec: Spec) -> Sequence[Instrument]:
        """The instruments that this spec asks for; by default none."""
        return ()

    def taps(self, options: Opt, spec: Spec) -> Sequence[Tap]:
        """What follows the denoising for them; attached where an instrument's `inputs` names it."""
        return ()

    def extra_cells(self, options: Opt, spec: Spec, plan: pd.DataFrame) -> Iterable[Cell]:
        """Cells wanted beyond the grid `plan`, with `requested_by` set to the probe's name.

        They are generated, resumed and scored as all others; the analyses of other probes, the
        gate and the report's grids do not see them.
        """
        return ()

    def analyse(self, given: AnalysisInput[Opt]) -> Result:
        """From rows to claims. Pure: no models, no files."""
        raise NotImplementedError
