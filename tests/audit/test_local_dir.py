"""A classifier's folder in a spec is beside the spec, on the command line in the working folder."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import SPEC
from PIL import Image

import reference
from audit.commands.main import main
from audit.pipeline.imported_images import classifier_spec
from audit.pipeline.session import open_audit
from harness.spec.sections import ClassifierSpec
from probes.instruments.clip import ClipModel

pytestmark = pytest.mark.faults


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with a spec and a classifier beside it."""
    folder = tmp_path / "project"
    source = reference.component("classifier", "balanced")
    shutil.copytree(source, folder / "classifiers/mine")
    spec = SPEC | {"classifiers": {"mine": "local-dir:classifiers/mine"}}
    (folder / "audit.yaml").write_text(yaml.safe_dump(spec))
    return folder


def test_a_spec_s_folder_is_beside_the_spec_wherever_the_command_runs(
    project, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for path in (project / "audit.yaml", Path("project/audit.yaml")):
        classifier = open_audit(path, tmp_path / "run").spec.classifiers["mine"]
        assert classifier.model == f"local-dir:{project / 'classifiers/mine'}"
    embedded = ClipModel("mine", classifier).text(["a man"])
    theirs = ClipModel("theirs", ClassifierSpec(model="reference:balanced")).text(["a man"])
    torch.testing.assert_close(embedded, theirs)


def test_on_the_command_line_it_is_in_the_working_folder(project, monkeypatch):
    monkeypatch.chdir(project)
    told = classifier_spec("local-dir:classifiers/mine")
    assert told == {"model": f"local-dir:{project / 'classifiers/mine'}"}
    assert classifier_spec("reference:balanced") == {"model": "reference:balanced"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ViT-B-33:laion2b", "no architecture of open_clip"),
        ("ViT-B-32:laion3b", "laion2b_s34b_b79k"),
        ("ViT-B-32", "laion2b_s34b_b79k"),
        ("local-dir:nowhere", "no open_clip_config.json in"),
        ("reference:nobody", "nobody"),
    ],
)
@pytest.mark.parametrize("command", ["score", "vae"])
def test_an_unknown_classifier_is_refused_before_any_image_is_copied(
    command, text, words, tmp_path
):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    more = ["--vae", "reference:faithful", "--attribute", "world-gender"]
    arguments = [command, folder, *(more if command == "vae" else []), "--classifier", text]
    result = CliRunner().invoke(main, [str(a) for a in [*arguments, "--out", tmp_path / "run"]])
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_help_names_the_run_folder_by_the_spec_s_file():
    for command in ("run", "attribute"):
        told = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
        assert "SPEC's file name with -" in told
