import subprocess
import sys

import pytest

pytestmark = pytest.mark.faults
SCRIPT = """
from pathlib import Path
import torch
from harness.models.loading import load_checkpoint
from harness.spec.sections import CheckpointSpec
for name in ("balanced", "planted-unet"):
    load_checkpoint(name, CheckpointSpec(source=f"reference:{name}"), Path(), "cpu", torch.float16)
import diffusers
diffusers.utils.logging.get_logger("diffusers.models").warning("something else")
"""


def test_a_warning_of_another_library_is_shown_once_and_no_bar():
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert told.stdout == ""
    assert told.stderr.count("cannot run with `cpu` device") == 1
    assert told.stderr.count("something else") == 1
    assert "%|" not in told.stderr
    assert "it/s" not in told.stderr
