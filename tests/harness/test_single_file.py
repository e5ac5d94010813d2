import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from ldm_files import (
    CLIP_G,
    CLIP_L,
    UNET,
    VAE,
    assert_same_weights,
    build,
    components,
    ldm,
    ldm_vae,
    rename,
    tiny_files,
)
from safetensors.torch import load_file, save_file

from harness.models.checkpoint_keys import convert
from harness.models.safetensors_header import (
    Header,
    WeightsError,
    family_of,
    read_header,
    told_prediction,
)
from harness.models.single_file import (
    CONFIGS,
    clip_tokenizer,
    load_pipeline_file,
    load_vae_file,
    load_vae_with_configs,
    load_with_configs,
)


def header_of(tensors, path="model.safetensors", **metadata):
    return Header(Path(path), {n: tuple(t.shape) for n, t in tensors.items()}, {}, dict(metadata))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """See `ldm_files.tiny_files`."""
    return tiny_files(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def full_headers():
    """Headers of the shipped configurations at full size, which hold no weights."""
    headers = {}
    for family in ("sd15", "sd2", "sdxl"):
        with init_empty_weights():
            models = {c: build(CONFIGS / family, c) for c in components(CONFIGS / family)}
        headers[family] = header_of(ldm(models, family))
    return headers


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(AssertionError, match="the network was asked"):
        socket.create_connection(("localhost", 9), timeout=1)


def image(pipe, pixels=16):
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        "a cat",
        width=pixels,
        height=pixels,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images[0]


# --- the shipped configurations


@pytest.mark.parametrize(
    ("family", "unet", "text", "factor"),
    [
        ("sd15", 859_520_964, [123_060_480], 0.18215),
        ("sd2", 865_910_724, [340_387_840], 0.18215),
        ("sdxl", 2_567_463_684, [123_060_480, 694_659_840], 0.13025),
    ],
)
def test_the_shipped_configurations_have_the_published_sizes(family, unet, text, factor):
    folder = CONFIGS / family
    with init_empty_weights():
        models = {component: build(folder, component) for component in components(folder)}
    count = {c: sum(p.numel() for p in model.parameters()) for c, model in models.items()}
    assert count.pop("unet") == unet
    assert count.pop("vae") == 34_163_592 + 49_490_179 + 72 + 20  # Encoder, decoder, 1x1 convs.
    assert list(count.values()) == text
    assert models["vae"].config.scaling_factor == factor


PROMPTS = [
    "a photo of a cat",
    "",
    "It's 2024, isn't it? don't DON'T",
    "  many   spaces\n\tand tabs",
    "Zażółć gęślą jaźń, 日本語 😀",
    "(masterpiece:1.2), 8k, <lora:x:1>, x_y-z",
    "word " * 100,
]


@pytest.fixture(scope="module")
def tokenizers():
    """open_clip's own, and SDXL's two."""
    folder = CONFIGS / "sdxl"
    ours = [clip_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    return open_clip.tokenizer.SimpleTokenizer(), *ours


@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_are_those_of_open_clip(tokenizers, prompt):
    reference, first, second = tokenizers
    assert len(first) == len(second) == 49_408
    want = reference([prompt])[0].tolist()
    pad = {"padding": "max_length", "truncation": True}
    assert second(prompt, **pad).input_ids == want
    length = want.index(49_407) + 1
    assert first(prompt, **pad).input_ids == want[:length] + [49_407] * (77 - length)


def test_an_exclamation_mark_is_padding_to_the_second_tokenizer_as_in_the_published_folder(
    tokenizers,
):
    reference, first, second = tokenizers
    want = reference(["hello!"])[0, :4].tolist()
    assert want == [49_406, 3_306, 256, 49_407]
    assert first("hello!").input_ids == want
    assert second("hello!").input_ids == [49_406, 3_306, 0, 49_407]


# --- read_header


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a safetensors file"),
        (b"\x00" * 64, "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>please log in</html>", "web page"),
        (b'\x07\x00\x00\x00\x00\x00\x00\x00{"a\nb":', "damaged safetensors"),
    ],
)
def test_a_file_that_is_no_safetensors_is_named_with_the_reason(tmp_path, data, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message) as error:
        read_header(path)
    assert "model.safetensors" in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("cut", [1, 1000])
def test_a_truncated_file_is_named(tmp_path, cut):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(1000)}, path)
    assert read_header(path).shapes == {"weight": (1000,)}
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(WeightsError, match="cut short"):
        read_header(path)


def test_missing_files_folders_and_wrong_names_are_told_apart(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        read_header(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="is a folder"):
        read_header(tmp_path)
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match=r"rename it to end in '\.safetensors'"):
        read_header(tmp_path / "model.ckpt")
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(WeightsError, match="holds no tensors"):
        read_header(tmp_path / "empty.safetensors")


def test_the_header_has_shapes_dtypes_and_metadata(tmp_path):
    path = tmp_path / "model.safetensors"
    dtypes = {"F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}
    tensors = {name: torch.zeros(2, 3, dtype=dtype) for name, dtype in dtypes.items()}
    save_file(tensors, path, metadata={"a": "b"})
    header = read_header(path)
    assert header.shapes == dict.fromkeys(dtypes, (2, 3))
    assert header.dtypes == {name: name for name in dtypes}
    assert header.metadata == {"a": "b"}


# --- family_of


@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_the_family_of_a_full_checkpoint_is_told(full_headers, family):
    assert family_of(full_headers[family]) == family


def reshaped(header, ending, shape):
    shapes = {n: shape if n.endswith(ending) else s for n, s in header.shapes.items()}
    return header._replace(shapes=shapes)


@pytest.mark.parametrize(
    ("ending", "shape", "kind"),
    [
        ("attn2.to_k.weight", (320, 1280), "the SDXL refiner"),
        ("input_blocks.0.0.weight", (320, 9, 3, 3), "an inpainting model"),
        ("input_blocks.0.0.weight", (320, 8, 3, 3), "InstructPix2Pix"),
    ],
)
def test_relatives_of_stable_diffusion_are_refused_by_name(full_headers, ending, shape, kind):
    header = reshaped(full_headers["sd15"], ending, shape)
    with pytest.raises(
        WeightsError, match=f"seems to be .*{kind}.*; supported: .*SDXL base and Flux"
    ):
        family_of(header)


def test_what_a_file_predicts_is_told_by_a_marker_or_its_metadata(full_headers):
    header = full_headers["sdxl"]
    with pytest.raises(WeightsError, match="EDM"):
        family_of(header._replace(shapes=header.shapes | {"edm_mean": ()}))
    assert told_prediction(header) is None
    assert told_prediction(header._replace(shapes=header.shapes | {"v_pred": ()})) == "v"
    for said in ("v", "epsilon"):
        kept = header._replace(metadata={"modelspec.prediction_type": said})
        assert family_of(kept) == "sdxl"
        assert told_prediction(kept) == said


def flux_header(guided=True, width=3072):
    """Names and shapes of the original Flux code, all of the transformer."""

    def linear(name, out, inner):
        return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}

    shapes = linear("img_in", width, 64) | linear("txt_in", width, 4096)
    for name, inner in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        if guided or name != "guidance_in":
            shapes |= linear(f"{name}.in_layer", width, inner)
            shapes |= linear(f"{name}.out_layer", width, width)
    for i in range(19):
        for side in ("img", "txt"):
            at = f"double_blocks.{i}.{side}"
            shapes |= linear(f"{at}_mod.lin", 6 * width, width)
            shapes |= linear(f"{at}_attn.qkv", 3 * width, width)
            shapes |= linear(f"{at}_attn.proj", width, width)
            shapes |= linear(f"{at}_mlp.0", 4 * width, width)
            shapes |= linear(f"{at}_mlp.2", width, 4 * width)
            shapes |= {f"{at}_attn.norm.{n}_norm.scale": (128,) for n in ("query", "key")}
    for i in range(38):
        at = f"single_blocks.{i}"
        shapes |= linear(f"{at}.linear1", 7 * width, width)
        shapes |= linear(f"{at}.linear2", width, 5 * width)
        shapes |= linear(f"{at}.modulation.lin", 3 * width, width)
        shapes |= {f"{at}.norm.{n}_norm.scale": (128,) for n in ("query", "key")}
    shapes |= linear("final_layer.linear", 64, width)
    shapes |= linear("final_layer.adaLN_modulation.1", 2 * width, width)
    return Header(Path("flux.safetensors"), shapes, {}, {})


def sd3_header(width, layers, normed, dual, positions):
    """Names and shapes of the original code of Stable Diffusion 3, all of the transformer."""

    def linear(name, out, inner):
        return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}

    shapes = {"pos_embed": (1, positions**2, width), "x_embedder.proj.bias": (width,)}
    shapes |= {"x_embedder.proj.weight": (width, 16, 2, 2)}
    shapes |= linear("context_embedder", width, 4096)
    for name, inner in (("t_embedder", 256), ("y_embedder", 2048)):
        shapes |= linear(f"{name}.mlp.0", width, inner) | linear(f"{name}.mlp.2", width, width)
    for i in range(layers):
        for side in ("x_block", "context_block"):
            at = f"joint_blocks.{i}.{side}"
            last = side == "context_block" and i == layers - 1
            twice = side == "x_block" and i < dual
            shapes |= linear(
                f"{at}.adaLN_modulation.1", (2 if last else 9 if twice else 6) * width, width
            )
            for n in ("attn", "attn2") if twice else ("attn",):
                shapes |= linear(f"{at}.{n}.qkv", 3 * width, width)
                shapes |= {f"{at}.{n}.ln_{x}.weight": (64,) for x in "qk" if normed}
                if not last:
                    shapes |= linear(f"{at}.{n}.proj", width, width)
            if not last:
                shapes |= linear(f"{at}.mlp.fc1", 4 * width, width)
                shapes |= linear(f"{at}.mlp.fc2", width, 4 * width)
    shapes |= linear("final_layer.linear", 64, width)
    shapes |= linear("final_layer.adaLN_modulation.1", 2 * width, width)
    return Header(Path("sd3.safetensors"), {UNET + n: s for n, s in shapes.items()}, {}, {})


TRANSFORMERS = {
    "flux-dev": flux_header(),
    "flux-schnell": flux_header(guided=False),
    "sd3-medium": sd3_header(1536, 24, False, 0, 192),
    "sd35-medium": sd3_header(1536, 24, True, 13, 384),
    "sd35-large": sd3_header(2432, 38, True, 0, 192),
}


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_transformers_family_is_told_and_every_tensor_has_its_place(family):
    header = TRANSFORMERS[family]
    assert family_of(header) == family
    config = json.loads((CONFIGS / family / "transformer" / "config.json").read_text())
    meta = {n: torch.empty(s, device="meta") for n, s in header.shapes.items()}
    convert(header.path, "transformer", meta, config)
    lacking = dict(list(meta.items())[:-1])
    with pytest.raises(WeightsError, match=r"lacks .* of its transformer"):
        convert(header.path, "transformer", lacking, config)
    others = {"flux-dev": "flux-schnell", "sd3-medium": "sd35-medium"}
    if family in others:
        path = CONFIGS / others[family] / "transformer" / "config.json"
        with pytest.raises(WeightsError, match="transformer"):
            convert(header.path, "transformer", meta, json.loads(path.read_text()))


def test_relatives_of_flux_are_refused():
    header = flux_header()
    filled = header._replace(shapes=header.shapes | {"img_in.weight": (3072, 384)})
    with pytest.raises(WeightsError, match=r"a relative of Flux .*384 input channels"):
        family_of(filled)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"], "a LoRA"),
        (["unet.mid_block.attentions.0.attn1.to_q.lora_A.weight"], "a LoRA"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (["model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight"], "Stable Diffusion 3"),
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["encoder.down.0.block.0.conv1.weight"], "a stand-alone VAE"),
        (["first_stage_model.decoder.up.0.block.0.conv1.weight"], "a stand-alone VAE"),
        (["decoder.up_blocks.0.resnets.0.conv1.weight"], "a stand-alone VAE"),
        (["decoder.layers.0.weight"], "TAESD"),
        (["down_blocks.0.resnets.0.conv1.weight"], "one component of a diffusers folder"),
        (["cond_stage_model.transformer.text_model.final_layer_norm.weight"], "a text encoder"),
        (["emb_params"], "a textual-inversion embedding"),
        (["clip_g", "clip_l"], "a textual-inversion embedding"),
        (["a\nb", "c", "d", "e"], r"no kind known here \(it holds 'a\\nb', 'c', 'd', … 4 in all"),
    ],
)
def test_other_files_are_refused_with_a_guess(names, kind):
    header = header_of({name: torch.zeros(2, 3) for name in names})
    with pytest.raises(WeightsError, match=f"model.safetensors.*{kind}.*; supported") as error:
        family_of(header)
    assert str(error.value).isprintable()


# --- loading

PREDICTS = {"sd2": "v"}


def test_what_a_stable_diffusion_2_predicts_must_be_told(tiny, tmp_path):
    folder, _, path = tiny["sd2"]
    with pytest.raises(WeightsError, match=r"set prediction_type: v .768 pixels. or"):
        load_with_configs(read_header(path), torch.float32, folder)
    types = {
        said: load_with_configs(read_header(path), torch.float32, folder, prediction=said)
        .scheduler.config.prediction_type
        for said in ("v", "epsilon")
    }  # fmt: skip
    assert types == {"v": "v_prediction", "epsilon": "epsilon"}
    save_file(load_file(path), tmp_path / "v.safetensors", {"modelspec.prediction_type": "v"})
    header = read_header(tmp_path / "v.safetensors")
    told = load_with_configs(header, torch.float32, folder)
    assert told.scheduler.config.prediction_type == "v_prediction"
    with pytest.raises(WeightsError, match="says of itself that it predicts v, not epsilon"):
        load_with_configs(header, torch.float32, folder, prediction="epsilon")


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_parts_give_what_a_file_lacks_and_only_that(tiny, no_network, tmp_path, family):
    folder, models, path = tiny[family]
    tensors = load_file(path)
    load_with_configs(read_header(path), torch.float32, folder).save_pretrained(tmp_path / "parts")
    bare = {n: t + 1 if n.startswith(UNET) else t for n, t in tensors.items()}
    bare = {n: t for n, t in bare.items() if n.startswith(UNET)}
    save_file(bare, tmp_path / "bare.safetensors")
    header = read_header(tmp_path / "bare.safetensors")
    with pytest.raises(
        WeightsError, match=r"lacks .* of its vae.*, or set components_from to a folder"
    ):
        load_with_configs(header, torch.float32, folder)
    pipe = load_with_configs(header, torch.float32, folder, tmp_path / "parts")
    for component, model in models.items():
        if component != "unet":
            assert_same_weights(getattr(pipe, component), model)
    for name, tensor in models["unet"].state_dict().items():
        assert torch.equal(pipe.unet.state_dict()[name], tensor + 1)
    shutil.rmtree(tmp_path / "parts" / "vae")
    with pytest.raises(WeightsError, match=r"components_from: .* has no folder 'vae'"):
        load_with_configs(header, torch.float32, folder, tmp_path / "parts")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_every_tensor_is_loaded_without_a_network(tiny, no_network, family, dtype):
    folder, models, path = tiny[family]
    pipe = load_with_configs(read_header(path), dtype, folder, prediction=PREDICTS.get(family))
    for component, model in models.items():
        assert_same_weights(getattr(pipe, component), model, dtype)
    assert getattr(pipe, "safety_checker", None) is None
    assert getattr(pipe, "watermark", None) is None


# numpy 2.4 on how EulerDiscreteScheduler makes an array of a tensor.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("family", ["sd15", "sd2", "sdxl"])
def test_the_image_is_that_of_the_same_parts_put_together_by_hand(tiny, no_network, family):
    folder, models, path = tiny[family]
    predicts = PREDICTS.get(family)
    loaded = load_with_configs(read_header(path), torch.float32, folder, prediction=predicts)
    extra = {"add_watermarker": False} if family == "sdxl" else {"safety_checker": None}
    if family != "sdxl":
        extra |= {"feature_extractor": None, "requires_safety_checker": False}
    tokenizers = {t: clip_tokenizer(folder / t) for t in ("tokenizer", "tokenizer_2")
                  if (folder / t).is_dir()}  # fmt: skip
    by_hand = type(loaded)(**models, **tokenizers, scheduler=loaded.scheduler, **extra)
    assert np.array_equal(image(loaded), image(by_hand))
    with torch.no_grad():
        loaded.unet.conv_out.bias.add_(0.1)
    assert not np.array_equal(image(loaded), image(by_hand))


def test_a_half_precision_file_with_ema_gives_the_model_and_not_the_ema(tiny, tmp_path):
    folder, models, path = tiny["sd15"]
    tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
    ema = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): torch.zeros_like(tensor)
        for name, tensor in tensors.items()
        if name.startswith(UNET)
    }
    assert len(ema) > 100
    save_file(tensors | ema, tmp_path / "ema.safetensors")
    pipe = load_with_configs(read_header(tmp_path / "ema.safetensors"), torch.float32, folder)
    assert_same_weights(pipe.unet.half(), models["unet"].half(), torch.float16)


PARTS = {
    ("sd15", "unet"): UNET,
    ("sd15", "vae"): VAE,
    ("sd15", "text_encoder"): CLIP_L["sd15"],
    ("sdxl", "unet"): UNET,
    ("sdxl", "text_encoder"): CLIP_L["sdxl"],
    ("sdxl", "text_encoder_2"): CLIP_G,
}


@pytest.mark.parametrize(("family", "component"), PARTS)
@pytest.mark.parametrize("missing", ["all", "one"])
def test_a_missing_component_is_named_and_never_left_random(
    tiny, tmp_path, family, component, missing
):
    folder, models, path = tiny[family]
    tensors = load_file(path)
    names = [name for name in tensors if name.startswith(PARTS[family, component])]
    total = len(models[component].state_dict())
    count = r"\d+" if missing == "all" else "(1|3)"  # LDM keeps OpenCLIP's q, k and v as one.
    for name in names if missing == "all" else names[len(names) // 2 :][:1]:
        del tensors[name]
    save_file(tensors, tmp_path / "part.safetensors")
    wanted = rf"part\.safetensors' lacks (parts|{count} of {total} tensors) of its {component} \("
    with pytest.raises(WeightsError, match=wanted):
        load_with_configs(read_header(tmp_path / "part.safetensors"), torch.float32, folder)


def test_a_misshapen_quantised_or_additional_tensor_is_named(tiny, tmp_path):
    folder, _, path = tiny["sd15"]
    tensors = load_file(path)
    changes = {
        r"unet conv_out\.weight is \(4, 16, 3, 3\), should be \(4, 32, 3, 3\)": {
            f"{UNET}out.2.weight": torch.zeros(4, 16, 3, 3)
        },
        r"unet conv_out\.weight is quantised to integers": {
            f"{UNET}out.2.weight": torch.zeros(4, 32, 3, 3, dtype=torch.int8)
        },
        r"unet has 1 tensors too many": {f"{UNET}input_blocks.1.1.motion": torch.zeros(1)},
    }
    for message, change in changes.items():
        save_file(tensors | change, tmp_path / "model.safetensors")
        with pytest.raises(WeightsError, match=message):
            load_with_configs(read_header(tmp_path / "model.safetensors"), torch.float32, folder)


# --- stand-alone VAE files


def old_names(name):
    """The names that diffusers gave at first, as in the files published then."""
    return rename(
        name,
        [
            (r"\.to_q\.", ".query."),
            (r"\.to_k\.", ".key."),
            (r"\.to_v\.", ".value."),
            (r"\.to_out\.0\.", ".proj_attn."),
        ],
    )


LAYOUTS = {
    "ldm": lambda vae: ldm_vae(vae, ""),
    "ldm-prefixed": ldm_vae,
    "ldm-with-loss": lambda vae: ldm_vae(vae, "") | {"loss.up.0.weight": torch.zeros(2)},
    "diffusers": lambda vae: vae.state_dict(),
    "diffusers-old": lambda vae: {old_names(n): t for n, t in vae.state_dict().items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_vae_file_of_either_layout_is_loaded_whole(tiny, no_network, tmp_path, layout):
    folder, models, _ = tiny["sdxl"]
    path = tmp_path / "vae.safetensors"
    save_file(LAYOUTS[layout](models["vae"]), path)
    vae = load_vae_with_configs(read_header(path), torch.float32, folder)
    assert_same_weights(vae, models["vae"])
    assert vae.config.scaling_factor == 0.13025
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(vae.decode(latents).sample, models["vae"].decode(latents).sample)


def test_the_vae_of_a_full_checkpoint_is_loaded_too(tiny):
    folder, models, path = tiny["sd15"]
    assert_same_weights(
        load_vae_with_configs(read_header(path), torch.float32, folder), models["vae"]
    )


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
def test_a_vae_with_a_missing_tensor_is_refused(tiny, tmp_path, layout):
    folder, models, _ = tiny["sd15"]
    tensors = dict(LAYOUTS[layout](models["vae"]))
    del tensors["decoder.conv_out.bias"]
    save_file(tensors, tmp_path / "vae.safetensors")
    with pytest.raises(WeightsError, match=r"lacks 1 of \d+ tensors of its vae"):
        load_vae_with_configs(read_header(tmp_path / "vae.safetensors"), torch.float32, folder)


def test_vaes_of_other_latents_and_other_files_are_refused(tiny, tmp_path):
    folder, models, _ = tiny["sd15"]
    path = tmp_path / "vae.safetensors"
    config = dict(models["vae"].config) | {"latent_channels": 16}
    save_file(ldm_vae(AutoencoderKL.from_config(config), ""), path)
    with pytest.raises(WeightsError, match="latents of 16 channels; this checkpoint's have 4"):
        load_vae_with_configs(read_header(path), torch.float32, folder)
    save_file({"decoder.layers.0.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(WeightsError, match="no VAE decoder and seems to be a tiny autoencoder"):
        load_vae_with_configs(read_header(path), torch.float32, folder)
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(WeightsError, match="no VAE decoder and seems to be a LoRA"):
        load_vae_with_configs(read_header(path), torch.float32, folder)


def test_the_scaling_factor_comes_from_the_family_that_the_caller_names(no_network, tmp_path):
    with init_empty_weights():
        empty = build(CONFIGS / "sd15", "vae")
    names = ldm_vae(empty, "")
    path = tmp_path / "vae.safetensors"
    save_file({n: torch.zeros(t.shape, dtype=torch.float16) for n, t in names.items()}, path)
    factors = {
        family: load_vae_file(path, torch.float16, family).config.scaling_factor
        for family in ("sd15", "sdxl")
    }
    assert factors == {"sd15": 0.18215, "sdxl": 0.13025}
    with pytest.raises(WeightsError, match="say 'sd15' or 'sdxl'"):
        load_vae_file(path, torch.float16)


def test_the_vae_of_another_familys_checkpoint_is_refused(full_headers, tmp_path):
    path = tmp_path / "model.safetensors"
    wanted = ("input_blocks.0.0.weight", "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
    shapes = full_headers["sd15"].shapes
    save_file({UNET + n: torch.zeros(shapes[UNET + n]) for n in wanted}, path)
    with pytest.raises(WeightsError, match="of family 'sd15', not 'sdxl'"):
        load_vae_file(path, torch.float16, "sdxl")


# --- at full size


@pytest.mark.full_size
def test_stable_diffusion_1_5_at_full_size_loads_offline_and_draws(no_network, tmp_path):
    """2 GB on disk, about 9 GB of memory."""
    torch.manual_seed(0)
    models = {}
    for component in components(CONFIGS / "sd15"):
        with init_empty_weights():
            model = build(CONFIGS / "sd15", component)
        model = model.half().to_empty(device="cpu")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                bound = (3 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.01
                weight.uniform_(-bound, bound)
                if weight.ndim == 1 and "norm" in name and name.endswith("weight"):
                    weight.add_(1)
        models[component] = model
    path = tmp_path / "model.safetensors"
    save_file(ldm(models, "sd15"), path)

    pipe = load_pipeline_file(path, torch.float16)
    assert sum(p.numel() for p in pipe.unet.parameters()) == 859_520_964
    for component, model in models.items():
        assert_same_weights(getattr(pipe, component), model, torch.float16)
    assert_same_weights(load_vae_file(path, torch.float16), models["vae"], torch.float16)
    del models, model
    gc.collect()

    drawn = image(pipe.to(torch.float32), pixels=64)
    assert drawn.shape == (64, 64, 3)
    assert np.isfinite(drawn).all()
    assert drawn.std() > 0
    path.unlink()


LOADS = """
import hashlib, sys
from pathlib import Path
import torch
from harness.models.loading import load_checkpoint
from harness.spec.sections import CheckpointSpec
def memory(kind):  # not getrusage: its peak is inherited from the parent that forked
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(kind))
before = memory("VmRSS")
path = Path(sys.argv[1])
made = load_checkpoint("m", CheckpointSpec(source=path.name), path.parent, "cpu", torch.float16)
after = memory("VmHWM")
for name, part in sorted(made.pipe.components.items()):
    if isinstance(part, torch.nn.Module):
        total = hashlib.sha256()
        for key, tensor in sorted(part.state_dict().items()):
            total.update(f"{key}{tensor.dtype}{tuple(tensor.shape)}".encode())
            total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        print(name, sum(p.numel() for p in part.parameters()), total.hexdigest())
print("kilobytes", after - before)
"""


@pytest.mark.full_size
@pytest.mark.parametrize(
    ("family", "unet"),
    [
        ("sd15", 859_520_964),
        pytest.param(
            "sdxl",
            2_567_463_684,
            marks=pytest.mark.skipif(
                os.environ.get("FULL_SIZE") != "sdxl",
                reason="14 GB on disk and 16 GB of memory: FULL_SIZE=sdxl",
            ),
        ),
    ],
)
def test_both_layouts_at_full_size_give_the_same_tensors_in_little_memory(family, unet, tmp_path):
    """Peak memory of loading, checking and digesting is at most 1.3 times the file."""
    torch.manual_seed(0)
    models = {}
    for component in components(CONFIGS / family):
        with init_empty_weights():
            model = build(CONFIGS / family, component)
        model = model.half().to_empty(device="cpu")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-0.05, 0.05)
        for tensor in model.buffers():
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape))
        models[component] = model
    path = tmp_path / "model.safetensors"
    save_file(ldm(models, family), path)
    index = json.loads((CONFIGS / family / "model_index.json").read_text())
    folder = tmp_path / "model"
    shutil.copytree(CONFIGS / family, folder)
    for component, model in models.items():
        model.save_pretrained(folder / component)
    for name in index:
        if name.startswith("tokenizer"):
            clip_tokenizer(CONFIGS / family / name).save_pretrained(folder / name)
    del models, model
    gc.collect()
    said = {}
    for source in (path, folder):
        lines = subprocess.run(
            [sys.executable, "-c", LOADS, str(source)],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        ).stdout.splitlines()
        said[source] = lines[:-1]
        times = int(lines[-1].split()[1]) * 1024 / path.stat().st_size
        print(f"{family} from {source.name}: {times:.2f} times the file in memory")
        if source == path:
            assert times <= 1.3
    assert said[path] == said[folder]
    assert any(line.startswith(f"unet {unet} ") for line in said[path])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"7z\xbc\xaf\x27\x1c\0\0", "a 7-Zip archive"),
        (b"Rar!\x1a\x07\0\0", "a RAR archive"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    ],
)
@pytest.mark.parametrize("name", ["x.safetensors", "x.gguf", "x.bin"])
def test_files_of_other_kinds_are_named_for_what_they_are(tmp_path, start, kind, name):
    (tmp_path / name).write_bytes(start + bytes(200))
    with pytest.raises(WeightsError, match=kind):
        read_header(tmp_path / name)


@pytest.mark.faults
def test_a_zip_is_a_zip_and_only_torchs_own_is_a_pickle(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("model.safetensors", b"x")
    with pytest.raises(WeightsError, match="a zip archive: unpack it"):
        read_header(tmp_path / "model.zip")
    torch.save({"a": torch.ones(1)}, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match="is a pickle"):
        read_header(tmp_path / "model.ckpt")
