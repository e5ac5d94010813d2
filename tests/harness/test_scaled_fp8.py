"""Scales beside 8-bit weights, and tensors that no model uses."""

import json

import pytest
import torch
from diffusers import AutoencoderTiny
from ldm_files import TINY, assert_same_weights, tiny_files
from safetensors.torch import load_file, save_file

from harness.models.lora import digest_of_lora
from harness.models.safetensors_header import WeightsError, read_header
from harness.models.scaled_fp8 import unscaled
from harness.models.single_file import load_vae_with_configs, load_with_configs
from harness.models.textual_inversion import digest_of_embedding
from harness.models.vae_files import load_vae_source

pytestmark = pytest.mark.faults
LAYERS = (
    "attn1.to_q.weight",
    "attn2.to_k.weight",
    "mlp.fc1.weight",
    "mlp.c_fc.weight",
    "decoder.mid.attn_1.q.weight",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_files(tmp_path_factory.mktemp("tiny"))


def packed(tensors, scale_name="scale_weight", rows=False, mark=True):
    """Some layers of every component as float8 with a scale, and the weights that they mean."""
    out, meant = {}, {}
    for name, tensor in tensors.items():
        out[name] = meant[name] = tensor
        if not name.endswith(LAYERS):
            continue
        flat = tensor.flatten(1)
        peak = flat.abs().amax(1) if rows else flat.abs().max()
        scale = peak / 448
        small = tensor / (scale.reshape(-1, *[1] * (tensor.ndim - 1)) if rows else scale)
        small = small.to(torch.float8_e4m3fn)
        base = name.removesuffix("weight")
        out[name] = small
        out[f"{base}{scale_name}"] = scale.reshape(-1, 1) if rows else scale
        if mark and scale_name == "scale_weight":
            out[f"{base}scale_input"] = torch.tensor(1.0)
        if scale_name == "weight_scale":
            said = json.dumps({"format": "float8_e4m3fn"}).encode()
            out[f"{base}comfy_quant"] = torch.tensor(list(said), dtype=torch.uint8)
        wide = scale.reshape(-1, *[1] * (tensor.ndim - 1)) if rows else scale
        meant[name] = small.float() * wide
    if mark and scale_name == "scale_weight":
        out["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
        out["model.diffusion_model.scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    return out, meant


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
@pytest.mark.parametrize(("scale_name", "rows"), [("scale_weight", False), ("weight_scale", True)])
def test_scales_are_applied_in_every_component(tiny, tmp_path, family, scale_name, rows):
    folder, _, file = tiny[family]
    out, meant = packed(load_file(file), scale_name, rows)
    assert len({n.split(".")[0] for n in out if n.endswith(scale_name)}) == 3
    save_file(out, tmp_path / "packed.safetensors")
    save_file(meant, tmp_path / "meant.safetensors")
    options = {"prediction": "v"} if family == "sd2" else {}
    got, want = (
        load_with_configs(
            read_header(tmp_path / f"{n}.safetensors"), torch.float32, folder, **options
        )
        for n in ("packed", "meant")
    )
    for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(want, component, None) is not None:
            assert_same_weights(getattr(got, component), getattr(want, component))


def test_the_vae_alone_is_scaled_too(tiny, tmp_path):
    folder, _, file = tiny["sd15"]
    out, meant = packed(load_file(file))
    vae = {n: t for n, t in out.items() if n.startswith("first_stage_model.")}
    assert any(n.endswith("scale_weight") for n in vae)
    save_file(vae, tmp_path / "packed.safetensors")
    save_file({n: t for n, t in meant.items() if n in vae}, tmp_path / "meant.safetensors")
    got, want = (
        load_vae_with_configs(read_header(tmp_path / f"{n}.safetensors"), torch.float32, folder)
        for n in ("packed", "meant")
    )
    assert_same_weights(got, want)


def test_a_scale_multiplies_all_or_each_row():
    weight = torch.tensor([[1.0, 2.0], [4.0, 8.0]]).to(torch.float8_e5m2)
    assert unscaled(weight, torch.tensor(0.5)).tolist() == [[0.5, 1.0], [2.0, 4.0]]
    assert unscaled(weight, torch.tensor([1.0, 10.0])).tolist() == [[1.0, 2.0], [40.0, 80.0]]
    with pytest.raises(ValueError, match=r"3 scales for \(2, 2\) weights"):
        unscaled(weight, torch.ones(3))


LEFT = torch.ones(3)
UNET = "model.diffusion_model."
CLIP = "cond_stage_model.transformer.text_model."


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({f"{UNET}input_blocks.1.1.norm.lora": LEFT}, "unet has 1 tensors too many"),
        ({"first_stage_model.decoder.mid.block_1.gate": LEFT}, "vae has 1 tensors too many"),
        ({f"{CLIP}encoder.layers.0.gate": LEFT}, "text_encoder has 1 tensors too many"),
        ({f"{CLIP}final_layer_norm.scale_weight": LEFT}, "should be an 8-bit float"),
        (
            {f"{UNET}out.2.zero_point": LEFT, f"{UNET}out.2.absmax": torch.ones(2)},
            "2 tensors too many",
        ),
        (
            {f"{UNET}out.2.comfy_quant": torch.tensor(list(b'{"format": "nvfp4"}')).byte()},
            "quantised as 'nvfp4'",
        ),
    ],
)
def test_no_tensor_of_a_component_is_dropped_in_silence(tiny, tmp_path, extra, message):
    folder, _, file = tiny["sd15"]
    save_file(load_file(file) | extra, tmp_path / "more.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_with_configs(read_header(tmp_path / "more.safetensors"), torch.float32, folder)


def test_what_no_image_depends_on_may_stay(tiny, tmp_path):
    folder, _, file = tiny["sd15"]
    extra = {
        f"{CLIP}embeddings.position_ids": torch.arange(77),
        "first_stage_model.loss.logvar": LEFT,
        "alphas_cumprod": torch.ones(2),
        "model_ema.decay": torch.ones(1),
    }
    save_file(load_file(file) | extra, tmp_path / "more.safetensors")
    load_with_configs(read_header(tmp_path / "more.safetensors"), torch.float32, folder)


def test_tiny_vaes_loras_and_embeddings_drop_nothing_either(tmp_path):
    torch.manual_seed(0)
    tensors = AutoencoderTiny(latent_channels=4).state_dict()
    save_file(tensors | {"decoder.layers.0.scale_weight": LEFT}, tmp_path / "vae.safetensors")
    with pytest.raises(WeightsError, match="vae has 1 tensors too many"):
        load_vae_source("vae.safetensors", tmp_path, torch.float32, "sd15")
    down, up = torch.ones(2, 32), torch.ones(32, 2)
    base = "lora_unet_mid_block_attentions_0_proj_in"
    lora = {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}
    for extra in (f"{base}.lora_down.scale_weight", f"{base}.diff_c", "anything"):
        save_file(lora | {extra: LEFT}, tmp_path / "lora.safetensors")
        with pytest.raises(WeightsError, match="would have no effect"):
            digest_of_lora(tmp_path / "lora.safetensors")
    save_file({f"{base}.lora_down.weight": down}, tmp_path / "lora.safetensors")
    with pytest.raises(WeightsError, match="1 down matrices and 0 up matrices"):
        digest_of_lora(tmp_path / "lora.safetensors")
    for extra in ("emb_params.scale_weight", "other"):
        word = {"emb_params": torch.ones(1, 8), extra: LEFT}
        save_file(word, tmp_path / "word.safetensors")
        with pytest.raises(WeightsError, match="1 tensors beside its vectors"):
            digest_of_embedding(tmp_path / "word.safetensors")
    both = {"clip_l": torch.ones(1, 8), "clip_g": torch.ones(1, 8), "t5": LEFT}
    save_file(both, tmp_path / "word.safetensors")
    with pytest.raises(WeightsError, match="1 tensors beside its vectors"):
        digest_of_embedding(tmp_path / "word.safetensors")


def test_the_tiny_families_cover_all_layouts():
    assert {"sd15", "sd2", "sdxl"} <= set(TINY)
