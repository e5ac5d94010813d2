import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from report_data import BREAKOUT, SCRIPT

import reports
from probes.contracts import Figure
from reports.charts import (
    DARK,
    MAX_LABELS,
    darken,
    draw,
    in_one_order,
    shorten,
    style_groups,
    target_text,
)
from reports.plots import INK, MUTED, STYLES, common_start, short_labels, value_scale

PAGE_CSS = Path(reports.__file__).with_name("templates") / "page.css"


def figure(rows, kind="bar", name="shares/x"):
    columns = [
        "label" if kind == "bar" else "x",
        "value",
        "low",
        "high",
        "group",
        "target",
        "facet",
    ]
    return Figure(name, kind, pd.DataFrame(rows, columns=columns), "A caption", "An alt text")


def texts(svg):
    return [e.text for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def colours(svg):
    found = ElementTree.fromstring(svg).iter()
    return {e.get(name) for e in found for name in ("fill", "stroke")}


ROWS = [
    ("a portrait of a pilot", 0.2, 0.1, 0.3, "base", 0.5, "woman"),
    ("a portrait of a pilot", 0.9, 0.8, 0.95, "mine", 0.5, "woman"),
    ("a portrait of a judge", 0.7, 0.6, 0.8, "base", 0.5, "woman"),
    ("a portrait of a judge", 0.8, 0.7, 0.9, "mine", 0.5, "woman"),
]


@pytest.fixture(scope="module")
def drawing():
    return draw(figure(ROWS), known=("mine", "base"))


def test_labels_are_sorted_by_value_and_lose_their_common_start(drawing):
    labels = [t for t in texts(drawing.pictures[0].light) if t in ("pilot", "judge")]
    # Means: judge .75, pilot .55.
    assert labels == ["judge", "pilot"]
    assert drawing.note == "Labels are shown without their common start, “a portrait of a”."
    assert drawing.targets == "target 50 %"
    assert "100 %" in texts(drawing.pictures[0].light)


def test_a_group_keeps_its_colour_wherever_it_is_drawn(drawing):
    assert drawing.styles == {"base": STYLES[1], "mine": STYLES[0]}
    assert {STYLES[0].light, STYLES[1].light} <= colours(drawing.pictures[0].light)
    assert style_groups(["other"], ["mine", "base"])["other"] == STYLES[0]
    styles = style_groups(["other", "mine"], ["mine", "base"])
    assert styles["other"] != styles["mine"]


def test_the_dark_image_differs_in_its_colours_alone(drawing):
    light, dark = drawing.pictures[0].light, drawing.pictures[0].dark
    assert texts(light) == texts(dark)
    assert STYLES[0].dark in colours(dark)
    assert not {s.light for s in STYLES} & colours(dark)


def test_a_single_facet_is_drawn_wide_as_well(drawing):
    assert drawing.pictures[0].wide_light
    two = draw(figure(ROWS[:2] + [(*r[:6], "man") for r in ROWS[2:]]))
    assert [p.facet for p in two.pictures] == ["woman", "man"]
    assert not two.pictures[0].wide_light
    few = draw(figure(ROWS[:2] + [(*r[:6], "man") for r in ROWS[2:]]), most=1)
    assert (len(few.pictures), few.left_out) == (1, 1)


def test_hostile_labels_stay_text_inside_the_chart():
    labels = [f"a portrait of {SCRIPT}", f"a portrait of {BREAKOUT}\x00\u202e"]
    rows = [(label, 0.5, 0.4, 0.6, BREAKOUT, 0.5, SCRIPT) for label in labels]
    drawing = draw(figure(rows))
    for source in (drawing.pictures[0].light, drawing.pictures[0].wide_dark):
        assert "<script" not in source
        assert "<img" not in source
        tags = {e.tag.rpartition("}")[2] for e in ElementTree.fromstring(source).iter()}
        assert tags <= {"svg", "g", "path", "line", "text", "rect", "clipPath", "defs"}
    assert "</script><script>alert(1)</script>" in texts(drawing.pictures[0].wide_light)


def test_what_was_not_measured_is_said_and_not_drawn_at_zero():
    rows = [("a", np.nan, np.nan, np.nan, "", np.nan, ""), ("b", 0.0, 0.0, 0.06, "", np.nan, "")]
    light = draw(figure(rows)).pictures[0].light
    assert "not measured" in texts(light)
    only = draw(figure(rows[1:])).pictures[0].light
    assert "not measured" not in texts(only)


def test_a_dose_curve_is_drawn():
    rows = [(w, v, v - 0.1, v + 0.1, "mine", 0.5, "") for w, v in ((1, 0.3), (2, 0.2), (5, 0.1))]
    drawing = draw(figure(rows, "line"))
    assert {"1", "2", "5", "0 %", "50 %"} & set(texts(drawing.pictures[0].light)) >= {"2", "0 %"}
    assert drawing.styles == {}


def test_more_groups_than_colours_become_facets_or_go_where_labels_tell_all():
    rows = [("pilot", 0.1 * i, 0, 1, f"arm {i}", 0.5, "woman") for i in range(9)]
    drawing = draw(figure(rows), most=2)
    assert [p.facet for p in drawing.pictures] == ["woman · arm 0", "woman · arm 1"]
    assert drawing.left_out == 7
    rows = [(f"arm {i}", 0.1 * i, 0, 1, f"arm {i}", 0.5, "") for i in range(9)]
    drawing = draw(figure(rows))
    assert len(drawing.pictures) == 1
    assert drawing.styles == {}


def test_a_ranking_keeps_its_own_order_and_needs_no_legend():
    rows = [("best", 0.1, 0, 0.2, "best", 0.05, ""), ("worst", 0.4, 0.3, 0.5, "worst", 0.05, "")]
    drawing = draw(replace(figure(rows), ranking=True))
    labels = [t for t in texts(drawing.pictures[0].light) if t in ("best", "worst")]
    assert labels == ["best", "worst"]
    assert (drawing.styles, drawing.targets) == ({}, "")


def test_a_long_facet_is_cut_to_its_ends_and_says_so():
    rows = pd.DataFrame({"label": [f"p{i}" for i in range(500)], "value": np.arange(500.0)})
    order = in_one_order(rows.assign(facet=""), ranking=False)
    kept, note = shorten(rows, order, ranking=False)
    assert len(kept) == MAX_LABELS
    assert kept["label"].tolist()[:1] + kept["label"].tolist()[-1:] == ["p499", "p0"]
    assert note == "The 20 highest and 20 lowest of 500 are drawn."
    order = in_one_order(rows.assign(facet=""), ranking=True)
    kept = shorten(rows, order, ranking=True)[0]
    assert kept["label"].tolist() == [f"p{i}" for i in range(40)]


def test_labels_have_one_order_in_all_panels():
    table = pd.DataFrame(
        [("light", "b", 0.1), ("light", "a", 0.7), ("dark", "a", 0.2), ("dark", "b", 0.8)]
        + [("dark", "c", 0.5)],
        columns=["facet", "label", "value"],
    )
    assert in_one_order(table, ranking=False) == ["a", "b", "c"]


def test_labels_stay_apart_when_they_are_cut():
    short = short_labels(["x" * 30 + "a", "x" * 30 + "b"], 20)
    assert len(set(short.values())) == 2
    assert all(len(s) <= 20 for s in short.values())


def test_a_common_start_is_two_words_or_none():
    assert common_start(["a photo of a cat", "a photo of a dog"]) == "a photo of a"
    assert common_start(["a cat", "a dog"]) == ""
    assert common_start(["a photo of a cat"]) == ""


def test_scales():
    columns = ["value", "low", "high", "target"]
    shares = pd.DataFrame([[0.3, 0.2, 0.41, 0.2]], columns=columns)
    assert value_scale(shares) == (0.0, 0.6, True)
    assert target_text(shares, value_scale(shares)) == "target 20 %"
    signed = value_scale(pd.DataFrame([[-2.0, -3.0, 1.0, np.nan]], columns=columns))
    assert signed.low < -3 < 1 < signed.high
    assert not signed.share


def test_unknown_kinds_and_empty_tables_have_no_chart():
    assert draw(replace(figure(ROWS), kind="table")) is None
    assert draw(figure([])) is None


def test_a_missing_column_is_named():
    whole = figure(ROWS)
    with pytest.raises(ValueError, match="figure 'shares/x' of kind 'bar' lacks column 'low'"):
        replace(whole, table=whole.table.drop(columns="low"))
    with pytest.raises(ValueError, match="kind 'bars' is none of bar, line"):
        replace(whole, kind="bars")


def test_darken_leaves_text_alone():
    source = '<svg xmlns="http://www.w3.org/2000/svg"><text fill="#1C2128">#1c2128</text></svg>'
    assert ">#1c2128</" in darken(source)
    assert 'fill="#e7eaee"' in darken(source)


def test_text_can_be_read_on_every_ground():
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text; 1.4.11: 3 to 1 for the marks of a chart."""
    light, dark = re.findall(r":root \{(.*?)\}", PAGE_CSS.read_text(), re.DOTALL)[:2]
    for css, marks, text in (
        (light, [s.light for s in STYLES], [INK, MUTED]),
        (dark, [s.dark for s in STYLES], [DARK[INK], DARK[MUTED]]),
    ):
        held = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css))
        for ground in (held["paper"], held["wash"]):
            for ink in (held["ink"], held["soft"], held["accent"], *text):
                assert contrast(ink, ground) >= 4.5, (ink, ground)
        for mark in marks:
            assert contrast(mark, held["paper"]) >= 3, mark
    assert contrast("#777777", "#ffffff") < 4.5 < contrast("#767676", "#ffffff")


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
