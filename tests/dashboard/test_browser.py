"""The dashboard in a real browser: every page, keyboard, mouse and shared links."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("streamlit")
pytest.importorskip("playwright")

from axe_playwright_python.sync_playwright import Axe
from dashboard_browser import CHROMIUM, SLOW, at, chromium, served, settled, visit

from audit.pipeline import analyse

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]
AXE = Axe()
PAGES = {
    "": "synthetic",
    "images": "Images",
    "attributes": "Attributes",
    "vae": "VAE",
    "latent_map": "Latent map",
    "attention": "Attention",
    "compare": "Compare",
    "label": "Label",
    "prefer": "Prefer",
    "figures": "All figures",
}


@pytest.fixture(scope="module")
def runs(made, small_audit, tmp_path_factory):
    """The synthetic run, to be labelled, and a real one of the reference models."""
    folder = tmp_path_factory.mktemp("browser")
    analyse.report(small_audit, *analyse.analyse(small_audit))
    real = shutil.copytree(small_audit.run.folder, folder / "real")
    return Path(shutil.copytree(made, folder / "synthetic")), Path(real)


@pytest.fixture(scope="module")
def server(runs):
    with served(*runs) as (url, _):
        yield url


@pytest.fixture(scope="module")
def browser():
    with chromium() as held:
        yield held


def wrong(message) -> bool:
    """Whether a console message is an error of ours.

    Below a page's address Streamlit first looks for its server there, and finds 404.
    """
    return message.type == "error" and "/_stcore/" not in message.location.get("url", "")


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda e: page.problems.append(str(e)))
    page.on("console", lambda m: page.problems.append(m.text) if wrong(m) else None)
    page.on(
        "request",
        lambda r: (
            None
            if re.match(r"(https?|wss?)://127\.0\.0\.1|data:|blob:", r.url)
            else page.problems.append(f"asked for {r.url}")
        ),
    )
    yield page
    context.close()


def entered(browser, server):
    """A page of somebody else who opened the printed address before."""
    page = browser.new_context().new_page()
    visit(page, server)
    return page


@pytest.mark.parametrize("run", ["synthetic", "real"])
def test_every_page_opens_without_an_error(server, page, run):
    for path, title in PAGES.items():
        visit(page, at(server, f"{path}?run={run}"))
        heading = page.inner_text("h1")
        assert heading == title or path == ""
        assert page.locator('[data-testid="stException"]').count() == 0, path
        assert page.locator('[data-testid="stAlert"]').count() == 0, path
    assert page.problems == []


def test_a_region_is_drawn_and_its_link_shared(server, page, browser):
    visit(page, at(server, "latent_map?run=synthetic"))
    chart = page.locator("canvas, svg.marks").first
    chart.wait_for(timeout=SLOW)
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 140)  # below the legend
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 40, box["y"] + box["height"] - 30, steps=5)
    page.mouse.up()
    page.wait_for_selector("text=in the region", timeout=SLOW)
    settled(page)
    told = page.locator("h3", has_text="in the region").inner_text()
    page.wait_for_selector('[data-testid="stImage"] img', timeout=SLOW)
    page.wait_for_url(re.compile("region="))
    other = entered(browser, server)
    visit(other, page.url)
    other.wait_for_selector("text=in the region", timeout=SLOW)
    assert other.locator("h3", has_text="in the region").inner_text() == told
    other.context.close()
    assert page.problems == []


def test_a_shared_link_lands_in_the_same_state(server, page, browser):
    visit(page, at(server, "?run=synthetic"))
    page.get_by_placeholder("a prompt, a metric …").fill("cook")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("search=cook"), timeout=SLOW)
    settled(page)
    other = entered(browser, server)
    visit(other, page.url)
    for one in (page, other):
        one.wait_for_selector("text=4 findings", timeout=SLOW)
    told = other.get_by_placeholder("a prompt, a metric …")
    other.wait_for_function("box => box.value === 'cook'", arg=told.element_handle(), timeout=SLOW)
    other.context.close()
    assert page.problems == []


def test_two_images_lie_under_a_slider_and_keys_lead_on(server, page, runs):
    plan = pd.read_parquet(runs[0] / "plan.parquet")
    own = plan[plan["vae"] == "own"].reset_index(drop=True)
    visit(page, at(server, f"images?run=synthetic&cell={own['cell'][0]}"))
    stage = page.locator(".viewer .stage")
    stage.wait_for(timeout=SLOW)
    assert page.locator(".viewer img").count() == 2
    assert page.get_by_role("button", name="Previous").is_disabled()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    page.mouse.up()
    assert float(page.locator(".viewer input").input_value()) == pytest.approx(25, abs=1)
    page.get_by_role("button", name="Native size").click()
    width = page.locator(".viewer img").first.evaluate("e => e.naturalWidth")
    assert stage.bounding_box()["width"] == width < box["width"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    assert download.value.suggested_filename == f"{own['cell'][0][:16]}.png"
    page.keyboard.press("n")
    page.wait_for_url(f"**cell={own['cell'][1]}*", timeout=SLOW)
    settled(page)
    page.keyboard.press("p")
    page.wait_for_url(f"**cell={own['cell'][0]}*", timeout=SLOW)
    assert page.problems == []


def serious(page) -> list[str]:
    """What axe-core finds that keeps people out.

    The brush of a region is left out: Vega-Lite draws it and takes no words for it.
    """
    found = AXE.run(page, context={"exclude": [[".region_brush"], [".region_brush_bg"]]})
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary'][:200]}"
        for one in found.response["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_every_page_and_the_report_can_be_read_by_everybody(server, browser, runs, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    for path in [*PAGES, "label?labeller=ann", "prefer?rater=ann"]:
        visit(page, at(server, f"{path}{'&' if '?' in path else '?'}run=real"))
        assert serious(page) == [], path
    page.goto((runs[1] / "report" / "index.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert serious(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelector('.tiles li').style = 'color: #777; background: #888'")
    assert any(one.startswith("color-contrast") for one in serious(page))
    context.close()
