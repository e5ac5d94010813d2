"""How far several labellers agree: Fleiss' kappa with its interval."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.spec.attributes import OUTCOMES, AttributeSpec

FEWEST_TO_RESAMPLE = 10
"""Images with several labels below which agreement has no interval."""

DRAWS = 1000


def kappa_table(labels: pd.DataFrame, attribute: AttributeSpec) -> pd.DataFrame:
    """Fleiss' kappa (1971) of the images that several people labelled.

    Kappa is agreement beyond what people who label at random with the same shares would reach:
    1 is full agreement, 0 none beyond chance. Images with another number of labels are told
    apart, since Fleiss' formula needs one number.

    Args:
        labels: Columns cell, attribute, class, rater; one row a person and image.
        attribute: Which labels.

    Returns:
        One row for each number of labels an image has, most images first: raters, images,
        agreement (share of pairs of labels that agree), kappa, low and high (percentile
        bootstrap over images), note. Empty where no image has two labels.
    """
    from statsmodels.stats.inter_rater import fleiss_kappa

    own = labels[labels["attribute"] == attribute.name]
    names = [*attribute.class_names, *OUTCOMES]
    counts = pd.crosstab(own["cell"], own["class"]).reindex(columns=names, fill_value=0)
    rows = []
    for raters, part in counts.groupby(counts.sum(axis=1)):
        if int(raters) < 2:
            continue
        table = part.to_numpy(float)
        same = float(((table * (table - 1)).sum(axis=1) / (raters * (raters - 1))).mean())
        kappa = low = high = float("nan")
        note = ""
        if (table.sum(axis=0) > 0).sum() < 2:
            note = "all labels are one outcome, of which kappa says nothing"
        else:
            kappa = float(fleiss_kappa(table))
            if len(table) < FEWEST_TO_RESAMPLE:
                note = f"fewer than {FEWEST_TO_RESAMPLE} images: no interval"
            else:
                low, high = _bootstrapped(table)
        rows.append((int(raters), len(table), same, kappa, low, high, note))
    columns = ["raters", "images", "agreement", "kappa", "low", "high", "note"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        "images", ascending=False, ignore_index=True
    )


def _bootstrapped(table: NDArray[np.float64]) -> tuple[float, float]:
    from statsmodels.stats.inter_rater import fleiss_kappa

    rng = np.random.default_rng(0)
    drawn = (table[rng.integers(len(table), size=len(table))] for _ in range(DRAWS))
    kappas = [fleiss_kappa(t) for t in drawn if (t.sum(axis=0) > 0).sum() > 1]
    low, high = np.quantile(kappas, [0.025, 0.975])
    return float(low), float(high)
