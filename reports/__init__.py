"""From findings and figures to what people read: one HTML page, one JSON file, grid images.

A report is written from plain data by `reports.writers.write_report`, in one or several of the
formats in `formats/`. What it says of a number is decided by the finding's own fields
(`verdicts.py`, `sentences.py`), what it draws by the figure's own table (`charts.py`, `grids.py`);
`page.py` cuts both to size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from harness.json_types import JsonObject

if TYPE_CHECKING:
    import pandas as pd

    from probes.contracts import Figure, Finding


class ReportData(NamedTuple):
    """All that a report is made of. Every string may be hostile: it is escaped, never trusted.

    Attributes:
        title: heading of the page.
        audited: one a checkpoint, VAE or other component: name, kind, source, digest and what
            else is known. Components of one name are told together.
        settings: what held for all images: prompts, seeds, sampler, steps, guidance, size,
            batch size, device, dtype.
        findings: all claims, in the order wanted.
        figures: all figures; those that rank the arms make the ranking section.
        attrition: columns arm, planned, made, failed, reason.
        provenance: library versions, python, platform, digests of spec and instruments, and
            `created`, the one wall-clock value.
        reproduce: commands, one a line.
        images: PNG bytes of a cell id; None where the run has no such image.
    """

    title: str
    audited: list[JsonObject]
    settings: JsonObject
    findings: list[Finding]
    figures: list[Figure]
    attrition: pd.DataFrame
    provenance: JsonObject
    reproduce: list[str]
    images: Callable[[str], bytes | None]
