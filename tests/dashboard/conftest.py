import json
import shutil
from pathlib import Path

import pytest

from benchmarks.synthetic_run import make
from dashboard import components

HOSTILE = "</script><script>alert(1)</script> ![x](http://evil.example/x.png) :red[FAIL] $x$"


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A run of 2 checkpoints x 2 VAEs x 3 prompts x 2 seeds; one prompt is hostile."""
    folder = tmp_path_factory.mktemp("synthetic") / "run-a"
    make(folder, seeds=2, prompt_texts=["a portrait of a cook", "a portrait of a judge", HOSTILE])
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(made, tmp_path / "run-a"))


@pytest.fixture
def shown(monkeypatch):
    """Say which runs the dashboard shows."""

    def show(*folders: Path, gates: tuple[Path, ...] = ()) -> None:
        value = {"runs": [str(f) for f in folders], "gates": [str(g) for g in gates]}
        monkeypatch.setenv(components.RUNS, json.dumps(value))

    return show
