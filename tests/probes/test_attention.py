import io

import numpy as np
import pandas as pd
import pytest
from conftest import analysed_by, make
from PIL import Image

from audit.pipeline import analyse
from audit.pipeline.run import read_batch
from harness.images.heat_map import heated
from harness.images.image_ref import read_ref
from harness.taps import record as taps
from probes.attention.instrument import CrossAttention
from probes.attention.probe import content_words
from probes.contracts import Context
from reports.image_grids import Pictures

LONG = "a portrait of a doctor " + " ".join(["farmer"] * 300)
PROMPTS = ["doctor", LONG, "a portrait of a woman firefighter with dark skin, noto style"]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    return make(
        tmp_path_factory.mktemp("attention"),
        prompts={"list": PROMPTS},
        probes={"attention": {"maps": 1, "negative": True, "layers": True, "stages": 3}},
        vaes={"own": "own", "pale": "reference:pale"},
        negatives={"man": "a man"},
        attributes=[],
        classifiers={},
        seeds=2,
        sizes=[[64, 96]],
    )


@pytest.fixture(scope="module")
def analysed(followed):
    return analyse.analyse(followed)


def scores(audit) -> pd.DataFrame:
    folder = audit.run.read_json("instruments.json")["attention"]
    return audit.run.read_scores(folder, set(audit.run.read_plan()["unit"]))


def test_images_are_those_of_a_run_without_the_tap(followed, tmp_path):
    plain = make(
        tmp_path,
        prompts={"list": PROMPTS},
        probes=["spectrum"],
        vaes={"own": "own"},
        negatives={"man": "a man"},
        attributes=[],
        classifiers={},
        seeds=2,
        sizes=[[64, 96]],
    )
    assert not (plain.run.folder / "taps").exists()
    for unit, vae in plain.run.image_files():
        one = plain.run.read_images(unit, vae)
        two = followed.run.read_images(unit, vae)
        assert (one["png"].notna() & (one["sha256"] == two["sha256"])).all()


def test_every_word_of_every_cell_has_its_numbers(followed):
    table = scores(followed)
    plan = followed.run.read_plan()
    assert set(table["cell"]) == set(plan["cell"])
    words = table[(table["half"] == "prompt")].merge(plan[["cell", "prompt"]], on="cell")
    assert set(words.loc[words["prompt"] == "doctor", "word"]) == {"doctor", "<start>", "<end>"}
    long = words[words["prompt"] == LONG]
    assert long["word"].nunique() == 30 + 2
    assert (long["cut"].str.split().map(len) == 275).all()
    # All tokens of this prompt but the comma belong to a word.
    total = words.groupby(["cell", "prompt"])["mass"].sum().unstack("prompt")
    np.testing.assert_allclose(total["doctor"].dropna(), 1, atol=1e-5)
    np.testing.assert_allclose(total[LONG].dropna(), 1, atol=1e-5)
    assert (total[PROMPTS[2]].dropna() < 1).all()
    assert {len(s) for s in table["mass_steps"]} == {2}
    steps = np.stack(list(words["mass_steps"])).mean(axis=1)
    np.testing.assert_allclose(steps, words["mass"], atol=1e-7)
    layers = np.stack(list(words["layer_mass"]))
    np.testing.assert_allclose(layers.mean(axis=1), words["mass"], atol=1e-6)
    assert set(table.loc[table["half"] == "negative", "word"]) == {"a", "man", "<start>", "<end>"}


def test_both_vaes_read_the_same_attention(followed):
    table = scores(followed).merge(followed.run.read_plan()[["cell", "trajectory", "vae"]])
    wide = table.pivot_table(index=["trajectory", "half", "index"], columns="vae", values="mass")
    assert (wide["own"] == wide["pale"]).all()


def test_findings_have_interval_n_and_null(analysed):
    findings, _ = analysed
    assert len({f.id for f in findings}) == len(findings)
    spread = [f for f in findings if f.metric.name == "spread of attention"]
    assert all(f.reference.null == pytest.approx(0.408, abs=1e-3) and f.n == 2 for f in spread)
    overlaps = [f for f in findings if f.metric.name == "overlap of attention"]
    assert {f.reference.null for f in overlaps} == {1 / 7}
    mass = [f for f in findings if f.subject.get("word") == "dark"]
    assert mass
    assert all(f.status == "measured" for f in findings)


def test_the_report_draws_heat_maps_over_images(followed, analysed):
    findings, figures = analysed
    heat = next(e for e in figures if e.kind == "heat-over-image")
    assert {"image", "word 1"} <= set(heat.table["column"])
    plan = followed.run.read_plan()
    tap = taps.folder(followed.taps[0])
    pictures = Pictures(followed.run, plan, tap)
    cell = heat.table.loc[heat.table["cell"].str.contains("word"), "cell"].iloc[0]
    plain, under = (
        np.asarray(Image.open(io.BytesIO(pictures(c)))) for c in (read_ref(cell).cell, cell)
    )
    assert plain.shape == under.shape == (96, 64, 3)
    assert (plain != under).any()
    page = analyse.report(followed, findings, figures)
    text = page.read_text()
    assert "Where attention to a word is" in text
    assert "<script" not in text
    # Only the first seed's maps are kept.
    second = plan[(plan["seed"] == 1) & (plan["vae"] == "own")]["cell"].iloc[0]
    assert pictures(f"{second}?word=0") is None


def test_maps_of_the_stages_are_those_of_the_whole(followed, analysed):
    _, figures = analysed
    stages = next(e for e in figures if e.id == "attention/stages")
    assert list(dict.fromkeys(stages.table["column"])) == [f"stage {n} of 3" for n in (1, 2, 3)]
    plan = followed.run.read_plan()
    tap = taps.folder(followed.taps[0])
    pictures = Pictures(followed.run, plan, tap)
    drawn = {pictures(c) for c in stages.table["cell"][:3]}
    assert len(drawn) == 3
    assert None not in drawn
    cell = read_ref(stages.table["cell"].iloc[0]).cell
    assert [pictures(f"{cell}?word=0&stage={n}") for n in ("3", "x", "")] == [None] * 3
    first = plan[plan["cell"] == cell].iloc[0]
    record = taps.read(followed.run, tap, first["unit"])[first["trajectory"]]
    maps, parts = (record.arrays[f"prompt/{k}"].astype(float) for k in ("maps", "stage_maps"))
    levels = np.array(record.notes["timesteps"])
    forwards = [((1 - levels / 1000) * 3 // 1 == n).sum() for n in range(3)]
    assert sum(forwards) == len(levels)
    whole = sum(n * part for n, part in zip(forwards, parts, strict=True)) / len(levels)
    np.testing.assert_allclose(whole, maps, atol=2e-3)


def test_a_heat_map_is_brightest_where_its_map_is_highest():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 3] = 2
    drawn = heated(np.zeros((8, 8, 3), np.uint8), heat).astype(int).sum(axis=2)
    assert np.unravel_index(drawn.argmax(), drawn.shape) == (0, 7)
    assert heated(np.zeros((8, 8, 3), np.uint8), np.zeros((2, 2))).shape == (8, 8, 3)


def test_content_words():
    assert content_words(["a", "portrait", "of", "a (2)", "doctor", "<end>"]) == [
        "portrait",
        "doctor",
    ]
    assert content_words(["cat", "<start>", "<end>"]) == ["cat"]


def test_a_cell_that_was_not_followed_says_why(followed):
    unit = next(iter(followed.run.image_files()))
    from harness.plan.cells import units_of

    plan = followed.run.read_plan()
    one = next(u for u in units_of(plan) if u.id == unit[0])
    batch = read_batch(followed.run, one, unit[1], frozenset({"attention"}), {"attention": "none"})
    table = CrossAttention(followed.probes[0].options).measure(batch, Context("cpu"))
    assert set(table["note"]) == {"its denoising was not followed"}
    record = taps.Record({}, {"missing": {"mid.attn2": "no to_k"}})
    bare = batch._replace(taps={"attention": (record,) * len(batch.cells)})
    table = CrossAttention(followed.probes[0].options).measure(bare, Context("cpu"))
    assert table["note"].iloc[0] == "no cross-attention layer can be followed: mid.attn2 (no to_k)"
    nothing = pd.DataFrame()
    found, _ = analysed_by("attention", {"attention": table}, plan, nothing, followed.spec)
    assert [(f.status, f.note) for f in found] == [("not-measured", table["note"].iloc[0])]
