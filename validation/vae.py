"""The VAE probe on VAEs whose faults are known: part of `audit validate`.

Round trips of the world's own images through every reference VAE, and a decode swap on
images of `balanced`. What the probe says of a fault is held against the oracle's measure of
the same images.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from audit.pipeline import analyse, vae_audit
from audit.pipeline.plan import begin, plan_audit
from audit.pipeline.run import generate, score
from audit.pipeline.session import Audit, open_audit
from harness.errors import SpecError
from harness.images.png import png_bytes
from harness.json_types import JsonObject
from probes.contracts import Finding
from reference import oracle
from reference.world import EXTRA, ROLES
from validation.export import export
from validation.shares import Check

VAES = ("faithful", "faithful-fp32", "pale", "no-beards", "flat", "coarse", "tiny")
DARK = ("medium-dark", "dark")
ROLES_QUICK = 6
SEEDS_QUICK, SEEDS = 8, 32
SWAP = """
name: swap
checkpoints: {{balanced: reference:balanced}}
vaes: {{own: own, copy: reference:faithful, pale: reference:pale}}
prompts: {{suite: demo}}
seeds: {seeds}
steps: 12
guidance: 1
probes: [attributes, vae]
attributes: [world-tone]
classifiers: {{small: reference:balanced}}
batch_size: 32
device: cpu
dtype: float32
"""


def run(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Check]:
    """All checks, in order; makes and measures images in `folder`, and resumes there.

    Args:
        folder: Where.
        quick: Send only some roles' images round, and swap fewer seeds.
        say: Takes progress.
    """
    world = folder / "world"
    table = export(world, (*(ROLES[:ROLES_QUICK] if quick else ROLES), *EXTRA))
    names = tuple(f"reference:{name}" for name in VAES)
    audit = vae_audit.run(
        world,
        table,
        (*names, "again=reference:faithful"),
        folder / "round-trip",
        1024,
        32,
        ("world-style",),
        ("reference:balanced",),
        say,
    )
    findings = {f.id: f for f in analyse.analyse(audit)[0]}
    yield from round_trip_checks(audit, list(findings.values()))
    swap = make_swap(folder / "swap", SEEDS_QUICK if quick else SEEDS, say)
    yield from swap_checks(swap, analyse.analyse(swap)[0])
    yield alien_check(folder / "alien")


def round_trip_checks(audit: Audit, findings: list[Finding]) -> Iterator[Check]:
    """Each planted fault, the copy, and `faithful` against its parent in fp32."""
    shift = _only(findings, "skin lightness shift", vae="pale", group="tone")
    seen = _oracle(audit)
    for tone in DARK:
        found = next(f for f in shift if f.subject["class"] == tone)
        own = seen[seen["tone"] == tone]
        truth = float((own["pale"] - own["original"]).mean())
        yield _holds(f"round trip, pale: lightness of {tone} skin", found, truth)
    beards = _only(
        findings,
        "extra squared error difference",
        vae="no-beards",
        group="beard",
        baseline="faithful",
    )
    yield _above(
        "no-beards: extra error on bearded over beardless faces, beyond faithful's", beards[0]
    )
    style = _only(findings, "change of share, balanced.world-style: twemoji", vae="flat")
    yield _above("flat: share of Twemoji style, after minus before", style[0])
    energy = _only(findings, "high-frequency energy", vae="coarse")[0]
    yield Check(
        "coarse: high-frequency energy kept",
        f"{10 ** (energy.value / 10):.0%} ({_figure(energy)} dB)",
        "less than half",
        energy.high < 10 * np.log10(0.5),
    )
    again = [
        f
        for f in findings
        if f.probe == "vae"
        and f.subject.get("vae") == "again"
        and f.subject.get("baseline") == "faithful"
        and f.status == "measured"
    ]
    yield Check(
        "a VAE against itself under another name",
        f"{sum(f.value != 0 for f in again)} of {len(again)} numbers are not exactly 0",
        "none",
        bool(again) and all(f.value == 0 for f in again),
    )
    parent = [
        f for f in findings if f.subject.get("vae") == "faithful-fp32" and "baseline" in f.subject
    ]
    above = [f for f in parent if f.p <= 0.05]
    yield Check(
        "faithful against its parent in fp32: findings above their null",
        f"{len(above)} of {len(parent)}",
        "none",
        bool(parent) and not above,
    )


def make_swap(folder: Path, seeds: int, say: Callable[[str], None]) -> Audit:
    """Images of `balanced` by three VAEs, with the oracle's skin masks."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "audit.yaml"
    path.write_text(SWAP.format(seeds=seeds))
    audit = open_audit(path, folder / "run")
    plan, provenance = plan_audit(audit, say)
    begin(audit, plan, provenance)
    generate(audit, plan, say)
    own = plan[plan["vae"] == "own"].set_index("cell")
    pixels = _pixels(audit, list(own.index))
    masks = oracle.skin_masks(np.stack(list(pixels.values())))
    for cell, mask in zip(pixels, masks, strict=True):
        if mask is not None:
            png = png_bytes((np.repeat(mask[..., None], 3, axis=2) * 255).astype(np.uint8), "mask")
            audit.run.write_mask(str(own.at[cell, "trajectory"]), png)
    score(audit, plan, say)
    return audit


def swap_checks(audit: Audit, findings: list[Finding]) -> Iterator[Check]:
    """`pale` on the same latents, and the copy of the checkpoint's own VAE."""
    plan = audit.run.read_plan()
    assert plan is not None
    own = plan[plan["vae"] == "own"]
    pale = plan[plan["vae"] == "pale"].set_index("trajectory")["cell"]
    before = _pixels(audit, list(own["cell"]))
    after = _pixels(audit, [str(pale[t]) for t in own["trajectory"]])
    told = pd.DataFrame(
        {
            "tone": _told(audit).reindex(list(before)).to_numpy(),
            "before": oracle.read(np.stack(list(before.values())))["lightness"],
            "after": oracle.read(np.stack(list(after.values())))["lightness"],
        }
    )
    shift = _only(findings, "skin lightness shift", vae="pale", group="small.world-tone as told")
    for tone in DARK:
        found = next(f for f in shift if f.subject["class"] == tone)
        part = told[told["tone"] == tone].dropna()
        truth = float((part["after"] - part["before"]).mean())
        yield _holds(f"decode swap, pale: lightness of {tone} skin", found, truth)
    shifts = [
        f
        for f in findings
        if f.probe == "vae"
        and f.subject.get("vae") == "copy"
        and f.status == "measured"
        and "baseline" not in f.subject
        and not (f.metric.name == "SSIM" and f.value == 1)  # equal images score 1
    ]
    yield Check(
        "decode swap, the checkpoint's own VAE under another name",
        f"{sum(f.value != 0 for f in shifts)} of {len(shifts)} shifts are not exactly 0",
        "none",
        bool(shifts) and all(f.value == 0 for f in shifts),
    )


def alien_check(folder: Path) -> Check:
    """A VAE of the same shape and another latent space must be refused."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "audit.yaml"
    path.write_text(SWAP.format(seeds=1).replace("reference:pale", "reference:alien"))
    reason = "it was accepted"
    try:
        plan_audit(open_audit(path, folder / "run"), lambda text: None)
    except (SpecError, ValueError) as error:
        reason = str(error)
    return Check("alien: refused as a swap", reason, "another latent space", "space" in reason)


def _only(findings: list[Finding], metric: str, **subject: str) -> list[Finding]:
    found = [
        f
        for f in findings
        if f.metric.name == metric and all(f.subject.get(k) == v for k, v in subject.items())
    ]
    for key in ("baseline", "group"):
        if key not in subject:
            found = [f for f in found if key not in f.subject]
    assert found, f"no finding {metric!r} of {subject}"
    return found


def _figure(f: Finding) -> str:
    return f"{f.value:.4g} [{f.low:.4g}, {f.high:.4g}], n {f.n}"


def _above(name: str, f: Finding) -> Check:
    return Check(name, f"{_figure(f)} {f.metric.unit}", "interval above 0", f.low > 0)


def _holds(name: str, f: Finding, truth: float) -> Check:
    passed = f.low > 0 and f.low <= truth <= f.high
    figure = f"{_figure(f)}; oracle {truth:.4g} {f.metric.unit}"
    return Check(name, figure, "interval above 0 that holds the oracle's value", passed)


def _pixels(audit: Audit, cells: list[str]) -> dict[str, np.ndarray]:
    plan = audit.run.read_plan()
    assert plan is not None
    where = plan.drop_duplicates("cell").set_index("cell")
    held: JsonObject = {}
    for (unit, file), part in where.loc[cells].groupby(["unit", "vae_file"], sort=False):
        table = audit.run.read_images(str(unit), str(file)).set_index("cell")["png"]
        for cell in part.index:
            held[str(cell)] = np.asarray(Image.open(io.BytesIO(table[cell])).convert("RGB"))
    return {cell: held[cell] for cell in cells}


def _oracle(audit: Audit) -> pd.DataFrame:
    """Tone as exported, and the oracle's lightness of the originals and of `pale`."""
    plan = audit.run.read_plan()
    assert plan is not None
    labels = audit.run.labels()
    tone = labels[labels["attribute"] == "tone"].set_index("cell")["class"]
    role = labels[labels["attribute"] == "role"].set_index("cell")["class"]
    pale = plan[plan["vae"] == "pale"].set_index("trajectory")["cell"]
    cells = [c for c in tone.index if role[c] in ROLES]
    before = list(_pixels(audit, cells).values())
    after = list(_pixels(audit, [str(pale[c]) for c in cells]).values())
    return pd.DataFrame(
        {
            "tone": tone[cells].to_numpy(),
            "original": oracle.read(np.stack(before))["lightness"],
            "pale": oracle.read(np.stack(after))["lightness"],
        }
    ).dropna()


def _told(audit: Audit) -> pd.Series:
    """The classifier's tone of the own VAE's images, by cell: the groups of the probe."""
    from harness.spec.attributes import load_attribute
    from probes.attributes.outcomes import outcome_frame

    plan = audit.run.read_plan()
    assert plan is not None
    folder = audit.run.read_json("instruments.json")["small.world-tone"]
    tables = {"small.world-tone": audit.run.read_scores(folder, set(plan["unit"]))}
    frame = outcome_frame(
        tables,
        plan,
        audit.run.labels(),
        load_attribute("world-tone", Path()),
        "small.world-tone",
        audit.spec.classifiers["small"],
    )
    return frame.drop_duplicates("cell").set_index("cell")["outcome"]
