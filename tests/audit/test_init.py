"""`audit init`: weights recognised by their tensors, A1111's words read, a spec that loads."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from audit.commands.main import main
from audit.pipeline.new_spec import Settings, settings_of, specs
from audit.pipeline.session import open_audit
from harness.errors import AuditError
from harness.models.recognise import recognise
from harness.spec.schema import load_spec, parse_spec

UNET = "model.diffusion_model."
TO_K = "1.transformer_blocks.0.attn2.to_k.weight"


def write(path, **shapes):
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_file(tensors, path)
    return path


def sd15(path):
    shapes = {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3)}
    return write(path, **shapes, **{f"{UNET}input_blocks.1.{TO_K}": (320, 768)})


def sdxl(path):
    shapes = {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3)}
    return write(path, **shapes, **{f"{UNET}input_blocks.4.{TO_K}": (640, 2048)})


def flux(path):
    shapes = {"double_blocks.0.img_attn.qkv.weight": (1, 3072), "img_in.weight": (1, 64)}
    return write(path, **shapes, **{"guidance_in.in_layer.weight": (1, 1)})


def vae(path, channels=4):
    return write(path, **{"decoder.conv_in.weight": (8, channels, 3, 3)})


def lora(path, width):
    base = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    shapes = {f"{base}.lora_down.weight": (4, width), f"{base}.lora_up.weight": (320, 4)}
    return write(path, **shapes)


def flux_lora(path):
    base = "transformer.single_transformer_blocks.0.attn.to_k"
    return write(path, **{f"{base}.lora_A.weight": (4, 8), f"{base}.lora_B.weight": (8, 4)})


@pytest.fixture
def folder(tmp_path):
    """Three layouts, two VAEs, three LoRAs, an embedding, and a file of no use."""
    sd15(tmp_path / "models/realistic v5.safetensors")
    sdxl(tmp_path / "models/xl/base.safetensors")
    flux(tmp_path / "models/flux1-dev.safetensors")
    vae(tmp_path / "models/vae/mse.safetensors")
    vae(tmp_path / "models/vae/ae.safetensors", 16)
    lora(tmp_path / "models/lora/style.safetensors", 768)
    lora(tmp_path / "models/lora/xlstyle.safetensors", 2048)
    flux_lora(tmp_path / "models/lora/fluxstyle.safetensors")
    write(tmp_path / "models/emb/easyneg.safetensors", emb_params=(2, 768))
    write(tmp_path / "models/other.safetensors", **{"control_model.x": (1,)})
    return tmp_path


def test_each_layout_is_recognised(folder):
    found = {p.stem: recognise(p) for p in (folder / "models").rglob("*.safetensors")}
    assert found["realistic v5"][1:3] == ("checkpoint", ("sd15",))
    assert found["base"][1:3] == ("checkpoint", ("sdxl",))
    assert found["flux1-dev"][1:3] == ("checkpoint", ("flux",))
    assert found["mse"][1:3] == ("VAE", ("sd15", "sd2", "sdxl"))
    assert found["ae"][1:3] == ("VAE", ("sd3", "flux"))
    assert found["style"][1:3] == ("LoRA", ("sd15",))
    assert found["xlstyle"][1:3] == ("LoRA", ("sdxl",))
    assert found["fluxstyle"][1:3] == ("LoRA", ("flux",))
    assert found["easyneg"].kind == "embedding"
    assert found["other"].kind == ""
    assert "ControlNet" in found["other"].note


def test_a_folder_of_several_families_gives_a_spec_each_that_loads(folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, ["init", "models"])
    assert result.exit_code == 0, result.output
    names = [f"audit-{f}.yaml" for f in ("flux", "sd15", "sdxl")]
    assert sorted(p.name for p in folder.glob("*.yaml")) == names
    held = {name: load_spec(folder / name) for name in names}
    assert {n: c.source for n, c in held["audit-sd15.yaml"].checkpoints.items()} == {
        "realistic-v5": "models/realistic v5.safetensors"
    }
    assert list(held["audit-sd15.yaml"].vaes) == ["own", "mse"]
    assert list(held["audit-sd15.yaml"].adapters) == ["none", "style"]
    assert list(held["audit-flux.yaml"].vaes) == ["own", "ae"]
    assert list(held["audit-sdxl.yaml"].adapters) == ["none", "xlstyle"]
    text = (folder / "audit-sd15.yaml").read_text()
    assert "mse may be of Stable Diffusion 1.x or SDXL" in text
    assert "# not used: other.safetensors" in text
    open_audit(folder / "audit-sd15.yaml", folder / "run")  # prompts and options are resolved
    again = CliRunner().invoke(main, ["init", "models"])
    assert again.exit_code == 2
    assert "is there already; name another with --out, or add --force" in again.stderr
    assert CliRunner().invoke(main, ["init", "models", "--force"]).exit_code == 0


def test_a_real_checkpoint_s_spec_is_planned(tmp_path):
    """A tiny diffusers folder and a VAE of its own."""
    from diffusers import AutoencoderKL

    import reference
    from harness.models.loading import load_checkpoint
    from harness.spec.sections import CheckpointSpec

    spec = CheckpointSpec(source="reference:balanced")
    import torch

    pipe = load_checkpoint("x", spec, tmp_path, "cpu", torch.float32).pipe
    pipe.save_pretrained(tmp_path / "models/mine")
    path = reference.component("vae", "pale")
    AutoencoderKL.from_pretrained(path).save_pretrained(tmp_path / "models/light")
    (made,) = specs([tmp_path / "models"], Settings(), tmp_path / "audit.yaml").items()
    text = made[1].replace(
        "clip: {model: ViT-B-32, pretrained: laion2b_s34b_b79k}", "c: reference:balanced"
    )
    made[0].write_text(text)
    result = CliRunner().invoke(main, ["plan", str(made[0])])
    assert result.exit_code == 0, result.output
    assert "images from" in result.output


A1111 = """a photo of a (nurse:1.2), film grain
Negative prompt: blurry, "bad: hands"
Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 42, \
Size: 768x512, Model: dream_v8, Clip skip: 2"""


def test_pasted_parameters_become_a_spec(tmp_path):
    sd15(tmp_path / "dream_v8.safetensors")
    ((path, text),) = specs([tmp_path], settings_of(A1111), tmp_path / "a.yaml").items()
    path.write_text(text)
    spec = load_spec(path)
    assert spec.prompts.list == ("a photo of a (nurse:1.2), film grain",)
    assert spec.negatives == {"listed": 'blurry, "bad: hands"', "none": ""}
    assert (list(spec.samplers), spec.steps, spec.guidance) == (["dpm++ 2m karras"], [28], [6.5])
    assert spec.sizes == [(768, 512)]
    assert spec.prompt_syntax == "a1111"
    assert spec.clip_skip == 2
    assert "# Seed: 42:" in text


def test_a_text_without_weights_names_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["init", "--parameters", "-"], input=A1111)
    assert result.exit_code == 0, result.output
    assert "dream-v8: PATH-OR-HUB-ID" in (tmp_path / "audit.yaml").read_text()


def test_a_text_that_is_not_there_is_one_line(tmp_path):
    result = CliRunner().invoke(main, ["init", "--parameters", str(tmp_path / "no.txt")])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "no.txt" in line
    assert "name a text file, or - to paste it" in line


@pytest.mark.parametrize("name", ["a: b", "yes", "x {y}", "naïve", "#1", "it's", 'say "hi"', "- a"])
def test_any_name_is_a_name(tmp_path, name):
    sd15(tmp_path / f"{name}.safetensors")
    ((path, text),) = specs([tmp_path], Settings(), tmp_path / "audit.yaml").items()
    path.write_text(text)
    (one,) = load_spec(path).checkpoints.values()
    assert one.source == f"{name}.safetensors"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no checkpoint found (no weights at all); name one"),
        (lambda p: vae(p / "x.safetensors"), "no checkpoint found (x.safetensors: VAE)"),
        (lambda p: (p / "x.safetensors").write_bytes(b"<html>"), "is a web page"),
    ],
)
def test_nothing_to_audit_is_one_line(tmp_path, monkeypatch, make, message):
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["init"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert message in line


def test_words_of_other_tools_are_read():
    raw = {
        "checkpoints": {"a": "reference:balanced"},
        "prompts": {"list": ["a cat"]},
        "cfg_scale": 7,
        "sampler_name": "DPM++ 2M Karras",
        "width": 512,
        "height": 768,
        "negative_prompt": "blurry",
    }
    from pathlib import Path

    spec = parse_spec(raw, Path("a.yaml"))
    assert (spec.guidance, list(spec.samplers), spec.sizes) == (
        [7],
        ["dpm++ 2m karras"],
        [(512, 768)],
    )
    assert spec.negatives == {"listed": "blurry"}
    assert len(spec.notices) == 4
    with pytest.raises(AuditError, match="no A1111 parameters"):
        settings_of(json.dumps(raw))
