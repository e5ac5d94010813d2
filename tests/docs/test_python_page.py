"""docs/python.md runs from top to bottom, and what it gives is what the run holds."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import diffusion_audit as da

PAGE = Path(__file__).parents[2] / "docs/python.md"


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The names that the page's code leaves, run in a folder of its own."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.M))
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("python"))
        exec(compile(code, str(PAGE), "exec"), names)
        names["run"].folder = names["run"].folder.resolve()
        names["run"] = da.open_run(names["run"].folder)
        assert [p.name for p in Path().iterdir()] == ["python-run"]
    return names


def test_the_page_runs_and_its_findings_are_those_of_the_run(said):
    findings = said["run"].findings()
    stored = pd.read_parquet(said["run"].folder / "findings.parquet")
    assert list(findings["id"]) == list(stored["id"])
    np.testing.assert_array_equal(findings["value"], stored["value"])
    assert findings["low"].dtype == float
    assert set(findings["subject.checkpoint"]) >= {"balanced", "planted"}
    assert findings["status"].isin(["measured", "not-measured"]).all()


def test_images_scores_and_figures_are_the_runs_own(said):
    run = said["run"]
    assert len(run.plan()) == 16
    chosen = list(run.images(checkpoint="planted", prompt="a photo of a doctor"))
    assert len(chosen) == 4
    assert all(row["checkpoint"] == "planted" for row, _ in chosen)
    assert len(run.scores("small.world-gender")) == 16
    assert said["svg"].startswith("<svg")
    with pytest.raises(da.AuditError, match="no figure 'x'; there are "):
        run.figure("x")
    with pytest.raises(da.AuditError, match="no column 'model' in the plan; there are "):
        next(run.images(model="x"))
    with pytest.raises(da.AuditError, match="no scores by 'x'; there are "):
        run.scores("x")


def test_measured_again_the_images_score_as_in_the_run(said):
    run = said["run"]
    cells = [row["cell"] for row, _ in run.images()]
    scores = run.scores("small.world-gender").set_index("cell").loc[cells]
    classes = [c for c in scores if c.startswith("class:")]
    assert classes
    table = said["table"]
    (prefix,) = {c.split("/")[0] for c in table if c.endswith(classes[0])}
    for name in classes:
        np.testing.assert_allclose(table[f"{prefix}/{name}"], scores[name], atol=1e-5)


def test_a_round_trip_is_what_numpy_says_and_an_exact_one_loses_nothing(said):
    image = np.asarray(said["images"][0])
    kept = image[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)[: image.shape[0], : image.shape[1]]
    np.testing.assert_array_equal(said["decoded"][0], kept)
    error = ((kept / 255 - image / 255) ** 2).mean()
    assert said["lost"]["mse"][0] == pytest.approx(error)

    class Same:
        step = 1

        def encode(self, images):
            return images

        def decode(self, latents):
            return latents

    class Overflowed(Same):
        def decode(self, latents):
            return latents * math.inf

    exact, _ = da.round_trip([image], Same())
    assert exact["mse"][0] == 0
    lost, _ = da.round_trip([image], Overflowed())
    assert math.isnan(lost["mse"][0])
    assert "overflowed" in lost["note"][0]


def test_what_cannot_be_used_is_one_line(tmp_path, said):
    with pytest.raises(da.AuditError, match="no run here"):
        da.open_run(tmp_path)
    with pytest.raises(da.AuditError, match=r"shape \(4, 4\)"):
        da.measure([np.zeros((4, 4), np.uint8)], [])
    with pytest.raises(da.AuditError, match="2 images, but 1 prompts"):
        da.measure([np.zeros((8, 8, 3), np.uint8)] * 2, [], prompts=["a"])
    with pytest.raises(da.AuditError, match="no instrument measures from images alone"):
        da.measure([np.zeros((8, 8, 3), np.uint8)], da.instruments(probes=["vae"]))
