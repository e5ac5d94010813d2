import hashlib
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from audit.commands.main import main
from harness.models.pickle_convert import SLACK, ConvertError, convert

CHECKPOINTS = "pytorch_lightning.callbacks.model_checkpoint"


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


class Pid(tuple):
    """Pickles as the name of a storage, which need not be there."""


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return tuple(value) if isinstance(value, Pid) else None


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "it-ran"


@pytest.fixture
def lightning(monkeypatch):
    """A module of this name while a file is saved; it is gone when the file is read."""

    class ModelCheckpoint:
        pass

    module = types.ModuleType(CHECKPOINTS)
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, CHECKPOINTS, module)
    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = CHECKPOINTS, "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint
    yield module
    monkeypatch.undo()


def system(marker) -> bytes:
    """A pickle that calls os.system."""
    command = f"mkdir '{marker}'".encode()
    return b"\x80\x02cos\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R."


def archive(path, data, storages=(bytes(16),), compression=zipfile.ZIP_STORED):
    """A file as torch.save lays it out, around any pickle and storages."""
    if not isinstance(data, bytes):
        buffer = io.BytesIO()
        Pickler(buffer, protocol=2).dump(data)
        data = buffer.getvalue()
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("model/data.pkl", data)
        for key, storage in enumerate(storages):
            file.writestr(f"model/data/{key}", storage)
    return path


def tensor(offset=0, size=(4,), stride=(1,), numel=4, kind=torch.FloatStorage, key="0", rest=()):
    storage = Pid(("storage", kind, key, "cpu", numel))
    arguments = (storage, offset, size, stride, False, OrderedDict(), *rest)
    return Calls(torch._utils._rebuild_tensor_v2, *arguments)


def refused(path, marker=None) -> str:
    before = set(path.parent.iterdir())
    with pytest.raises(ConvertError) as error:
        convert(path)
    line = str(error.value)
    assert line.startswith(repr(str(path)))
    assert line.isprintable()
    assert len(line) < 500 + len(str(path))
    assert set(path.parent.iterdir()) == before
    assert marker is None or not marker.exists()
    return line


def tensors():
    torch.manual_seed(0)
    whole = torch.randn(6, 4)
    tied = torch.nn.Parameter(torch.randn(3))
    return {
        "half": torch.randn(5).half(),
        "bfloat": torch.randn(2, 3).bfloat16(),
        "float": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45]),
        "double": torch.randn(2).double(),
        "long": torch.tensor([2**62, -1]),
        "int8": torch.tensor([-128, 127], dtype=torch.int8),
        "bool": torch.tensor([True, False, True]),
        "zero-d": torch.tensor(7.0),
        "none": torch.empty(0, 3),
        "whole": whole,
        "rows": whole[2:4],
        "turned": whole.T,
        "steps": whole[::2, 1],
        "spread": torch.tensor([3]).expand(2, 3),
        "tied.a": tied,
        "tied.b": tied,
    }


def same_bits(made, original):
    assert made.keys() == original.keys()
    for name, value in original.items():
        assert made[name].dtype == value.dtype, name
        assert made[name].shape == value.shape, name
        bits = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (made[name], value)]
        assert torch.equal(*bits), name


@pytest.mark.parametrize("zipped", [True, False])
def test_a_vae_of_lightning_becomes_safetensors_bit_for_bit(tmp_path, lightning, zipped):
    path = tmp_path / "anime.vae.pt"
    callback = Calls(lightning.ModelCheckpoint, state={"best": torch.tensor(0.5), "dir": "x"})
    content = {
        "epoch": 3,
        "state_dict": OrderedDict(tensors()) | {"note": "not a tensor"},
        "callbacks": {lightning.ModelCheckpoint: {"best_model_score": torch.tensor(0.5)}},
        "again": callback,
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        del sys.modules[name]
    with pytest.raises(ModuleNotFoundError):
        torch.load(path, weights_only=False)
    result = CliRunner().invoke(main, ["convert", str(path)])
    assert result.exit_code == 0, result.output
    out = tmp_path / "anime.vae.safetensors"
    same_bits(load_file(out), tensors())
    wrote, left_out, sha256 = result.stdout.splitlines()
    assert wrote.startswith(f"wrote {str(out)!r}: 16 tensors")
    assert left_out.startswith("left out 4 values besides them: 'again', 'callbacks', 'epoch', …")
    assert sha256 == f"sha256 {hashlib.sha256(out.read_bytes()).hexdigest()}"
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)


def test_what_trainers_leave_beside_the_weights_is_left_out(tmp_path):
    beside = [np.float64(3), np.ones(2), {1}, b"x", Path("x"), torch.Size([2]), torch.float16]
    path = tmp_path / "vae.pt"
    torch.save({"weight": torch.ones(2), "beside": beside}, path)
    assert convert(path).dropped == ("beside",)


def test_an_existing_file_is_not_overwritten(tmp_path):
    path = tmp_path / "vae.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    out = tmp_path / "vae.safetensors"
    out.write_bytes(b"mine")
    assert "exists" in refused(path)
    assert out.read_bytes() == b"mine"
    assert convert(path, tmp_path / "other.safetensors").tensors == 1
    result = CliRunner().invoke(main, ["convert", str(path), "--out", str(tmp_path / "x.bin")])
    assert result.exit_code == 2
    assert "end its name in '.safetensors'" in result.stderr
    assert result.stderr.count("\n") == 1


def _nested(form, marker):
    inner = system(marker)
    if form == "system":
        return inner
    if form == "_pickle.loads":
        return pickle.dumps(Calls(pickle.loads, inner), protocol=4)
    if form == "torch.storage._load_from_bytes":
        buffer = io.BytesIO()
        torch.save(Calls(os.mkdir, str(marker)), buffer)
        return Calls(torch.storage._load_from_bytes, buffer.getvalue())
    if form == "builtins.eval":
        call = Calls(eval, f"__import__('os').mkdir({str(marker)!r})")
        return pickle.dumps(call, protocol=4)
    return {"state_dict": {"weight": tensor()}, "callbacks": Calls(os.mkdir, str(marker))}


FORMS = {
    "system": "os.system",
    "_pickle.loads": "_pickle.loads",
    # torch.storage._load_from_bytes calls torch.load with weights_only off.
    "torch.storage._load_from_bytes": "torch.storage._load_from_bytes",
    "builtins.eval": "builtins.eval",
    "beside weights": f"{os.mkdir.__module__}.mkdir",
}


@pytest.mark.parametrize("form", FORMS)
def test_what_would_run_is_refused_by_name_and_does_not_run(tmp_path, marker, form):
    path = archive(tmp_path / "vae.pt", _nested(form, marker))
    assert f"asks for {FORMS[form]}," in refused(path, marker)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "beside weights"])
def test_the_same_pickles_run_where_they_are_loaded(tmp_path, marker, form):
    # The control: what is refused above is as dangerous as it looks.
    path = archive(tmp_path / "vae.pt", _nested(form, marker))
    with zipfile.ZipFile(path) as file:
        pickle.loads(file.read("model/data.pkl"))
    assert marker.exists()


def test_what_would_run_is_refused_in_files_from_before_torch_1_6(tmp_path, marker):
    path = tmp_path / "vae.pt"
    content = {"weight": torch.zeros(2), "x": Calls(os.mkdir, str(marker))}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert "mkdir, which is no part of weights" in refused(path, marker)


@pytest.mark.parametrize(
    "name",
    [
        "builtins exec",
        "builtins getattr",
        "builtins __import__",
        "subprocess Popen",
        "posix system",
        "nt system",
        "torch.hub load",
        "torch load",
        "torch.serialization load",
        "torch FloatStorage.__class__",
        "torch._utils _rebuild_tensor_v2.__globals__",
        "collections OrderedDict.fromkeys",
        "numpy load",
        "numpy.testing._private.utils runstring",
        "pytorch_lightning_evil run",
        "pkgutil resolve_name",
        "harness.models.pickle_convert _Tensor",
        "\x1b[31mred thing",
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_names_that_are_not_listed_are_refused(tmp_path, name, protocol):
    module, _, attribute = name.partition(" ")
    data = f"\x80\x02c{module}\n{attribute}\n.".encode("latin1")
    if protocol == 4:
        words = (b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, attribute))
        data = b"\x80\x04" + b"".join(words) + b"\x93."
    line = refused(archive(tmp_path / "vae.pt", data))
    assert f"asks for {ascii(f'{module}.{attribute}')[1:-1]}," in line


def test_a_stand_in_does_nothing_whatever_it_is_named_or_given(tmp_path, marker, lightning):
    # A name in a package of the list is never looked up, so no function can hide there.
    lightning.system = os.system
    call = system(marker).replace(b"os\n", f"{CHECKPOINTS}\n".encode(), 1)
    # After the call: SETITEMS, APPENDS and BUILD with a state, on what it gave.
    data = call.removesuffix(b".") + b"(K\x01K\x02u(K\x01e}K\x01K\x02sb."
    with zipfile.ZipFile(archive(tmp_path / "vae.pt", data)) as file:
        content = file.read("model/data.pkl")
    assert "no dict of tensors" in refused(tmp_path / "vae.pt", marker)
    with pytest.raises(TypeError):  # The control: os.system runs and gives a number.
        pickle.loads(content)
    assert marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "collections\nOrderedDict",
        "torch\nFloatStorage",
        "torch\nSize",
        "torch._utils\n_rebuild_tensor_v2",
        "torch._utils\n_rebuild_parameter",
    ],
)
def test_a_pickle_cannot_change_what_a_name_stands_for(tmp_path, name):
    # BUILD with (None, {…}) sets attributes on whatever it is given, classes too.
    state = b"N}(X\x0c\x00\x00\x00__setstate__K\x01X\x07\x00\x00\x00__new__K\x01u\x86"
    refused(archive(tmp_path / "vae.pt", b"\x80\x02c" + name.encode() + b"\n" + state + b"b."))
    path = archive(tmp_path / "good.pt", {"weight": tensor()})
    assert convert(path).tensors == 1


def test_a_zip_bomb_is_refused(tmp_path):
    # Compressed: 100 MB of zeros in 100 kB.
    packed = tmp_path / "packed.pt"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", b"\x80\x02}.")
        with file.open("model/data/0", "w", force_zip64=True) as entry:
            for _ in range(100):
                entry.write(bytes(1 << 20))
    assert packed.stat().st_size < 1 << 20
    assert "compressed" in refused(packed)
    # Overlapping: a thousand entries of 100 kB that lie on the same bytes.
    overlapping = tmp_path / "overlapping.pt"
    with zipfile.ZipFile(overlapping, "w") as file:
        file.writestr("model/data.pkl", b"\x80\x02}.")
        file.writestr("model/data/0", bytes(100_000))
        for key in range(1, 1000):
            info = zipfile.ZipInfo(f"model/data/{key}")
            first = file.getinfo("model/data/0")
            info.header_offset, info.CRC = first.header_offset, first.CRC
            info.file_size = info.compress_size = 100_000
            file.filelist.append(info)
    assert "claims to hold 100" in refused(overlapping)


def _deep(code, number):
    return b"\x80\x02}(" + b")" + code * number + b"K\x01u."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        # A note of number 4,294,967,295 makes Python's unpickler ask for 64 GB.
        (b"\x80\x02}r\xff\xff\xff\xff.", "notes out of order"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".", "cannot be read"),
        # Hashing a tuple in a tuple in a tuple … ends in a crash of the process.
        (_deep(b"\x85", 1_000_000), "1000000 tuples"),
        (b"\x80\x02" + b"]" * 9_000_000 + b".", "pickle of more than"),
        ({"weight": tensor(size=(5,))}, "reaches beyond its storage, 'weight'"),
        ({"weight": tensor(offset=1)}, "reaches beyond its storage"),
        ({"weight": tensor(size=(2, 2), stride=(3, 1))}, "reaches beyond its storage"),
        ({"weight": tensor(size=(4,), stride=(-1,))}, "of no plain kind"),
        ({"weight": tensor(offset=-4)}, "of no plain kind"),
        ({"weight": tensor(offset=True)}, "of no plain kind"),
        ({"weight": tensor(rest=({"conj": True},))}, "of no plain kind"),
        ({"weight": tensor(size=(1 << 40,), stride=(0,))}, "would grow from"),
        ({"weight": tensor(size=(SLACK,), stride=(0,))}, "would grow from"),
        ({"weight": tensor(size=(1 << 70, 0), stride=(0, 0))}, "cannot be read"),
        ({"weight": tensor(numel=5)}, "should have 20 bytes and has 16"),
        ({"weight": tensor(kind=torch.LongStorage)}, "should have 32 bytes and has 16"),
        ({"weight": tensor(key="1")}, "should have 16 bytes and has none"),
        ({"weight": tensor(key="../data.pkl")}, "has none"),
        ({"weight": tensor(numel=-1)}, "no known kind"),
        ({"weight": tensor(kind=dict)}, "no known kind"),
        ({"weight": Pid(("module", dict, "x", "y", 1))}, "other than plain storages"),
        ({"weight": Pid("x")}, "cannot be read"),
        ({"model": {"weight": tensor()}}, "tensors inside 'model'"),
        ({"a": tensor(), "b": [1, (tensor(),)]}, "tensors inside 'b'"),
        ({7: tensor()}, "tensor named 7"),
        ({"__metadata__": tensor()}, "tensor named '__metadata__'"),
        ({"state_dict": {}, "step": 3}, "no tensors"),
        ([tensor()], "no dict of tensors"),
        (torch.nn.Linear(1, 1), "asks for torch.nn.modules.linear.Linear"),
        (b"\x80\x02}", "cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, data, reason):
    if isinstance(data, torch.nn.Module):
        torch.save(data, tmp_path / "vae.pt")
    else:
        archive(tmp_path / "vae.pt", data)
    assert reason in refused(tmp_path / "vae.pt")


def test_lists_that_hold_themselves_come_to_an_end(tmp_path):
    endless: list = []
    endless.append(endless)
    laughs: list = ["ha"]
    for _ in range(60):
        laughs = [laughs, laughs]
    path = archive(tmp_path / "vae.pt", {"w": tensor(), "endless": endless, "laughs": laughs})
    assert convert(path).dropped == ("endless", "laughs")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_off_anywhere_is_refused_in_one_line(tmp_path, zipped):
    whole = tmp_path / "whole.pt"
    torch.save({"weight": torch.ones(50)}, whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    cut = tmp_path / "cut.pt"
    for length in range(1, len(data), 7):
        cut.write_bytes(data[:length])
        refused(cut)
    assert convert(whole).tensors == 1


def test_a_damaged_storage_is_noticed(tmp_path):
    path = tmp_path / "vae.pt"
    torch.save({"weight": torch.full((50,), 1.5)}, path)
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<f", 1.5), struct.pack("<f", 2.5), 1))
    assert "damaged" in refused(path)


def test_what_is_no_pickle_is_told_apart(tmp_path):
    path = tmp_path / "vae.pt"
    path.write_bytes(b"")
    assert "is empty" in refused(path)
    save_file({"weight": torch.zeros(2)}, path)
    assert "is a safetensors file already" in refused(path)
    path.write_bytes(b"<!doctype html>")
    assert "no file that torch.save wrote" in refused(path)
    path.write_bytes(pickle.dumps({"weight": 1}, protocol=4))
    assert "no file that torch.save wrote" in refused(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("image.png", b"x")
    assert "has no data.pkl" in refused(path)
    result = CliRunner().invoke(main, ["convert", str(tmp_path / "none.pt")])
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


@pytest.mark.faults
@pytest.mark.parametrize(
    ("root", "key"),
    [
        ({"model": {"a.weight": torch.arange(3.0)}, "optimizer": {"lr": 1}}, "model"),
        ({"ema": {"model": {"a.weight": torch.arange(3.0)}}, "step": 3}, "ema.model"),
        ({"net.ema": {"a.weight": torch.arange(3.0)}, "step": 3}, "net.ema"),
    ],
)
def test_a_key_names_where_a_training_checkpoint_keeps_its_weights(tmp_path, root, key):
    torch.save(root, tmp_path / "t.pt")
    asked = CliRunner().invoke(main, ["convert", str(tmp_path / "t.pt"), "--key", key])
    assert asked.exit_code == 0, asked.output
    assert torch.equal(load_file(tmp_path / "t.safetensors")["a.weight"], torch.arange(3.0))


@pytest.mark.faults
def test_a_key_is_offered_where_the_weights_lie_under_one(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}, "step": 3}, tmp_path / "t.pt")
    plain = CliRunner().invoke(main, ["convert", str(tmp_path / "t.pt")])
    assert plain.exit_code == 2
    assert "run again with --key 'model'" in plain.output
    wrong = CliRunner().invoke(main, ["convert", str(tmp_path / "t.pt"), "--key", "net"])
    assert wrong.exit_code == 2
    assert "holds nothing under 'net'; tensors lie under 'model'" in wrong.output
    assert not (tmp_path / "t.safetensors").exists()
