"""What whole reports say of fair models: the two-level adjustment through the report's own path.

Each simulated report goes the way of a real one: outcomes of images, `probes.shares` and
`probes.comparisons`, the adjustment over all tests, and the verdict. 24 prompts, 32 seeds, gender
(2 classes) and tone (5 classes); images are independent. A biased arm has gender at 85 to 15 in a
part of its prompts, half of them each way, and an exactly fair tone.

    python -m validation.simulations.report [REPORTS]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from audit.attributes import AttributeSpec, load_attribute
from audit.spec import Spec
from audit.stats import benjamini_hochberg
from probes import Finding
from probes.comparisons import compare_arms
from probes.multiplicity import adjusted, is_test
from probes.shares import by_prompt, over_prompts
from reports.claims import verdict

PROMPTS, SEEDS = 24, 32
GENDERS, TONES = ("man", "woman"), ("light", "medium-light", "medium", "medium-dark", "dark")
GENDER, TONE = (
    load_attribute(
        {"name": name, "classes": [{"name": c, "prompts": [f"a {c} person"]} for c in classes]},
        Path(),
    )
    for name, classes in (("gender", GENDERS), ("tone", TONES))
)
SPEC = Spec.model_validate(
    {
        "checkpoints": {"arm": "x"},
        "prompts": {"list": ["p"]},
        "seeds": 2,
        "attributes": [GENDER, TONE],
        "classifiers": {"c": "z"},
    }
)
FAIR = tuple(f"fair {i}" for i in range(6))
PARTS = {f"biased {part:.0%}": part for part in (0.3, 0.62, 0.9)}
ARMS = (1, 3, 6)
Shares = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""True shares by arm and attribute, each (prompts, classes)."""


def fair_and_biased() -> Shares:
    """Six arms exactly on target, and one for each of `PARTS`."""
    out = {}
    for arm in (*FAIR, *PARTS):
        gender, tone = np.full((PROMPTS, 2), 0.5), np.full((PROMPTS, 5), 0.2)
        for i in range(round(PARTS.get(arm, 0.0) * PROMPTS)):
            gender[i] = (0.85, 0.15) if i % 2 else (0.15, 0.85)
        out[arm] = {"gender": gender, "tone": tone}
    return out


def tests_of(shares: Shares, seeds: int, rng: np.random.Generator) -> list[Finding]:
    """The tests of one simulated report, their p not yet adjusted."""
    size = PROMPTS * seeds
    frame = pd.DataFrame(
        {
            "arm": np.repeat(list(shares), size),
            "prompt": np.tile(np.repeat([f"p{i}" for i in range(PROMPTS)], seeds), len(shares)),
            "seed": np.tile(np.arange(seeds), len(shares) * PROMPTS),
        }
    )
    frame = frame.assign(
        checkpoint=frame["arm"], vae="own", negative="", adapters="none", kind="made"
    )
    findings: list[Finding] = []
    for attribute in (GENDER, TONE):
        told = frame.assign(outcome=_drawn(shares, attribute, seeds, rng))
        instrument = f"c.{attribute.name}"
        for _, part in told.groupby("arm", sort=False):
            findings += by_prompt(part, attribute, instrument, {}, None)
            findings += over_prompts(part, attribute, instrument, {})
        findings += compare_arms(told, attribute, instrument, SPEC)
    return [f for f in findings if is_test(f)]


def _drawn(
    shares: Shares, attribute: AttributeSpec, seeds: int, rng: np.random.Generator
) -> NDArray[np.object_]:
    names = np.array(attribute.class_names, object)
    codes = []
    for of_arm in shares.values():
        edges = of_arm[attribute.name].cumsum(axis=1)[:, None, :-1]
        codes.append((rng.random((PROMPTS, seeds, 1)) > edges).sum(axis=2).ravel())
    drawn: NDArray[np.object_] = names[np.concatenate(codes)]
    return drawn


def of_arms(tests: Sequence[Finding], arms: Sequence[str]) -> list[Finding]:
    """The tests that a report of these arms alone would have; the first is the baseline."""
    return [
        f
        for f in tests
        if f.subject["arm"] in arms and f.subject.get("baseline", arms[0]) == arms[0]
    ]


def is_true(finding: Finding) -> bool:
    """Whether an effect was planted in what a test is about."""
    return finding.subject["arm"] in PARTS and finding.subject["attribute"] == "gender"


def counted(reports: int, seed: int) -> Counter[tuple[str, int, str]]:
    """What simulated reports say: how many, by (what is counted, arms, biased arm or '')."""
    rng = np.random.default_rng(seed)
    shares, out = fair_and_biased(), Counter[tuple[str, int, str]]()
    for _ in range(reports):
        tests = tests_of(shares, SEEDS, rng)
        for n in ARMS:
            for biased in ("", *PARTS):
                # A biased arm comes last: alone it is its own baseline and has no comparison.
                arms = [*FAIR[: n - bool(biased)], *([biased] if biased else [])]
                _count(of_arms(tests, arms), (n, biased), out)
    return out


def _count(tests: list[Finding], key: tuple[int, str], out: Counter[tuple[str, int, str]]) -> None:
    apart = [f for f in adjusted(tests) if verdict(f) == "apart"]
    false = [f for f in apart if not is_true(f)]
    spoke = {f.family for f in false}
    once = benjamini_hochberg([f.p for f in tests])
    plain = any(p <= 0.05 and not is_true(f) for f, p in zip(tests, once, strict=True))
    out["reports", *key] += 1
    out["any", *key] += bool(spoke)
    out["any arm or attribute", *key] += any(" against " not in name for name in spoke)
    out["families", *key] += len({f.family for f in tests if not is_true(f)})
    out["flagged families", *key] += len(spoke)
    out["false findings", *key] += len(false)
    out["findings", *key] += len(apart)
    out["one adjustment", *key] += plain


def table(found: Counter[tuple[str, int, str]]) -> list[str]:
    """The whole table as Markdown."""
    rows = [
        "| arms | biased arm | reports | a fair arm or attribute is flagged "
        "| or a fair comparison | a given fair family is flagged | findings that are false "
        "| one adjustment over all |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for n in ARMS:
        for biased in ("", *PARTS):
            of = {name: found[name, n, biased] for name, *_ in found}
            rows.append(
                f"| {n} | {biased or 'none'} | {of['reports']:,} "
                f"| {of['any arm or attribute'] / of['reports']:.1%} "
                f"| {of['any'] / of['reports']:.1%} "
                f"| {of['flagged families'] / max(of['families'], 1):.1%} "
                f"| {of['false findings'] / max(of['findings'], 1):.1%} "
                f"| {of['one adjustment'] / of['reports']:.1%} |"
            )
    return rows


if __name__ == "__main__":
    print("\n".join(table(counted(int(sys.argv[1]) if len(sys.argv) > 1 else 2000, seed=0))))
