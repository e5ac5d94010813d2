import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make
from safetensors.torch import save_file
from tiny_pipelines import PIPELINES, SIDE, build, sd3

from audit.pipeline import analyse
from audit.pipeline.text_scores import text_units
from harness.errors import SpecError
from harness.generate.sampling import Extras, Generator
from harness.models.families import families, family
from harness.models.families.other import Other
from harness.models.loading import load_checkpoint, load_vae
from harness.models.lora import Lora
from harness.models.safetensors_header import WeightsError
from harness.models.schedulers import sampler
from harness.spec.sections import CheckpointSpec

GUIDANCE = {"turbo": 0.0, "schnell": 0.0, "lcm": 8.0}
TEXTS = ["a portrait of a doctor", "two cats"]
NEGATIVE = "blurry"

# numpy 2.4 on how Euler schedulers make an array of a tensor.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def pipes():
    return {name: build(name) for name in PIPELINES}


def rows(name, **changes) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": TEXTS,
            "negative_text": NEGATIVE,
            "noise": [7, 8],
            "sampler": "own",
            "steps": 2,
            "guidance": GUIDANCE.get(name, 3.0),
            "width": SIDE,
            "height": SIDE,
        }
        | changes
    )


def drawn(pipe, wanted) -> np.ndarray:
    generator = Generator(pipe, len(wanted))
    kept = generator.family.pixels if isinstance(generator.family, Other) else pipe.vae
    return generator.decode(kept, generator.denoise(wanted))


@pytest.mark.parametrize("name", PIPELINES)
def test_images_are_those_of_the_plain_pipeline(pipes, name):
    pipe, wanted = pipes[name], rows(name)
    ours = drawn(pipe, wanted)
    assert ours.shape == (2, SIDE, SIDE, 3)
    assert ours.std() > 0.01
    takes_negative = name not in ("flux", "schnell", "lcm")
    plain = pipe(
        prompt=TEXTS,
        **({"negative_prompt": [NEGATIVE] * 2} if takes_negative else {}),
        **({"max_sequence_length": 256} if name == "schnell" else {}),
        generator=[torch.Generator().manual_seed(n) for n in wanted["noise"]],
        num_inference_steps=2,
        guidance_scale=GUIDANCE.get(name, 3.0),
        width=SIDE,
        height=SIDE,
        output_type="np",
    ).images
    np.testing.assert_allclose(ours, plain, atol=2e-3)
    assert np.abs(drawn(pipe, rows(name, noise=[9, 10])) - plain).max() > 0.05


@pytest.mark.parametrize("name", PIPELINES)
def test_a_negative_counts_exactly_where_the_family_says_so(pipes, name):
    pipe = pipes[name]
    same = np.array_equal(drawn(pipe, rows(name)), drawn(pipe, rows(name, negative_text="cats")))
    assert same == (not family(pipe).reads_negative(GUIDANCE.get(name, 3.0)))
    assert same == (name in ("turbo", "lcm", "flux", "schnell"))


ATTENTION = {
    "sd1": 4, "sd2": 4, "lcm": 4, "sdxl": 4, "turbo": 4, "sd3": 2, "sd35": 2, "flux": 2,
    "schnell": 2, "pag": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_tap_points_are_layers_with_queries_and_keys(pipes, name):
    layers = family(pipes[name]).attention()
    assert len(layers) >= min(ATTENTION[name], 1)
    assert bool(layers) == bool(ATTENTION[name])
    for layer in layers.values():
        assert isinstance(layer.to_q, torch.nn.Linear)
        assert isinstance(layer.to_k, torch.nn.Linear)


def test_sd3_runs_without_its_t5():
    torch.manual_seed(0)
    pipe = sd3(with_t5=False)
    pipe.set_progress_bar_config(disable=True)
    assert drawn(pipe, rows("sd3")).shape == (2, SIDE, SIDE, 3)
    assert [r.length for r in family(pipe).readers()] == [77]


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_samplers_of_noise_are_refused_for_a_flow(pipes, name):
    with pytest.raises(ValueError, match=r"'ddim' does not go with .*FlowMatch.*; use 'own'"):
        sampler(pipes[name].scheduler, "ddim")


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux"])
def test_a_lora_acts_on_every_family_and_strength_0_is_none(name, tmp_path):
    pipe = build(name)
    plain = drawn(pipe, rows(name))
    kind = family(pipe).denoiser
    torch.manual_seed(1)
    tensors = {}
    for layer_name, layer in family(pipe).model.named_modules():
        if layer_name.endswith((".to_q", ".to_v")):
            base = f"{kind}.{layer_name}"
            tensors[f"{base}.lora_A.weight"] = torch.randn(2, layer.in_features)
            tensors[f"{base}.lora_B.weight"] = torch.randn(layer.out_features, 2)
    path = tmp_path / "l.safetensors"
    save_file(tensors, path)
    adapters = {"one": [Lora(path, 1, 0)], "zero": [Lora(path, 0, 0)]}
    generator = Generator(pipe, 2, Extras(adapters))
    pictures = {
        level: generator.decode(pipe.vae, generator.denoise(rows(name, adapters=level)))
        for level in ("one", "zero", "none")
    }
    assert np.array_equal(pictures["zero"], plain)
    assert np.array_equal(pictures["none"], plain)
    assert not np.array_equal(pictures["one"], plain)


def test_a_flux_lora_in_kohyas_layout_is_that_in_peft(tmp_path):
    pipe = build("flux")
    torch.manual_seed(1)
    peft, kohya = {}, {}
    for kind, prefix in (("transformer", "lora_transformer"), ("text_encoder", "lora_te1")):
        model = getattr(pipe, kind)
        for name, layer in model.named_modules():
            if name.endswith((".to_q", ".to_v", ".q_proj", ".v_proj", ".k_proj", ".out_proj")):
                down, up = torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2)
                inside = "text_model." if kind == "text_encoder" else ""
                name = inside + name.removeprefix("text_model.")
                peft |= {f"{kind}.{name}.lora_A.weight": down, f"{kind}.{name}.lora_B.weight": up}
                base = f"{prefix}_{name.replace('.', '_')}"
                kohya |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": 2 * up}
                kohya[f"{base}.alpha"] = torch.tensor(1.0)  # half of the rank
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("peft", "kohya")}
    save_file(peft, paths["peft"])
    save_file(kohya, paths["kohya"])
    generator = Generator(pipe, 2, Extras({n: [Lora(p, 1, 1)] for n, p in paths.items()}))
    made = {n: generator.denoise(rows("flux", adapters=n)) for n in ("none", *paths)}
    torch.testing.assert_close(made["kohya"], made["peft"], atol=1e-3, rtol=1e-3)
    assert (made["peft"] - made["none"]).abs().max() > 0.01


def test_an_sdxl_embedding_moves_both_encoders_and_keeps_the_pooled_place(tmp_path):
    path = tmp_path / "w.safetensors"
    torch.manual_seed(2)
    save_file({"clip_l": torch.randn(2, 32), "clip_g": torch.randn(2, 24)}, path)
    plain = Generator(build("sdxl"), 1)
    generator = Generator(build("sdxl"), 1, Extras(embeddings={"mystyle": path}))
    for text in ("a cat", ""):
        for key, value in plain.embed(text).items():
            assert torch.equal(generator.embed(text)[key], value), key
    pipe = generator.pipe
    ids = pipe.tokenizer_2(
        "a " + generator.reader.spelled["mystyle"], return_tensors="pt"
    ).input_ids
    last = pipe.text_encoder_2(ids, output_hidden_states=True)
    by_hand = pipe.text_encoder_2.text_projection(last.last_hidden_state[:, ids.shape[1] - 1])
    torch.testing.assert_close(last.text_embeds, by_hand)
    before, after = plain.embed("a mystyle"), generator.embed("a mystyle")
    for part in (slice(0, 32), slice(32, 56)):
        assert not torch.equal(
            before["prompt_embeds"][..., part], after["prompt_embeds"][..., part]
        )


# --- whole audits


def audited(folder, name, **changes):
    source = folder / "model"
    build(name).save_pretrained(source)
    return make(
        folder,
        checkpoints={"tiny": str(source)},
        sizes=[[SIDE, SIDE]] if name in ("flux", "schnell") else [],  # their own is 256
        guidance=GUIDANCE.get(name, 3.0),
        seeds=2,
        steps=2,
        batch_size=4,
        **changes,
    )


PROBES = ["attributes", "vae", "spectrum", "text", "attention", "steps", "latents"]
PROBES += ["negatives", "memory"]


@pytest.mark.parametrize("name", [n for n in PIPELINES if n != "pag"])
def test_every_family_runs_every_probe_from_a_folder(tmp_path, name):
    first, second = "a portrait of a doctor", "a portrait of a woman"
    audit = audited(
        tmp_path,
        name,
        prompts={"list": [first, "two cats"]},
        vaes={"own": "own", "same": str(tmp_path / "model")},
        attributes=["world-gender"],
        probes=dict.fromkeys(PROBES)
        | {
            "steps": {
                "watch": 2,
                "switches": [{"first": first, "second": second, "at": [0, 1]}],
            },
            "negatives": {"negatives": ["blurry"], "at": [1]},
            "latents": {"watch": 2, "umap": False},
        },
    )
    plan = audit.run.read_cells()
    assert not audit.run.failures()
    assert (plan["width"] == SIDE).all()
    units = set(plan["unit"])
    stored = audit.run.read_latents(plan["unit"].iloc[0])
    assert {tuple(t.shape) for t in stored.values()} == {(4, SIDE // 2, SIDE // 2)}
    scored = audit.run.read_json("instruments.json")
    texts = audit.run.read_scores(scored["text"], set(text_units(audit).values()))
    seen = {"sd3": {"CLIP", "T5"}, "sd35": {"CLIP", "T5"}, "flux": {"T5"}, "schnell": {"T5"}}
    assert set(texts["encoder"]) == seen.get(name, {""})
    followed = audit.run.read_scores(scored["attention"], units)
    assert {"doctor", "cats", "<end>"} <= set(followed["word"])
    assert followed["mass"].between(0, 1).all()
    assert len(audit.run.read_scores(scored["latents"], units))
    assert (plan["switch"] > 0).any()
    findings, _ = analyse.analyse(audit)
    probes = {f.probe for f in findings if f.status == "measured"}
    unguided = {"turbo", "lcm", "flux", "schnell"}
    assert probes >= {"attributes", "vae", "text", "attention", "memory"}, probes
    norms = [f for f in findings if f.metric.name == "guidance norm"]
    assert all((f.status == "measured") == (name not in unguided) for f in norms)
    assert norms
    told = [f for f in findings if f.metric.name == "agreement with the final image"]
    assert {f.status for f in told} == {"not-measured" if name == "sd1" else "measured"}


def test_any_other_pipeline_is_measured_by_its_images_alone(tmp_path):
    prompts = ["a portrait of a doctor", "a portrait of a farmer"]
    switches = [{"first": prompts[0], "second": prompts[1], "at": [1]}]
    audit = audited(
        tmp_path,
        "pag",
        vaes={"own": "own"},
        probes=dict.fromkeys(PROBES)
        | {"steps": {"switches": switches}, "latents": {"umap": False}},
    )
    plan = audit.run.read_cells()
    assert not audit.run.failures()
    findings, _ = analyse.analyse(audit)
    measured = {f.probe for f in findings if f.status == "measured"}
    assert measured <= {"attributes", "spectrum", "latents", "memory", "negatives"}
    why = {f.probe: f.note for f in findings if f.status == "not-measured"}
    assert "what is inside is not known here" in why["attention"]
    assert "no family known here" in why["text"]
    assert sum(len(audit.run.made_cells(u, v)) for u, v in audit.run.image_files()) == 4
    assert not (audit.run.folder / "latents").exists()
    assert "attention" in " ".join(Other.not_measured)
    loaded = load_checkpoint(
        "t", CheckpointSpec(source="model"), tmp_path, "cpu", torch.float32
    ).pipe
    with pytest.raises(WeightsError, match="only 'own' can be had"):
        load_vae("x", "reference:pale", tmp_path, loaded, torch.float32)
    assert plan["negative_text"].eq("").all()


@pytest.mark.parametrize("probe", ["attention", "latents", "memory"])
def test_probes_of_layers_do_not_go_with_a_compiled_denoiser(tmp_path, probe):
    with pytest.raises(SpecError, match=r"runtime\.compile: true hides the layers"):
        make(tmp_path, probes=["attributes", probe], runtime={"compile": True})


def test_a_missing_component_or_nan_is_one_line(tmp_path):
    pipe = build("sd1")
    pipe.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        pipe.unet.conv_out.bias[0] = float("nan")
    pipe.save_pretrained(tmp_path / "nan")
    pipe.text_encoder = None
    pipe.save_pretrained(tmp_path / "lacks")
    for source, said in (
        ("nan", r"checkpoints.m: 'nan': 'unet': 1 of \d+ tensors hold NaN .*conv_out.bias"),
        ("lacks", "checkpoints.m: 'lacks': .*text_encoder"),
    ):
        spec = CheckpointSpec(source=source)
        with pytest.raises(WeightsError, match=said) as error:
            load_checkpoint("m", spec, tmp_path, "cpu", torch.float32)
        assert "\n" not in str(error.value)


def test_families_are_found_by_their_modules():
    assert {name: one.__module__.rpartition(".")[2] for name, one in families().items()} == {
        "StableDiffusionPipeline": "stable_diffusion",
        "LatentConsistencyModelPipeline": "stable_diffusion",
        "StableDiffusionXLPipeline": "sdxl",
        "StableDiffusion3Pipeline": "sd3",
        "FluxPipeline": "flux",
    }


def test_nobody_outside_asks_which_family_it_is():
    """What differs is a field or a method of a family: a new one is one module."""
    names = {one.__name__ for one in families().values()} | {"Other"}
    asked = re.compile(rf"isinstance\([^)]*\b({'|'.join(names)})\b")
    root = Path(__file__).parents[2]
    found = [
        str(path.relative_to(root))
        for package in ("harness", "probes", "audit", "reports", "dashboard", "validation")
        for path in (root / package).rglob("*.py")
        if asked.search(path.read_text())
    ]
    assert found == []
    assert asked.search("if isinstance(named, StableDiffusion3):")
