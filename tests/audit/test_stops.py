"""What stops a run: a full disk, another process, SIGTERM. What is written is kept."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import SPEC, make, quiet, write_spec
from torch.nn.modules.module import register_module_forward_hook

from audit.pipeline.run import complete
from audit.pipeline.session import open_audit, reopen
from harness.files.locks import BusyError, holding
from harness.store.run import Run
from harness.store.run_folder import DiskFullError

pytestmark = pytest.mark.faults

FEW = {"vaes": {"own": "own"}, "seeds": 6, "batch_size": 2, "probes": ["attributes"]}
STEPS = SPEC["steps"]


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many bytes; only root may."""
    mounted = []

    def mount(size: int) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        made = subprocess.run(["mount", *options], capture_output=True, check=False)
        if made.returncode:
            pytest.skip("mounting a small file system needs root")
        mounted.append(folder)
        return folder

    with suppress(FileNotFoundError):
        yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def forwards():
    """Counts the forwards of the denoiser."""
    counted = []

    def count(module, inputs, output):
        if type(module).__name__ == "UNet2DConditionModel":
            counted.append(1)

    handle = register_module_forward_hook(count)
    yield counted
    handle.remove()


@pytest.mark.parametrize("size", [48_000, 120_000])
def test_a_full_disk_stops_before_another_unit_is_denoised(small_disk, forwards, tmp_path, size):
    disk = small_disk(size)
    audit = open_audit(write_spec(tmp_path, **FEW), disk / "run")
    with pytest.raises(DiskFullError) as full:
        complete(audit, quiet)
    text = str(full.value)
    assert str(disk) in text
    assert "bytes are needed" in text
    assert "free some space" in text
    units = len(list(disk.glob("run/latents/*")))
    assert units < 6
    assert len(forwards) <= STEPS * (units + 1)
    assert not list(disk.rglob(".*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    complete(audit, quiet)
    assert len(list(disk.glob("run/latents/*"))) == 6
    assert audit.run.failures() == {}


def test_a_full_disk_is_one_line_and_exit_code_2(small_disk, tmp_path):
    disk = small_disk(48_000)
    done = subprocess.run(
        [*command(write_spec(tmp_path, **FEW)), "--out", str(disk / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "bytes are needed" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def command(spec) -> list[str]:
    return [sys.executable, "-m", "audit.commands.main", "run", str(spec)]


def test_a_file_beyond_the_allowed_size_is_said_alike(tmp_path):
    import resource

    run = Run(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"spec\.yaml.*bytes are needed"):
            run.write_text("spec.yaml", "x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


# --- two processes ---


def test_the_lock_is_of_one_shard_and_ends_with_its_holder(tmp_path):
    with holding(tmp_path):
        with pytest.raises(BusyError, match=f"process {os.getpid()}"), holding(tmp_path):
            pass
        with holding(tmp_path, "2 of 8"):
            pass
    with holding(tmp_path):
        pass


def test_a_killed_process_does_not_keep_the_lock(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom harness.files.locks import holding\n"
        "with holding(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(BusyError, match=f"process {process.pid}"), holding(tmp_path):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with holding(tmp_path):
        pass


def test_a_second_process_says_so_and_leaves_while_readers_go_on(tmp_path):
    audit = make(tmp_path, **FEW | {"seeds": 1})
    cell = audit.run.read_plan()["cell"].iloc[0]
    with holding(audit.run.folder):
        spec = tmp_path / "audit.yaml"
        done = subprocess.run(
            [*command(spec), "--out", str(audit.run.folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "is generating or scoring the same units" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        reopen(audit.run.folder).run.append_labels([(cell, "world-gender", "woman", "ada")])
        assert len(audit.run.labels()) == 1
        for arguments in (["show", str(audit.run.folder), cell], ["report", str(audit.run.folder)]):
            subprocess.run(
                [sys.executable, "-m", "audit.commands.main", *arguments],
                check=True,
                capture_output=True,
            )


# --- signals ---


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_sigterm_and_ctrl_c_stop_alike(tmp_path, number, code):
    spec = write_spec(tmp_path, **FEW | {"seeds": 60})
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [*command(spec), "--out", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while process.poll() is None and not list(folder.glob("images/*/*.parquet")):
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert b"run the same command to go on" in said
    assert b"Traceback" not in said
    assert not list(folder.rglob(".*.tmp"))
    made = len(list(folder.glob("latents/*")))
    assert 0 < made < 60
    with holding(folder):  # it is free again
        pass
