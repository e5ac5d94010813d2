import io
import re

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dashboard import outcomes, projections
from dashboard.findings import chosen, frame
from dashboard.queries import RunView
from dashboard.run_index import RunError, index, stamp
from harness.images.heat_map import heated
from harness.images.image_ref import ImageRef
from harness.store.run import Run
from probes.statistics.intervals import share_interval
from reports.verdicts import verdict


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_a_run_is_counted_as_it_lies_on_disk(made):
    view = RunView(made)
    rows = view.made()
    assert rows["arm"].tolist() == [f"model-{c} · {v}" for c in (0, 1) for v in ("own", "vae-1")]
    assert rows["planned"].tolist() == [6] * 4
    assert rows["made"].tolist() == [6] * 4
    assert view.levels["seed"] == [0, 1]
    assert len(view.cells({"vae": ["own"], "seed": [1]})) == 6
    assert len(view.cells({"vae": []})) == 24


def test_siblings_share_prompt_and_seed(made):
    view = RunView(made)
    row = view.cells({}).iloc[0]
    others = view.siblings(row)
    assert len(others) == 4
    assert set(others["seed"]) == {row["seed"]}
    assert view.cell(row["cell"][:12])["cell"] == row["cell"]
    assert view.cell("../../etc") is None


def test_images_are_read_and_subtracted(made):
    view = RunView(made)
    one, two = view.cells({})["cell"][:2]
    found = view.images([one, str(ImageRef(one, minus=two)), "f" * 64])
    assert set(found) == {one, str(ImageRef(one, minus=two))}
    assert found[one].startswith(b"\x89PNG")


def test_shares_are_those_of_the_scores(made):
    view = RunView(made)
    reading = outcomes.readings(view)[0]
    table = outcomes.shares(view, reading, {"prompt": ["a portrait of a cook"]})
    raw = pd.concat(pq.read_table(p).to_pandas() for p in view.files.scores["small.look-0@0"])
    plan = view.cells({"prompt": ["a portrait of a cook"], "arm": ["model-0 · own"]})
    own = raw[raw["cell"].isin(plan["cell"])].filter(like="class:")
    sure = own[own.max(axis=1) >= 0.6]
    count = int((sure.idxmax(axis=1) == "class:round").sum())
    row = table[(table["group"] == "model-0 · own") & (table["label"] == "round")].iloc[0]
    assert row["n"] == len(sure)
    if len(sure):
        assert row["value"] == pytest.approx(share_interval(count, len(sure)).value)
    lost = outcomes.not_told(view, reading, {"prompt": ["a portrait of a cook"]})
    assert lost.set_index("arm").loc["model-0 · own", "images"] == 2
    assert row["n"] + lost.set_index("arm").get("cannot tell", 0)["model-0 · own"] == 2


def test_the_least_certain_come_first(made):
    view = RunView(made)
    rows = outcomes.uncertain(view, outcomes.readings(view)[0], {}, 10)
    assert rows["certainty"].is_monotonic_increasing
    assert len(rows) == 10


def test_findings_are_filtered_by_words_and_verdict(made):
    view = RunView(made)
    rows = frame(view)
    assert len(rows) == len(view.findings) == 24
    assert [rows.at[i, "verdict"] for i in rows.index] == [
        verdict(view.findings[i]) for i in rows.index
    ]
    assert set(chosen(rows, {}, "COOK share", False)["prompt"]) == {"a portrait of a cook"}
    assert chosen(rows, {"arm": ["model-0 · own"]}, "", True)["headline"].all()
    assert chosen(rows, {"arm": ["nobody"]}, "", False).empty


def test_a_map_has_a_point_an_image(made):
    view = RunView(made)
    (source,) = projections.sources(view)
    points = projections.lay_out(view, source).points
    assert source.kind == "embeddings"
    assert sorted(points["cell"]) == sorted(view.cells({})["cell"])
    again = projections.lay_out(view, source).points
    pd.testing.assert_frame_equal(points, again)


def test_duckdb_reads_the_run_and_nothing_else(made, tmp_path):
    view = RunView(made)
    outside = tmp_path / "secret.csv"
    outside.write_text("a\n1\n")
    with pytest.raises(duckdb.Error):
        view.sql(f"SELECT * FROM read_csv('{outside}')")
    with pytest.raises(duckdb.Error):
        view.sql("SET enable_external_access = true")
    with pytest.raises(duckdb.Error):
        view.sql(f"COPY plan TO '{tmp_path / 'out.csv'}'")


def test_an_image_lies_under_the_attention_to_a_word(run):
    row = Run(run).read_plan().iloc[0]
    projections = np.zeros((2, 4, 4), np.float16)
    projections[1, 0, 0] = 1
    Run(run).write_taps(
        "attention@0", row["unit"], {f"{row['trajectory']}|prompt/maps": projections}, "{}"
    )
    view, cell = RunView(run), row["cell"]
    wanted = [cell, f"{cell}?word=1", f"{cell}?word=2", f"{cell}?word=x", f"{'0' * 64}?word=1"]
    found = view.images(wanted)
    assert list(found) == wanted[:2]
    assert (pixels(found[wanted[1]]) == heated(pixels(found[cell]), projections[1])).all()


def test_links_out_of_the_run_are_not_followed(run, tmp_path):
    unit = next(iter(sorted((run / "images").iterdir())))
    secret = tmp_path / "secret"
    unit.rename(secret)
    (run / "images" / unit.name).symlink_to(secret)
    (run / "spec.yaml").unlink()
    (run / "spec.yaml").symlink_to("/etc/hostname")
    view = RunView(run)
    assert sorted(view.files.links) == [f"images/{unit.name}", "spec.yaml"]
    assert view.spec is None
    assert view.made()["missing"].sum() > 0
    lost = view.sql("SELECT cell FROM plan WHERE unit = ?", [unit.name])["cell"]
    assert view.images(lost) == {}


def test_what_a_probe_asked_for_can_be_opened_but_is_not_of_the_grid(run):
    plan = pd.read_parquet(run / "plan.parquet")
    first, last = plan["cell"].iloc[[0, -1]]
    plan.loc[plan.index[-1], ["requested_by", "kind"]] = ["steps", "predicted x0"]
    # A probe may ask for a cell of the grid, too: it stays one.
    again = plan.iloc[[0]].assign(requested_by="steps", kind="prompt switch")
    Run(run).write_plan(pd.concat([again, plan]))
    view = RunView(run)
    assert view.planned == len(plan) - 1
    assert last not in set(view.cells({})["cell"])
    assert len(view.arms) == 4
    assert view.cell(last)["kind"] == "predicted x0"
    assert view.cell(first)["requested_by"] == ""
    assert set(view.images([first, last])) == {first, last}


def test_a_plan_that_names_paths_is_refused(run):
    plan = pd.read_parquet(run / "plan.parquet")
    plan["unit"] = "../../etc"
    Run(run).write_plan(plan)
    with pytest.raises(RunError, match=re.escape("'../../etc' is no name of a unit")):
        RunView(run)


def test_an_older_plan_says_what_to_do(run):
    Run(run).write_plan(pd.read_parquet(run / "plan.parquet").drop(columns="kind"))
    with pytest.raises(RunError, match=r"no column 'kind'.*older version; run the same"):
        RunView(run)


def test_no_run_is_one_line(tmp_path):
    with pytest.raises(RunError, match=r"plan\.parquet is missing"):
        index(tmp_path)
    with pytest.raises(RunError, match="no such folder"):
        index(tmp_path / "gone")
    with pytest.raises(RunError, match="no longer here"):
        stamp(tmp_path / "gone")


def test_a_run_being_written_shows_what_is_there(run):
    unit = sorted((run / "images").iterdir())[0].name
    for file in (run / "images" / unit).iterdir():
        file.unlink()
    (run / "report/report.json").unlink()
    Run(run).write_failure(unit, "out of memory at batch size 16")
    view = RunView(run)
    rows = view.made()
    assert rows["made"].sum() < rows["planned"].sum()
    assert "out of memory at batch size 16" in set(rows["reason"])
    assert view.findings == []
    assert view.figures == []


def test_a_run_without_any_image(run):
    for file in (run / "images").glob("*/*.parquet"):
        file.unlink()
    view = RunView(run)
    assert view.made()["made"].sum() == 0
    assert set(view.made()["reason"]) == {"not made yet"}


def test_a_damaged_file_of_labels_leaves_the_others_in(run):
    view = RunView(run)
    reading = outcomes.readings(view)[0]
    cells = list(view.cells({})["cell"])[:2]
    own = reading.attribute.class_names[0]
    held = Run(run)
    for cell in cells:
        held.append_labels([(cell, reading.attribute.name, own, "a")])
    first = sorted((run / "labels").glob("*.parquet"))[0]
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    view = RunView(run)
    assert view.damaged == [first.relative_to(run).as_posix()]
    assert held.labels(view.files.labels)["cell"].tolist() == cells[1:]
    assert len(view.sql(f"SELECT cell FROM {outcomes.told(view, reading)}")) == view.planned
