"""Draw the pictures of README and docs anew, from a run of the demo and one of `audit vae`.

    .venv/bin/python scripts/pictures.py demo-run vae-run

Wants Debian's Chromium. Pages that the demo has nothing for keep their pictures.
"""

from __future__ import annotations

import io
import sys
from base64 import b64encode
from html import escape
from pathlib import Path

from PIL import Image

import diffusion_audit as da

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "dashboard")]

from dashboard_browser import at, chromium, served, settled, visit  # noqa: E402

DOCS = ROOT / "docs"
MODELS = {"balanced": "A balanced model", "planted": "One whose denoiser was trained to be biased"}
PROMPTS = ("a portrait of a mechanic", "a portrait of a parent")
SEEDS = 6
PAGES = {
    "overview": "",
    "images": "images",
    "attributes": "attributes",
    "prefer": "prefer?rater=ann",
}
STYLE = """
body { margin: 0; padding: 24px 28px; font: 15px/1.45 system-ui, sans-serif; color: #0f141b;
  background: #fff; width: 1064px; }
main { display: grid; grid-template-columns: 1fr 1fr; gap: 36px; }
h2 { margin: 0 0 2px; font-size: 19px; }
p { margin: 0 0 10px; color: #4b525b; }
.row { display: flex; gap: 6px; margin: 0 0 4px; }
img { width: 80px; height: 80px; image-rendering: pixelated; }
.verdict { border-left: 3px solid #4a4fb5; padding: 2px 0 2px 12px; margin: 12px 0 0;
  color: #0f141b; }
"""


def point(run: da.Run) -> str:
    """A page with a balanced and a biased model side by side, and the report's verdict on each."""
    statements = run.answer()
    columns = []
    for model, title in MODELS.items():
        rows = []
        for prompt in PROMPTS:
            images = [
                image
                for row, image in run.images(checkpoint=model, prompt=prompt, vae="own")
                if row["seed"] < SEEDS
            ]
            drawn = "".join(f'<img src="{uri(image)}" alt="">' for image in images)
            rows.append(f'<p>“{escape(prompt)}”</p><div class="row">{drawn}</div>')
        own = [s for s in statements if s.lead.startswith(f"{model} · own")]
        of_gender = [s for s in own if "gender is off target" in s.lead]
        verdict = of_gender[0].text if of_gender else "no statement"
        columns.append(
            f"<section><h2>{escape(title)}</h2>{''.join(rows)}"
            f'<p class="verdict">{escape(verdict)}</p></section>'
        )
    return f"<!doctype html><style>{STYLE}</style><main>{''.join(columns)}</main>"


def uri(image: object) -> str:
    """A PIL image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")  # type: ignore[attr-defined]
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def main() -> None:
    """Draw all of them."""
    folder, of_vaes = map(Path, sys.argv[1:3])
    run = da.open_run(folder)
    swapped = run.plan().query("vae == 'pale'")["cell"].iloc[0]
    drawn = [DOCS / "point.png", DOCS / "report.png"]
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1120, "height": 600})
        page.set_content(point(run))
        page.locator("body").screenshot(path=DOCS / "point.png")
        page.set_viewport_size({"width": 1280, "height": 900})
        page.goto((folder.resolve() / "report" / "index.html").as_uri())
        page.screenshot(path=DOCS / "report.png")
        with served(folder, of_vaes) as (entry, _):
            more = {"image": f"images?cell={swapped}", "vae": f"vae?run={of_vaes.name}"}
            for name, path in (PAGES | more).items():
                visit(page, at(entry, path))
                page.wait_for_timeout(2500)
                settled(page)
                drawn.append(DOCS / "dashboard" / f"{name}.png")
                page.screenshot(path=drawn[-1])
            page.set_viewport_size({"width": 390, "height": 844})
            visit(page, at(entry))
            page.wait_for_timeout(2500)
            drawn.append(DOCS / "dashboard" / "overview-phone.png")
            page.screenshot(path=drawn[-1])
    for path in drawn:  # a third of the bytes, and no eye sees it
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
