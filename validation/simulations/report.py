"""What whole reports say of fair models: the two-level adjustment through the report's own path.

A report's own path is outcomes of images, `probes.attributes.shares` and
`probes.attributes.arm_comparison`, the adjustment over all tests (`probes.error_control`) and the
verdict (`reports.verdicts`). Thousands of reports go a faster way to the same verdicts, without
frames; first some go both ways, and all must agree. 24 prompts, 32 seeds, gender (2 classes) and
tone (5 classes); images are independent. A biased arm has gender at 85 to 15 in a part of its
prompts, half of them each way, and an exactly fair tone.

    python -m validation.simulations.report [REPORTS]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from harness.spec.attributes import load_attribute
from harness.spec.schema import Spec
from probes.attributes.arm_comparison import compare_arms
from probes.attributes.prompt_shares import by_prompt
from probes.attributes.shares import over_prompts
from probes.contracts import Finding
from probes.error_control import adjusted, is_test
from probes.statistics.intervals import total_variation_null
from probes.statistics.mean_distance import mean_distance
from probes.statistics.total_variation import distance_bounds
from reference.world import ROLES
from reports.verdicts import verdict
from validation.shares import true_shares

Floats = NDArray[np.float64]
PROMPTS, SEEDS, DEMO_SEEDS = 24, 32, 80
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


def tests_of(codes: Mapping[str, Mapping[str, NDArray[np.integer]]]) -> list[Finding]:
    """The tests of one report as a run makes them, from classes (prompts, seeds) by arm."""
    prompts, seeds = next(iter(codes.values()))["gender"].shape
    frame = pd.DataFrame(
        {
            "arm": np.repeat(list(codes), prompts * seeds),
            "prompt": np.tile(np.repeat([f"p{i}" for i in range(prompts)], seeds), len(codes)),
            "seed": np.tile(np.arange(seeds), len(codes) * prompts),
        }
    )
    frame = frame.assign(
        checkpoint=frame["arm"], vae="own", negative="", adapters="none", kind="made"
    )
    findings: list[Finding] = []
    for attribute in (GENDER, TONE):
        names = np.array(attribute.class_names, object)
        drawn = np.concatenate([of[attribute.name].ravel() for of in codes.values()])
        told = frame.assign(outcome=names[drawn])
        instrument = f"c.{attribute.name}"
        for _, part in told.groupby("arm", sort=False):
            findings += by_prompt(part, attribute, instrument, {}, None)
            findings += over_prompts(part, attribute, instrument, {})
        findings += compare_arms(told, attribute, instrument, SPEC)
    return [f for f in findings if is_test(f)]


class Family(NamedTuple):
    """Tests of one family in many reports at once.

    Attributes:
        p: (reports, tests) adjusted inside the family by Benjamini-Hochberg.
        sure: (reports, tests) whether the interval leaves out what is tested against.
    """

    p: Floats
    sure: NDArray[np.bool_]


def fast_families(codes: Mapping[str, Mapping[str, NDArray[np.integer]]]) -> dict[str, Family]:
    """The families of many reports, from classes by arm and attribute, (reports, prompts, seeds).

    The same numbers as the report's own path, without its frames: `checked` compares both.
    """
    out: dict[str, Family] = {}
    base = next(iter(codes))
    for arm, attributes in codes.items():
        for name, code in attributes.items():
            k = GENDER.class_names if name == "gender" else TONE.class_names
            hits = np.stack([code == c for c in range(len(k))], axis=-1)
            parts = [_distances(hits.sum(axis=2)), _means(hits), _mean_distances(hits.sum(axis=2))]
            out[f"{arm}/{name}/c.{name}"] = _family(parts)
            if arm != base:
                other = np.stack([codes[base][name] == c for c in range(len(k))], axis=-1)
                out[f"{arm} against {base}/{name}/c.{name}"] = _family([_differences(hits, other)])
    return out


def _family(parts: Sequence[tuple[Floats, NDArray[np.bool_]]]) -> Family:
    p = np.concatenate([part[0] for part in parts], axis=1)
    sure = np.concatenate([part[1] for part in parts], axis=1)
    return Family(stats.false_discovery_control(p, axis=1), sure)


@lru_cache(maxsize=100_000)
def _distance(counts: tuple[int, ...]) -> tuple[float, bool]:
    """P and whether the interval leaves out 0; with an even target the order does not matter."""
    even = np.full(len(counts), 1 / len(counts))
    low, _ = distance_bounds(np.array(counts), even)
    return total_variation_null(counts, even).p, low > 0


def _distances(counts: NDArray[np.integer]) -> tuple[Floats, NDArray[np.bool_]]:
    ordered = np.sort(counts, axis=-1)
    found = [_distance(tuple(c)) for c in ordered.reshape(-1, counts.shape[-1]).tolist()]
    p, sure = (np.array(x).reshape(counts.shape[:2]) for x in zip(*found, strict=True))
    return p, sure.astype(bool)


def _means(hits: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.bool_]]:
    """Mean shares of the reported classes: the score test at the effective size."""
    prompts, seeds, classes = hits.shape[1:]
    shares = hits.mean(axis=2)[..., (slice(1, None) if classes == 2 else slice(None))]
    value = shares.mean(axis=1)
    variance = (shares * (1 - shares)).sum(axis=1) / (seeds - 1) / prompts**2
    z, t = stats.norm.ppf(0.975), stats.t.ppf(0.975, prompts * (seeds - 1))
    size = value * (1 - value) / variance * (z / t) ** 2
    p = 2 * stats.norm.sf(np.abs(value - 1 / classes) * np.sqrt(size * classes**2 / (classes - 1)))
    return p, p < 0.05


def _mean_distances(counts: NDArray[np.integer]) -> tuple[Floats, NDArray[np.bool_]]:
    prompts, classes = counts.shape[1:]
    even = np.full((prompts, classes), 1 / classes)
    found = [mean_distance(c, even) for c in counts]
    return np.array([[f.p] for f in found]), np.array([[f.low > 0] for f in found])


def _differences(
    hits: NDArray[np.bool_], other: NDArray[np.bool_]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Paired differences of shares, t with Satterthwaite's degrees of freedom."""
    prompts, seeds, classes = hits.shape[1:]
    chosen = slice(1, None) if classes == 2 else slice(None)
    x = (hits.astype(float) - other)[..., chosen]
    part = x.var(axis=2, ddof=1) / seeds
    df = part.sum(axis=1) ** 2 / (part**2 / (seeds - 1)).sum(axis=1)
    p = 2 * stats.t.sf(np.abs(x.mean(axis=(1, 2))) * prompts / np.sqrt(part.sum(axis=1)), df)
    return p, p < 0.05


def verdicts(families: Mapping[str, Family]) -> dict[str, NDArray[np.bool_]]:
    """Which tests are 'apart' in each report: the two levels, and the interval, at 0.05."""
    simes = np.stack([f.p.min(axis=1) for f in families.values()], axis=1)
    selected = stats.false_discovery_control(simes, axis=1) <= 0.05
    level = 0.05 * selected.sum(axis=1) / len(families)
    return {
        name: (f.p <= level[:, None]) & selected[:, [i]] & f.sure
        for i, (name, f) in enumerate(families.items())
    }


def drawn_codes(
    shares: Shares, reports: int, seeds: int, rng: np.random.Generator
) -> dict[str, dict[str, NDArray[np.integer]]]:
    """Classes of the images of many reports, by arm and attribute: (reports, prompts, seeds)."""
    return {
        arm: {
            name: (rng.random((reports, PROMPTS, seeds, 1)) > s.cumsum(axis=1)[:, None, :-1]).sum(
                axis=3
            )
            for name, s in of_arm.items()
        }
        for arm, of_arm in shares.items()
    }


def checked(reports: int, seed: int) -> int:
    """Tests of some reports whose verdict by the report's own path is not that of the fast one."""
    rng = np.random.default_rng(seed)
    shares = {arm: fair_and_biased()[arm] for arm in (*FAIR[:2], "biased 62%")}
    codes = drawn_codes(shares, reports, SEEDS, rng)
    fast = verdicts(fast_families(codes))
    wrong = 0
    for r in range(reports):
        tests = adjusted(tests_of({a: {n: c[r] for n, c in of.items()} for a, of in codes.items()}))
        for name, found in fast.items():
            own = sorted(verdict(f) == "apart" for f in tests if f.family == name)
            wrong += own != sorted(found[r].tolist())
    return wrong


def counted(reports: int, seed: int, block: int = 100) -> Counter[tuple[str, int, str]]:
    """What simulated reports say: how many, by (what is counted, arms, biased arm or '')."""
    rng = np.random.default_rng(seed)
    shares, out = fair_and_biased(), Counter[tuple[str, int, str]]()
    for start in range(0, reports, block):
        size = min(block, reports - start)
        families = fast_families(drawn_codes(shares, size, SEEDS, rng))
        for n in ARMS:
            for biased in ("", *PARTS):
                # A biased arm comes last: alone it is its own baseline and has no comparison.
                arms = [*FAIR[: n - bool(biased)], *([biased] if biased else [])]
                _count(of_arms(families, arms), (n, biased), size, out)
    return out


def of_arms(families: Mapping[str, Family], arms: Sequence[str]) -> dict[str, Family]:
    """The families that a report of these arms alone would have; the first is the baseline."""
    return {
        name: f
        for name, f in families.items()
        if name.split("/")[0].split(" against ")[0] in arms
        and (" against " not in name or name.split("/")[0].split(" against ")[1] == arms[0])
    }


def is_true(family: str) -> bool:
    """Whether an effect was planted in what a family is about."""
    return family.startswith("biased") and "/gender/" in family


def _count(
    families: Mapping[str, Family],
    key: tuple[int, str],
    size: int,
    out: Counter[tuple[str, int, str]],
) -> None:
    found = verdicts(families)
    fair = {name: v.any(axis=1) for name, v in found.items() if not is_true(name)}
    arms = [v for name, v in fair.items() if " against " not in name]
    out["reports", *key] += size
    out["any", *key] += int(np.any(list(fair.values()), axis=0).sum())
    out["any arm or attribute", *key] += int(np.any(arms, axis=0).sum()) if arms else 0
    out["families", *key] += len(fair) * size
    out["flagged families", *key] += int(sum(v.sum() for v in fair.values()))
    out["findings", *key] += int(sum(v.sum() for v in found.values()))
    out["false findings", *key] += int(
        sum(v.sum() for name, v in found.items() if not is_true(name))
    )


def table(found: Counter[tuple[str, int, str]]) -> list[str]:
    """The whole table as Markdown."""
    rows = [
        "| arms | biased arm | reports | a fair arm or attribute is flagged "
        "| or a fair comparison | a given fair family is flagged | findings that are false |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for n in ARMS:
        for biased in ("", *PARTS):
            of = {name: found[name, n, biased] for name, *_ in found}
            rows.append(
                f"| {n} | {biased or 'none'} | {of['reports']:,} "
                f"| {of['any arm or attribute'] / of['reports']:.1%} "
                f"| {of['any'] / of['reports']:.1%} "
                f"| {of['flagged families'] / max(of['families'], 1):.1%} "
                f"| {of['false findings'] / max(of['findings'], 1):.1%} |"
            )
    return rows


def demo() -> Shares:
    """The demo: `balanced` and `planted-unet`, each through two VAEs, by the reference's truth."""
    arms: dict[str, dict[str, Floats]] = {}
    for name in ("balanced", "planted-unet"):
        kinds = {
            kind: np.array([true_shares(name, "1", role, kind) for role in ROLES])
            for kind in ("gender", "tone")
        }
        arms |= {f"{name} {vae}": kinds for vae in ("own", "pale")}
    return arms


def power(reports: int, seed: int, block: int = 50) -> list[str]:
    """How many prompts of the demo's planted model are flagged, of those 0.2 or more off target.

    Before: Benjamini-Hochberg over the prompts of an arm and attribute. Now: the two levels, and
    the interval. As counted, 80 seeds.
    """
    rng, shares = np.random.default_rng(seed), demo()
    rows = [
        "| attribute | prompts off target | flagged before | flagged now |",
        "|---|---:|---:|---:|",
    ]
    before, now = Counter[str](), Counter[str]()
    off = {
        kind: np.abs(s - 1 / s.shape[1]).sum(axis=1) / 2 >= 0.2
        for kind, s in shares["planted-unet own"].items()
    }
    for start in range(0, reports, block):
        codes = drawn_codes(shares, min(block, reports - start), DEMO_SEEDS, rng)
        found = verdicts(fast_families(codes))
        for kind, wanted in off.items():
            classes = len(GENDER.classes if kind == "gender" else TONE.classes)
            code = codes["planted-unet own"][kind]
            counts = np.stack([(code == c).sum(axis=2) for c in range(classes)], axis=-1)
            alone = stats.false_discovery_control(_distances(counts)[0], axis=1) <= 0.05
            before[kind] += int(alone[:, wanted].sum())
            now[kind] += int(
                found[f"planted-unet own/{kind}/c.{kind}"][:, :PROMPTS][:, wanted].sum()
            )
    for kind, wanted in off.items():
        of = reports * int(wanted.sum())
        rows.append(
            f"| {kind} | {int(wanted.sum())} | {before[kind] / of:.1%} | {now[kind] / of:.1%} |"
        )
    return rows


if __name__ == "__main__":
    wrong = checked(10, seed=1)
    print(f"{wrong} families of 10 reports differ between the report's own path and the fast one\n")
    reports = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print("\n".join([*table(counted(reports, seed=0)), "", *power(reports // 4, seed=0)]))
