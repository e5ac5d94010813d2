"""The label page by keyboard: each key labels the image that was on screen, at any speed."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytest.importorskip("streamlit")
pytest.importorskip("playwright")

from dashboard_browser import CHROMIUM, SLOW, at, chromium, served, visit

from benchmarks.synthetic_run import make
from harness.store.run import Run
from probes.attributes import label_sampling

pytestmark = [
    pytest.mark.browser,
    pytest.mark.faults,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here"),
]
OUTCOMES = {"1": "round", "2": "square", "3": "odd", "n": "nobody", "x": "cannot tell"}
SHOWN = "img[data-cell]"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """168 images to label."""
    folder = tmp_path_factory.mktemp("labelled") / "run-a"
    make(folder, seeds=14, prompt_texts=["a cook", "a judge", "a nurse"])
    return folder


@pytest.fixture(scope="module")
def server(run):
    with served(run) as (entry, _):
        yield entry


@pytest.fixture(scope="module")
def browser():
    with chromium() as held:
        yield held


@pytest.fixture
def label(server, browser, request):
    """Open the page for somebody; gives the browser's page."""
    opened = []

    def open_page(labeller: str):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        opened.append(context)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda e: page.problems.append(str(e)))
        visit(page, at(server, f"label?labeller={labeller}&label_attribute=look-0"))
        page.wait_for_selector(SHOWN, timeout=SLOW)
        return page

    yield open_page
    for context in opened:
        context.close()


def shown(page) -> str:
    return page.locator(SHOWN).get_attribute("data-cell")


def saved(page, count: int) -> None:
    page.wait_for_selector(f"text={count} of 168 labelled", timeout=SLOW)
    page.wait_for_selector("text=all saved", timeout=SLOW)


def labels(run: Path, labeller: str) -> dict[str, str]:
    table = Run(run).labels()
    own = table[table["rater"] == labeller]
    assert own["cell"].is_unique
    return dict(zip(own["cell"], own["class"], strict=True))


@pytest.mark.parametrize(("keys", "pause"), [(100, 100), (20, 350), (40, 0)])
def test_each_key_labels_the_image_on_screen(label, run, keys, pause):
    labeller = f"every {pause}"
    page = label(labeller)
    expected = {}
    for i in range(keys):
        key = "123nx"[i % 5]
        expected[shown(page)] = OUTCOMES[key]
        page.keyboard.press(key)
        page.wait_for_timeout(pause)
    saved(page, keys)
    assert len(expected) == keys  # each on an image of its own
    assert labels(run, labeller) == expected
    assert "a cook" not in page.inner_text('[data-testid="stMain"]')
    assert page.problems == []


def test_undo_takes_a_label_back_and_skip_leaves_none(label, run):
    page = label("ben")
    first = shown(page)
    page.keyboard.press("1")
    second = shown(page)
    page.keyboard.press("ArrowRight")
    third = shown(page)
    page.keyboard.press("2")
    saved(page, 2)
    assert labels(run, "ben") == {first: "round", third: "square"}
    page.keyboard.press("Backspace")
    saved(page, 1)
    assert shown(page) == third
    assert labels(run, "ben") == {first: "round"}
    page.keyboard.press("u")
    assert shown(page) == second
    page.keyboard.press("Backspace")
    assert shown(page) == first
    saved(page, 0)
    assert labels(run, "ben") == {}
    page.keyboard.press("3")
    saved(page, 1)
    assert labels(run, "ben") == {first: "odd"}


def test_zoom_enlarges_the_image_and_labels_nothing(label, run):
    page = label("zoe")
    cell, before = shown(page), page.locator(SHOWN).bounding_box()["width"]
    page.keyboard.press("z")
    page.wait_for_selector(".frame.zoomed img[src*='side=1024']", timeout=SLOW)
    assert page.locator(SHOWN).bounding_box()["width"] > 1.5 * before
    assert shown(page) == cell
    page.locator(SHOWN).click()
    assert page.locator(".frame.zoomed").count() == 0
    assert labels(run, "zoe") == {}


def test_what_cannot_be_sent_is_kept_and_sent_once(label, run):
    page = label("off")
    files = set((run / "labels").glob("*"))
    page.context.set_offline(True)
    expected = {}
    for _ in range(5):
        expected[shown(page)] = "round"
        page.keyboard.press("1")
    page.wait_for_selector("text=Not saved yet", timeout=SLOW)
    assert labels(run, "off") == {}
    page.context.set_offline(False)
    saved(page, 5)
    assert labels(run, "off") == expected
    new = set((run / "labels").glob("*")) - files
    assert sum(pq.read_metadata(f).num_rows for f in new) == 5  # each written once


def test_a_key_held_down_labels_one_image_and_typing_none(label, run):
    page = label("held")
    page.keyboard.down("1")
    for _ in range(5):
        page.keyboard.down("1")  # as a keyboard repeats it
    page.keyboard.up("1")
    saved(page, 1)
    page.get_by_label("Your name").click()
    page.keyboard.type("nnxx")
    assert len(labels(run, "held")) == 1


def test_a_page_opened_again_goes_on_where_it_was(label, run):
    page = label("again")
    first = [shown(page)]
    page.keyboard.press("1")
    saved(page, 1)
    page.get_by_role("link", name="Overview").click()
    page.wait_for_selector(SHOWN, state="detached", timeout=SLOW)
    page.get_by_role("link", name="Label").click()
    page.wait_for_selector(SHOWN, timeout=SLOW)
    first.append(shown(page))
    page.keyboard.press("2")
    saved(page, 2)
    page.reload()
    page.wait_for_selector("text=2 of 168 labelled", timeout=SLOW)
    page.wait_for_selector(SHOWN, timeout=SLOW)
    assert shown(page) not in first
    assert labels(run, "again") == dict(zip(first, ("round", "square"), strict=True))


def test_the_last_label_ends_the_page(label, run):
    label_sampling.sample(run, "look-0", 200, 0)
    left = label_sampling.queue(run, "look-0", "end")
    label_sampling.add_all(run, "look-0", "end", [(cell, "round") for cell in left[:-2]])
    page = label("end")
    for _ in range(2):
        page.wait_for_selector(SHOWN, timeout=SLOW)
        page.keyboard.press("1")
    page.wait_for_selector("text=All of the sample is labelled", timeout=SLOW)
    assert len(labels(run, "end")) == 168
    page.keyboard.press("1")
    page.keyboard.press("Backspace")
    saved(page, 167)
    assert page.problems == []
