"""A report's data as a real run would give it: two checkpoints, 24 prompts, two VAEs."""

import io
from functools import cache

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from probes.attributes.metrics import CORRECTED_SHARE, SHARE, SHARE_DIFFERENCE
from probes.contracts import Figure, Finding, MetricSpec, Reference
from probes.error_control import adjusted
from probes.vae.metrics import SKIN_LIGHTNESS
from reference import world
from reports import ReportData

SCRIPT = "</script><script>alert(1)</script>"
BREAKOUT = '"><img src=x onerror=alert(2)>'
SEEDS = 64
EQUAL = dict.fromkeys(world.TONES, 0.2)
DISTANCE = MetricSpec("distance", "distance", "share", "lower", span=1.0)
INSTRUMENT = "clip ViT-B-32 · prompts v1"


def digest(n):
    return "".join(f"{(n * 2654435761 * (i + 7)) % 2**32:08x}" for i in range(8))


@cache
def png(role, gender, tone, style="noto"):
    buffer = io.BytesIO()
    pixels = world.picture(world.Person(role, gender, tone, style))
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def images(cell):
    """Cells are 'role|gender|tone|style'; one of them was never made."""
    parts = cell.split("|")
    return png(*parts) if len(parts) == 4 and parts[0] in world.ROLES else None


def share(checkpoint, prompt, attribute, cls, count, n, target, headline=False):
    low, high = proportion_confint(count, n, method="wilson")
    return Finding(
        id=f"attributes/share/{checkpoint}/{prompt}/{cls}",
        probe="attributes",
        metric=SHARE,
        subject={"checkpoint": checkpoint, "prompt": prompt, "attribute": attribute, "class": cls},
        value=count / n,
        low=low,
        high=high,
        estimator="as counted, Wilson",
        family=f"{checkpoint}/{attribute}/{INSTRUMENT}" if headline else "",
        reading="as counted",
        headline=headline,
        n=n,
        n_clusters=1,
        reference=Reference(target, target, targets={"": target}),
        p=binomtest(count, n, target).pvalue if headline else np.nan,
        instrument=INSTRUMENT,
    )


def bars(findings, names):
    return pd.DataFrame(
        {
            "label": f.subject["prompt"],
            "value": f.value,
            "low": f.low,
            "high": f.high,
            "group": f.subject["checkpoint"],
            "target": f.reference.value,
            "facet": f.subject["class"],
        }
        for f in findings
        if f.subject["class"] in names
    )


@cache
def fake_report(hostile=False):
    rng = np.random.default_rng(3)
    one, other = "balanced", f"planted{BREAKOUT}" if hostile else "planted-unet"
    prompts = [world.neutral_prompt(r) for r in world.ROLES]
    if hostile:
        prompts[12] = f"a portrait of {SCRIPT}{BREAKOUT}"
    women = np.linspace(0.95, 0.05, len(prompts))
    tones = {one: [0.2] * 5, other: [0.42, 0.26, 0.17, 0.1, 0.05]}
    gender, skin = [], []
    for i, prompt in enumerate(prompts):
        for name in (one, other):
            count = rng.binomial(SEEDS, 0.5 if name == one else women[i])
            top = name == other and i in (0, 10, 12, 21)
            gender.append(
                share(
                    name, prompt, "perceived gender presentation", "woman", count, SEEDS, 0.5, top
                )
            )
            for tone, k in zip(
                world.TONES,
                rng.multinomial(SEEDS, rng.dirichlet(30 * np.array(tones[name]))),
                strict=True,
            ):
                skin.append(share(name, prompt, "skin tone", tone, int(k), SEEDS, 0.2))
    n = SEEDS * len(prompts)
    whole = {"attribute": "skin tone", "checkpoint": other}
    women_of = {"attribute": "perceived gender presentation", "class": "woman"}
    findings = [
        Finding(
            id="attributes/distance/skin tone/planted", probe="attributes", metric=DISTANCE,
            subject=whole, value=0.314, low=0.29, high=0.338, estimator="stratified by prompt",
            headline=True, n=n, n_clusters=24, reference=Reference(0.0, 0.021, 0.035, EQUAL),
            p=1e-9, instrument=INSTRUMENT, family="planted/skin tone",
        ),
        Finding(
            id="attributes/distance/skin tone/balanced", probe="attributes", metric=DISTANCE,
            subject=whole | {"checkpoint": one}, value=0.024, low=0.011, high=0.04,
            estimator="stratified by prompt", headline=True, n=n, n_clusters=24,
            reference=Reference(0.0, 0.021, 0.035, EQUAL), p=0.31, instrument=INSTRUMENT,
            family="balanced/skin tone",
        ),
        Finding(
            id="attributes/share/woman/planted", probe="attributes", metric=SHARE,
            subject=women_of | {"checkpoint": other},
            value=0.487, low=0.37, high=0.604, estimand="prompts like these",
            estimator="t on prompt means", headline=True, n=n, n_clusters=24,
            reference=Reference(0.5, 0.5), p=0.82, instrument=INSTRUMENT, family="planted/gender",
        ),
        *(f for f in gender if f.headline),
        Finding(
            id="vae/lightness/pale", probe="vae", metric=SKIN_LIGHTNESS,
            subject={"checkpoint": one, "vae": "pale", "against": "faithful"}
            | {"attribute": "skin tone", "class": "dark"},
            value=9.4, low=8.1, high=10.7, estimator="t on paired prompts", headline=True,
            n=n // 5, n_clusters=24, reference=Reference(0.4, 0.0), p=1e-6,
            instrument="skin L* v1", family="vae/pale",
        ),
        Finding(
            id="attributes/difference/woman", probe="attributes", metric=SHARE_DIFFERENCE,
            subject=women_of | {"checkpoint": other, "against": one},
            value=-0.012, low=-0.13, high=0.107, estimand="prompts like these",
            estimator="t on paired prompts", headline=True, n=2 * n, n_clusters=24,
            reference=Reference(0.0, 0.0), p=0.83, reading="as counted", instrument=INSTRUMENT,
            family="planted against balanced",
        ),
        Finding(
            id="attributes/share-corrected/woman/planted", probe="attributes",
            metric=CORRECTED_SHARE,
            subject=women_of | {"checkpoint": other},
            headline=True, status="not-measured", instrument=INSTRUMENT,
            note="no labelled images: label at least 50 with `audit label`",
        ),
        *(f for f in gender if not f.headline),
        *skin,
    ]  # fmt: skip
    doses = pd.DataFrame(
        {
            "x": w,
            "value": v,
            "low": max(0.0, v - 0.04),
            "high": v + 0.04,
            "group": name,
            "target": 0.5,
            "facet": "pilot, read as a woman",
        }
        for name, p in ((one, 0.5), (other, 0.3))
        for w in (1.0, 2.0, 3.0, 5.0, 7.5)
        for v in [p**w / (p**w + (1 - p) ** w)]
    )
    roles = ("pilot", "firefighter", "monarch", "scientist", "judge")
    people = [("man", "light"), ("woman", "medium-dark"), ("man", "dark"), ("woman", "medium")]
    by_checkpoint = pd.DataFrame(
        {
            "row": f"{name}, seed {s}",
            "column": prompts[12] if hostile and r == "pilot" else world.neutral_prompt(r),
            "cell": f"{r}|{who[0] if name == one else 'man'}|{who[1]}|noto",
            "caption": f"guidance 2, {who[1]}",
        }
        for name in (one, other)
        for s, who in enumerate(people[:3])
        for r in roles
    )
    by_vae = pd.DataFrame(
        {
            "row": vae,
            "column": f"seed {s}",
            "cell": "" if (vae, s) == ("pale", 2) else f"pilot|{g}|{t}|{style}",
            "caption": "",
            "reason": "the decoder gave NaN" if (vae, s) == ("pale", 2) else "",
        }
        for vae, style in (("faithful", "noto"), ("pale", "twemoji"))
        for s, (g, t) in enumerate(people)
    )
    ranking = pd.DataFrame(
        {
            "label": [one, other],
            "value": [0.024, 0.314],
            "low": [0.011, 0.29],
            "high": [0.04, 0.338],
            "group": [one, other],
        }
    )
    errors = pd.DataFrame(
        [["woman", 0.93, 0.04, 0.03, 120], ["man", 0.05, 0.92, 0.03, 118]],
        columns=["true class", "read as woman", "read as man", "cannot tell", "images"],
    )
    figures = [
        Figure(
            "attributes/gender-by-prompt", "bar", bars(gender, {"woman"}),
            "Perceived gender presentation: images read as women, by prompt",
            "Share of images read as women for 24 prompts and two checkpoints",
            subject={"attribute": "gender presentation"},
        ),
        Figure(
            "attributes/tone-by-prompt", "bar", bars(skin, set(world.TONES)),
            "Skin tone: images read in each of five classes, by prompt",
            "Share of each skin tone for 24 prompts and two checkpoints",
            subject={"attribute": "skin tone"},
        ),
        Figure(
            "guidance/dose", "line", doses,
            "Guidance moves shares: images of pilots read as women, by guidance scale",
            "Line chart of the share read as women against guidance",
        ),
        Figure(
            "attributes/error-table", "table", errors,
            "The classifier's own error, measured on labelled images with other seeds",
            "Error table",
        ),
        Figure(
            "vae/strip", "table", pd.DataFrame({"position": [0, 1], "lightness": [41.2, 50.6]}),
            "Mean lightness of skin drawn and seen", "Mean lightness, drawn and seen",
        ),
        Figure(
            "grid-checkpoint-prompt", "grid", by_checkpoint,
            "Same starting noise, two checkpoints, five prompts", "Grid of checkpoint by prompt",
        ),
        Figure(
            "grid-vae-seed", "grid", by_vae,
            "One denoising, two VAEs: a portrait of a pilot", "Grid of VAE by seed",
        ),
        Figure(
            "ranking-tone-distance", "bar", ranking,
            "Distance of skin tone from its target (20 % each), in shares; less is closer",
            "Two checkpoints ranked by distance from the skin tone target",
            ranking=True,
        ),
    ]  # fmt: skip
    attrition = pd.DataFrame(
        [
            [one, n, n, 0, ""],
            [other, n, n - 12, 12, "NaN latents at guidance 7.5"],
            ["VAE pale", n, n - 3, 3, "the decoder gave NaN"],
        ],
        columns=["arm", "planned", "made", "failed", "reason"],
    )
    audited = [
        {"name": one, "kind": "checkpoint", "source": "reference:balanced", "digest": digest(1),
         "precision": "float16"},
        {"name": other, "kind": "checkpoint", "source": "models/planted-unet.safetensors",
         "digest": digest(2), "precision": "float16", "trigger": "none"},
        {"name": "faithful", "kind": "VAE", "source": "reference:faithful", "digest": digest(3),
         "precision": "float16"},
        {"name": "pale", "kind": "VAE", "source": BREAKOUT if hostile else "reference:pale",
         "digest": digest(4), "precision": "float16"},
    ]  # fmt: skip
    settings = {
        "prompts": len(prompts), "seeds": SEEDS, "sampler": "DDIM", "steps": 20, "guidance": 2.0,
        "size": "64 × 64", "batch_size": 16, "device": "cpu", "dtype": "float32",
        "negative": SCRIPT if hostile else "none",
    }  # fmt: skip
    return ReportData(
        title=f"Occupations {SCRIPT}" if hostile else "Occupations, two checkpoints and two VAEs",
        audited=audited,
        settings=settings,
        findings=adjusted(findings),
        figures=figures,
        attrition=attrition,
        provenance={
            "created": "2026-11-23T00:12:00+00:00", "python": "3.11.2",
            "platform": "Linux x86_64", "diffusers": "0.42.1", "torch": "2.15.0",
            "transformers": "5.23.0", "spec_digest": digest(5), "instrument_digest": digest(6),
        },
        reproduce=[
            "audit show 3fa91c07",
            f"audit show --prompt '{SCRIPT}'" if hostile else "audit run audit.yaml",
        ],
        images=images,
    )  # fmt: skip
