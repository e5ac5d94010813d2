import io
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from report_data import BREAKOUT, SCRIPT, fake_report

from reports import card, escaping, summary
from reports.answer import answer
from reports.formats.csv import csv_bytes
from reports.readme_block import TEXT_MARKERS, YAML_MARKERS, splice, splice_file
from reports.sentences import topic
from reports.writers import write_report

LINK = "[click](http://evil.example) ![x](http://evil.example/x.png) www.evil.example"
YAML = "'}]\n---\n# diffusion-audit:end\nlicense: [evil"
MARK = "<!-- diffusion-audit:end -->"
HOSTILE = f"a portrait of {SCRIPT}{BREAKOUT} {LINK} {YAML} {MARK} | `code` $$x$$"
README = """---
license: mit
language: [en]
tags:   # kept as it is
- art
---

# My model

Some *words*, a table and no final newline"""


def hostile_report(prompt=HOSTILE):
    """The report of a run whose headline prompt is hostile."""
    data = fake_report()
    found = [
        replace(f, subject=f.subject | {"prompt": prompt}) if f.headline else f
        for f in data.findings
    ]
    known = data.provenance | {"spec": "5" * 64}
    return data._replace(figures=[], findings=found, provenance=known)


def rendered(text: str) -> str:
    """What a site makes of the Markdown: tables, bare links and HTML are all let through."""
    return MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text)


def without_front(text: str) -> str:
    return text.split("\n---\n", 1)[1]


def test_the_card_parses_back_with_all_its_results():
    data = hostile_report()
    parsed = ModelCard(card.card(data))
    kept = parsed.data.eval_results
    assert kept == card.results(data)[: len(kept)]
    first = parsed.data.eval_results[0]
    assert first.dataset_revision == "5" * 64
    assert first.dataset_config
    assert first.metric_args["low"] <= first.metric_value <= first.metric_args["high"]
    assert {"n", "low", "high", "instrument"} <= set(first.metric_args)
    assert 2 <= len(kept) <= card.MAX_RESULTS
    assert len({r.metric_name for r in kept}) == len(kept)
    assert parsed.data.library_name == "diffusers"
    for heading in ("### Bias", "### Risks", "### Limitations", "## Testing"):
        assert heading in parsed.text


def test_the_metadata_are_sixty_lines_at_most_and_begin_with_the_answer():
    data = fake_report()
    text = card.card(data)
    front = text.split("---\n")[1]
    assert 20 < len(front.splitlines()) <= card.MOST_LINES
    assert "# yours to add: license, base_model" in front
    assert len(card.metadata(data).splitlines()) <= card.MOST_LINES
    by_id = {f.id: f for f in data.findings}
    leading = [by_id[s.findings[0]] for s in answer(data.findings) if s.apart]
    names = [r.metric_name for r in card.results(data)]
    assert names[: len(leading)] == [topic(f) for f in leading][: card.MAX_RESULTS]


def test_a_hostile_prompt_changes_nothing_but_its_own_words():
    plain, hostile = (without_front(card.card(hostile_report(p))) for p in ("PROMPT", HOSTILE))
    html = rendered(hostile)
    for tag in ("<script", "<img", "<a ", "href", "<code>code"):
        assert tag not in html, tag
    shape = [line[:2] for line in plain.splitlines()]
    assert [line[:2] for line in hostile.splitlines()] == shape
    assert rendered(plain).count("<td") == html.count("<td")
    known = yaml.safe_load(card.metadata(hostile_report()))
    assert list(known) == ["model-index"]
    assert "license" not in known


def test_the_check_for_hostile_prompts_finds_them():
    html = rendered(f"{SCRIPT} [click](http://evil.example)")
    assert "<script" in html
    assert "<a " in html


def test_words_that_must_not_be_said_are_not_said():
    text = card.card(fake_report()).lower()
    assert "perceived gender presentation" in text
    assert "unbiased" not in text
    assert "debias" not in text


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_readme_keeps_every_byte_outside_the_markers(newline):
    original = README.replace("\n", newline).encode()
    data = hostile_report()
    once = splice(original, card.metadata(data), card.prose(data)).text
    assert once.startswith(original.split(b"tags:")[0] + b"tags:")
    for piece in (
        b"tags:   # kept as it is" + newline.encode() + b"- art",
        b"and no final newline",
    ):
        assert piece in once
    stripped = once
    for begin, end in (YAML_MARKERS, TEXT_MARKERS):
        before, _, rest = stripped.partition(begin)
        after = rest[rest.index(newline.encode() + end) + len(newline) + len(end) :]
        stripped = before.removesuffix(newline.encode()) + after
    assert stripped.rstrip() == original
    parsed = ModelCard(once.decode())
    assert parsed.data.license == "mit"
    assert parsed.data.tags == ["art"]
    kept = parsed.data.eval_results
    assert kept == card.results(data)[: len(kept)]
    assert (b"\r\n" in once) == (newline == "\r\n")
    assert once.count(b"\n") == once.count(newline.encode())


def test_splicing_again_replaces_only_the_marked_parts():
    data, other = fake_report(), hostile_report()
    once = splice(README.encode(), card.metadata(data), card.prose(data)).text
    there = splice(once, card.metadata(other), card.prose(other)).text
    back = splice(there, card.metadata(data), card.prose(data)).text
    assert there != once
    assert back == once


def test_a_readme_without_metadata_gets_some_and_keeps_its_text():
    original = b"# Mine\r\n"
    once = splice(original, "model-index: []\n", "words\n").text
    assert original in once
    assert once.startswith(b"---\r\n# diffusion-audit:begin\r\nmodel-index")


def test_results_of_somebody_else_are_left_alone():
    original = README.replace("license: mit", "model-index:\n- name: mine\n  results: []").encode()
    data = fake_report()
    spliced = splice(original, card.metadata(data), card.prose(data))
    assert "model-index of its own" in spliced.warning
    assert spliced.text.startswith(original)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"---\na: [\n---\n", "is not YAML"),
        (b"---\n- a\n---\n", "is a list"),
        (b"<!-- diffusion-audit:begin -->\n", "1 and 0 of the markers"),
        (b"<!-- diffusion-audit:end -->\n<!-- diffusion-audit:begin -->\n", "in this order"),
    ],
)
def test_what_cannot_be_spliced_is_refused_in_one_line(tmp_path: Path, text, words):
    path = tmp_path / "README.md"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=words) as error:
        splice_file(path, "model-index: []\n", "words\n")
    assert "\n" not in str(error.value)
    assert path.read_bytes() == text
    with pytest.raises(ValueError, match="cannot be read"):
        splice_file(tmp_path / "none.md", "", "")


def test_the_card_of_one_checkpoint_leaves_the_others_out():
    data = fake_report()
    name = next(a["name"] for a in data.audited if a["kind"] != "VAE")
    own = card.only(data, name)
    assert {f.subject.get("checkpoint", name) for f in own.findings} == {name}
    assert 0 < len(own.findings) < len(data.findings)
    with pytest.raises(ValueError, match="--checkpoint 'x': this run has"):
        card.only(data, "x")


def test_every_format_is_written(tmp_path: Path):
    data = hostile_report()
    paths = write_report(data, tmp_path, ("card", "csv"))
    assert [p.name for p in paths] == ["card.md", "findings.csv"]
    assert not (tmp_path / "index.html").exists()
    with Image.open(io.BytesIO((tmp_path / "summary.png").read_bytes())) as picture:
        assert picture.width > 1000
    for text in (
        (tmp_path / "summary.html").read_text(),
        rendered((tmp_path / "summary.md").read_text()),
    ):
        assert "<script" not in text
        assert "href" not in text
        assert text.count("<img") == 1
    sheet = pd.read_csv(tmp_path / "csv" / "findings.csv")
    assert len(sheet) == len(data.findings)
    assert sheet["value"].tolist() == pytest.approx([f.value for f in data.findings], nan_ok=True)


def test_a_spreadsheet_runs_nothing(tmp_path: Path):
    table = pd.DataFrame({"=label": ["=HYPERLINK(1)", "+1", "fine"], "value": [-1.5, 2, 3]})
    text = csv_bytes(table).decode()
    assert text.splitlines() == ["'=label,value", "'=HYPERLINK(1),-1.5", "'+1,2.0", "fine,3.0"]


def test_a_report_without_headlines_is_a_card_too(tmp_path: Path):
    empty = fake_report()._replace(findings=[], figures=[], attrition=pd.DataFrame())
    parsed = ModelCard(card.card(empty))
    assert parsed.data.eval_results is None
    assert card.metadata(empty) == ""
    assert summary.summary_image(empty) is None
    assert "](summary.png)" not in summary.summary_markdown(empty, False)


def test_markdown_reads_as_the_text_it_was():
    text = "a_b *c* [d](e) <f> & `g` | $h$ # http://i.j"
    html = rendered("x " + escaping.markdown(text))
    assert (
        pd.Series([html.strip()])
        .str.replace("&lt;", "<")
        .str.replace("&gt;", ">")
        .str.replace("&amp;", "&")[0]
        == f"<p>x {text}</p>"
    )
