"""Nothing from a model folder ever runs: real folders whose code would leave a canary behind."""

import json
import pickle
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import SPEC
from PIL import Image
from tiny_pipelines import sd1

import reference
from audit.commands.main import main
from harness.errors import AuditError
from harness.models.loading import load_checkpoint
from harness.models.open_clip_models import load_classifier
from harness.models.safetensors_header import WeightsError
from harness.models.vae_identity import load_vae_alone
from harness.spec.sections import CheckpointSpec

pytestmark = pytest.mark.faults


@pytest.fixture
def canary(tmp_path):
    """A path that exists as soon as any code of a folder has run."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def code(canary) -> str:
    """Python that a folder would have run: classes of every kind, and the canary on import."""
    return (
        f"open({str(canary)!r}, 'w').close()\n"
        "class Evil:\n"
        "    @classmethod\n"
        "    def from_pretrained(cls, *a, **k): return cls()\n"
        "    from_config = from_pretrained\n"
        "EvilTokenizer = EvilConfig = EvilPipeline = Evil\n"
    )


class Bomb:
    """A pickle of it makes the canary when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def change(path: Path, **values) -> None:
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(held | values))


# --- classifiers ---


@pytest.fixture
def classifier(tmp_path, code):
    folder = tmp_path / "classifier"
    shutil.copytree(reference.MODELS / "classifier" / "balanced", folder)
    for name in ("evil.py", "tokenization_evil.py", "configuration_evil.py"):
        (folder / name).write_text(code)
    return folder


def text_cfg(folder: Path, **changes) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"] |= changes
    path.write_text(json.dumps(config))


def trust(folder):
    text_cfg(folder, tokenizer_kwargs={"trust_remote_code": True})
    auto_map(folder)


def trust_without_a_map(folder):
    text_cfg(folder, tokenizer_kwargs={"trust_remote_code": True})


def auto_map(folder):
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.EvilTokenizer"] * 2})


def auto_map_of_a_config(folder):
    change(
        folder / "config.json",
        model_type="evil",
        auto_map={"AutoConfig": "evil.EvilConfig", "AutoTokenizer": ["evil.EvilTokenizer", None]},
    )


def auto_map_of_a_processor(folder):
    change(folder / "processor_config.json", auto_map={"AutoProcessor": "evil.Evil"})


def config_of_another_folder(folder):
    text_cfg(folder, tokenizer_kwargs={"config": str(folder), "tokenizer_type": "evil"})


def code_of_a_revision(folder):
    text_cfg(folder, tokenizer_kwargs={"code_revision": "main"})


def settings_that_are_no_mapping(folder):
    text_cfg(folder, tokenizer_kwargs=["trust_remote_code"])


def tower_elsewhere(folder):
    text_cfg(folder, hf_model_name=str(folder.parent / "elsewhere"))


def tower_of_the_hub(folder):
    text_cfg(folder, hf_model_name="somebody/evil")


def timm_of_the_hub(folder):
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "hf-hub:somebody/evil"
    path.write_text(json.dumps(config))


def vocabulary_elsewhere(folder):
    (folder.parent / "secret.json").write_text("{}")
    change(folder / "tokenizer_config.json", vocab_file="../secret.json")


BAD = [
    (trust, "trust_remote_code"),
    (trust_without_a_map, "trust_remote_code"),
    (auto_map, "auto_map"),
    (auto_map_of_a_config, "auto_map"),
    (auto_map_of_a_processor, "auto_map"),
    (config_of_another_folder, "tokenizer_kwargs.tokenizer_type|tokenizer_kwargs.config"),
    (code_of_a_revision, "code_revision"),
    (settings_that_are_no_mapping, "no mapping"),
    (tower_elsewhere, "no name in a folder is looked up"),
    (tower_of_the_hub, "no name in a folder is looked up"),
    (timm_of_the_hub, "no architecture of timm"),
    (vocabulary_elsewhere, "outside the folder"),
]


@pytest.mark.parametrize(("make", "words"), BAD, ids=lambda x: getattr(x, "__name__", ""))
def test_a_classifier_that_asks_for_code_is_refused(classifier, make, words):
    make(classifier)
    with pytest.raises(WeightsError, match=words) as caught:
        load_classifier("c", f"local-dir:{classifier}", None)
    assert str(caught.value).startswith("classifiers.c: 'local-dir:")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"tokenizer_class": "evil.EvilTokenizer"},
        {"tokenizer_class": "EvilTokenizer"},
        {"processor_class": "evil.Evil"},
        {"custom_code": "evil.py", "tokenizer_type": "evil"},
    ],
)
def test_a_class_that_is_named_is_not_imported(classifier, values):
    change(classifier / "tokenizer_config.json", **values)
    with suppress(WeightsError):  # whether the library then takes its own or none
        load_classifier("c", f"local-dir:{classifier}", None)
    assert "evil" not in sys.modules


def test_audit_score_and_a_spec_refuse_it_in_one_line(tmp_path, classifier, canary):
    trust(classifier)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (64, 64)).save(images / "a.png")
    spec = tmp_path / "audit.yaml"
    spec.write_text(yaml.safe_dump(SPEC | {"classifiers": {"c": f"local-dir:{classifier}"}}))
    for command in (
        ["score", images, "--out", tmp_path / "r1", "--classifier", f"local-dir:{classifier}"],
        ["run", spec, "--out", tmp_path / "r2"],
    ):
        # 'y': what transformers would ask for on the terminal
        result = CliRunner().invoke(main, [str(c) for c in command], input="y\ny\n")
        assert result.exit_code == 2, result.output
        assert "trust_remote_code" in result.stderr
        (line,) = [one for one in result.stderr.splitlines() if one.startswith("error: ")]
        assert result.stderr.rstrip().endswith(line)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.pth", "x.pt", "x.ckpt"])
def test_a_pickled_classifier_is_refused(classifier, canary, name):
    weights = next(classifier.glob("*.safetensors"))
    (classifier / name).write_bytes(pickle.dumps(Bomb(canary)))
    # Beside safetensors it is never chosen, though open_clip would prefer some of these names.
    assert load_classifier("c", f"local-dir:{classifier}", None).model is not None
    weights.unlink()
    with pytest.raises(WeightsError, match="audit convert"):
        load_classifier("c", f"local-dir:{classifier}", None)
    with pytest.raises(WeightsError, match=r"audit convert|is a pickle"):
        load_classifier("c", "ViT-B-32", str(classifier / name))


def test_a_pickle_that_plain_tensors_alone_fill_is_refused_too(tmp_path, canary):
    torch.save({"a": torch.zeros(1)}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(WeightsError, match="is a pickle"):
        load_classifier("c", "ViT-B-32", str(tmp_path / "open_clip_pytorch_model.bin"))


def test_a_hub_classifier_goes_the_same_way(tmp_path, monkeypatch, classifier, canary):
    """The hub's cache holds it, so that no network is needed."""
    from huggingface_hub import constants

    trust(classifier)
    commit = "a" * 40
    repo = tmp_path / "hub" / "models--somebody--evil"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    shutil.copytree(classifier, repo / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"hf-hub:somebody/evil.*trust_remote_code"):
        load_classifier("c", "hf-hub:somebody/evil", None)


def test_the_reference_classifier_still_loads():
    found = load_classifier("c", "reference:balanced", None)
    assert found.tokenizer(["a nurse"]).shape == (1, 32)


# --- pipelines, their components, VAEs ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "whole"
    sd1().save_pretrained(folder)
    return folder


@pytest.fixture
def pipeline(tmp_path, whole, code):
    folder = tmp_path / "pipeline"
    shutil.copytree(whole, folder, copy_function=lambda a, b: Path(b).symlink_to(a))
    for path in folder.rglob("*.json"):  # only these are changed
        held = path.read_bytes()
        path.unlink()
        path.write_bytes(held)
    for place in (folder, *(p for p in folder.iterdir() if p.is_dir())):
        for name in ("pipeline.py", "evil.py", "model.py"):
            (place / name).write_text(code)
    sys.modules.pop("evil", None)
    return folder


def load(folder: Path):
    return load_checkpoint("a", CheckpointSpec(source=str(folder)), Path(), "cpu", torch.float32)


INDEX = "model_index.json"
ASKS = [
    (INDEX, {"_class_name": ["pipeline", "EvilPipeline"]}, "_class_name"),
    (INDEX, {"_class_name": ["evil", "EvilPipeline"]}, "_class_name"),
    (INDEX, {"_class_name": "EvilPipeline"}, "does not have"),
    (INDEX, {"custom_pipeline": "pipeline"}, "custom_pipeline"),
    (INDEX, {"unet": ["evil", "Evil"]}, "no others are imported"),
    (INDEX, {"unet": ["subprocess", "Popen"]}, "no others are imported"),
    (INDEX, {"unet": ["audit.commands.main", "main"]}, "no others are imported"),
    (INDEX, {"../evil": ["diffusers", "AutoModel"]}, "no others are imported"),
    (INDEX, {"unet": "evil"}, "cannot be loaded"),
    ("unet/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"),
    ("unet/config.json", {"quantization_config": {"quant_method": "gguf"}}, "code of its own"),
    ("text_encoder/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"),
    ("text_encoder/config.json", {"_attn_implementation": "somebody/evil"}, "asks for code of"),
    ("text_encoder/adapter_config.json", {"base_model_name_or_path": "/x"}, "adapter"),
    ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil"]}}, "auto_map"),
    ("tokenizer/tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "outside the folder"),
    ("scheduler/scheduler_config.json", {"trust_remote_code": True}, "trust_remote_code"),
    ("vae/config.json", {"auto_map": {"AutoModel": "evil.Evil"}}, "auto_map"),
    (
        "unet/diffusion_pytorch_model.safetensors.index.json",
        {"weight_map": {"a": "../../evil.bin"}},
        "beside it",
    ),
]


@pytest.mark.parametrize(("file", "values", "words"), ASKS)
def test_a_pipeline_that_asks_for_code_is_refused(pipeline, canary, file, values, words):
    change(pipeline / file, **values)
    with pytest.raises(AuditError, match=words) as caught:
        load(pipeline)
    assert "\n" not in str(caught.value)


def test_python_beside_it_is_left_alone(pipeline, code, canary):
    assert load(pipeline).pipe.unet is not None
    # diffusers looks for code under the name of the pipeline that nobody asked for.
    (pipeline / "None.py").write_text(code)
    with pytest.raises(WeightsError, match=r"None\.py"):
        load(pipeline)


@pytest.mark.parametrize(
    ("key", "kind"), [("text_encoder", "text_encoder"), ("denoiser", "unet"), ("vae", "vae")]
)
def test_a_component_from_another_folder_is_checked_too(whole, pipeline, canary, key, kind):
    change(pipeline / kind / "config.json", auto_map={"AutoModel": "evil.Evil"})
    spec = CheckpointSpec(source=str(whole), **{key: str(pipeline)})
    with pytest.raises(WeightsError, match="auto_map"):
        load_checkpoint("a", spec, Path(), "cpu", torch.float32)


def test_a_vae_folder_is_checked_too(pipeline, canary):
    change(pipeline / "vae" / "config.json", auto_map={"AutoModel": "evil.Evil"})
    for source in (pipeline, pipeline / "vae"):
        with pytest.raises(WeightsError, match="auto_map"):
            load_vae_alone("v", str(source), Path())


@pytest.mark.parametrize("kind", ["unet", "text_encoder", "vae"])
def test_pickled_components_are_refused(pipeline, canary, kind):
    for path in (pipeline / kind).glob("*.safetensors"):
        path.unlink()
    stem = "pytorch_model" if kind == "text_encoder" else "diffusion_pytorch_model"
    (pipeline / kind / f"{stem}.bin").write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(WeightsError, match="is a pickle"):
        load(pipeline)
