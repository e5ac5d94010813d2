"""How often checkpoints are loaded, counted by a hook on loading."""

import pytest
from conftest import quiet, write_spec

from audit.pipeline.run import complete
from audit.pipeline.session import open_audit
from harness.models import loading

CHECKPOINTS = {"balanced": "reference:balanced", "planted": "reference:planted-unet"}


@pytest.fixture
def loads(monkeypatch):
    """Names of the checkpoints in the order in which they were loaded."""
    names, real = [], loading.load_checkpoint

    def counted(name, *arguments, **options):
        names.append(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(loading, "load_checkpoint", counted)
    return names


def run(folder, **changes):
    audit = open_audit(write_spec(folder, **changes), folder / "run")
    complete(audit, quiet)
    return audit


def test_a_run_of_one_checkpoint_loads_it_once(tmp_path, loads):
    run(tmp_path, probes=["attributes", "text", "vae"])
    assert loads == ["balanced"]


def test_of_several_only_one_is_held_and_the_last_is_used_before_it_is_let_go(tmp_path, loads):
    audit = run(tmp_path, checkpoints=CHECKPOINTS, probes=["attributes", "text"])
    # Planned in reverse, generated in order, texts in reverse.
    assert loads == ["planted", "balanced", "planted", "balanced"]
    assert audit.checkpoints.held == "balanced"
    audit.checkpoints.release()
    assert audit.checkpoints.held == ""


def test_classifiers_are_loaded_once_a_run(tmp_path, monkeypatch):
    from harness.models import open_clip_models

    names, real = [], open_clip_models.load_classifier
    monkeypatch.setattr(
        open_clip_models, "load_classifier", lambda *a: names.append(a[0]) or real(*a)
    )
    run(tmp_path, probes=["attributes"])
    assert names == ["small"]
