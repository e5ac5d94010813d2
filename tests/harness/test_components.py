"""diffusers folders: variants of the weights, tensors left over and missing."""

import shutil

import pytest
import tiny_pipelines
import torch
from safetensors.torch import load_file, save_file

from harness.models.components import load_component, load_folder, only_variant
from harness.models.loading import load_checkpoint
from harness.models.safetensors_header import WeightsError
from harness.spec.sections import CheckpointSpec

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    pipe = tiny_pipelines.sd1()
    pipe.save_pretrained(root / "plain")
    pipe.save_pretrained(root / "fp16", variant="fp16")
    return root, pipe


def weights_of(folder):
    return next(folder.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["plain", "fp16"])
def test_a_folder_that_holds_only_a_variant_loads(folders, name):
    root, pipe = folders
    loaded = load_checkpoint("a", CheckpointSpec(source=name), root, "cpu", torch.float32).pipe
    for component in ("unet", "vae", "text_encoder"):
        want, got = getattr(pipe, component).state_dict(), getattr(loaded, component).state_dict()
        assert want.keys() == got.keys()
        assert all(torch.equal(want[n], got[n]) for n in want)


def test_variants_are_chosen_by_component(folders, tmp_path):
    root, _ = folders
    shutil.copytree(root / "plain", tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed" / "unet")
    shutil.copytree(root / "fp16" / "unet", tmp_path / "mixed" / "unet")
    load_folder(tmp_path / "mixed", torch.float32)


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (["model.safetensors", "model.fp16.safetensors"], None),
        (["model.fp16.safetensors"], "fp16"),
        (["model.bf16.safetensors", "model.fp16.safetensors"], "fp16"),
        (["diffusion_pytorch_model.ema-only.safetensors"], "ema-only"),
        (
            ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"],
            "fp16",
        ),
        (["model-00001-of-00002.safetensors"], None),
        (["config.json"], None),
    ],
)
def test_the_only_variant_is_told_from_the_names(names, variant):
    assert only_variant(names) == variant


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_tensors_left_over_or_missing_are_refused(folders, tmp_path, component):
    root, pipe = folders
    shutil.copytree(root / "plain", tmp_path / "run")
    file = weights_of(tmp_path / "run" / component)
    tensors = load_file(file)
    more = tensors | {"layers.0.scale_weight": torch.ones(1)}
    save_file(more, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"{component} has 1 tensors too many"):
        load_folder(tmp_path / "run", torch.float32)
    first = next(n for n in tensors if n.endswith("weight"))
    save_file({n: t for n, t in tensors.items() if n != first}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"lacks 1 tensors of its {component}"):
        load_component(tmp_path / "run" / component, type(getattr(pipe, component)), torch.float32)


@pytest.mark.parametrize("name", sorted(tiny_pipelines.PIPELINES))
def test_every_family_loads_as_diffusers_loads_it(name, tmp_path):
    pipe = tiny_pipelines.PIPELINES[name]()
    pipe.save_pretrained(tmp_path / "p")
    loaded, plain = (
        load_folder(tmp_path / "p", torch.float32),
        type(pipe).from_pretrained(
            tmp_path / "p",
            local_files_only=True,
            **({"safety_checker": None} if hasattr(pipe, "safety_checker") else {}),
        ),
    )
    for kind, part in plain.components.items():
        if isinstance(part, torch.nn.Module):
            want, got = part.state_dict(), loaded.components[kind].state_dict()
            assert all(torch.equal(want[n], got[n]) for n in want), kind
