"""LoRA files as peft saves them: the same change of the image as under diffusers' names."""

import json
import re
import warnings

import pytest
import torch
from conftest import write_spec
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from audit.pipeline.plan import plan_audit
from audit.pipeline.session import open_audit
from harness.generate.sampling import Extras, Generator
from harness.models.loading import load_checkpoint
from harness.models.lora import Lora, digest_of_lora
from harness.models.safetensors_header import WeightsError
from harness.spec.sections import CheckpointSpec

pytestmark = pytest.mark.faults
TARGETS = {"unet": ["to_q", "to_k"], "text_encoder": ["q_proj", "v_proj"]}


def pipeline():
    spec = CheckpointSpec(source="reference:balanced")
    return load_checkpoint("balanced", spec, None, "cpu", torch.float32).pipe


def saved(folder, component, **settings):
    """A random LoRA of one component, written by peft itself; and the model with it merged in."""
    torch.manual_seed(0)
    model = getattr(pipeline(), component)
    config = LoraConfig(
        **{"r": 2, "lora_alpha": 6, "target_modules": TARGETS[component]} | settings
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.copy_(0.3 * torch.randn_like(weight))
    wrapped.save_pretrained(folder)
    return folder / "adapter_model.safetensors", wrapped.merge_and_unload()


def first_output(pipe, component):
    torch.manual_seed(1)
    if component == "text_encoder":
        ids = pipe.tokenizer("a cook", padding="max_length", max_length=16, return_tensors="pt")
        return pipe.text_encoder(ids.input_ids)[0]
    width = pipe.unet.config.cross_attention_dim
    size = pipe.unet.config.sample_size
    noise = torch.randn(1, pipe.unet.config.in_channels, size, size)
    return pipe.unet(noise, 10, torch.randn(1, 16, width))[0]


@pytest.mark.parametrize(
    ("component", "settings"),
    [
        ("unet", {}),
        ("unet", {"use_rslora": True}),
        ("unet", {"alpha_pattern": {"attn2.to_k": 1}}),
        ("text_encoder", {}),
    ],
)
@torch.no_grad()
def test_the_effect_is_what_peft_itself_merges(tmp_path, component, settings):
    path, merged = saved(tmp_path, component, **settings)
    assert all(n.startswith("base_model.model.") for n in load_file(path))
    generator = Generator(pipeline(), 2, Extras({"x": [Lora(path, 1, 1)]}))
    before = first_output(generator.pipe, component)
    generator.adapt("x")
    got = first_output(generator.pipe, component)
    pipe = pipeline()
    setattr(pipe, component, merged)
    want = first_output(pipe, component)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    assert (got - before).abs().max() > 1e-2 * want.abs().max()


def test_the_strength_beside_the_file_is_needed_and_part_of_its_identity(tmp_path):
    path, _ = saved(tmp_path, "unet")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    first = digest_of_lora(path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 1}))
    assert digest_of_lora(path) != first
    for change, message in (
        ({"modules_to_save": ["conv_in"]}, "whole modules"),
        ({"peft_type": "OFT"}, "peft_type 'OFT'; read are LORA, LOHA"),
        ({"lora_alpha": "many"}, "should be numbers"),
        ({"alpha_pattern": "many"}, "alpha_pattern is no mapping"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(WeightsError, match=message):
            digest_of_lora(path)
    (tmp_path / "adapter_config.json").write_text("[[")
    with pytest.raises(WeightsError, match="cannot be read"):
        digest_of_lora(path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(WeightsError, match=r"strength lies in adapter_config\.json"):
        digest_of_lora(path)


@pytest.mark.parametrize("shape", [(2,), (0, 8)])
def test_matrices_without_a_rank_are_refused(tmp_path, shape):
    path, _ = saved(tmp_path, "unet")
    odd = {n: torch.zeros(shape) if "lora_B" in n else t for n, t in load_file(path).items()}
    save_file(odd, path)
    with pytest.raises(WeightsError, match="has no rank"):
        Generator(pipeline(), 2, Extras({"x": [Lora(path, 1, 1)]})).adapt("x")


def test_a_spec_plans_with_one(tmp_path):
    path, _ = saved(tmp_path, "unet")
    spec = write_spec(
        tmp_path,
        vaes={"own": "own"},
        adapters={"none": {}, "x": {"loras": {path.name: 0.5}}},
    )
    plan, _ = plan_audit(open_audit(spec, tmp_path / "run"), lambda _: None)
    assert set(plan["adapters"]) == {"none", "x"}


def test_layers_of_no_component_are_refused(tmp_path):
    path, _ = saved(tmp_path, "unet")
    odd = {re.sub("(down|up|mid)_block", "part", n): t for n, t in load_file(path).items()}
    save_file(odd, path)
    with pytest.raises(WeightsError, match="for no component"):
        Generator(pipeline(), 2, Extras({"x": [Lora(path, 1, 1)]})).adapt("x")
