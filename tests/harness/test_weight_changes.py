"""LoHa, LoKr, DoRA and the like: files by LyCORIS and peft against weights merged by them."""

import json

import peft
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from lycoris.modules import FullModule, LoConModule, LohaModule, LokrModule, NormModule
from safetensors.torch import load_file, save_file
from tiny_pipelines import flux, rows_of, sd1, sdxl

from harness.generate.sampling import Extras, Generator
from harness.models.layer_names import flat, layers_of, original_name
from harness.models.lora import Adapters, Lora, digest_of_lora
from harness.models.safetensors_header import WeightsError, read_header
from harness.models.weight_changes import read_changes

LAYERS = {
    "lora_unet": (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.attentions.0.proj_in",
        "mid_block.resnets.0.conv2",
    ),
    "lora_te": ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc1"),
}
KINDS = {
    "loha": (LohaModule, {}),
    "loha, Tucker": (LohaModule, {"use_tucker": True}),
    "loha, DoRA": (LohaModule, {"weight_decompose": True}),
    "lokr": (LokrModule, {"factor": 4}),
    "lokr, both": (LokrModule, {"factor": 8, "decompose_both": True, "lora_dim": 1}),
    "lokr, whole": (LokrModule, {"full_matrix": True}),
    "lokr, Tucker": (LokrModule, {"use_tucker": True, "factor": 4, "lora_dim": 1}),
    "lokr, DoRA": (LokrModule, {"factor": 4, "weight_decompose": True}),
    "locon, Tucker": (LoConModule, {"use_tucker": True}),
    "locon, DoRA": (LoConModule, {"weight_decompose": True}),
    "locon, DoRA of inputs": (LoConModule, {"weight_decompose": True, "wd_on_out": False}),
    "full": (FullModule, {}),
}


def model_of(pipe, prefix):
    if prefix == "lora_unet":
        return pipe.unet
    return getattr(pipe.text_encoder, "text_model", pipe.text_encoder)


def written(folder, pipe, kind):
    """A file by LyCORIS' own modules, and the weights that they merge to, by layer."""
    made, settings = KINDS[kind]
    torch.manual_seed(1)
    tensors, merged = {}, {}
    for prefix, names in LAYERS.items():
        inner = "text_model_" if prefix == "lora_te" else ""
        for name in names:
            module = model_of(pipe, prefix).get_submodule(name)
            label = f"{prefix}_{inner}{flat(name)}"
            given = {"lora_dim": 3, "alpha": 2} | settings
            own = made(label, module, 1.0, **given)
            with torch.no_grad():
                for key, value in own.named_parameters():
                    if "dora_scale" in key:
                        value.mul_(1 + 0.2 * torch.rand_like(value))
                    elif key != "scalar":
                        value.copy_(torch.randn_like(value) * 0.2)
                merged[label] = module, merged_by_lycoris(own, module)
            if made is FullModule:
                held = {"diff": own.weight} | ({} if own.bias is None else {"diff_b": own.bias})
            else:
                held = own.custom_state_dict() or own.state_dict()
            for key, value in held.items():
                tensors[f"{label}.{key}"] = value.detach().clone().contiguous()
    path = folder / "lycoris.safetensors"
    save_file(tensors, path)
    return path, merged


def merged_by_lycoris(own, module):
    """As its forward has it; its LoKr and LoHa (4.1.3) take alpha / rank twice where they merge."""
    shape = module.weight.shape
    if not isinstance(own, LokrModule | LohaModule):
        return own.get_merged_weight(1.0, shape=shape)[0].clone()
    whole = module.weight + own.get_weight(shape)
    return (own.apply_weight_decompose(whole) if own.wd else whole).clone()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_that_lycoris_merges(tmp_path, kind):
    pipe = sd1()
    path, merged = written(tmp_path, pipe, kind)
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    adapters = Adapters(pipe)
    adapters.put_in([Lora(path, 1.0, 1.0)])
    for module, wanted in merged.values():
        torch.testing.assert_close(module.weight, wanted, rtol=1e-6, atol=1e-6)
    half = [module.weight.clone() for module, _ in merged.values()]
    adapters.put_in([Lora(path, 0.5, 0.0)])
    for (label, (module, _)), whole in zip(merged.items(), half, strict=True):
        plain = _plain(module, adapters)
        if label.startswith("lora_te"):
            assert torch.equal(module.weight, plain)
        else:
            torch.testing.assert_close(module.weight, (plain + whole) / 2, rtol=1e-5, atol=1e-6)
    adapters.put_in([])
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    assert len(digest_of_lora(path)) == 64


def _plain(module, adapters):
    held = adapters._changes._plain
    return held[module]["weight"] if module in held else module.weight


def test_images_and_back_again_bit_for_bit_beside_a_plain_lora(tmp_path):
    pipe = sd1()
    path, _ = written(tmp_path, pipe, "loha, DoRA")
    plain = tmp_path / "plain.safetensors"
    q = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    torch.manual_seed(2)
    save_file(
        {f"{q}.lora_A.weight": torch.randn(2, 16), f"{q}.lora_B.weight": torch.randn(16, 2)}, plain
    )
    levels = {
        "none": [],
        "loha": [Lora(path, 1.0, 1.0)],
        "zero": [Lora(path, 0.0, 0.0)],
        "both": [Lora(path, 1.0, 1.0), Lora(plain, 1.0, 0.0)],
    }
    generator = Generator(pipe, 1, Extras(adapters=levels))
    made = {}
    for level in ("none", "loha", "both", "zero", "loha", "none"):
        image = generator.denoise(rows_of(["a cat"]).assign(adapters=level)).clone()
        assert torch.equal(made.setdefault(level, image), image)  # whatever was in between
    assert torch.equal(made["none"], made["zero"])
    assert not torch.equal(made["none"], made["loha"])
    assert not torch.equal(made["both"], made["loha"])


PEFT = {
    "loha": peft.LoHaConfig(r=3, alpha=2, target_modules=["to_q", "to_k", "conv1"]),
    "loha, ranks by layer": peft.LoHaConfig(
        r=3, alpha=2, target_modules=["to_q", "to_k"], rank_pattern={"to_k": 2}
    ),
    "lokr": peft.LoKrConfig(r=2, alpha=3, target_modules=["to_q", "conv1"]),
    "lokr, both": peft.LoKrConfig(
        r=1, alpha=3, target_modules=["to_q"], decompose_both=True, decompose_factor=8
    ),
    "dora": peft.LoraConfig(
        r=3, lora_alpha=2, target_modules=["to_q", "to_k", "conv1"], use_dora=True
    ),
}


@pytest.mark.parametrize("kind", PEFT)
def test_weights_are_those_that_peft_merges(tmp_path, kind):
    pipe, other = sd1(), sd1()
    other.unet.load_state_dict(pipe.unet.state_dict())
    torch.manual_seed(4)
    model = peft.get_peft_model(other.unet, PEFT[kind])
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "magnitude" in name:
                value.mul_(1 + 0.2 * torch.rand_like(value))
            elif "lora_" in name or "hada_" in name or "lokr_" in name:
                value.copy_(torch.randn_like(value) * 0.2)
    model.save_pretrained(tmp_path)
    merged = model.merge_and_unload().state_dict()
    path = tmp_path / "adapter_model.safetensors"
    Adapters(pipe).put_in([Lora(path, 1.0, 1.0)])
    changed = 0
    plain = sd1().unet.state_dict()
    for name, value in pipe.unet.state_dict().items():
        torch.testing.assert_close(value, merged[name], rtol=1e-5, atol=1e-6)
        changed += not torch.equal(merged[name], plain[name])
    assert changed >= 2
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    before = digest_of_lora(path)
    alpha = "lora_alpha" if kind == "dora" else "alpha"
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {alpha: 7}))
    assert digest_of_lora(path) != before


@pytest.mark.parametrize("pipeline", [sd1, sdxl])
def test_the_original_codes_names_of_blocks(pipeline):
    """Against diffusers' own converter: each tensor there is where its original name says."""
    pipe = pipeline()
    unet, per_block = pipe.unet, pipe.unet.config.layers_per_block
    original = {}
    for name, value in unet.state_dict().items():
        module, _, kind = name.rpartition(".")
        told = original_name(module, per_block)
        assert told, name
        for n in (1, 2):
            original.setdefault(f"model.diffusion_model.{told.replace('UP', str(n))}.{kind}", value)
    real = convert_ldm_unet_checkpoint(dict(original), dict(unet.config))
    assert set(real) == set(unet.state_dict())
    assert all(torch.equal(real[k], v) for k, v in unet.state_dict().items())


@pytest.mark.parametrize("prefix", ["diffusion_model.", "lora_unet_"])
def test_comfyuis_and_the_original_names_act_as_diffusers_names_do(tmp_path, prefix):
    pipe = sdxl()
    name = next(
        n for n in dict(pipe.unet.named_modules()) if n.endswith("attn1.to_q") and "down" in n
    )
    original = original_name(name, pipe.unet.config.layers_per_block)
    width = pipe.unet.get_submodule(name).weight.shape[0]
    torch.manual_seed(5)
    down, up = torch.randn(2, width), torch.randn(width, 2)
    kohya = prefix.startswith("lora_unet")
    label = prefix + (flat(original) if kohya else original)
    tensors = {
        f"{label}.lora_down.weight": down,
        f"{label}.lora_up.weight": up,
        f"{label}.alpha": torch.tensor(1.0),
    }
    if kohya:
        tensors[f"{label}.dora_scale"] = torch.rand(width, 1) + 0.5
    te = "text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj"
    if not kohya:
        inner = getattr(pipe.text_encoder_2, "text_model", pipe.text_encoder_2)
        q = inner.encoder.layers[0].self_attn.q_proj
        wide = q.weight.shape[0]
        tensors |= {
            f"{te}.lora_down.weight": torch.randn(2, wide),
            f"{te}.lora_up.weight": torch.randn(wide, 2),
        }
        plain_q = q.weight.clone()
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    plain = pipe.unet.get_submodule(name).weight.clone()
    Adapters(pipe).put_in([Lora(path, 1.0, 1.0)])
    wanted = plain + up @ down / 2
    if kohya:
        length = wanted.norm(dim=1, keepdim=True)
        wanted = wanted / length * tensors[f"{label}.dora_scale"]
    torch.testing.assert_close(pipe.unet.get_submodule(name).weight, wanted, rtol=1e-5, atol=1e-6)
    if not kohya:
        wanted = plain_q + tensors[f"{te}.lora_up.weight"] @ tensors[f"{te}.lora_down.weight"]
        torch.testing.assert_close(q.weight, wanted, rtol=1e-5, atol=1e-6)


def test_norms_and_biases_of_whole_differences(tmp_path):
    pipe = sd1()
    norm = pipe.unet.conv_norm_out
    own = NormModule("lora_unet_conv_norm_out", norm, 1.0)
    with torch.no_grad():
        own.w_norm.copy_(torch.randn_like(own.w_norm))
        own.b_norm.copy_(torch.randn_like(own.b_norm))
    path = tmp_path / "n.safetensors"
    save_file({f"lora_unet_conv_norm_out.{k}": v for k, v in own.state_dict().items()}, path)
    weight, bias = norm.weight.clone(), norm.bias.clone()
    Adapters(pipe).put_in([Lora(path, 0.5, 0.0)])
    torch.testing.assert_close(norm.weight, weight + 0.5 * own.w_norm)
    torch.testing.assert_close(norm.bias, bias + 0.5 * own.b_norm)


def broken(tmp_path, change):
    path, _ = written(tmp_path, sd1(), "loha")
    tensors = load_file(path)
    save_file(change(tensors), path)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: {k: v for k, v in t.items() if "hada_w2_b" not in k},
            "its matrix 'hada_w2_b' is missing",
        ),
        (
            lambda t: t | {"lora_unet_nowhere.hada_w1_a": torch.ones(2, 2)},
            r"1 of its 8 layers have no place in the checkpoint \('lora_unet_nowhere'",
        ),
        (
            lambda t: {k: v[:1] if k.endswith("to_q.hada_w1_a") else v for k, v in t.items()},
            "make no change of weights of",
        ),
        (lambda t: {k: v * 1e30 if "hada" in k else v for k, v in t.items()}, "not finite"),
        (
            lambda t: {k: torch.ones(2) if "alpha" in k else v for k, v in t.items()},
            r"alpha has the shape \(2,\), not one number",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, change, said):
    path = broken(tmp_path, change)
    with pytest.raises(WeightsError, match=said) as found:
        Adapters(sd1()).put_in([Lora(path, 1.0, 1.0)])
    assert len(str(found.value).splitlines()) == 1


def test_other_kinds_and_other_models_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"lora_unet_a.oft_blocks": torch.ones(2, 2)}, path)
    with pytest.raises(WeightsError, match="an OFT, GLoRA or IA3; LoRA, LoCon, LoHa"):
        digest_of_lora(path)
    save_file({"lora_unet_a.hada_w1_a": torch.ones(2, 2), "x.y": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match="1 tensors that have no meaning"):
        digest_of_lora(path)
    loha, _ = written(tmp_path, sd1(), "loha")
    with pytest.raises(WeightsError, match=r"layers have no place|is a LoRA for"):
        Adapters(flux()).put_in([Lora(loha, 1.0, 1.0)])
    assert read_header(loha).shapes


def test_every_layer_has_its_own_names():
    pipe = sdxl()
    named = layers_of(pipe)
    for prefix in ("lora_unet_", "diffusion_model_", "unet_"):
        mine = [x for n, x in named.items() if n.startswith(prefix)]
        assert {x.name for x in mine} >= {
            n for n, m in pipe.unet.named_modules() if isinstance(m, torch.nn.Linear)
        }
    assert read_changes  # the reader of these names


def test_a_bias_beside_a_lora_is_added_and_refused_where_there_is_none(tmp_path):
    pipe, path = sd1(), tmp_path / "b.safetensors"
    torch.manual_seed(6)

    def lora(name):
        weight = pipe.unet.get_submodule(name).weight
        label = f"lora_unet_{flat(name)}"
        save_file(
            {
                f"{label}.lora_down.weight": torch.randn(2, *weight.shape[1:]),
                f"{label}.lora_up.weight": torch.randn(
                    weight.shape[0], 2, *[1] * (weight.ndim - 2)
                ),
                f"{label}.diff_b": torch.ones(weight.shape[0]),
            },
            path,
        )
        return label, pipe.unet.get_submodule(name)

    label, conv = lora("conv_out")
    weight, bias = conv.weight.clone(), conv.bias.clone()
    Adapters(pipe).put_in([Lora(path, 0.5, 0.0)])
    torch.testing.assert_close(conv.bias, bias + 0.5)
    held = load_file(path)
    down, up = (held[f"{label}.lora_{n}.weight"].flatten(1) for n in ("down", "up"))
    torch.testing.assert_close(conv.weight, weight + 0.5 * (up @ down).reshape(weight.shape))
    lora("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")  # which has no bias
    with pytest.raises(WeightsError, match="make no change of weights of"):
        Adapters(sd1()).put_in([Lora(path, 1.0, 1.0)])
