"""Blind pairs: which images stand beside each other, in which order, and what was chosen.

Both images of a pair have one prompt and seed. The order of pairs and the sides are random, another
for every rater and the same at every call. One pair in `CONTROL` is a control: two images of one
arm, of which neither can be better on average; it shows what a rater's liking of a side does.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import pandas as pd

from harness.errors import SpecError
from harness.hashing import canonical_digest
from harness.store.run import Run

FOLDER = "preferences"
CHOICES = ("left", "right", "same", "both bad")
CONTROL = 6
"""One pair in so many is a control."""
COLUMNS = ("rater", "left", "right", "choice")


class Trial(NamedTuple):
    """One pair.

    Attributes:
        id: of the pair and the rater.
        prompt: text of both images.
        left, right: cells.
        control: whether both are of one arm.
    """

    id: str
    prompt: str
    left: str
    right: str
    control: bool


def trials(plan: pd.DataFrame, arms: tuple[str, str], rater: str) -> list[Trial]:
    """All pairs of two arms for one rater, with the controls mixed in.

    Args:
        plan: Plan with its column `arm`.
        arms: Names of the two arms.
        rater: Name of the person.

    Raises:
        SpecError: The arms share no prompt and seed.
    """
    own = plan[plan["arm"].isin(arms)].drop_duplicates(["arm", "prompt", "seed"])
    wide = own.pivot(index=["prompt", "seed"], columns="arm", values="cell")
    if len(wide.columns) < 2 or wide.dropna().empty:
        raise SpecError(f"{arms[0]!r} and {arms[1]!r} share no prompt and seed")
    pairs = [
        _trial(prompt, rater, str(row[arms[0]]), str(row[arms[1]]), False)
        for (prompt, _), row in wide.dropna().iterrows()
    ]
    pairs.sort(key=lambda t: _random(t.id, "order"))
    controls = []
    for (prompt, _), part in own.groupby(["prompt", "arm"], sort=False):
        cells = sorted(part["cell"], key=lambda c: _random(c, rater))
        for a, b in zip(cells[::2], cells[1::2], strict=False):
            controls.append(_trial(str(prompt), rater, a, b, True))
    controls.sort(key=lambda t: _random(t.id, "order"))
    mixed: list[Trial] = []
    for number, pair in enumerate(pairs, 1):
        mixed.append(pair)
        if number % (CONTROL - 1) == 0 and controls:
            mixed.append(controls.pop())
    return mixed


def keep(run: Run, rater: str, trial: Trial, choice: str) -> None:
    """Write one judgement; of one pair and rater the last counts.

    Args:
        run: Run directory.
        rater: Name of the person.
        trial: The pair.
        choice: One of `CHOICES`.

    Raises:
        SpecError: Another choice, or no name.
    """
    if choice not in CHOICES or not rater.strip():
        raise SpecError(f"{choice!r} by {rater!r}: a choice is one of {', '.join(CHOICES)}")
    row = {"rater": rater, "left": trial.left, "right": trial.right, "choice": choice}
    run.write_json(f"{FOLDER}/{trial.id}.json", row)


def judged(run: Run) -> pd.DataFrame:
    """All judgements of a run: columns id, rater, left, right and choice.

    Raises:
        SpecError: A file is no judgement.
    """
    rows = []
    for path in sorted((run.folder / FOLDER).glob("*.json")):
        row = run.read_json(f"{FOLDER}/{path.name}")
        if not isinstance(row, dict) or row.keys() != {*COLUMNS} or row["choice"] not in CHOICES:
            raise SpecError(
                f"{path}: no judgement (rater, left, right and a choice of {', '.join(CHOICES)}); "
                "delete the file or judge the pair again"
            )
        rows.append({"id": path.stem} | {name: str(row[name]) for name in COLUMNS})
    return pd.DataFrame(rows, columns=["id", *COLUMNS])


def _trial(prompt: str, rater: str, a: str, b: str, control: bool) -> Trial:
    name = canonical_digest([*sorted((a, b)), rater])[:32]
    left, right = (a, b) if _random(name, "side")[0] % 2 else (b, a)
    return Trial(name, prompt, left, right, control)


def _random(text: str, purpose: str) -> bytes:
    return hashlib.sha256(f"{purpose}/{text}".encode()).digest()
