"""Damaged files of a run are named, set aside and made again; what is damaged is never used."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make, quiet, write_spec

from audit.commands.main import main
from audit.pipeline.analyse import analyse
from audit.pipeline.run import complete, read_batch
from audit.pipeline.session import open_audit, reopen
from dashboard.queries import RunView
from harness.files import checksums
from harness.images.png import png_bytes
from harness.store.damage import check, find, lost
from harness.store.run import Run
from validation.simulations import flips

pytestmark = pytest.mark.faults

FEW = {"vaes": {"own": "own", "pale": "reference:pale"}, "seeds": 2, "batch_size": 2}
TREES = ("latents", "images", "scores", "taps")


def files(run: Run) -> dict[str, bytes]:
    return {
        str(p.relative_to(run.folder)): p.read_bytes()
        for tree in TREES
        for p in sorted((run.folder / tree).rglob("*"))
        if p.is_file()
    }


def flip(path, at=None, bit=3) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1 << bit
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make(tmp_path_factory.mktemp("whole"), **FEW)


@pytest.fixture
def copied(whole, tmp_path):
    """An audit on a copy of the run, to be damaged."""
    folder = tmp_path / "run"
    shutil.copytree(whole.run.folder, folder)
    return open_audit(write_spec(tmp_path, **FEW), folder)


def first(run: Run, pattern: str):
    return sorted(run.folder.glob(pattern))[0]


# --- checksums ---


def test_a_sealed_file_holds_the_sha256_of_itself_with_zeros_in_its_place(tmp_path):
    import hashlib

    data = checksums.sealed_text("a: 1\n")
    lines = data.decode().splitlines()
    assert lines[0] == "a: 1"
    said = lines[1].removeprefix("# diffusion-audit/2 sha256:")
    blank = data.decode().replace(said, "0" * 64).encode()
    assert said == hashlib.sha256(blank).hexdigest()
    assert checksums.read_text(data) == "a: 1\n"


@pytest.mark.parametrize("kind", ["text", "json", "list", "parquet", "png", "tensors"])
def test_every_bit_of_a_small_file_of_each_kind_counts(tmp_path, kind):
    run = Run(tmp_path)
    if kind == "text":
        run.write_text("x", "name: a\n")
    elif kind == "json":
        run.write_json("x", {"a": 1})
    elif kind == "list":
        run.write_json("x", [1, 2])
    elif kind == "parquet":
        run.write_table("x", pd.DataFrame({"a": [1.5, 2.5]}))
    elif kind == "png":
        run.write_mask("x", png_bytes(np.zeros((2, 2, 3), np.uint8), "mask"))
    else:
        run.write_latents("x", {"t": torch.arange(4.0)})
    path = next(p for p in tmp_path.rglob("x*") if p.is_file())
    data = path.read_bytes()
    checksums.check(data, path)
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ (1 << (at % 8))]) + data[at + 1 :]
        with pytest.raises(checksums.DamagedError, match="damaged"):
            checksums.check(changed, path)
    for size in range(0, len(data), 7):
        with pytest.raises(checksums.DamagedError):
            checksums.check(data[:size], path)


def test_what_was_written_is_read(tmp_path):
    run = Run(tmp_path)
    run.write_json("a.json", {"x": {"y": 1}})
    run.write_json("b.json", [1, {"z": 2}])
    run.write_latents("u", {"t": torch.tensor([1.0, float("nan")]), "h": torch.ones(2).bfloat16()})
    run.write_taps("tap@1", "u", {"t|a": np.arange(3, dtype=np.float16)}, '{"t": {}}')
    assert run.read_json("a.json") == {"x": {"y": 1}}
    assert run.read_json("b.json") == [1, {"z": 2}]
    latents = run.read_latents("u")
    assert latents["t"][0] == 1
    assert torch.isnan(latents["t"][1])
    assert latents["h"].dtype == torch.bfloat16
    arrays, notes = run.read_taps("tap@1", "u")
    assert arrays["t|a"].tolist() == [0, 1, 2]
    assert notes == '{"t": {}}'


def test_equal_content_gives_equal_bytes(tmp_path):
    one, two = Run(tmp_path / "a"), Run(tmp_path / "b")
    for run in (one, two):
        run.write_taps("tap@1", "u", {"t|a": np.arange(3.0)}, "{}")
        run.write_latents("u", {"t": torch.arange(4.0)})
    assert files(one) == files(two)


# --- one image read alone ---


def test_an_image_read_alone_is_never_another_than_was_written(whole, tmp_path):
    path = first(whole.run, "images/*/*.parquet")
    unit, vae = path.parent.name, path.stem
    kept = whole.run.read_images(unit, vae).set_index("cell")["png"]
    run = Run(tmp_path)
    target = run.images_path(unit, vae)
    target.parent.mkdir(parents=True)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        target.write_bytes(flips.damaged(data, rng))
        for cell, png in kept.items():
            try:
                assert run.image(unit, vae, cell) == png
            except checksums.DamagedError:
                refused += 1
    assert refused > 200


# --- a run ---


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("latents/*.safetensors", ["latents", "scores"]),
        ("images/*/*.parquet", ["images", "scores"]),
        ("scores/*/*/*.parquet", ["scores"]),
        ("plan.parquet", []),
        ("provenance.json", []),
        ("spec.yaml", []),
        ("instruments.json", []),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_running_again_mends_a_damaged_file(copied, whole, pattern, gone, cut):
    path = first(copied.run, pattern)
    name = str(path.relative_to(copied.run.folder))
    if cut:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        flip(path)
    with pytest.raises(checksums.DamagedError, match=path.name):
        reopen(copied.run.folder)
    said = []
    complete(copied, said.append)
    assert any(name in text and "damaged" in text for text in said)
    assert (copied.run.folder / "damaged" / name).exists()
    aside = copied.run.folder / "damaged"
    assert sorted(p.name for p in aside.iterdir() if p.is_dir()) == sorted(gone)
    assert files(copied.run) == files(whole.run)
    plans = [audit.run.read_cells() for audit in (copied, whole)]
    pd.testing.assert_frame_equal(*plans)
    analyse(reopen(copied.run.folder))


def test_scores_of_a_damaged_image_are_measured_again(copied):
    path = first(copied.run, "images/*/*.parquet")
    unit = path.parent.name
    scores = sorted(copied.run.folder.glob(f"scores/*/{unit}/*.parquet"))
    assert len(scores) >= 4
    before = {p: p.stat().st_mtime_ns for p in scores}
    others = {
        p: p.stat().st_mtime_ns
        for p in copied.run.folder.glob("scores/*/*/*.parquet")
        if p not in before
    }
    flip(path)
    complete(copied, quiet)
    assert all(p.stat().st_mtime_ns > when for p, when in before.items())
    assert all(p.stat().st_mtime_ns == when for p, when in others.items())


def test_a_damaged_label_is_named_and_the_others_stay(copied):
    cells = list(copied.run.read_plan()["cell"][:2])
    for cell in cells:
        copied.run.append_labels([(cell, "world-gender", "woman", "ada")])
    path = first(copied.run, "labels/*.parquet")
    flip(path)
    with pytest.raises(checksums.DamagedError, match=path.name):
        reopen(copied.run.folder)
    said = []
    complete(copied, said.append)
    assert any(path.name in text and "label again" in text for text in said)
    assert list(copied.run.labels()["cell"]) == cells[1:]


def test_a_damaged_sample_is_replaced_by_its_copy(copied):
    table = pd.DataFrame({"cell": ["a"], "pi": [0.25], "drawn": [True]})
    copied.run.write_sample("world-gender", table)
    path = copied.run.sample_path("world-gender")
    for damaged in (path, path.with_name(f"{path.stem}-copy.parquet")):
        flip(damaged)
        said = []
        complete(copied, said.append)
        assert any(damaged.name in text and "its copy" in text for text in said)
        pd.testing.assert_frame_equal(copied.run.read_sample("world-gender"), table)


def test_with_plan_and_provenance_gone_a_run_is_not_gone_on_with(copied):
    flip(copied.run.folder / "provenance.json")
    flip(copied.run.plan_path)
    with pytest.raises(ValueError, match="two set-ups must not mix"):
        complete(copied, quiet)


def test_a_provenance_that_is_gone_still_keeps_set_ups_apart(copied):
    flip(copied.run.folder / "provenance.json")
    other = replace(copied, spec=copied.spec.model_copy(update={"batch_size": 3}))
    with pytest.raises(ValueError, match="batch size 2 -> 3"):
        complete(other, quiet)


def test_damage_after_the_check_is_found_on_reading(copied, whole):
    unit = whole.run.read_plan()["unit"].iloc[0]
    rows = whole.run.read_plan()
    rows = rows[rows["unit"] == unit]
    from harness.plan.cells import Unit

    vae = str(rows["vae_file"].iloc[0])
    flip(copied.run.images_path(unit, vae))
    with pytest.raises(checksums.DamagedError, match=vae):
        read_batch(copied.run, Unit(unit, rows), vae)


def test_only_what_changed_since_the_last_check_is_read_again(copied):
    check(copied.run, quiet)
    path = first(copied.run, "images/*/*.parquet")
    (copied.run.folder / "checked").write_bytes(checksums.sealed_text(f"{2**62}\n"))
    flip(path)
    assert find(copied.run) == []  # control: all files are older than that time
    assert check(copied.run, quiet) == []
    (copied.run.folder / "checked").write_bytes(checksums.sealed_text(f"{2**62}\n"))
    flip(copied.run.folder / "checked", at=0)
    assert [d.path for d in find(copied.run)] == [path]


def test_what_rots_unwritten_is_found_on_reading_and_mended_by_the_next_run(copied, whole):
    path = first(copied.run, "scores/*/*/*.parquet")
    flip(path)
    later = checksums.sealed_text(f"{2**62}\n")  # as if no time of the file had changed
    (copied.run.folder / "checked").write_bytes(later)
    assert find(copied.run) == []
    with pytest.raises(checksums.DamagedError, match=path.name):
        analyse(copied)
    complete(copied, quiet)
    assert files(copied.run) == files(whole.run)


def test_a_file_set_aside_twice_keeps_both(copied):
    path = first(copied.run, "scores/*/*/*.parquet")
    for _ in range(2):
        flip(path)
        check(copied.run, quiet)
        assert lost(copied.run, path)
        complete(copied, quiet)
        assert not lost(copied.run, path)
    aside = (copied.run.folder / "damaged" / path.relative_to(copied.run.folder)).parent
    assert len(list(aside.iterdir())) == 2


# --- readers ---


def test_the_dashboard_leaves_damaged_files_out_and_names_them(copied):
    image, score = (
        first(copied.run, "images/*/*.parquet"),
        first(copied.run, "scores/*/*/*.parquet"),
    )
    flip(image)
    flip(score)
    view = RunView(copied.run.folder)
    assert view.damaged == sorted(
        p.relative_to(copied.run.folder).as_posix() for p in (image, score)
    )
    missing = view.made()["missing"].sum()
    assert missing == 2
    view.close()


def test_commands_that_read_say_it_in_one_line(copied):
    from click.testing import CliRunner

    path = first(copied.run, "scores/*/*/*.parquet")
    flip(path)
    cell = copied.run.read_plan()["cell"].iloc[0]
    for command in (["report"], ["show", cell], ["baseline", "save", "b.json"]):
        arguments = [*command]
        arguments.insert(2 if command[0] == "baseline" else 1, str(copied.run.folder))
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2, result.output
        assert len(result.stderr.strip().splitlines()) == 1
        assert path.name in result.stderr


def test_about_a_hundred_flips_and_cuts(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    subjects = [flips.generated(tmp_path / "one"), flips.round_trips(tmp_path / "two")]
    table = flips.simulate(subjects, 100, seed=1, share=0.6)
    assert table["damaged"].sum() >= 100
    assert table[list(flips.OUTCOMES)].to_numpy().sum() == 0, table.to_string()
    assert {"images", "latents", "scores", "masks", "plan.parquet", "labels"} <= set(table.index)
