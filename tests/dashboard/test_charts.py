import io
import json
from dataclasses import replace
from xml.etree import ElementTree

import altair as alt
import pandas as pd
import pytest
from jsonschema import ValidationError
from PIL import Image

from dashboard import charts, gates
from dashboard.escaping import plain
from dashboard.images import crisp, parameters, thumbnail
from harness.images.image_ref import difference
from probes.attributes.metrics import SHARE
from probes.contracts import Figure, Finding, Reference
from reports.plots import STYLES

TABLE = pd.DataFrame(
    [
        ("doctor", 0.2, 0.1, 0.4, "a", "woman", 0.5),
        ("doctor", 0.6, 0.4, 0.8, "b", "woman", 0.5),
        ("cook", 0.5, 0.3, 0.7, "a", "man", 0.5),
    ],
    columns=["label", "value", "low", "high", "group", "facet", "target"],
)


def one(kind="bar", table=TABLE):
    return Figure("shares/x", kind, table, "caption", "alt")


def values(chart):
    return [row for rows in chart["datasets"].values() for row in rows]


def test_a_chart_a_facet_with_its_own_numbers():
    made = charts.facets(one())
    assert [name for name, _ in made.charts] == ["woman", "man"]
    drawn = {(r["group"], r["value"]) for r in values(made.charts[0][1]) if "value" in r}
    assert drawn == {("a", 0.2), ("b", 0.6)}
    assert list(made.styles) == ["a", "b"]


def test_charts_are_valid_vega_lite():
    points = pd.DataFrame({"x": [0.0, 1.0], "y": [1.0, 0.0], "group": ["a", "b"]})
    empty = {"data": {"values": []}, "datasets": {}}
    made = [charts.facets(one()).charts[0][1], charts.facets(one(), dark=True).charts[0][1]]
    made.append(charts.facets(one("line", TABLE.assign(x=[1, 2, 3]))).charts[0][1])
    made.append(charts.scatter(points, dark=False) | empty)
    for spec in made:
        alt.Chart.from_dict(spec).to_dict(validate=True)
    with pytest.raises(ValidationError, match="'none' is not"):
        alt.Chart.from_dict(made[0] | {"layer": "none"}).to_dict(validate=True)


def test_many_groups_that_labels_tell_apart_share_a_chart():
    arms = [f"arm {i}" for i in range(9)]
    table = pd.DataFrame({"label": arms, "value": 0.5, "low": 0.4, "high": 0.6, "group": arms})
    assert len(charts.facets(one(table=table)).charts) == 1
    several = pd.concat([table, table.assign(label="cook")])
    assert len(charts.facets(one(table=several)).charts) == 9


def test_points_say_their_interval():
    text = json.dumps(charts.facets(one()).charts[0][1])
    assert '"tooltip"' in text
    assert "95 % from" in text


def test_dark_ground_has_dark_colours_and_the_same_numbers():
    light, dark = (charts.facets(one(), dark=d).charts[0][1] for d in (False, True))
    assert STYLES[0].light in json.dumps(light)
    assert STYLES[0].light not in json.dumps(dark)
    assert STYLES[0].dark in json.dumps(dark)
    assert values(light) == values(dark)


def test_lines_and_unknown_kinds():
    line = TABLE.rename(columns={"label": "x"}).assign(x=[1, 2, 3])
    assert len(charts.facets(one("line", line)).charts) == 2
    assert charts.facets(one("table")) is None
    assert charts.facets(one("bar", TABLE.head(0))) is None


def test_many_facets_are_counted_not_dropped_in_silence():
    table = pd.concat([TABLE.head(1).assign(facet=f"f{i}") for i in range(15)])
    made = charts.facets(one(table=table))
    assert len(made.charts) == charts.MOST_FACETS
    assert made.left_out == 15 - charts.MOST_FACETS


def test_a_map_keeps_its_region_and_eight_colours():
    points = pd.DataFrame({"x": range(10), "y": range(10), "group": [f"g{i}" for i in range(10)]})
    spec = charts.scatter(points, False, (1, 2, 3, 4))
    assert spec["params"][0]["value"] == {"x": [1, 2], "y": [3, 4]}
    assert "others" in spec["encoding"]["color"]["scale"]["domain"]
    assert len(charts.scatter(points, True)["datasets"]["points"]) == 10


def test_a_meter_shows_value_interval_and_target_as_numbers_only():
    finding = Finding(
        id="a/share/x",
        probe="a",
        metric=SHARE,
        subject={"class": "<b>"},
        value=0.25,
        low=0.1,
        high=0.5,
        reference=Reference(0.5, targets={"<b>": 0.5}),
    )
    svg, alt = charts.meter_svg(finding, True, False)
    assert alt == "25 %, interval 10 to 50 %, target 50 %"
    assert "<b>" not in svg
    root = ElementTree.fromstring(svg)
    (dot,) = root.findall("{http://www.w3.org/2000/svg}circle")
    assert float(dot.get("cx")) == pytest.approx(8 + 1.84 * 25)
    assert charts.meter_svg(replace(finding, value=float("nan")), True, True) == ("", "")


def test_a_legend_is_well_formed_whatever_the_name():
    svg, width = charts.legend_svg('</svg><script>"', STYLES[0], True)
    assert ElementTree.fromstring(svg).get("width") == str(width)


@pytest.mark.parametrize(
    "text",
    ["![x](http://evil.example)", ":red[FAIL]", "$x$", "<b>", "# head", "`x`", "[a](b)", ":smile:"],
)
def test_no_text_of_a_run_is_markdown(text):
    import re

    escaped = plain(text)
    bare = re.sub(r"\\.", "", escaped)
    assert not set(bare) & set("`*_[]()<>#!$:")
    assert "://" not in escaped
    assert re.sub(r"\\(.)", r"\1", escaped).replace("\u2060", "") == text


def square(side, colour=10):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_small_images_grow_by_whole_pixels_and_large_ones_shrink():
    assert Image.open(io.BytesIO(crisp(square(64), 176))).size == (192, 192)
    assert Image.open(io.BytesIO(crisp(square(1024), 176))).size == (176, 176)
    assert Image.open(io.BytesIO(thumbnail(square(64), 96))).size == (64, 64)
    assert crisp(b"no image", 176) == b""


def test_what_changed_is_grey_where_nothing_did():
    same = Image.open(io.BytesIO(difference(square(4), square(4)))).getpixel((0, 0))
    more = Image.open(io.BytesIO(difference(square(4, 12), square(4)))).getpixel((0, 0))
    assert same == (128, 128, 128)
    assert more == (144, 128, 128)
    assert parameters(square(4)) == ""
    assert parameters(None) == ""


def test_a_gate_is_read_as_it_was_decided(tmp_path):
    file = tmp_path / "gate.json"
    metric = {"id": "share/x", "verdict": "FAIL", "value": 0.2, "low": 0.1, "high": 0.3}
    file.write_text(json.dumps({"verdict": "FAIL", "metrics": [metric]}))
    rows = gates.metric_rows(gates.read_gate(file))
    assert rows.loc[0, ["label", "group", "value"]].tolist() == ["share/x", "FAIL", 0.2]
    file.write_text("[]")
    with pytest.raises(ValueError, match=r"not a gate\.json"):
        gates.read_gate(file)
