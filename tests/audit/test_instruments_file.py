"""A run's `instruments.json` that was edited, lost, or not written yet."""

import shutil

import pytest
from click.testing import CliRunner
from conftest import SPEC

from audit.commands.main import main
from harness.errors import AuditError
from harness.files.checksums import sealed_json
from harness.store.run import INSTRUMENTS, Run

pytestmark = pytest.mark.faults
COMMANDS = (["report", "RUN"], ["baseline", "save", "RUN", "RUN.json", "--arm", "balanced,own"])


@pytest.fixture
def copy(tmp_path, small_audit):
    folder = tmp_path / "run"
    shutil.copytree(small_audit.run.folder, folder)
    return folder


def test_what_a_run_writes_is_read(copy):
    known = Run(copy).instruments()
    assert len(known) > 1
    assert all(folder.startswith(f"{name}@") for name, folder in known.items())


def edits(known):
    first, second = list(known)[:2]
    yield from ([], "x", 5, {"a": 1}, {first: None}, {first: ["a"]}, {first: "../x"})
    yield {first: known[second]}
    yield {first: known[second], second: known[first]}


@pytest.mark.parametrize("number", range(9))
def test_an_edited_one_is_named_in_one_line(copy, number):
    known = Run(copy).instruments()
    value = list(edits(known))[number]
    (copy / INSTRUMENTS).write_bytes(sealed_json(value))
    for command in COMMANDS:
        result = CliRunner().invoke(main, [a.replace("RUN", str(copy)) for a in command])
        assert result.exit_code == 2, result.stderr
        assert result.stderr.count("\n") == 1
        assert INSTRUMENTS in result.stderr
        assert "run the command that made the run again" in result.stderr


def test_a_lost_one_is_no_key_error(copy):
    assert SPEC["attributes"]
    (copy / INSTRUMENTS).unlink()
    result = CliRunner().invoke(main, ["report", str(copy)])
    assert result.exit_code == 1
    assert "KeyError" not in result.stderr
    assert "nothing is scored with" in result.stderr
    assert "run the command that made the run again" in result.stderr


def test_names_that_are_long_or_no_path_are_read_as_written(tmp_path):
    from harness.files.names import file_name

    run = Run(tmp_path)
    long = "x" * 100
    for folders in ({"../a": f"{file_name('../a')}@0"}, {long: f"{long}@0"}, {}):
        run.write_json(INSTRUMENTS, folders)
        assert Run(tmp_path).instruments() == folders
    run.write_json(INSTRUMENTS, {"../a": "../a@0"})
    with pytest.raises(AuditError):
        Run(tmp_path).read_scores(Run(tmp_path).instruments()["../a"], set())
