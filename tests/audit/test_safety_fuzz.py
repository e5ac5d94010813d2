"""Malformed files of all kinds end in one line: no traceback, nothing that a terminal acts on.

AUDIT_FUZZ sets the number of files (thousands take minutes); the first ones are always the same.
"""

import os
import random
import shutil
import warnings

import pytest
from click.testing import CliRunner
from malformed import OF_A_PIPELINE, OF_A_RUN, SMALL
from tiny_pipelines import sd1

from audit.commands.errors import BUG
from audit.commands.main import main
from harness.terminal import ACTIVE

pytestmark = pytest.mark.faults
FILES = int(os.environ.get("AUDIT_FUZZ", "240"))
FIRST = int(os.environ.get("AUDIT_FUZZ_FIRST", "0"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "pipeline"
    sd1().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run_folder(small_audit):
    return small_audit.run.folder


def outcome(command: list[str]) -> str:
    """Why a command's end is not that of a command; '' where it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own, about files that are wrong
        result = CliRunner().invoke(main, command)
    if result.exit_code == BUG or "Traceback" in result.output:
        return result.output[-1500:]
    if not isinstance(result.exception, SystemExit | None):
        return repr(result.exception)
    said = result.output.splitlines()
    if result.exit_code not in (0, 1, 2, 3):
        return f"exit code {result.exit_code}"
    if result.exit_code == 2 and not any(s.startswith(("error: ", "ERROR")) for s in said):
        return f"exit code 2 without an error: {said}"
    errors = [s for s in said if s.startswith("error: ")]
    if len(set(errors)) < len(errors) or any(s.endswith(":") for s in errors):
        return f"cut after a colon, or said twice: {errors}"
    if any(ACTIVE.search(s) for s in said):
        return f"control characters: {said!r}"
    return ""


def fuzz(tmp_path, makers, *given, share: int) -> None:
    wrong = []
    for number in range(FIRST, FIRST + max(1, FILES * share // 100)):
        draw = random.Random(number)
        folder = tmp_path / str(number)
        folder.mkdir()
        make = makers[number % len(makers)]
        command = make(folder, draw, *given)
        why = outcome(command)
        if why:
            wrong.append(f"{make.__name__} {number}: {' '.join(command)}\n{why}")
        else:
            shutil.rmtree(folder)
    assert not wrong, f"{len(wrong)} files\n" + "\n\n".join(wrong[:40])


def test_specs_tables_classifiers_and_single_files(tmp_path):
    fuzz(tmp_path, SMALL, share=85)


def test_pipelines_and_what_is_put_into_them(tmp_path, whole):
    fuzz(tmp_path, OF_A_PIPELINE, whole, share=6)


def test_run_folders(tmp_path, run_folder):
    fuzz(tmp_path, OF_A_RUN, run_folder, share=9)
