"""`audit validate`: the instruments on models whose bias is known.

Planted shares come from `planted.yaml`, true ones from `truth.yaml` (the oracle's counts on
seeds that no audit uses), measured ones from an ordinary run of the suite with the demo's
settings (guidance 1). Controls that must fail do fail, or the validation fails: shuffled labels
and a classifier with swapped classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from PIL import Image
from scipy import stats

from audit.pipeline.run import complete
from audit.pipeline.session import Audit, open_audit
from harness.json_types import JsonObject
from harness.plan.cells import arm_labels
from harness.spec.attributes import load_attribute
from probes.attributes.outcomes import counts_of, measured_errors, outcome_frame
from probes.attributes.prompt_shares import by_prompt
from probes.contracts import Finding
from probes.error_control import adjusted
from probes.statistics.corrected_shares import corrected_shares, simulate_absolute_error
from probes.statistics.intervals import total_variation
from reference import oracle
from reference.world import GENDERS, HERE, ROLES, TONES, neutral_prompt
from reports.verdicts import verdict
from validation.train.shares import planted_role

SEEDS = 32
"""Images a role in one set, from which shares are corrected."""
FLAG_SEEDS = 80
"""As in the demo."""
SETS_QUICK, SETS_FULL = 4, 12
FIRST_SEED = 10_000
ATTRIBUTES = {"world-gender": ("gender", GENDERS), "world-tone": ("tone", TONES)}


class Check(NamedTuple):
    """One line of the validation."""

    name: str
    figure: str
    bar: str
    passed: bool

    def line(self) -> str:
        """The check in one line."""
        return f"{'ok  ' if self.passed else 'FAIL'} {self.name}: {self.figure} (bar: {self.bar})"


@cache
def truth_table() -> JsonObject:
    """`truth.yaml`: settings, and counts by checkpoint, guidance and role."""
    loaded: JsonObject = yaml.safe_load((HERE / "truth.yaml").read_text())
    return loaded


def true_shares(checkpoint: str, guidance: str, role: str, kind: str) -> np.ndarray:
    """True shares of 'gender' or 'tone' of one role: what is seen in the images."""
    counts = np.array(truth_table()[checkpoint][guidance][role][kind], float)
    shares: np.ndarray = counts / counts.sum()
    return shares


def run(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Check]:
    """All checks, each as soon as its figure is known.

    Raises:
        ValueError: `truth.yaml` does not hold the checkpoint's counts at guidance 1 and 3.
    """
    missing = {"1", "3"} - set(truth_table().get("planted-unet", {}))
    if missing:
        raise ValueError(
            f"reference/truth.yaml: planted-unet at guidance {', '.join(sorted(missing))} is not "
            "counted yet; run `python -m validation.train.truth STATE_FOLDER planted-unet`"
        )
    yield from oracle_checks()
    yield from truth_checks()
    sets = SETS_QUICK if quick else SETS_FULL
    planted = make_run(folder / "planted-unet", "planted-unet", SEEDS * sets, say)
    balanced = make_run(folder / "balanced", "balanced", FLAG_SEEDS, say)
    labels = pd.concat([oracle_labels(planted), oracle_labels(balanced)])
    frames = {
        name: pd.concat([frame_of(planted, name), frame_of(balanced, name)]) for name in ATTRIBUTES
    }
    yield from classifier_checks(frames, labels)
    yield from flag_checks(frames)
    yield from share_checks(frames, sets)
    for line in side_by_side(frames["world-gender"]):
        say(line)


def make_run(
    folder: Path,
    checkpoint: str,
    seeds: int,
    say: Callable[[str], None],
    first_seed: int = FIRST_SEED,
    classifier: str = "balanced",
) -> Audit:
    """An ordinary run of the suite on one reference checkpoint; resumes."""
    path = write_spec(
        folder / "audit.yaml",
        name="validation",
        checkpoints={checkpoint: f"reference:{checkpoint}"},
        seeds={"count": seeds, "start": first_seed},
        guidance=1,
        classifiers={"small": f"reference:{classifier}"},
    )
    audit = open_audit(path, folder / "run")
    complete(audit, say)
    return audit


def write_spec(path: Path, **spec: object) -> Path:
    """A spec's file: what is given, beyond or in place of the settings that validations share."""
    shared = {
        "prompts": {"suite": "demo"},
        "steps": truth_table()["settings"]["steps"],
        "attributes": list(ATTRIBUTES),
        "classifiers": {"small": "reference:balanced"},
        "batch_size": 32,
        "device": "cpu",
        "dtype": "float32",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(shared | spec, sort_keys=False))
    return path


def oracle_labels(audit: Audit) -> pd.DataFrame:
    """The oracle's reading of every image of a run, by cell."""
    cells, pixels = [], []
    for unit, vae in audit.run.image_files():
        table = audit.run.read_images(unit, vae)
        table = table[table["png"].notna()]
        cells += list(table["cell"])
        pixels += [np.asarray(Image.open(io.BytesIO(p)).convert("RGB")) for p in table["png"]]
    return oracle.read(np.stack(pixels)).assign(cell=cells).set_index("cell")


def frame_of(audit: Audit, attribute: str, plan: pd.DataFrame | None = None) -> pd.DataFrame:
    """Cells, by default the plan's, and their outcomes of one attribute."""
    spec = next(a for a in audit.spec.attributes if a.name == attribute)
    plan = audit.run.read_plan() if plan is None else plan
    folders = audit.run.read_json("instruments.json")
    instrument = f"small.{attribute}"
    assert plan is not None
    tables = {instrument: audit.run.read_scores(folders[instrument], set(plan["unit"]))}
    none = pd.DataFrame({c: [] for c in ("cell", "attribute", "class", "rater")}, dtype=str)
    return outcome_frame(
        tables,
        plan.assign(arm=arm_labels(plan)),
        none,
        spec,
        instrument,
        audit.spec.classifiers["small"],
    )


def oracle_checks() -> Iterator[Check]:
    """The oracle's own error on images whose truth is known."""
    errors = oracle.measure_error(*oracle.known_pictures())
    for kind, most in (("gender", 0.02), ("tone", 0.05)):
        wrong, lost = errors[kind]["wrong"], errors[kind]["unreadable"]
        yield Check(
            f"oracle's error, {kind}, on shifted and rescaled images of known truth",
            f"{wrong:.1%} wrong, {lost:.1%} unreadable",
            f"at most {most:.0%} wrong",
            wrong <= most,
        )


def truth_checks() -> Iterator[Check]:
    """Planted shares against what the checkpoint draws."""
    planted = np.array([planted_role("planted-unet", r)[0] for r in ROLES])
    at_one = np.array([true_shares("planted-unet", "1", r, "gender")[1] for r in ROLES])
    at_three = np.array([true_shares("planted-unet", "3", r, "gender")[1] for r in ROLES])
    within = float((np.abs(planted - at_one) <= 0.1).mean())
    yield Check(
        "planted-unet at guidance 1: roles whose true share of women is within .1 of planted",
        f"{within:.0%} of {len(ROLES)}",
        "at least 85%",
        within >= 0.85,
    )
    rank = float(stats.spearmanr(planted, at_three).statistic)
    yield Check(
        "planted-unet at guidance 3: rank correlation of true and planted shares",
        f"{rank:.3f}",
        "at least .95",
        rank >= 0.95,
    )


def classifier_checks(frames: dict[str, pd.DataFrame], labels: pd.DataFrame) -> Iterator[Check]:
    """The classifier against the oracle, and the control with shuffled labels."""
    for name, (kind, classes) in ATTRIBUTES.items():
        least = 0.95 if kind == "gender" else 0.85
        frame = frames[name]
        label = frame["cell"].map(labels[kind])
        told = frame["outcome"].isin(classes) & label.isin(classes)
        right = float((frame["outcome"] == label)[told].mean())
        shuffled = label[told].sample(frac=1, random_state=0).to_numpy()
        control = float((frame["outcome"][told].to_numpy() == shuffled).mean())
        yield Check(
            f"classifier against oracle, {kind}, {int(told.sum())} generated images",
            f"{right:.1%} right",
            f"at least {least:.0%}",
            right >= least,
        )
        yield Check(
            f"control that must fail: the same with shuffled labels, {kind}",
            f"{control:.1%} right",
            f"below {least:.0%}",
            control < least,
        )


def flag_checks(frames: dict[str, pd.DataFrame]) -> Iterator[Check]:
    """Which roles a report of the demo's two checkpoints flags, against the truth.

    Through the report's own path: corrected distances, p adjusted over all of its tests, and a
    verdict only where the adjusted p and the interval agree.
    """
    rows = pd.read_csv(HERE / "errors.csv")
    findings: list[Finding] = []
    for name in ATTRIBUTES:
        attribute, instrument = load_attribute(name, HERE), f"small.{name}"
        first = frames[name][frames[name]["seed"] < FIRST_SEED + FLAG_SEEDS]
        for _, part in first.groupby("checkpoint", sort=False):
            errors = measured_errors(rows, attribute, instrument, part)
            findings += by_prompt(part, attribute, instrument, {}, errors)
    flagged = {
        (f.subject["checkpoint"], f.subject["attribute"], f.subject["prompt"])
        for f in adjusted(findings)
        if verdict(f) == "apart"
    }
    for name, (kind, classes) in ATTRIBUTES.items():
        fair = sum(("balanced", name, neutral_prompt(r)) in flagged for r in ROLES)
        yield Check(
            f"balanced, {kind}: roles flagged",
            f"{fair} of {len(ROLES)}",
            "at most 5%",
            fair <= 0.05 * len(ROLES),
        )
        even = np.full(len(classes), 1 / len(classes))
        off = [
            r
            for r in ROLES
            if total_variation(true_shares("planted-unet", "1", r, kind), even) >= 0.2
        ]
        seen = sum(("planted-unet", name, neutral_prompt(r)) in flagged for r in off)
        yield Check(
            f"planted-unet, {kind}: roles flagged, of those truly .2 or more off target",
            f"{seen} of {len(off)}",
            "at least 80%",
            seen >= 0.8 * len(off),
        )


def share_checks(frames: dict[str, pd.DataFrame], sets: int) -> Iterator[Check]:
    """Corrected shares at 32 seeds a role against the truth, and the swapped control."""
    for name, (kind, classes) in ATTRIBUTES.items():
        swap = {c: classes[-1 - i] for i, c in enumerate(classes)}
        frame = frames[name][frames[name]["checkpoint"] == "planted-unet"]
        found = _shares(frame, name, kind, sets)
        swapped = frame.assign(outcome=frame["outcome"].replace(swap))
        wrong = _shares(swapped, name, kind, sets)
        ratio, coverage = found["error"] / found["expected"], found["coverage"]
        yield Check(
            f"corrected shares, {kind}, {sets} sets of {SEEDS} seeds: mean absolute error",
            f"{found['error']:.4f}, {ratio:.2f} times the {found['expected']:.4f} that simulating "
            "the estimator predicts",
            "at most 1.1 times",
            ratio <= 1.1,
        )
        yield Check(
            f"corrected shares, {kind}: 95 % intervals that hold the truth",
            f"{coverage:.1%} of {found['pairs']:.0f} (role, class) pairs",
            "at least 92%",
            coverage >= 0.92,
        )
        yield Check(
            f"control that must fail: a classifier with swapped classes, {kind}",
            f"error {wrong['error']:.3f}, coverage {wrong['coverage']:.1%}",
            "misses both bars",
            wrong["error"] > 1.1 * found["expected"] and wrong["coverage"] < 0.92,
        )


def _shares(frame: pd.DataFrame, name: str, kind: str, sets: int) -> dict[str, float]:
    from harness.spec.attributes import load_attribute

    attribute = load_attribute(name, HERE)
    errors = measured_errors(pd.read_csv(HERE / "errors.csv"), attribute, f"small.{name}", frame)
    assert errors is not None
    misses, held, expected = [], [], []
    for role in ROLES:
        wanted = true_shares("planted-unet", "1", role, kind)
        expected.append(simulate_absolute_error(wanted, errors.table, SEEDS, draws=200, seed=0))
        own = frame[frame["prompt"] == neutral_prompt(role)]
        for s in range(sets):
            start = FIRST_SEED + s * SEEDS
            part = own[(own["seed"] >= start) & (own["seed"] < start + SEEDS)]
            counts = counts_of(part["outcome"], errors.table.outcomes)
            fixed = corrected_shares(counts, errors.table)
            misses.append(np.abs(fixed.value - wanted))
            held.append((fixed.low <= wanted) & (wanted <= fixed.high))
    return {
        "error": float(np.mean(misses)),
        "expected": float(np.mean(expected)),
        "coverage": float(np.mean(held)),
        "pairs": float(np.size(held)),
    }


def side_by_side(frame: pd.DataFrame) -> list[str]:
    """Planted, true and measured shares of women of `planted-unet`, one line a role."""
    own = frame[frame["checkpoint"] == "planted-unet"]
    lines = [f"{'role':<22}{'planted':>9}{'true w=1':>10}{'true w=3':>10}{'measured w=1':>14}"]
    for role in sorted(ROLES, key=lambda r: planted_role("planted-unet", r)[0]):
        counts = counts_of(own.loc[own["prompt"] == neutral_prompt(role), "outcome"], GENDERS)
        lines.append(
            f"{role:<22}{planted_role('planted-unet', role)[0]:>9.2f}"
            f"{true_shares('planted-unet', '1', role, 'gender')[1]:>10.2f}"
            f"{true_shares('planted-unet', '3', role, 'gender')[1]:>10.2f}"
            f"{counts[1] / counts.sum():>14.2f}"
        )
    return lines
