"""A run as rich as they come, three checkpoints by three VAEs and all probes, in a real browser."""

import re
from urllib.parse import urlencode

import pytest
from conftest import make  # tests/conftest.py

pytest.importorskip("streamlit")
pytest.importorskip("playwright")

from dashboard_browser import CHROMIUM, SLOW, at, chromium, served, visit
from test_browser import PAGES, serious

from audit.pipeline import analyse
from dashboard import evidence
from dashboard.queries import RunView

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]
PER_PAGE = 10
OVERLAPPING = """() => {
  const texts = [...document.querySelectorAll('svg text')].filter(t => t.textContent.trim());
  const boxes = texts.map(t => [t.textContent, t.getBoundingClientRect()]);
  const frame = document.querySelector('svg').getBoundingClientRect();
  const bad = [];
  boxes.forEach(([text, a], i) => {
    if (a.left < frame.left - 2 || a.right > frame.right + 2) bad.push('cut: ' + text);
    if (a.top < frame.top - 2 || a.bottom > frame.bottom + 2) bad.push('cut: ' + text);
    boxes.slice(i + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 2 && high > 3) bad.push(text + ' over ' + other);
    });
  });
  return bad;
}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    audit = make(
        tmp_path_factory.mktemp("rich"),
        name="rich",
        checkpoints={
            "balanced": "reference:balanced",
            "planted": "reference:planted-unet",
            "worded": "reference:planted-text",
        },
        vaes={"own": "own", "other": "reference:faithful-b", "pale": "reference:pale"},
        seeds=4,
        steps=3,
        batch_size=16,
        confusion_matrix="reference:errors.csv",
        probes={
            "attributes": {},
            "attention": {"layers": True, "stages": 2},
            "latents": {"watch": 2, "umap": False},
            "memory": {},
            "negatives": {"negatives": ["a man"]},
            "preference": {},
            "spectrum": {},
            "steps": {"watch": 2},
            "text": {},
            "vae": {},
        },
    )
    analyse.report(audit, *analyse.analyse(audit))
    return audit.run.folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as held:
        yield held


@pytest.fixture(scope="module")
def server(run):
    with served(run) as (url, _):
        yield url


def test_every_headline_is_two_clicks_from_its_images_at_most(run, server, browser):
    """The first click opens the page of images with the finding's own arms; the second an image."""
    view = RunView(run)
    headlines = [f for f in view.findings if f.headline]
    assert len(headlines) > 200
    for finding in headlines:
        where = evidence.where_of(view, finding)
        assert where, finding.id
        chosen = {k: v for k, v in where.items() if k in view.levels}
        assert len(view.cells(chosen, 10)), finding.id
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    links = set()
    pages = [f"?page={n}" for n in range(1, -(-len(headlines) // PER_PAGE) + 1, 12)]
    for address in (*pages, "?of_probe=attributes", "?of_probe=negatives"):
        visit(page, at(server, address))
        own = page.locator('[data-testid="stPageLink"] a').filter(has_text="Images")
        own.last.wait_for(timeout=SLOW)
        found = own.evaluate_all("all => all.map(a => a.href).filter(a => a.includes('?'))")
        assert found, address
        links |= set(found)
    assert len(links) > 10
    for link in sorted(links)[:: max(len(links) // 4, 1)]:
        visit(page, link)
        page.wait_for_selector('[data-testid="stImage"] img', timeout=SLOW)
        assert page.locator('[data-testid="stException"]').count() == 0, link
    prompted = next(w for f in headlines if "seeds" in (w := evidence.where_of(view, f)))
    visit(page, at(server, f"images?{urlencode(prompted, doseq=True)}"))
    page.get_by_role("button", name=re.compile(r"^(?!Fullscreen).*seed \d")).first.click()
    page.locator(".viewer img").first.wait_for(timeout=SLOW)
    page.close()


@pytest.mark.parametrize(
    ("width", "scheme", "pages"),
    [(1280, "dark", tuple(PAGES)), (390, "light", ("", "vae"))],
)
def test_every_page_of_it_can_be_read(run, server, browser, width, scheme, pages):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    for path in pages:
        visit(page, at(server, path))
        assert page.locator('[data-testid="stException"]').count() == 0, path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert serious(page) == [], path
    page.goto((run / "report" / "index.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_no_label_of_a_chart_is_cut_or_lies_over_another(run, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    files = sorted((run / "report" / "figures").glob("*.svg"))
    assert len(files) > 40
    for file in files:
        page.set_content(file.read_text(encoding="utf-8"))
        assert page.evaluate(OVERLAPPING) == [], file.name
    page.evaluate(
        "() => document.querySelectorAll('svg text').forEach(t => t.setAttribute('transform', ''))"
    )
    assert page.evaluate(OVERLAPPING) != []  # the control: all labels in one place
    page.close()
