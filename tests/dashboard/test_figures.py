"""Every figure of every probe, from one real run, through the report and the dashboard."""

from typing import get_args

import pytest
from conftest import make  # tests/conftest.py

pytest.importorskip("streamlit")
from test_pages import opened, text

from audit.pipeline import analyse
from dashboard import projections
from dashboard.galleries import PICTURES
from dashboard.queries import RunView
from harness.images.image_ref import read_ref
from harness.plan.cells import arm_labels
from harness.store.run import Run
from probes.contracts import Kind
from probes.preference import trials
from probes.registry import registry
from reports.charts import PLOTS, draw
from reports.grids import read_grid

pytestmark = pytest.mark.faults
OPTIONS = {"negatives": {"negatives": ["a beard"]}, "latents": {"umap": False}}
SHOWN = ("vega_lite_chart", "dataframe", "image")


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """A run with every probe there is, and its report."""
    audit = make(
        tmp_path_factory.mktemp("inside"),
        probes={name: OPTIONS.get(name, {}) for name in sorted(registry())},
        seeds=2,
        vaes={"own": "own", "pale": "reference:pale"},
    )
    plan = audit.run.read_plan()
    plan = plan.assign(arm=arm_labels(plan))
    for trial in trials.trials(plan, tuple(dict.fromkeys(plan["arm"])), "ann"):
        trials.keep(audit.run, "ann", trial, trials.CHOICES[len(trial.prompt) % 2])
    page = analyse.report(audit, *analyse.analyse(audit))
    return audit.run.folder, page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def view(inside):
    return RunView(inside[0])


def test_the_run_holds_a_figure_of_every_kind(view):
    assert {e.kind for e in view.figures} == set(get_args(Kind))
    assert {e.probe for e in view.figures} >= set(registry())
    assert any(e.ranking for e in view.figures)


def test_every_figure_is_in_the_report_by_its_kind(inside, view):
    folder, page = inside
    made = {cell for unit in Run(folder).image_files() for cell in Run(folder).made_cells(*unit)}
    for one in view.figures:
        assert not one.table.empty, one.id
        drawn = draw(one, most=1)
        assert (drawn is not None) == (one.kind in PLOTS), one.id
        assert drawn is None or drawn.pictures, one.id
        if one.kind in PICTURES:
            cells = {read_ref(p.cell).cell for p in read_grid(one.table).places.values()}
            assert cells <= made, one.id
    assert "Not drawn" not in page


def test_every_figure_is_on_the_figures_page_by_its_kind(inside, view, shown):
    shown(inside[0])
    app = opened("figures")
    for one in view.figures:
        app.selectbox(key="figure").set_value(one.id).run()
        assert not app.exception, (one.id, app.exception[0].message)
        charts, tables, images = (app.get(kind) for kind in SHOWN)
        if one.kind in PLOTS:
            assert charts, one.id
            mark = {"bar": "label", "line": "line", "scatter+image": "y"}[one.kind]
            assert all(f'"{mark}"' in c.proto.spec for c in charts), one.id
        elif one.kind in PICTURES:
            assert images, one.id
            assert "missing" not in text(app), one.id
        else:
            assert tables, one.id
        assert bool(app.get("page_link")) == (one.kind == "scatter+image"), one.id


def test_a_plane_is_points_and_no_line_with_bands(view):
    planes = [e for e in view.figures if e.kind == "scatter+image"]
    assert planes
    for plane in planes:
        svg = draw(plane, most=1).pictures[0].light
        assert "mark-symbol" in svg
        assert "mark-line" not in svg
        assert "mark-area" not in svg


def test_each_plane_of_the_latents_probe_is_a_map_of_its_own(inside, view, shown):
    (plane,) = [e for e in view.figures if e.id == "latents/pca"]
    facets = list(dict.fromkeys(plane.table["facet"]))
    own = [s for s in projections.sources(view) if s.kind == "figure"]
    assert [s.facet for s in own] == facets
    assert len(facets) > 1
    for source in own:
        points = projections.lay_out(view, source).points
        assert points["cell"].is_unique
        rows = plane.table[plane.table["facet"] == source.facet]
        assert points[["cell", "x", "y"]].to_numpy().tolist() == (
            rows[["cell", "x", "y"]].to_numpy().tolist()
        )
    shown(inside[0])
    app = opened("latent_map")
    assert app.selectbox(key="map").value.startswith("figure latents/pca")
    assert f"{len(rows)} of" in text(app)
