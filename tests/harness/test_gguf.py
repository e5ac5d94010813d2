"""GGUF files by the package gguf: the same tensors, the same model, and what is no such file."""

import json
import sys

import gguf
import numpy as np
import pytest
import torch
from conftest import make  # tests/conftest.py
from diffusers import UNet2DConditionModel
from tiny_pipelines import sd1

import reference
from audit.gate.baseline import side_of_run
from audit.gate.metrics import metrics, pair
from harness.errors import SpecError
from harness.models.gguf_files import kept_as, load_gguf, read_gguf
from harness.models.layer_names import original_name
from harness.models.safetensors_header import WeightsError
from harness.spec.sections import GateSpec

Q = gguf.GGMLQuantizationType
SHAPE = "comfy.gguf.orig_shape."


def named_as_in_the_original(unet):
    """A U-Net's tensors under the original code's names, as files of denoisers have them."""
    per_block = unet.config.layers_per_block
    held = {}
    for name, value in unet.state_dict().items():
        module, _, kind = name.rpartition(".")
        told = original_name(module, per_block)
        if "UP" in told:
            block = unet.up_blocks[int(module.split(".")[1])]
            told = told.replace("UP", "2" if getattr(block, "attentions", None) else "1")
        held[f"{told}.{kind}"] = value
    return held


def write(path, tensors, kind):
    """What fits into blocks of 32 as `kind`, in rows of 32 where it must; the rest as F32."""
    writer = gguf.GGUFWriter(path, "sd1")
    meant = {}
    for name, tensor in tensors.items():
        values = tensor.detach().numpy().astype(np.float32)
        if kind in (Q.F16, Q.BF16, Q.F32):
            packed = gguf.quants.quantize(values, kind)
        elif values.ndim > 1 and values.size % 32 == 0:
            if values.shape[-1] % 32:
                writer.add_array(f"{SHAPE}{name}", [int(n) for n in values.shape])
                values = values.reshape(-1, 32)
            packed = gguf.quants.quantize(values, kind)
        else:
            packed, meant[name] = values, tensor.float()
            writer.add_tensor(name, packed, raw_dtype=Q.F32)
            continue
        writer.add_tensor(name, packed, raw_dtype=kind)
        whole = gguf.quants.dequantize(packed, kind)
        meant[name] = torch.from_numpy(np.array(whole)).reshape(tensor.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


@pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q5_0, Q.Q4_0])
def test_a_file_reads_back_to_the_same_tensors(tmp_path, kind):
    unet = sd1().unet
    meant = write(tmp_path / "u.gguf", named_as_in_the_original(unet), kind)
    read = read_gguf(tmp_path / "u.gguf")
    assert read.keys() == meant.keys()
    assert all(torch.equal(read[n], t) for n, t in meant.items())
    assert f"{kind.name} x " in kept_as(tmp_path / "u.gguf")
    if kind == Q.F32:
        model = load_gguf(tmp_path / "u.gguf", "unet", unet, torch.float32)
        for name, value in unet.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_names_with_and_without_prefix_and_those_of_diffusers(tmp_path, prefix):
    unet = sd1().unet
    held = {prefix + n: t for n, t in named_as_in_the_original(unet).items()}
    write(tmp_path / "a.gguf", held, Q.F32)
    write(tmp_path / "b.gguf", unet.state_dict(), Q.F32)
    for name in ("a", "b"):
        model = load_gguf(tmp_path / f"{name}.gguf", "unet", unet, torch.bfloat16)
        assert model.dtype == torch.bfloat16
        for key, value in unet.state_dict().items():
            assert torch.equal(model.state_dict()[key], value.bfloat16())


def test_what_is_no_such_model_is_one_line(tmp_path):
    unet = sd1().unet
    held = named_as_in_the_original(unet)
    path = tmp_path / "x.gguf"
    lacking = dict(list(held.items())[3:])
    for tensors, said in (
        (lacking, "lacks"),
        (held | {"input_blocks.99.weight": torch.ones(4)}, "too many"),
        ({n: t[:1] for n, t in held.items()}, "should be"),
        (held | {"out.2.bias": held["out.2.bias"] * torch.nan}, "NaN or infinity"),
    ):
        write(path, tensors, Q.F32)
        with pytest.raises(WeightsError, match=said) as found:
            load_gguf(path, "unet", unet, torch.float32)
        assert len(str(found.value).splitlines()) == 1
    write(path, held, Q.Q8_0)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in (4, 20, 200, len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:cut])
        with pytest.raises(WeightsError) as found:
            load_gguf(path, "unet", unet, torch.float32)
        assert len(str(found.value).splitlines()) == 1
    for _ in range(40):  # a flip is a number changed, or a line
        broken = bytearray(whole)
        broken[int(rng.integers(4, 4000))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        try:
            load_gguf(path, "unet", unet, torch.float32)
        except WeightsError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017


def test_a_run_knows_precision_as_a_factor_and_names_it(tmp_path):
    """The same seeds with the reference U-Net as it is and in GGUF files of two precisions."""
    unet = UNet2DConditionModel.from_pretrained(reference.component("unet", "balanced"))
    held = named_as_in_the_original(unet)
    write(tmp_path / "f32.gguf", held, Q.F32)
    write(tmp_path / "q4.gguf", held, Q.Q4_0)
    few = {
        "seeds": 6,
        "steps": 4,
        "guidance": 1,
        "vaes": {"own": "own"},
        "prompts": {"list": ["a portrait of a doctor", "a portrait of a cook"]},
    }
    named = {
        n: {"source": "reference:balanced", "denoiser": str(tmp_path / f"{n}.gguf")}
        for n in ("f32", "q4")
    }
    audit = make(tmp_path / "run", **few, checkpoints={"balanced": "reference:balanced"} | named)
    plan = audit.run.read_plan()
    cells = {c: list(rows["cell"]) for c, rows in plan.groupby("checkpoint")}
    assert cells["f32"] == cells["balanced"]  # the same tensors are the same model
    assert not set(cells["q4"]) & set(cells["f32"])
    told = json.dumps((audit.run.provenance() or {})["audited"])
    assert "q4.gguf" in told
    assert "Q4_0 x " in told
    gate = GateSpec(margins={"moved": 0.2})
    sides = [side_of_run(audit.run.folder, f"{a},own", gate) for a in ("balanced", "q4")]
    (moved,) = (m for m in metrics(sides[0], pair(*sides), gate) if "moved" in m.id)
    assert 0.001 < float(np.nanmean(moved.candidate)) < 1


def test_a_gguf_file_as_a_whole_checkpoint_is_told_where_it_belongs(tmp_path):
    write(tmp_path / "u.gguf", named_as_in_the_original(sd1().unet), Q.F32)
    with pytest.raises((SpecError, WeightsError), match="holds a denoiser alone: name a whole"):
        make(tmp_path, checkpoints={"a": str(tmp_path / "u.gguf")}, seeds=1)


@pytest.mark.parametrize("change", ["more", "shape"])
def test_diffusers_own_names_are_checked_as_the_original_ones_are(tmp_path, change):
    unet = sd1().unet
    held = dict(unet.state_dict())
    held |= {"more": torch.ones(4)} if change == "more" else {"conv_out.bias": torch.ones(9)}
    write(tmp_path / "u.gguf", held, Q.F32)
    with pytest.raises(WeightsError, match=r"1 tensors too many|conv_out\.bias is \(9,\)"):
        load_gguf(tmp_path / "u.gguf", "unet", unet, torch.float32)


def test_without_the_package_it_is_one_line(tmp_path, monkeypatch):
    write(tmp_path / "u.gguf", {"a": torch.ones(4)}, Q.F32)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(WeightsError, match=r"pip install 'diffusion-audit\[gguf\]'"):
        read_gguf(tmp_path / "u.gguf")
