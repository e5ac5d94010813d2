"""Nothing is written or read through a link or a name that somebody left in a run."""

import os

import pytest

from audit.pipeline.analyse import _failed_instruments
from harness.errors import AuditError
from harness.files.atomic import LinkError, refuse_links, write_atomic, write_new
from harness.store.run import Run

pytestmark = pytest.mark.faults


@pytest.fixture
def elsewhere(tmp_path):
    """A file and a folder outside the run, which must stay as they are."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_bytes(b"precious")
    yield folder
    assert [p.name for p in folder.iterdir()] == ["precious"]
    assert (folder / "precious").read_bytes() == b"precious"


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "provenance.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", [".findings.parquet.tmp", "findings.parquet"])
def test_a_link_in_place_of_a_file_is_not_followed(run, elsewhere, name):
    (run / name).symlink_to(elsewhere / "precious")
    write_atomic(run / "findings.parquet", b"new")
    assert (run / "findings.parquet").read_bytes() == b"new"
    assert not (run / "findings.parquet").is_symlink()


def test_temporary_names_cannot_be_guessed(tmp_path):
    from harness.files.atomic import replacing

    names = set()
    for _ in range(3):
        with replacing(tmp_path / "a"):
            names |= {p.name for p in tmp_path.iterdir() if p.name != "a"}
    assert len(names) == 3
    assert all(len(n) >= 16 for n in names)


@pytest.mark.parametrize("where", ["report", "images/unit", "taps"])
def test_a_linked_folder_inside_a_run_is_refused(run, elsewhere, where):
    (run / where).parent.mkdir(exist_ok=True)
    (run / where).symlink_to(elsewhere, target_is_directory=True)
    for write in (write_atomic, write_new):
        with pytest.raises(LinkError, match="is a link inside a run folder"):
            write(run / where / "deeper" / "index.html", b"new")
    with pytest.raises(LinkError, match=rf"{where}' is a link"):
        Run(run)


def test_a_link_to_a_file_inside_a_run_is_not_read(run, elsewhere):
    (run / "failures").mkdir()
    (run / "failures" / "u.txt").symlink_to(elsewhere / "precious")
    with pytest.raises(LinkError, match=r"u\.txt' is a link"):
        Run(run)


def test_a_run_may_lie_behind_a_link_of_its_owner(tmp_path, run):
    (tmp_path / "big-disk").symlink_to(run, target_is_directory=True)
    behind = Run(tmp_path / "big-disk")
    behind.write_text("notes.txt", "x")
    assert (run / "notes.txt").read_text().startswith("x\n")
    refuse_links(tmp_path / "not there yet")


def test_what_was_there_first_stays(tmp_path):
    assert write_new(tmp_path / "a" / "b", b"first")
    assert not write_new(tmp_path / "a" / "b", b"second")
    assert (tmp_path / "a" / "b").read_bytes() == b"first"
    assert os.listdir(tmp_path / "a") == ["b"]


def test_a_failed_write_names_the_file_and_leaves_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError, match="b'") as caught:
        write_atomic(tmp_path / "a" / "b", b"x")
    assert caught.value.filename == str(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a") == ["b"]


def test_logs_of_instruments_are_looked_for_in_the_run_alone(tmp_path, elsewhere):
    run = Run(tmp_path / "run")
    with pytest.raises(AuditError, match="is no name of a file of a run"):
        run.write_traceback("../../elsewhere", "a", "text")
    assert run.write_traceback("clip@0", "../../../precious", "text").parent.name == "clip@0"
    run.write_json("instruments.json", {"clip": "../../elsewhere"})
    with pytest.raises(AuditError, match=r"instruments\.json.*is no folder of scores of 'clip'"):
        _failed_instruments(run)


def test_a_damaged_log_of_an_instrument_is_no_bug(tmp_path):
    run = Run(tmp_path / "run")
    run.write_json("instruments.json", {"clip": "clip@0"})
    path = run.write_traceback("clip@0", "unit-own", "broken")
    for content, reason in ((b"", "no reason is kept"), (b"br\xffken\n", "br\ufffdken")):
        path.write_bytes(content)
        (finding,) = _failed_instruments(run)
        assert f"unit-own: {reason} (traceback" in finding.note
