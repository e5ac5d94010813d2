"""The gate's page: verdict, every metric against its margin, and the worst pairs side by side.

All that it says stands in gate.json; the images are looked up in the runs that made them.
"""

from __future__ import annotations

from typing import NamedTuple

from harness.images.stored import opened
from harness.json_types import JsonObject
from reports.grids import Images, thumbnail
from reports.overview import entries
from reports.templating import PAGE_BYTES, data_uri, template
from reports.text import clip, number

GLYPHS = {"PASS": "described", "FAIL": "apart", "INCONCLUSIVE": "cannot-tell", "ERROR": "error"}
WORDS = {
    "PASS": "Inside every margin",
    "FAIL": "A regression",
    "INCONCLUSIVE": "We cannot tell",
    "ERROR": "Could not be judged",
}
ORDER = ("FAIL", "ERROR", "INCONCLUSIVE", "PASS")


class Scale(NamedTuple):
    """A difference with its interval on a scale of percent; `limits` lie on the bad side."""

    zero: float
    value: float
    low: float | None
    high: float | None
    limits: list[float]
    alt: str


def render(record: JsonObject, baseline: Images, candidate: Images) -> bytes:
    """The page as UTF-8 HTML.

    Args:
        record: What gate.json holds.
        baseline: PNG bytes of a cell of the baseline; None where there is no such image.
        candidate: The same of the candidate.
    """
    metrics = sorted(record["metrics"], key=lambda m: ORDER.index(m["verdict"]))
    arms = {
        side: entries(
            {"arm": record[side]["arm"]}
            | {
                f"{a.get('kind', 'component')} {a['name']}": a.get("digest", "")
                for a in record[side]["audited"]
            }
        )
        for side in ("baseline", "candidate")
        if side in record
    }
    html = template("gate.html.j2").render(
        verdict=record["verdict"],
        word=WORDS[record["verdict"]],
        glyphs=GLYPHS,
        message=clip(record["message"], 900),
        estimand=record.get("estimand", ""),
        metrics=[_metric(m, baseline, candidate) for m in metrics],
        arms=arms,
        cells=record.get("cells"),
        rate=record.get("false_fail_rate"),
        margin_rate=record.get("false_fail_rate_at_margin"),
        draws=record.get("false_fail_draws", 0),
        notes=[clip(n, 300) for n in record["notes"]],
        settings=entries(record.get("settings", {})),
    )
    page = html.encode("utf-8", "replace")
    assert len(page) < PAGE_BYTES, f"the page has {len(page):,} bytes"
    return page


def _metric(m: JsonObject, baseline: Images, candidate: Images) -> JsonObject:
    told = {k: number(_float(m[k])) for k in ("baseline", "candidate", "value", "low", "high")}
    pairs = [
        {
            "prompt": clip(p["prompt"], 160),
            "seed": p["seed"],
            "sides": [
                (name, clip(p[name], 64), _picture(images(p[name])))
                for name, images in (("baseline", baseline), ("candidate", candidate))
            ],
        }
        for p in m["worst"]
    ]
    return told | {
        "id": clip(m["id"], 160),
        "verdict": m["verdict"],
        "margin": number(_float(m["margin"])),
        "p": number(_float(m["p_adjusted"])),
        "most": "" if m.get("worse_high") is None else number(_float(m["worse_high"])),
        "bounded": m["low"] is not None,
        "bad": m["bad"],
        "n": f"{m['pairs']:,} pairs of {m['prompts']:,} prompts",
        "needs": clip("; ".join(t for t in (m["needs"], m["note"]) if t), 400),
        "scale": _scale(m),
        "pairs": pairs,
    }


def _scale(m: JsonObject) -> Scale | None:
    value, low, high, margin = (_float(m[k]) for k in ("value", "low", "high", "margin"))
    if value != value or margin != margin:
        return None
    known = low == low and high == high
    bad = {"rise": [margin], "drop": [-margin]}.get(m["bad"])
    if bad is None:  # away from the target: what leads up to it, on its side, is no worse
        gap = _float(m["baseline"]) - _float(m["target"])
        bad = [min(-gap, 0.0) - margin, max(-gap, 0.0) + margin]
    reach = 1.15 * max(map(abs, (value, 2 * margin, *bad, *((low, high) if known else ()))))

    def place(x: float) -> float:
        return round(50 + 50 * x / reach, 2)

    interval = f", interval {number(low)} to {number(high)}" if known else ", no interval"
    return Scale(
        place(0),
        place(value),
        place(low) if known else None,
        place(high) if known else None,
        [place(b) for b in bad],
        f"difference {number(value)}{interval}, margin {number(margin)}",
    )


def _picture(png: bytes | None) -> str:
    if png is None:
        return ""
    return data_uri(thumbnail(opened(png)), "image/webp")


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)
