"""Tiny checkpoints of the U-Net families as one file with LDM names, and what they are made of."""

import json
import re
import shutil

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from harness.models.single_file import CONFIGS

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP_L = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
SD2_TEXT = "cond_stage_model.model."
CLIP_G = "conditioner.embedders.1.model."

TINY_UNET = {
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "sample_size": 4,
}
TINY_VAE = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 8,
}
TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 32,
}
TINY = {
    "sd15": {
        "unet": TINY_UNET
        | {
            "cross_attention_dim": 32,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        },
        "vae": TINY_VAE,
        "text_encoder": TINY_TEXT,
    },
    "sdxl": {
        "unet": TINY_UNET
        | {
            "attention_head_dim": [4, 8],
            "transformer_layers_per_block": [1, 2],
            "cross_attention_dim": 32 + 24,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 24,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        },
        "vae": TINY_VAE,
        "text_encoder": TINY_TEXT,
        # Another width than the first encoder's: diffusers tells the two apart by it.
        "text_encoder_2": TINY_TEXT | {"hidden_size": 24, "projection_dim": 24},
    },
}
TINY = {"sd15": TINY["sd15"], "sd2": TINY["sd15"], "sdxl": TINY["sdxl"]}


def build(folder, component):
    """A component with the weights its class starts from."""
    config = json.loads((folder / component / "config.json").read_text())
    if component == "unet":
        return UNet2DConditionModel.from_config(config)
    if component == "vae":
        return AutoencoderKL.from_config(config)
    classes = {c.__name__: c for c in (CLIPTextModel, CLIPTextModelWithProjection)}
    return classes[config["architectures"][0]](CLIPTextConfig(**config)).eval()


def components(folder):
    index = json.loads((folder / "model_index.json").read_text())
    return [c for c in ("unet", "vae", "text_encoder", "text_encoder_2") if c in index]


def rename(name, rules):
    for old, new in rules:
        name = re.sub(old, new, name)
    return name


def ldm_unet(unet):
    """A U-Net's tensors under the names of the original LDM code."""
    per_block = unet.config.layers_per_block + 1
    attends = ["Cross" in kind for kind in unet.config.up_block_types]
    out = {}
    for name, tensor in unet.state_dict().items():
        if ".resnets." in name:
            name = rename(
                name,
                [
                    (r"\.norm1\.", ".in_layers.0."),
                    (r"\.conv1\.", ".in_layers.2."),
                    (r"\.norm2\.", ".out_layers.0."),
                    (r"\.conv2\.", ".out_layers.3."),
                    (r"\.time_emb_proj\.", ".emb_layers.1."),
                    (r"\.conv_shortcut\.", ".skip_connection."),
                ],
            )
        if found := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
            way, i, kind, j, rest = found.groups()
            block = int(i) * per_block + int(j) + (way == "down")
            slot = {"resnets": 0, "attentions": 1}.get(kind)
            if kind == "downsamplers":
                block, slot, rest = (int(i) + 1) * per_block, 0, rest.replace("conv", "op")
            elif kind == "upsamplers":
                block, slot = (int(i) + 1) * per_block - 1, 1 + attends[int(i)]
            name = f"{'input' if way == 'down' else 'output'}_blocks.{block}.{slot}.{rest}"
        name = rename(
            name,
            [
                (r"^mid_block\.resnets\.0", "middle_block.0"),
                (r"^mid_block\.attentions\.0", "middle_block.1"),
                (r"^mid_block\.resnets\.1", "middle_block.2"),
                (r"^time_embedding\.linear_1", "time_embed.0"),
                (r"^time_embedding\.linear_2", "time_embed.2"),
                (r"^add_embedding\.linear_1", "label_emb.0.0"),
                (r"^add_embedding\.linear_2", "label_emb.0.2"),
                (r"^conv_in", "input_blocks.0.0"),
                (r"^conv_norm_out", "out.0"),
                (r"^conv_out", "out.2"),
            ],
        )
        out[UNET + name] = tensor
    return out


def ldm_vae(vae, prefix=VAE):
    last = len(vae.config.block_out_channels) - 1
    out = {}
    for name, tensor in vae.state_dict().items():
        if ".attentions." in name and name.endswith("weight") and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        name = re.sub(r"\.up_blocks\.(\d+)", lambda m: f".up.{last - int(m[1])}", name)
        out[prefix + rename(
            name,
            [
                (r"\.down_blocks\.", ".down."),
                (r"\.mid_block\.resnets\.0", ".mid.block_1"),
                (r"\.mid_block\.resnets\.1", ".mid.block_2"),
                (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
                (r"\.resnets\.", ".block."),
                (r"\.(down|up)samplers\.0", r".\1sample"),
                (r"\.group_norm\.", ".norm."),
                (r"\.to_(q|k|v)\.", r".\1."),
                (r"\.to_out\.0\.", ".proj_out."),
                (r"\.conv_shortcut\.", ".nin_shortcut."),
                (r"\.conv_norm_out\.", ".norm_out."),
            ],
        )] = tensor  # fmt: skip
    return out


def ldm_text(model, prefix):
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in model.state_dict().items()
    }


def open_clip_text(model, prefix=CLIP_G):
    named = model.state_dict().items()
    whole = any(n.startswith("text_model.") for n, _ in named)
    old = {n if whole else f"text_model.{n}": t for n, t in named}
    out = {}
    for name, tensor in old.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            parts = [old[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            name = name.replace("q_proj.", "in_proj_")
            tensor = torch.cat(parts)
        if name == "text_projection.weight":
            name, tensor = "text_projection", tensor.T.contiguous()
        out[prefix + rename(
            name,
            [
                (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
                (r"\.self_attn\.", ".attn."),
                (r"\.layer_norm(\d)\.", r".ln_\1."),
                (r"\.fc1\.", ".c_fc."),
                (r"\.fc2\.", ".c_proj."),
                (r"^text_model\.final_layer_norm\.", "ln_final."),
                (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
                (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
            ],
        )] = tensor  # fmt: skip
    return out


def ldm(models, family):
    """A whole checkpoint under LDM names."""
    out = ldm_unet(models["unet"]) | ldm_vae(models["vae"])
    if family == "sd2":
        return out | open_clip_text(models["text_encoder"], SD2_TEXT)
    out |= ldm_text(models["text_encoder"], CLIP_L[family])
    if "text_encoder_2" in models:
        out |= open_clip_text(models["text_encoder_2"])
    return out


def tiny_files(root):
    """By family: a configuration folder, models with random weights, and their LDM file."""
    made = {}
    for family, changes in TINY.items():
        folder = root / family / "configs"
        shutil.copytree(CONFIGS / family, folder)
        for component, change in changes.items():
            path = folder / component / "config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | change))
        torch.manual_seed(0)
        models = {component: build(folder, component) for component in components(folder)}
        with torch.no_grad():  # Biases start as zeros: random ones show a mix-up.
            for model in models.values():
                for parameter in model.parameters():
                    parameter.add_(0.02 * torch.randn_like(parameter))
        save_file(ldm(models, family), root / family / "model.safetensors")
        made[family] = folder, models, root / family / "model.safetensors"
    return made


def assert_same_weights(got, want, dtype=torch.float32):
    got, want = got.state_dict(), want.state_dict()
    assert got.keys() == want.keys()
    for name in want:
        assert got[name].dtype == dtype, name
        assert torch.equal(got[name], want[name].to(dtype)), name
