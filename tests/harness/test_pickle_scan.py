import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from harness.models.pickle_scan import is_pickle, refusal, unsafe_globals
from harness.models.safetensors_header import WeightsError, read_header


class Runs:
    """Makes a file when unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def proof(tmp_path):
    return tmp_path / "it-ran"


def save(path, content, form):
    if form == "zip":
        torch.save(content, path)
    elif form == "before-1.6":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content, protocol=4))


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model.safetensors"])
@pytest.mark.parametrize("form", ["zip", "before-1.6", "bare"])
def test_a_pickle_under_any_name_is_refused_and_nothing_runs(tmp_path, proof, name, form):
    path = tmp_path / name
    save(path, {"weight": torch.zeros(2), "callback": Runs(proof)}, form)
    with pytest.raises(WeightsError, match=r"is a pickle .*run `audit convert FILE`") as error:
        read_header(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert (f"asks for {os.mkdir.__module__}.mkdir" in str(error.value)) == (form == "zip")
    assert not proof.exists()


def test_the_same_pickle_runs_where_it_is_loaded(tmp_path, proof):
    # The control: the file is as dangerous as the tests above assume.
    path = tmp_path / "model.ckpt"
    save(path, {"callback": Runs(proof)}, "zip")
    torch.load(path, weights_only=False)
    assert proof.exists()


def test_a_pickle_of_plain_tensors_is_refused_too_but_names_nothing(tmp_path):
    path = tmp_path / "vae.pt"
    torch.save(OrderedDict(weight=torch.zeros(2)), path)
    assert unsafe_globals(path) == []
    assert "asks for" not in refusal(path)


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x02junk", b"cos\nsystem\n(S'x'\ntR.", b"\x80\x04\x95"]
)
def test_a_broken_pickle_is_refused_without_an_error_of_its_own(tmp_path, data):
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", data)
    assert "audit convert FILE" in refusal(path)


def test_names_from_a_hostile_pickle_stay_on_one_short_line(tmp_path):
    path = tmp_path / "model.ckpt"
    names = b"".join(b"c\x1b[31mred%d\n%s\n" % (i, b"x" * 500) for i in range(9))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + names + b"N.")
        archive.writestr("model/version", b"3\n")
    assert len(unsafe_globals(path)) == 9
    line = refusal(path)
    assert line.isprintable()
    assert "and 4 more" in line
    assert len(line) < 800


def test_a_safetensors_file_is_no_pickle_even_where_its_header_length_looks_like_one(tmp_path):
    path = tmp_path / "model.safetensors"
    for length in range(400, 700):
        save_file({"weight": torch.zeros(2)}, path, metadata={"padding": "x" * length})
        if path.read_bytes().startswith(b"\x80\x02"):
            break
    else:
        pytest.fail("no header of 640 bytes was made")
    assert is_pickle(path)  # By its bytes alone, which is why it is asked only of other files.
    assert read_header(path).shapes == {"weight": (2,)}
