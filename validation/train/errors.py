"""Measure a reference classifier's errors on pictures that the oracle labels: `errors.csv`.

    python -m validation.train.errors RUN_FOLDER

Pictures of `balanced` at the audited settings, from seeds that neither audits nor the truth
use; a row counts pictures of one prompt, true class and outcome.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from reference.oracle import UNREADABLE
from reference.world import HERE
from validation.shares import ATTRIBUTES, frame_of, make_run, oracle_labels

SEEDS = 16


def main() -> None:
    """Make the pictures, label and count."""
    audit = make_run(Path(sys.argv[1]), "balanced", SEEDS, print, first_seed=2_000_000)
    labels = oracle_labels(audit)
    parts = []
    for name, (kind, _) in ATTRIBUTES.items():
        frame = frame_of(audit, name)
        frame = frame.assign(true=frame["cell"].map(labels[kind]))
        frame = frame[(frame["true"] != UNREADABLE) & frame["outcome"].notna()]
        counts = frame.groupby(["prompt", "true", "outcome"]).size().rename("count").reset_index()
        parts.append(counts.assign(attribute=name, instrument=f"small.{name}"))
    columns = ["attribute", "instrument", "prompt", "true", "outcome", "count"]
    pd.concat(parts)[columns].to_csv(HERE / "errors.csv", index=False)


if __name__ == "__main__":
    main()
