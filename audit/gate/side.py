"""One arm of a run as the gate sees it."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from harness.json_types import JsonObject
from harness.plan.cells import ARM
from harness.spec.schema import Spec
from harness.text import slug
from probes.attributes.outcomes import readings

SETTINGS = tuple(f for f in ARM if f not in ("checkpoint", "vae", "adapters"))


class Side(NamedTuple):
    """One arm, with all that decides whether it may be compared.

    Attributes:
        arm: checkpoint, VAE and, unless none, adapters, by name.
        cells: one planned cell a row: prompt, seed, cell; made (bool); by classifier
            'likeness:NAME' and 'cosines:NAME' (with the cells of the same prompt, in the rows'
            order); by instrument 'outcome:NAME'. NaN or None where there is none.
        settings: negative, sampler, steps, guidance, width, height.
        targets: by prompt, attribute and class: the prompts' own.
        spec: of the run.
        instruments: name to folder, which holds the digest.
        made_with: batch size, device, precision, libraries.
        audited: components of this run with their digests.
        findings: of this arm; kept for readers, not used by the gate.
        measured: by id COLUMN/INSTRUMENT the declared metrics that are gated: unit, better, span
            (None: infinite) and margin; their values are the cells' columns 'value:ID'.
    """

    arm: str
    cells: pd.DataFrame
    settings: JsonObject
    targets: dict[str, dict[str, dict[str, float]]]
    spec: Spec
    instruments: dict[str, str]
    made_with: JsonObject
    audited: list[JsonObject]
    findings: list[JsonObject]
    measured: dict[str, JsonObject] = {}  # noqa: RUF012


def needed_instruments(spec: Spec) -> list[str]:
    """The instruments that the gate reads: likeness, and every attribute but the skin's colour."""
    likeness = [f"{slug(n)}.likeness" for n in spec.classifiers]
    return likeness + [r.instrument for r in readings(spec)]
