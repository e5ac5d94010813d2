"""Kills and faults: a resumed run's tables and image bytes equal the undisturbed run's."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from conftest import make, write_spec

from audit.pipeline.analyse import analyse
from audit.pipeline.session import reopen
from harness.files.atomic import write_atomic
from harness.store.run import Run
from harness.store.run_folder import DiskFullError

FEW = {"seeds": 6, "batch_size": 3, "vaes": {"own": "own", "pale": "reference:pale"}}


def contents(run: Run) -> dict[str, bytes]:
    """Every file that a resumed run must hold byte for byte."""
    kinds = ("latents", "images", "scores")
    return {
        str(p.relative_to(run.folder)): p.read_bytes()
        for kind in kinds
        for p in sorted((run.folder / kind).rglob("*"))
        if p.is_file()
    }


def count(folder) -> int:
    """Files that `contents` would hold."""
    return sum(len(list(folder.glob(k))) for k in ("latents/*", "images/*/*", "scores/*/*/*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    audit = make(tmp_path_factory.mktemp("undisturbed"), **FEW)
    return contents(audit.run), pd.DataFrame(analyse(audit)[0])


def same(audit, undisturbed) -> None:
    files, findings = undisturbed
    assert contents(audit.run) == files
    pd.testing.assert_frame_equal(pd.DataFrame(analyse(audit)[0]), findings)
    assert not list(audit.run.folder.rglob(".*.tmp"))


def by_command(folder) -> list[str]:
    """`audit run` in a process of its own: what ran before in this one can change last bits."""
    spec = write_spec(folder, **FEW)
    return [
        sys.executable,
        "-m",
        "audit.commands.main",
        "run",
        str(spec),
        "--out",
        str(folder / "run"),
    ]


def test_eight_kills_at_spread_moments(tmp_path):
    subprocess.run(by_command(tmp_path / "whole"), check=True, capture_output=True)
    whole = reopen(tmp_path / "whole" / "run")
    undisturbed = contents(whole.run), pd.DataFrame(analyse(whole)[0])
    folder, command = tmp_path / "killed", by_command(tmp_path / "killed")
    total = len(undisturbed[0])
    killed = 0
    for wanted in np.linspace(0, total - 1, 8).astype(int):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while process.poll() is None and count(folder / "run") < wanted:
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed >= 7
    for leftover in (folder / "run").rglob(".*.tmp"):
        leftover.unlink()  # what a kill leaves is never read, and overwritten where it matters
    subprocess.run(command, check=True, capture_output=True)
    same(reopen(folder / "run"), undisturbed)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_faults_at_fsync_and_replace(tmp_path, monkeypatch, undisturbed, call):
    real = getattr(os, call)
    faults = {"at": 0, "count": 0, "hit": False}

    def faulty(*args, **kwargs):
        faults["count"] += 1
        if faults["count"] == faults["at"]:
            faults["hit"] = True
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(os, call, faulty)
    tried, at = 0, 1
    while True:
        faults.update(at=at, count=0, hit=False)
        with suppress(DiskFullError):
            make(tmp_path, **FEW)
        tried += faults["hit"]
        if not faults["hit"]:
            break
        # Each try stops at its fault: later ones lie further apart.
        at = max(at + 1, round(1.3 * at))
    assert tried >= 5
    faults.update(at=0)
    same(make(tmp_path, **FEW), undisturbed)


def test_a_write_cut_short_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_atomic(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
