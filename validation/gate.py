"""The gate on reference checkpoints, from end to end: part of `audit validate`.

A planted bias must fail, a checkpoint of other bytes and no effect must pass at the n that
`audit plan --detect` names, two seeds must be too few, and a U-Net blurred into mush must fail
by its quality, fair or not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from audit.gate import baseline, sample_size, verdict
from audit.pipeline.run import complete
from audit.pipeline.session import open_audit
from harness.json_types import JsonObject
from reference import component
from validation import shares
from validation.shares import FIRST_SEED, Check

PILOT, EFFECT, MOST = 8, 0.1, 96
"""Seeds of the pilot, the change of a share to be found, and most seeds made here."""
KEPT = 0.6
"""Part of its own weight that the mush's convolutions keep; the rest is their mean's."""


def run(folder: Path, say: Callable[[str], None]) -> Iterator[Check]:
    """All checks; makes and measures images in `folder`, and resumes there."""
    checkpoints = ("balanced", "balanced-b", "planted-unet")
    path, out = write_spec(folder, "arms", PILOT, checkpoints), folder / "run"
    make(path, out, say)
    wanted = sample_size.seeds(path, out, EFFECT)
    seeds = min(wanted, MOST)
    say(f"`plan --detect {EFFECT}` names {wanted} seeds a prompt; made: {seeds}")
    make(write_spec(folder, "arms", seeds, checkpoints), out, say)
    before = baseline.side_of_run(out, "balanced")
    expected = (("planted-unet", "FAIL", 1), ("balanced-b", "PASS", 0))
    for arm, word, code in expected:
        record = verdict.decide(before, baseline.side_of_run(out, arm))
        yield check(f"gate, balanced against {arm}, {seeds} seeds", record, word, code)
    file = folder / "baseline.json"
    baseline.save(before, file)
    two = make(write_spec(folder, "two", 2, ("balanced-b",)), folder / "two", say)
    record = verdict.decide(baseline.load(file), baseline.side_of_run(two))
    yield check("gate, a baseline file against 2 seeds of balanced-b", record, "INCONCLUSIVE", 3)
    spec = write_spec(folder, "mush", seeds, ("balanced",), str(mush(folder / "mush-unet")))
    made = make(spec, folder / "mush", say)
    record = verdict.decide(baseline.load(file), baseline.side_of_run(made))
    guards = [m["id"] for m in record["metrics"] if m["verdict"] == "FAIL"]
    yield check("gate, a U-Net blurred into mush", record, "FAIL", 1)
    yield Check(
        "gate, mush: quality guards that fail",
        ", ".join(g for g in guards if g.startswith(("likeness", "diversity"))) or "none",
        "at least one",
        any(g.startswith(("likeness", "diversity")) for g in guards),
    )


def check(name: str, record: JsonObject, word: str, code: int) -> Check:
    """One verdict against what it must be."""
    found = verdict.exit_code(record)
    said = f"{record['verdict']}, exit {found}: {record['message']}"
    return Check(name, said, f"{word}, exit {code}", found == code)


def make(spec: Path, out: Path, say: Callable[[str], None]) -> Path:
    """Make and measure what a spec asks for; more seeds extend what is there."""
    audit = open_audit(spec, out)
    complete(audit, say)
    return out


def mush(folder: Path) -> Path:
    """The balanced U-Net with every 3 x 3 kernel blurred towards its mean."""
    unet = UNet2DConditionModel.from_pretrained(component("unet", "balanced")).float()
    with torch.no_grad():
        for module in unet.modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
                flat = module.weight.mean(dim=(2, 3), keepdim=True)
                module.weight.lerp_(flat.expand_as(module.weight), 1 - KEPT)
    shutil.rmtree(folder, ignore_errors=True)
    unet.save_pretrained(folder)
    return folder


def write_spec(
    folder: Path, name: str, seeds: int, checkpoints: tuple[str, ...], denoiser: str | None = None
) -> Path:
    """A spec of reference checkpoints; `denoiser` replaces that of all of them."""
    own = {"denoiser": denoiser} if denoiser else {}
    spec: JsonObject = {
        "name": name,
        "checkpoints": {c: {"source": f"reference:{c}"} | own for c in checkpoints},
        "seeds": {"count": seeds, "start": FIRST_SEED},
        "guidance": 1,
    }
    if "balanced" in checkpoints:
        spec["baseline"] = "balanced"
    return shares.write_spec(folder / f"{name}.yaml", **spec)
