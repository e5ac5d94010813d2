"""Every page's logic, run by Streamlit itself without a browser."""

import json
import math
import os
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("streamlit")
from streamlit.testing.v1 import AppTest

from dashboard import components, evidence, outcomes
from harness.images.image_ref import ImageRef
from harness.store.damage import find
from harness.store.run import Run
from probes.preference.trials import judged

APP = str(Path(components.__file__).with_name("app.py"))
PAGES = sorted(p.stem for p in Path(APP).parent.glob("app_pages/[a-z]*.py"))


def opened(page: str = "overview", **query: str) -> AppTest:
    components.forget()
    app = AppTest.from_file(APP, default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    if page != "overview":
        app.switch_page(f"app_pages/{page}.py").run()
    assert not app.exception, app.exception[0].message
    return app


def text(app: AppTest) -> str:
    parts_ = [app.title, app.markdown, app.caption, app.info, app.warning, app.error, app.subheader]
    return "\n".join(str(e.value) for kind in parts_ for e in kind).replace("\\", "")


def names(app: AppTest) -> list[str]:
    """The names under the images that are shown."""
    return [b.label for b in app.button if str(b.key).startswith("open ")]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_a_whole_run(page, made, shown):
    shown(made)
    app = opened(page)
    assert app.title[0].value
    assert not app.error
    assert "alert(1)" not in "".join(m.value for m in app.markdown if m.allow_html)


def test_attention_lies_over_the_chosen_image_with_its_lines(run, shown):
    plan = Run(run).read_plan()
    rows, lines, maps = [], [], {}
    for _, row in plan.drop_duplicates("prompt").head(2).iterrows():
        name = f"{row['checkpoint']} · {row['prompt']}"
        maps[f"{row['trajectory']}|prompt/maps"] = np.eye(4, dtype=np.float16)[None]
        Run(run).write_taps("attention@0", row["unit"], maps, "{}")
        rows.append({"row": name, "column": "image", "cell": row["cell"], "caption": ""})
        word = {
            "column": "word 1",
            "cell": str(ImageRef(row["cell"], word=0)),
            "caption": "portrait",
        }
        rows.append({"row": name} | word)
        lines.append({"x": 1, "value": 0.5, "low": 0.4, "high": 0.6, "group": "portrait"})
        lines[-1]["facet"] = name
    report = json.loads((run / "report/report.json").read_text())
    report["figures"] = [
        {"id": f"attention/{name}", "kind": kind, "table": table, "caption": name, "alt": name}
        for name, kind, table in (("steps", "line", lines), ("maps", "heat-over-image", rows))
    ]
    Run(run).write_json("report/report.json", report)
    shown(run)
    app = opened("attention")
    assert names(app) == ["image", "portrait"]
    assert "missing" not in text(app)
    second = rows[2]["row"]
    app.selectbox(key="row_0").select(second).run()
    assert not app.exception
    assert any(m.value.replace("\\", "") == second for m in app.markdown)
    assert [len(d.value) for d in app.dataframe if "facet" in d.value] == [1]


def test_the_vae_page_draws_what_the_probe_says(run, shown):
    report = json.loads((run / "report/report.json").read_text())
    row = {"label": "model-0 · vae-1", "value": 30.0, "low": 29.0, "high": 31.0, "group": ""}
    report["figures"] = [
        {"id": "vae/psnr", "kind": "bar", "table": [row], "caption": "PSNR by VAE", "alt": "PSNR"},
        {"id": "vae/who-pays", "kind": "table", "table": [row], "caption": "Who", "alt": "Who"},
    ]
    Run(run).write_json("report/report.json", report)
    shown(run)
    said = text(opened("vae"))
    for words in ("PSNR by VAE", "Groups affected more than the rest", "model-0 · vae-1 · ΔE"):
        assert words in said


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_on_half_a_run(page, run, shown):
    for file in list((run / "images").glob("*/*.parquet"))[::2]:
        file.unlink()
    for name in ("report", "scores"):
        shutil.rmtree(run / name)
    shown(run)
    app = opened(page)
    assert app.title[0].value
    if page == "overview":
        assert "images are not made yet" in text(app)
        assert "No findings yet" in text(app)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_without_any_image(page, run, shown):
    for name in ("images", "report", "scores"):
        shutil.rmtree(run / name)
    shown(run)
    app = opened(page)
    assert app.title[0].value
    assert not app.error
    if page == "overview":
        assert "0 of 24 images made" in text(app)
    if page == "images":
        assert "missing: no image in the run" in text(app)


def test_overview_filters_findings_and_keeps_the_choice(made, shown):
    shown(made)
    app = opened(all="true", search="cook")
    assert "8 findings" in text(app)
    app.multiselect(key="of_arm").set_value(["model-0 · own"]).run()
    assert "2 findings" in text(app)
    app.text_input(key="search").set_value("nothing is called so").run()
    assert "No finding passes these filters" in text(app)


def test_failures_and_links_are_told(run, shown, tmp_path):
    Run(run).write_failure("0123", "out of memory")
    (run / "report" / "more.html").symlink_to("/etc/hostname")
    shown(run)
    told = text(opened())
    assert "1 unit failed" in told
    assert "Links are not followed" in told
    assert "report/more.html" in told


def test_an_image_tells_how_it_was_made(made, shown):
    shown(made)
    plan = pd.read_parquet(made / "plan.parquet")
    app = opened("images")
    app.query_params["cell"] = plan["cell"][0]
    app.run()
    assert not app.exception
    codes = [c.value for c in app.code]
    assert any(c.startswith("audit show ") and plan["cell"][0][:16] in c for c in codes)
    assert any("Steps: 20" in c for c in codes)


def test_images_are_chosen_by_swap_and_seed(made, shown):
    shown(made)
    app = opened("images")
    before = len(names(app))
    app.multiselect(key="vae").set_value(["own"]).run()
    assert not app.exception
    assert len(names(app)) == before / 2 == 6


def test_attributes_count_what_was_chosen(made, shown):
    shown(made)
    app = opened("attributes")
    app.multiselect(key="prompt").set_value(["a portrait of a cook"]).run()
    assert not app.exception
    assert app.dataframe[0].value["images"].tolist() == [2, 2, 2, 2]


def test_a_region_of_the_map_shows_its_images(made, shown):
    shown(made)
    app = opened("latent_map", region="-100_100_-100_100")
    app.query_params["region"] = "-100_100_-100_100"
    app.run()
    assert "24 images in the region" in text(app)


def test_two_runs_stand_side_by_side(made, run, shown, tmp_path):
    other = Path(shutil.move(run, tmp_path / "run-b"))
    gate = tmp_path / "gate.json"
    metric = {"id": "share/x", "verdict": "FAIL", "value": 0.2, "low": 0.1, "high": 0.3}
    record = {"verdict": "FAIL", "message": "worse", "metrics": [metric], "notes": []}
    gate.write_text(json.dumps(record))
    shown(made, other, gates=(gate,))
    app = opened("compare")
    assert "Runs side by side" in text(app)
    assert "worse" in text(app)
    app.selectbox(key="run").set_value("run-b").run()
    assert not app.exception


def test_a_run_removed_while_open_says_so(run, shown):
    shown(run)
    app = opened()
    shutil.rmtree(run)
    app.run()
    assert not app.exception
    assert "removed or moved while open" in text(app)


def test_a_run_of_another_version_says_so(run, shown):
    written = Run(run)
    written.write_text("spec.yaml", (written.read_text("spec.yaml") or "") + "whatever: 1\n")
    shown(run)
    assert "spec.yaml is not read" in text(opened())
    assert "unknown key" in text(opened("attributes"))


def test_every_finding_leads_to_its_images(made, shown):
    """One click from the overview; there, every seed of the prompt with what it was read as."""
    shown(made)
    view = components.open_view(str(made))
    asked = [evidence.where_of(view, f) for f in view.findings if f.headline]
    assert asked
    assert all(asked)
    (query, *_) = [q for q in asked if "prompt" in q]
    levels = view.levels
    assert set(query["prompt"]) <= set(levels["prompt"])
    assert set(query.get("vae", [])) <= set(levels["vae"])
    assert query["seeds"] == "true"
    where = {k: query[k] for k in ("prompt", "checkpoint", "vae") if k in query}
    (reading,) = [r for r in outcomes.readings(view) if evidence.label_of(r) == query["reading"]]
    rows = evidence.read(view, where, reading, "seed")
    assert len(rows) == len(view.cells(where))
    assert rows["outcome"].notna().all()
    doubtful = evidence.read(view, where, reading, "doubt first")["certainty"].dropna()
    assert doubtful.is_monotonic_increasing


def test_images_of_one_prompt_are_shown_seed_by_seed(made, shown):
    shown(made)
    app = opened("images", prompt="a portrait of a cook", seeds="true")
    assert len(names(app)) == 2 * 2 * 2  # checkpoints, VAEs, seeds
    assert all("seed" in name for name in names(app))
    pills = [g for g in app.button_group if g.key == "outcome"]
    assert pills


def test_an_image_of_every_seed_opens_too(made, shown):
    shown(made)
    app = opened("images", prompt="a portrait of a cook", seeds="true")
    (first, *_) = [b for b in app.button if str(b.key).startswith("open seeds")]
    first.click().run()
    assert not app.exception
    assert "How it was made" in text(app)


def test_a_pair_is_judged_blind_and_the_judgement_kept(run, shown):
    shown(run)
    app = opened("prefer")
    app.text_input(key="rater").set_value("ann").run()
    assert not app.exception
    arms = app.selectbox(key="one").options
    words = " ".join(e.value for e in (*app.markdown, *app.caption))
    assert not any(arm in words for arm in arms)
    for choice in ("left", "same"):
        app.button(key=f"choose {choice}").click().run()
        assert not app.exception
    kept = judged(Run(run))
    assert kept["choice"].tolist().count("same") == 1
    assert set(kept["rater"]) == {"ann"}
    app.toggle(key="results").set_value(True).run()
    assert app.dataframe[0].value["judgements"][0] <= 2
    assert find(Run(run)) == []
    Run(run).write_json("preferences/odd.json", [])
    app.run()
    assert not app.exception
    assert "no judgement" in text(app)


def test_a_run_that_goes_on_is_shown_live(run, shown):
    units = sorted((run / "images").iterdir())
    kept = run.parent / "kept"
    shutil.move(units[-1], kept)
    for path in (run / "images").rglob("*.parquet"):
        os.utime(path)
    shown(run)
    app = opened()
    app.toggle(key="live").set_value(True).run()
    assert not app.exception
    pattern = re.compile(r"([\d,]+) of ([\d,]+) images")
    (told,) = [m for c in app.caption if (m := pattern.match(c.value))]
    made, planned = (int(n.replace(",", "")) for n in told.groups())
    assert 0 < made < planned
    shutil.move(kept, units[-1])
    app.run()
    assert any(c.value == f"{planned:,} of {planned:,} images" for c in app.caption)
    app.toggle(key="live").set_value(False).run()
    assert not app.exception


def test_the_time_left_is_that_of_the_pace_so_far(run):
    paths = sorted((run / "images").rglob("*.parquet"))
    now = time.time()
    for number, path in enumerate(paths):
        os.utime(path, (now, now - 60 * (len(paths) - 1 - number)))
    view = components.open_view(str(run))
    view.planned = 2 * (made := int(view.made()["made"].sum()))
    each = 60 * (len(paths) - 1) / (made * (1 - 1 / len(paths)))
    assert components.time_left(view, made) == f", about {math.ceil(each * made / 60)} min left"
    for path in paths:
        os.utime(path, (now, now - 3600))
    assert components.time_left(view, made) == ""


def test_no_page_shows_an_absolute_path(made, shown):
    shown(made)
    plan = pd.read_parquet(made / "plan.parquet")
    for page in PAGES:
        app = opened(page)
        app.query_params["cell"] = plan["cell"][0]
        app.run()
        words = [text(app), *(c.value for c in app.code)]
        assert not any(str(made.parent) in w for w in words), page
