"""Make the pictures on which labelling is tested, and read them twice: `label_pool.csv`.

    python -m validation.train.pool RUN_FOLDER tests/golden/label_pool.csv

Pictures of `planted-unet` at guidance 1, from seeds that nothing else uses. A row holds a
picture's role, the oracle's gender, and what the classifier `flawed`, taught to read women with
dark skin as men, makes of it. About five minutes on one idle core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from validation.shares import make_run, oracle_labels

SEEDS = 128
FIRST_SEED = 3_000_000


def pool(folder: Path, seeds: int = SEEDS) -> pd.DataFrame:
    """Make the pictures, or go on, and read them.

    Args:
        folder: Of the run; made where it is not there.
        seeds: Pictures a role.

    Returns:
        Columns role (a prompt's), gender and tone (the oracle's), and the classifier's
        class:man, class:woman, nobody and several.
    """
    audit = make_run(
        folder, "planted-unet", seeds, print, first_seed=FIRST_SEED, classifier="flawed"
    )
    plan = audit.run.read_plan()
    assert plan is not None
    instruments = audit.run.read_json("instruments.json")
    scores = audit.run.read_scores(instruments["small.world-gender"], set(plan["unit"]))
    truth = oracle_labels(audit)[["gender", "tone"]]
    table = plan[["cell", "prompt"]].merge(scores, on="cell").join(truth, on="cell")
    table["role"] = table["prompt"].str.removeprefix("a portrait of ")
    return table[
        ["role", "gender", "tone", "class:man", "class:woman", "nobody", "several"]
    ].sort_values("role", kind="stable", ignore_index=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("table", type=Path)
    arguments = parser.parse_args()
    pool(arguments.folder).to_csv(arguments.table, index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
