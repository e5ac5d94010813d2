import io
import json
import math
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_data import BREAKOUT, SCRIPT, SEEDS, fake_report, share

from probes.contracts import Figure, Finding, MetricSpec
from probes.error_control import adjusted
from reports import page
from reports.formats.html import render
from reports.formats.json import as_json
from reports.grids import file_name
from reports.headline import meter
from reports.overview import audited_cards
from reports.page import compose
from reports.tables import Budget, make_table
from reports.templating import PAGE_BYTES, no_break
from reports.writers import write_report

CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page(HTMLParser):
    """What a browser would make of the page: its tags, attributes and text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.pieces = [], [], []
        self.feed(html)
        self.text = "".join(self.pieces)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.pieces.append(data)

    def dangers(self):
        bad = {"script", "iframe", "object", "embed", "form", "link", "base", "foreignobject"}
        found = [t for t in self.tags if t in bad]
        for tag, name, value in self.attributes:
            if name.startswith("on"):
                found.append(f"{tag} {name}")
            if name in ("src", "srcset") and not value.startswith("data:image/"):
                found.append(f"{tag} {name}={value[:40]}")
            beside = re.fullmatch(r"(figures|grids)/[\w.-]+|report\.json|#[\w-]+", value or "")
            if name == "href" and not beside:
                found.append(f"{tag} href={value[:40]}")
        return found


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    data = fake_report(hostile=True)
    return data, folder, write_report(data, folder)[0]


@pytest.fixture(scope="module")
def read(written):
    return Page(written[2].read_text(encoding="utf-8"))


def small_report(**changes):
    """A report without charts and grids, which is made at once."""
    data = fake_report()
    return data._replace(figures=[], findings=data.findings[:20])._replace(**changes)


def test_hostile_names_stay_text(read):
    assert read.dangers() == []
    assert SCRIPT in read.text
    assert BREAKOUT in read.text


def test_the_check_for_hostile_names_finds_them():
    assert Page(f"<p>{SCRIPT}").dangers() == ["script"]
    assert Page(f'<p title="{BREAKOUT}">').dangers() == ["img src=x", "img onerror"]


def test_the_policy_forbids_all_but_embedded_images(read):
    metas = [v for t, n, v in read.attributes if t == "meta" and n == "content"]
    assert CSP in metas
    sources = [v for t, n, v in read.attributes if n in ("src", "srcset")]
    assert len(sources) > 20


def test_charts_are_svg_without_script_and_have_words_for_them(read):
    charts = [v for t, n, v in read.attributes if n in ("src", "srcset") and "svg+xml" in v]
    # Two alone (four images each), five facets and the ranking, light and dark.
    assert len(charts) == 4 + 10 + 4 + 4
    for uri in charts:
        root = ElementTree.fromstring(b64decode(uri.partition("base64,")[2]))
        tags = {e.tag.rpartition("}")[2] for e in root.iter()}
        assert tags <= {"svg", "g", "path", "line", "text", "rect", "clipPath", "defs"}
        assert not [a for e in root.iter() for a in e.attrib if a.startswith("on") or "href" in a]
    images = [dict(a[1:] for a in read.attributes if a[0] == "img")]
    assert all(i["alt"] for i in images)


def test_every_section_is_there_in_order(read, written):
    html = written[2].read_text(encoding="utf-8")
    ids = [
        *("answer", "figures", "findings", "further", "grids", "ranking", "missing", "all"),
        *("method", "audited", "reproduce"),
    ]
    places = [html.index(f'<section id="{i}"') for i in ids]
    assert places == sorted(places)


def test_the_page_says_what_it_must(read):
    text = " ".join(read.text.split())
    assert (
        "The reference world proves the arithmetic and the plumbing, not that CLIP reads "
        "photographs correctly: for that, label some of your own images." in text
    )
    assert "not measured: no labelled images" in text
    assert "We cannot tell" in text
    assert "missing: the decoder gave NaN" in text
    assert "NaN latents at guidance 7.5" in text
    assert "audit show 3fa91c07" in text
    assert not any(word in text.lower() for word in ("unbiased", "debiased"))


def test_every_link_leads_somewhere(read, written):
    """Every headline has a link to its figure and one to its images."""
    links = {v for t, n, v in read.attributes if n == "href"}
    anchors = {v for t, n, v in read.attributes if n == "id"}
    assert {v[1:] for v in links if v.startswith("#")} <= anchors
    files = {v for v in links if not v.startswith("#")}
    assert {v.partition("/")[0] for v in files} >= {"figures", "grids"}
    for file in files - {"report.json"}:
        assert (written[1] / file).stat().st_size > 0, file


def test_figures_are_files_too(written):
    folder = written[1] / "figures"
    (first, *_) = [f for f in written[0].figures if f.kind == "bar"]
    names = {p.name for p in folder.iterdir()}
    stem = file_name(first.id).removesuffix(".png")
    assert f"{stem}.csv" in names
    assert len(pd.read_csv(folder / f"{stem}.csv")) == len(first.table)
    svgs = [p for p in folder.iterdir() if p.suffix == ".svg"]
    assert svgs
    assert all(ElementTree.fromstring(p.read_bytes()).tag.endswith("svg") for p in svgs)


def test_digests_stand_in_full(read, written):
    assert all(a["digest"] in read.text for a in written[0].audited)


def test_json_is_strict_and_holds_everything(written):
    def refuse(constant):
        raise AssertionError(constant)

    data, folder, _ = written
    text = (folder / "report.json").read_text(encoding="utf-8")
    held = json.loads(text, parse_constant=refuse)
    assert len(held["findings"]) == len(data.findings)
    missing = next(f for f in held["findings"] if f["status"] == "not-measured")
    assert missing["value"] is None
    assert held["figures"][0]["table"][0]["label"] == data.figures[0].table["label"][0]
    assert held["attrition"][1]["failed"] == 12
    assert held["provenance"]["created"] == "2026-11-23T00:12:00+00:00"


def test_json_turns_what_has_no_number_into_null():
    odd = {
        "a": np.float32("inf"),
        "b": np.int64(3),
        "c": pd.NaT,
        "d": [math.nan, pd.NA],
        "e": "\ud800",
    }
    held = as_json(small_report(provenance=odd))["provenance"]
    assert held == {"a": None, "b": 3, "c": None, "d": [None, None], "e": "?"}


def test_grids_are_written_as_images(written):
    _, folder, _ = written
    names = {p.name for p in (folder / "grids").iterdir()}
    assert names == {"grid-checkpoint-prompt.png", "grid-vae-seed.png"}
    for name in names:
        with Image.open(folder / "grids" / name) as image:
            assert image.width > 500


def test_nothing_half_written_stays(written):
    assert not [p for p in written[1].rglob("*") if p.name.startswith(".")]


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    page_path = write_report(small_report(), tmp_path)[0]
    before = page_path.read_bytes()

    def broken(cell):
        raise RuntimeError("disk gone")

    table = pd.DataFrame([("r", "c", "cell", "")], columns=["row", "column", "cell", "caption"])
    grid = Figure("grid", "grid", table, "", "")
    with pytest.raises(RuntimeError, match="disk gone"):
        write_report(small_report(title="new", figures=[grid], images=broken), tmp_path)
    assert page_path.read_bytes() == before


def test_the_same_data_give_the_same_bytes(tmp_path):
    first = write_report(small_report(), tmp_path / "a")[0].read_bytes()
    assert write_report(small_report(), tmp_path / "b")[0].read_bytes() == first


def test_a_huge_run_fits_the_page(monkeypatch):
    monkeypatch.setattr(page, "MAX_CHARTS", 3)
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (256, 256, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    # Quotation marks grow fivefold when they are escaped.
    long = '"' * 10_000 + SCRIPT
    findings = [
        share("base", f"{i} {long}", "skin tone", "dark", i % SEEDS, SEEDS, 0.2, i % 2 == 0)
        for i in range(300)
    ]
    findings = [replace(f, id=f"{f.id}/{k}") for k in range(17) for f in findings][:5_000]
    places = [
        (f"row {r} {long}", f"column {c}", f"{r} {c}", long) for r in range(30) for c in range(30)
    ]
    table = pd.DataFrame(places, columns=["row", "column", "cell", "caption"])
    grids = [Figure(f"grid {i}", "grid", table, long, long) for i in range(200)]
    rows = [(f"{i} {long}", 0.5, 0.4, 0.6, "base", f"facet {i % 9}") for i in range(900)]
    columns = ["label", "value", "low", "high", "group", "facet"]
    shares = pd.DataFrame(rows, columns=columns)
    bars = [Figure(f"bars {i}", "bar", shares, long, long) for i in range(100)]
    data = fake_report()._replace(
        title=long,
        findings=findings,
        figures=grids + bars,
        audited=[{"name": f"{i} {long}", "kind": "VAE", "digest": long} for i in range(400)],
        settings={f"{i} {long}": long for i in range(400)},
        provenance={f"{i} {long}": long for i in range(400)},
        reproduce=[long] * 400,
        attrition=pd.DataFrame({"arm": [long] * 999, "reason": long}),
        images=lambda cell: buffer.getvalue(),
    )
    html = render(data)
    # The three charts are small: all that charts may take must still fit.
    assert len(html) < PAGE_BYTES - page.CHART_BYTES
    text = " ".join(Page(html.decode()).text.split())
    assert "of 5,000 findings, headline ones first" in text
    assert "176 more grids in the run folder" in text
    assert "more in the run folder. Full size" in text
    assert "more charts than this page can hold" in text
    assert "headline findings in report.json" in text


def test_an_empty_run_is_a_page_too(tmp_path):
    empty = small_report(
        audited=[], settings={}, findings=[], attrition=pd.DataFrame(), provenance={}, reproduce=[]
    )
    html = write_report(empty, tmp_path)[0].read_text(encoding="utf-8")
    assert "No finding of this run was marked as a headline." in html
    assert "Every finding of this run was measured." in html


def test_no_finding_is_dropped_in_silence():
    made = compose(small_report())
    headlines = [f for f in small_report().findings if f.headline]
    assert sum(n for _, _, n in made["tally"]) == len(headlines) == len(made["headlines"])
    assert len(made["findings"].rows) + made["findings"].more == 20


def test_headlines_that_claim_something_come_first():
    made = compose(small_report())["headlines"]
    order = [h.verdict for h in made]
    assert order == sorted(order, key=("apart", "described", "cannot-tell", "not-measured").index)


def test_headlines_that_claim_nothing_are_folded_after_a_few():
    unsure = share("base", "p", "gender-presentation", "woman", 32, 64, 0.5, True)
    certain = replace(unsure, value=0.9, low=0.8, high=0.95, p=1e-9)
    made = compose(small_report(findings=adjusted([unsure] * 10 + [certain] * 2)))
    assert [h.verdict for h in made["headlines"]] == ["apart"] * 2 + ["cannot-tell"] * 6
    assert len(made["headlines_folded"]) == 4
    html = render(small_report(findings=adjusted([unsure] * 10 + [certain] * 2))).decode()
    assert "4 more of which we cannot tell" in html


def test_a_checkpoint_and_its_components_share_a_card():
    cards = audited_cards(
        [
            {"kind": "VAE", "name": "own", "of": "base", "digest": "1" * 64},
            {"kind": "VAE", "name": "own", "of": "mine", "digest": "1" * 64},
            {"kind": "text encoder", "name": "base", "source": "hub/base", "digest": "2" * 64},
            {"kind": "denoiser", "name": "base", "source": "hub/base", "digest": "3" * 64},
        ]
    )
    assert [(c.name, c.kind) for c in cards] == [("base", "checkpoint"), ("own", "VAE")]
    assert ("of", "base, mine", False) in cards[1].entries
    assert ("denoiser", "3" * 64, True) in cards[0].entries
    assert [key for key, _, _ in cards[0].entries] == [
        "source",
        "text encoder",
        "denoiser",
    ]


def test_a_meter_lies_where_the_interval_does():
    finding = share("base", "p", "gender-presentation", "woman", 16, 64, 0.5)
    shown = meter(finding)
    assert (shown.value, shown.target) == (25.0, 50.0)
    assert shown.low < 25 < shown.high
    assert shown.alt == f"25 %, interval {shown.low:.0f} to {shown.high:.0f} %, target 50 %"
    assert meter(replace(finding, value=math.nan)) is None
    assert (
        meter(
            Finding(
                id="x",
                probe="x",
                metric=MetricSpec("lightness", unit="L*"),
                value=40,
                low=30,
                high=50,
            )
        )
        is None
    )
    assert meter(replace(finding, low=math.nan)).low is None


def test_tables_tell_missing_from_zero_and_count_what_is_cut():
    table = pd.DataFrame({"n": [0, 1], "share": [np.nan, 0.0], "name": [None, "x"]})
    made = make_table(table, Budget(10_000), 50)
    assert made.rows == [["0", "–", "–"], ["1", "0", "x"]]
    assert made.numeric == [True, True, False]
    assert make_table(table, Budget(10_000), 1).more == 1
    assert make_table(table, Budget(150), 50).more == 1
    assert make_table(table, Budget(10), 50).rows == []


def test_numbers_stay_with_their_signs():
    assert no_break("17 % [10 %, 27 %] (p < 0.001)") == (
        "17\u00a0% [10\u00a0%,\u00a027\u00a0%] (p\u00a0<\u00a00.001)"
    )
