"""Which images of two arms belong together, and their difference.

Generated images of one prompt and seed share their starting noise; images that went through
several VAEs are the same images. Imported images of two models have nothing in common but their
prompts, unless a column `pair` says so.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probes.statistics.intervals import Difference, Estimand, paired_difference_of_sorted
from probes.statistics.seed_clusters import difference_by_seed, sharing_note
from probes.statistics.unpaired import unpaired_difference

MADE = "made"


class Compared(NamedTuple):
    """The images of two arms that are compared, prompt by prompt.

    Attributes:
        a: (N,) values of the arm, prompt by prompt.
        n_a: (P,) images of each prompt.
        b: (M,) values of the baseline; paired: image by image those of `a`.
        n_b: (P,) images of each prompt, of the same prompts.
        paired: whether they are.
        planned: images of the arm that were planned.
        notes: what is left out, in words.
        seeds: (N,) seed of each image of `a` where they are paired and all prompts share the
            same seeds; else None.
    """

    a: NDArray[np.float64]
    n_a: NDArray[np.integer]
    b: NDArray[np.float64]
    n_b: NDArray[np.integer]
    paired: bool
    planned: int
    notes: list[str]
    seeds: NDArray[np.object_] | None = None

    def difference(self, estimand: Estimand, span: float) -> Difference:
        """Mean over prompts of a - b; `span` as in `intervals.paired_difference`."""
        if self.seeds is not None:
            prompts = np.repeat(np.arange(len(self.n_a)), self.n_a)
            return difference_by_seed(self.a, self.b, prompts, self.seeds, estimand, span)
        if self.paired:
            return paired_difference_of_sorted(self.a, self.b, self.n_a, estimand, span)
        return unpaired_difference(self.a, self.n_a, self.b, self.n_b, estimand, span == 1)

    def hits(self, code: float) -> Compared:
        """The same images with 1 where the value is `code`, else 0."""
        return self._replace(a=(self.a == code) * 1.0, b=(self.b == code) * 1.0)

    @property
    def estimator(self) -> str:
        """How the difference is estimated, in words."""
        if self.paired:
            clustered = "" if self.seeds is None else ", clustered by seed"
            return "mean over prompts of paired differences, t" + clustered
        return "mean over prompts of differences of means, not paired, stratified by prompt"


def pair_keys(frame: pd.DataFrame) -> pd.Series | None:
    """What pairs the images of two arms, a text a row; None where nothing does.

    Args:
        frame: Rows of the plan of two arms, with `arm`.
    """
    if (frame["kind"] == MADE).all():
        return frame["seed"].astype(str)
    if (frame["kind"] == MADE).any():
        return None
    same_images = frame.groupby("arm")["trajectory"].agg(frozenset)
    if frame["checkpoint"].nunique() == 1 and same_images.nunique() == 1:
        return frame["trajectory"].astype(str)
    if "pair" in frame and frame["pair"].fillna("").ne("").all():
        return frame["pair"].astype(str)
    return None


def compared(
    frame: pd.DataFrame, value: str, arm: str, base: str, shared: bool = False
) -> Compared:
    """The images of two arms that have a value, paired where something pairs them.

    Args:
        frame: Rows of the plan with `arm` and the column `value`, a number; NaN: no value.
        value: Name of that column.
        arm: Name of the arm.
        base: Name of the arm that it is compared with.
        shared: Whether all prompts share the same seeds.
    """
    held = frame[frame["arm"].isin([arm, base])]
    keys = pair_keys(held)
    planned = int((held["arm"] == arm).sum())
    known = held.dropna(subset=[value])
    notes = []
    if keys is not None:
        index = [known["prompt"].to_numpy(), keys[known.index].to_numpy()]
        values = pd.Series(known[value].to_numpy(float), pd.MultiIndex.from_arrays(index))
        here = (known["arm"] == arm).to_numpy()
        both = pd.concat(
            {k: v[~v.index.duplicated()] for k, v in (("a", values[here]), ("b", values[~here]))},
            axis=1,
            join="inner",
        )
        n, order = _by_prompt(both.index.get_level_values(0))
        a, b = (both[k].to_numpy(float)[order] for k in ("a", "b"))
        lost = [int(mask.sum()) - len(both) for mask in (here, ~here)]
        if any(lost):
            notes.append(
                f"images without their pair in the other arm, left out: {lost[0]} of {arm}, "
                f"{lost[1]} of {base}"
            )
        seeds = None
        if shared:
            seeds = both.index.get_level_values(1).to_numpy(object)[order]
            notes.append(sharing_note(len(set(seeds))))
        found = Compared(a, n, b, n, True, planned, notes, seeds)
        prompts = set(both.index.get_level_values(0))
    else:
        sides = [known[known["arm"] == name] for name in (arm, base)]
        prompts = set(sides[0]["prompt"]) & set(sides[1]["prompt"])
        sides = [
            side[side["prompt"].isin(prompts)].sort_values("prompt", kind="stable")
            for side in sides
        ]
        sizes = [side.groupby("prompt").size().to_numpy() for side in sides]
        values_of = [side[value].to_numpy(float) for side in sides]
        notes.append("nothing pairs the images: all of both arms are compared, prompt by prompt")
        found = Compared(values_of[0], sizes[0], values_of[1], sizes[1], False, planned, notes)
    missing = [p for p in dict.fromkeys(held["prompt"]) if p not in prompts]
    if missing:
        notes.append(without_images(missing, held["prompt"].nunique(), "in both arms"))
    return found


def without_images(missing: list[str], planned: int, where: str = "") -> str:
    """'2 of 24 prompts have no counted image in both arms and are left out: “…”, …'."""
    named = ", ".join(f"“{p[:60]}”" for p in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    have = "has" if len(missing) == 1 else "have"
    place = f" {where}" if where else ""
    left = "is" if len(missing) == 1 else "are"
    return (
        f"{len(missing)} of {planned} prompts {have} no counted image{place} and {left} left out: "
        f"{named}{more}"
    )


def _by_prompt(prompts: pd.Index) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """How many rows each prompt has, and the order that puts them prompt by prompt."""
    codes = pd.factorize(prompts)[0]
    return np.bincount(codes), np.argsort(codes, kind="stable")
