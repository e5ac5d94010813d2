import os

# Two workers run side by side (see the Makefile), a thread each. Commands that tests start inherit
# it; set before torch is loaded, since with another number of threads the last bits differ.
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest
import yaml

from audit.pipeline.run import complete
from audit.pipeline.session import Audit, open_audit
from probes.contracts import AnalysisInput
from probes.registry import registry

SPEC = {
    "name": "small",
    "checkpoints": {"balanced": "reference:balanced"},
    "vaes": {"own": "own", "copy": "reference:faithful", "pale": "reference:pale"},
    "prompts": {"list": ["a portrait of a doctor", "a portrait of a farmer"]},
    "seeds": 3,
    "steps": 2,
    "guidance": 3,
    "attributes": ["world-gender", "world-tone"],
    "classifiers": {"small": "reference:balanced"},
    "batch_size": 4,
    "device": "cpu",
    "dtype": "float32",
}


def quiet(text: str) -> None:
    pass


def write_spec(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "audit.yaml"
    path.write_text(yaml.safe_dump(SPEC | changes))
    return path


def make(folder: Path, **changes) -> Audit:
    """Plan, generate and score a small audit; goes on where the folder holds part of it."""
    audit = open_audit(write_spec(folder, **changes), folder / "run")
    complete(audit, quiet)
    return audit


@pytest.fixture(scope="session")
def small_audit(tmp_path_factory) -> Audit:
    return make(tmp_path_factory.mktemp("small"))


def analysed_by(name, tables, plan, labels, spec, **options):
    """What one probe makes of such tables: its findings and figures."""
    probe = registry()[name]
    given = AnalysisInput(tables, plan, labels, spec, probe.Options(**options))
    found, shown = probe.analyse(given)
    return list(found), list(shown)
