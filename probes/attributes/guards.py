"""Quality guards: CLIP score and diversity, by arm and against the first one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from harness.plan.cells import arm_labels
from harness.spec.schema import Spec
from probes.attributes.arm_comparison import PROBE, baseline_arm, clustered, difference_of_arms
from probes.attributes.metrics import (
    DIVERSITY,
    LIKENESS,
    LIKENESS_DIFFERENCE,
    MOVED,
)
from probes.attributes.outcomes import subject_of
from probes.contracts import Finding
from probes.statistics.intervals import Interval, mean_over_prompts
from probes.statistics.pairing import compared, pair_keys
from probes.statistics.seed_clusters import mean_by_seed

NO_NULL = "a level has no null: what a model without an effect scores is not defined; compare arms"

LEAST_APART = 1e-6
"""Mean 1 - cosine of two seeds, below which a model's images are all one."""
UNCLUSTERED = "seeds are shared by all prompts, which this interval between prompts does not know"


def guards(
    tables: Mapping[str, pd.DataFrame], plan: pd.DataFrame, spec: Spec, classifier: str
) -> list[Finding]:
    """Likeness to the prompt and diversity over seeds: a fair but broken model shows here."""
    scores = tables[f"{classifier}.likeness"]
    if scores.empty:
        return []
    scores = scores.drop_duplicates("cell").set_index("cell")
    frame = plan.assign(arm=arm_labels(plan), likeness=plan["cell"].map(scores["likeness"]))
    base, findings = baseline_arm(frame, spec), []
    for arm in dict.fromkeys(frame["arm"]):
        part = frame[frame["arm"] == arm]
        subject = subject_of(part, "")
        subject.pop("attribute")
        known = part.dropna(subset=["likeness"])
        values = [g["likeness"].to_numpy() for _, g in known.groupby("prompt", sort=False)]
        spread = diversity(part, scores["embedding"])
        blank = Finding(
            id="",
            probe=PROBE,
            metric=LIKENESS,
            subject=subject,
            n=len(known),
            instrument=f"{classifier}.likeness",
        )
        if values:
            suite = mean_over_prompts(values, "this suite")
            if spec.seeds.shared:
                cells = known["likeness"], known["prompt"], known["seed"]
                suite = Interval(*mean_by_seed(*cells, "this suite")[:3])
            findings.append(
                replace(
                    blank,
                    id=f"{PROBE}/likeness/{classifier}/{arm}",
                    value=suite.value,
                    low=suite.low,
                    high=suite.high,
                    estimator="mean over prompts of the cosine of image and prompt",
                    note=NO_NULL + clustered(known, spec.seeds.shared),
                    n_clusters=len(values),
                )
            )
        if len(spread):
            mean = mean_over_prompts([np.array([v]) for v in spread], "prompts like these")
            findings.append(
                replace(
                    blank,
                    id=f"{PROBE}/diversity/{classifier}/{arm}",
                    metric=DIVERSITY,
                    value=mean.value,
                    low=mean.low,
                    high=mean.high,
                    estimand="prompts like these",
                    estimator="mean over prompts of the mean 1 - cosine of two seeds' images",
                    note=NO_NULL + (f"; {UNCLUSTERED}" if spec.seeds.shared else ""),
                    n_clusters=len(spread),
                )
            )
        if arm != base:
            findings += difference_of_arms(
                compared(frame, "likeness", arm, base, spec.seeds.shared),
                f"likeness-difference/{classifier}/{arm}",
                LIKENESS_DIFFERENCE,
                subject | {"baseline": base},
                f"{classifier}.likeness",
                f"{arm} against {base}/likeness/{classifier}",
            )
            findings += moved(frame, arm, base, scores["embedding"], blank)
    return findings


def moved(
    frame: pd.DataFrame, arm: str, base: str, embeddings: pd.Series, blank: Finding
) -> list[Finding]:
    """How far an arm's images lie from the baseline's of the same seed; none where nothing pairs.

    The mean 1 - cosine of the pairs, as a part of that of the baseline's seeds: 0 the same images,
    1 as far as another seed.
    """
    both = frame[frame["arm"].isin((arm, base)) & frame["cell"].isin(embeddings.index)]
    keys = pair_keys(both) if both["arm"].nunique() == 2 else None
    apart = diversity(frame[frame["arm"] == base], embeddings)
    if keys is None or not len(apart) or not apart.mean() > LEAST_APART:
        return []
    both = both.assign(key=keys).drop_duplicates(["arm", "prompt", "key"])
    own = [both[both["arm"] == a].set_index(["prompt", "key"])["cell"] for a in (arm, base)]
    pairs = pd.concat(own, axis=1, keys=("a", "b"), join="inner")
    one, two = (np.stack([np.asarray(embeddings[c], float) for c in pairs[k]]) for k in ("a", "b"))
    sizes = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    far = np.maximum(1 - (one * two).sum(axis=1) / sizes, 0.0) / apart.mean()
    by_prompt = pd.Series(far, index=pairs.index).groupby(level="prompt", sort=False)
    found = mean_over_prompts([g.to_numpy() for _, g in by_prompt], "this suite")
    instrument = blank.instrument.partition(".")[0]
    return [
        replace(
            blank,
            id=f"{PROBE}/moved/{instrument}/{arm}",
            metric=MOVED,
            subject=blank.subject | {"baseline": base},
            value=found.value,
            low=found.low,
            high=found.high,
            n=len(pairs),
            n_clusters=len(by_prompt),
            estimator="mean over prompts; 0 the same images, 1 as far as another seed",
            note="described, no test: how much is too much is yours to say (gate.margins.moved)",
        )
    ]


def diversity(part: pd.DataFrame, embeddings: pd.Series) -> np.ndarray:
    """Mean 1 - cosine over all pairs of seeds, one number a prompt with two or more images."""
    spread = []
    for _, own in part.groupby("prompt", sort=False):
        held = [embeddings[c] for c in own["cell"] if c in embeddings.index]
        if len(held) > 1:
            unit = np.stack(held).astype(float)
            unit /= np.linalg.norm(unit, axis=1, keepdims=True)
            cosines = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
            spread.append(1 - cosines.mean())
    return np.array(spread)
