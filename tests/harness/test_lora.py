import socket
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import quiet, write_spec
from safetensors.torch import load_file, save_file

from audit.commands.main import main
from audit.pipeline import analyse
from audit.pipeline.component_swaps import mixed
from audit.pipeline.plan import begin, plan_audit
from audit.pipeline.run import score
from audit.pipeline.session import open_audit
from audit.pipeline.text_scores import text_units
from harness.generate.sampling import Extras, Generator, extras_of
from harness.models.loading import load_checkpoint
from harness.models.lora import Lora, check_fit, digest_of_lora
from harness.models.prompt_weights import Piece, pieces, token_weights, weigh
from harness.models.safetensors_header import WeightsError
from harness.models.textual_inversion import digest_of_embedding, named_in
from harness.plan.cells import Arm, make_plan
from harness.spec.prompts import Prompt
from harness.spec.schema import Spec
from harness.spec.sections import CheckpointSpec, strengths
from harness.taps.attention_record import AttentionRecorder
from probes.negatives.probe import NegativesProbe
from probes.text_encoder.states import states_of
from probes.trajectory.probe import StepsProbe

RANK = 2
TARGETS = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}


def pipeline():
    spec = CheckpointSpec(source="reference:balanced")
    return load_checkpoint("balanced", spec, Path(), "cpu", torch.float32).pipe


def lora_tensors(pipe) -> dict[str, torch.Tensor]:
    """A random LoRA of all attention layers, under peft's names."""
    torch.manual_seed(0)
    out = {}
    for kind, endings in TARGETS.items():
        for name, layer in getattr(pipe, kind).named_modules():
            if isinstance(layer, torch.nn.Linear) and name.endswith(endings):
                down = 0.3 * torch.randn(RANK, layer.in_features)
                up = 0.3 * torch.randn(layer.out_features, RANK)
                out[f"{kind}.{name}.lora_A.weight"] = down
                out[f"{kind}.{name}.lora_B.weight"] = up
    return out


def kohya(tensors, alpha: float) -> dict[str, torch.Tensor]:
    """The same under kohya's names, with twice the matrices' product and half the strength."""
    parts = {"unet": "lora_unet", "text_encoder": "lora_te_text_model"}
    out = {}
    for name, tensor in tensors.items():
        kind, rest = name.split(".", 1)
        layer, side, _ = rest.rsplit(".", 2)
        base = f"{parts[kind]}_{layer.removeprefix('text_model.').replace('.', '_')}"
        way = {"lora_A": "lora_down", "lora_B": "lora_up"}[side]
        out[f"{base}.{way}.weight"] = tensor * (RANK / alpha if side == "lora_B" else 1)
        out[f"{base}.alpha"] = torch.tensor(alpha)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """lora.safetensors and kohya.safetensors of one change, and an embedding of two vectors."""
    root = tmp_path_factory.mktemp("adapters")
    pipe = pipeline()
    tensors = lora_tensors(pipe)
    save_file(tensors, root / "lora.safetensors")
    save_file(kohya(tensors, RANK / 2), root / "kohya.safetensors")
    width = pipe.text_encoder.config.hidden_size
    save_file({"emb_params": torch.randn(2, width)}, root / "word.safetensors")
    return root


@pytest.fixture(scope="module")
def generator(folder):
    lora, other = folder / "lora.safetensors", folder / "kohya.safetensors"
    adapters = {
        "none": [],
        "lora": [Lora(lora, 1, 1)],
        "zero": [Lora(lora, 0, 0)],
        "text": [Lora(lora, 0, 1)],
        "kohya": [Lora(other, 1, 1)],
    }
    extras = Extras(adapters, {"doc": folder / "word.safetensors"}, "a1111")
    return Generator(pipeline(), 2, extras)


def rows(adapters="none", texts=("a portrait of a doctor", "a cook"), negative="") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "text": texts,
            "negative_text": negative,
            "noise": range(100, 100 + len(texts)),
            "sampler": "own",
            "steps": 1,
            "guidance": 3.0,
            "width": 64,
            "height": 64,
            "adapters": adapters,
        }
    )


def test_a_lora_of_strength_0_is_no_lora_bit_for_bit(generator):
    plain = Generator(pipeline(), 2).denoise(rows())
    assert torch.equal(generator.denoise(rows()), plain)
    made = {name: generator.denoise(rows(name)) for name in ("lora", "zero", "text", "kohya")}
    assert torch.equal(made["zero"], plain)
    assert torch.equal(generator.denoise(rows()), plain)  # also after it has acted
    assert torch.equal(generator.denoise(rows("lora")), made["lora"])
    assert (made["lora"] - plain).abs().max() > 0.01
    assert (made["text"] - plain).abs().max() > 0.001
    assert not torch.equal(made["text"], made["lora"])
    # the two layouts are one change, strength included
    torch.testing.assert_close(made["kohya"], made["lora"], atol=1e-3, rtol=1e-3)


def test_only_texts_that_name_an_embedding_change(generator):
    generator.adapt("none")
    plain = Generator(pipeline(), 2)
    for text in ("a portrait of a doctor", "", "a docile, undoc, doc-like cook"):
        assert torch.equal(
            generator.embed(text)["prompt_embeds"], plain.embed(text)["prompt_embeds"]
        )
    named = generator.embed("a portrait of a DOC")["prompt_embeds"]
    assert not torch.equal(named, plain.embed("a portrait of a DOC")["prompt_embeds"])
    assert generator.reader.pieces("doc, (doc:1.2)")[0].text == "<|doc 0|><|doc 1|>, "
    without, with_it = rows(), rows(negative="doc")
    assert torch.equal(generator.denoise(without), plain.denoise(without))
    assert not torch.equal(generator.denoise(with_it), plain.denoise(with_it))


def test_names_are_words_of_their_own_in_any_case():
    assert named_in("a EasyNeg, x", ["easyneg", "x", "eas", "neg"]) == ["easyneg", "x"]
    assert named_in("easyneg-2 my_easyneg", ["easyneg"]) == []


# --- identity


def planned(wishes=(), digest="W", **changes) -> pd.DataFrame:
    raw = {
        "checkpoints": {"a": "x"},
        "prompts": {"list": ["a cook", "an easyneg cook"]},
        "seeds": 1,
    } | changes
    arm = Arm(
        {"text_encoder": "t", "denoiser": "d"},
        {"own": "s"},
        {"own": "v" * 16},
        (64, 64),
        {"l.safetensors": "L", "copy.safetensors": "L", "w.safetensors": digest},
    )
    prompts = [Prompt(p, {}, "", {}) for p in raw["prompts"]["list"]]
    return make_plan(Spec.model_validate(raw), prompts, {"a": arm}, wishes=wishes)


def cells(**changes) -> dict[str, list[str]]:
    return {str(n): list(g["cell"]) for n, g in planned(**changes).groupby("adapters")}


def test_adapters_are_part_of_a_cells_identity_by_digest_and_strength():
    plain = cells()["none"]
    levels = {
        "none": {},
        "zero": {"loras": {"l.safetensors": 0}},
        "half": {"loras": {"l.safetensors": 0.5}},
        "copy": {"loras": {"copy.safetensors": {"denoiser": 0.5, "text_encoder": 0.5}}},
        "text": {"loras": {"l.safetensors": {"text_encoder": 0.5}}},
        "word": {"trigger": "style of x, "},
    }
    made = cells(adapters=levels)
    assert made["none"] == made["zero"] == plain
    assert made["half"] == made["copy"]
    assert len({tuple(c) for c in made.values()}) == 4
    own = cells(checkpoints={"a": {"source": "x", "loras": {"l.safetensors": 0.5}}})
    assert own["none"] == made["half"]


def test_an_embedding_and_weights_belong_to_the_cells_that_use_them():
    plain = cells()["none"]
    named = cells(embeddings={"easyneg": "w.safetensors"})["none"]
    assert named[0] == plain[0]
    assert named[1] != plain[1]
    negative = cells(embeddings={"bad": "w.safetensors"}, negatives={"n": "bad"})["none"]
    assert negative != cells(negatives={"n": "bad"})["none"]
    assert cells(prompt_syntax="a1111")["none"] == plain
    texts = {"list": ["a (red:1.2) hat", "a hat"]}
    read, unread = cells(prompts=texts, prompt_syntax="a1111"), cells(prompts=texts)
    assert read["none"][0] != unread["none"][0]
    assert read["none"][1] == unread["none"][1]


def wish(probe, **options):
    return partial(probe.extra_cells, probe.Options(**options))


SECOND = {"first": "a cook", "second": "an easyneg cook", "at": [0, 1]}


@pytest.mark.parametrize(
    ("probe", "asked"),
    [
        (StepsProbe(), {"watch": 1, "switches": [SECOND]}),
        (NegativesProbe(), {"negatives": ["easyneg"], "at": [1]}),
    ],
)
def test_an_embedding_named_only_in_what_a_probe_asks_for_belongs_to_its_cells(probe, asked):
    def ids(**changes):
        plan = planned([wish(probe, **asked)], prompts={"list": ["a cook"]}, **changes)
        return {k: list(g["cell"]) for k, g in plan.groupby(["requested_by", "kind"])}

    plain = ids()
    one, other = (ids(embeddings={"easyneg": "w.safetensors"}, digest=d) for d in "WV")
    unused = ids(embeddings={"blurry": "w.safetensors"})
    assert unused == plain
    for key, cells_of in plain.items():
        made_with_it = key[1] not in ("made", "predicted x0")
        assert (one[key] == cells_of) == (not made_with_it)
        assert (one[key] == other[key]) == (not made_with_it)
    assert len(plain) >= 2


def test_weights_in_a_second_prompt_belong_to_its_cells_and_other_syntax_is_refused():
    def switched(second, **changes):
        switch = {"first": "a cook", "second": second, "at": [1]}
        plan = planned([wish(StepsProbe(), switches=[switch])], **changes)
        return plan.loc[plan["switch"] == 1, "cell"].tolist()

    assert switched("a (tall:1.2) cook") != switched("a (tall:1.2) cook", prompt_syntax="a1111")
    assert switched("a tall cook") == switched("a tall cook", prompt_syntax="a1111")
    with pytest.raises(ValueError, match="alternating words, which is not supported"):
        switched("a [tall|small] cook", prompt_syntax="a1111")


@pytest.mark.parametrize("names", [["a b"], ["<x"], ["<lora:x:1>"], ["Easy", "easy"]])
def test_names_that_a_prompt_cannot_hold_are_refused(names):
    with pytest.raises(ValueError, match="embeddings"):
        planned(embeddings=dict.fromkeys(names, "w.safetensors"))


def test_what_changes_the_last_bits_belongs_to_a_cells_identity_and_cpu_offload_does_not():
    plain = cells()
    told = [cells(runtime={name: True}) for name in ("compile", "channels_last")]
    assert plain != told[0] != told[1] != plain
    assert cells(runtime={"cpu_offload": True}) == plain


def test_strengths_add_up_and_zero_is_left_out():
    spec = CheckpointSpec.model_validate({"source": "x", "loras": {"a": 1, "b": 0.5, "c": 0}})
    assert strengths(spec.loras, {"b": spec.loras["b"]}) == {"a": (1, 1), "b": (1.0, 1.0)}


def test_attribution_leaves_each_lora_side_with_its_component():
    spec = Spec.model_validate(
        {
            "checkpoints": {"a": "x", "b": {"source": "x", "loras": {"l": 0.8}}},
            "prompts": {"list": ["p"]},
        }
    )
    mixes = mixed(spec, "a", "b").checkpoints
    assert strengths(mixes["text A, denoiser A"].loras) == {}
    assert strengths(mixes["text B, denoiser A"].loras) == {"l": (0, 0.8)}
    assert strengths(mixes["text A, denoiser B"].loras) == {"l": (0.8, 0)}
    assert strengths(mixes["text B, denoiser B"].loras) == {"l": (0.8, 0.8)}


# --- weights in prompts


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("", [("", 1)]),
        ("(cat)", [("cat", 1.1)]),
        ("((cat))", [("cat", 1.21)]),
        ("[cat]", [("cat", 1 / 1.1)]),
        ("a (red:1.5) hat", [("a ", 1), ("red", 1.5), (" hat", 1)]),
        ("(a (b:2) c:1.5)", [("a ", 1.5), ("b", 3), (" c", 1.5)]),
        (r"\(c\) \\", [("(c) \\", 1)]),
        ("(a", [("a", 1.1)]),
        ("a) b]", [("a) b]", 1)]),
        ("3:2 ratio", [("3:2 ratio", 1)]),
        ("(:1.2)", [("", 1)]),
    ],
)
def test_weights_are_read_as_the_webui_reads_them(prompt, expected):
    read = pieces(prompt)
    assert [p.text for p in read] == [text for text, _ in expected]
    assert [p.weight for p in read] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize("prompt", ["<lora:x:1>", "[a|b]", "[a:b:0.5]", "a AND b"])
def test_other_syntax_of_the_webui_is_refused(prompt):
    with pytest.raises(ValueError, match="not supported"):
        pieces(prompt)


def test_each_token_has_its_words_weight_and_the_mean_stays(generator):
    generator.adapt("none")
    tokenizer = generator.pipe.tokenizer
    parts = [Piece("a ", 1.0), Piece("doctor", 1.5), Piece(" of", 0.5)]
    weights = token_weights(tokenizer, parts)
    ids = tokenizer("a doctor of").input_ids
    lengths = [len(tokenizer(w, add_special_tokens=False).input_ids) for w in ("a", "doctor", "of")]
    told = [1.0] + [w for n, w in zip(lengths, (1.0, 1.5, 0.5), strict=True) for _ in range(n)]
    assert weights[: len(ids)].tolist() == [*told, 1.0]
    assert weights[len(ids) :].eq(1).all()
    hidden = torch.randn(1, len(weights), 8) + 1
    made = weigh(hidden, weights, [3, 5])
    for part, old in zip(made.split([3, 5], -1), hidden.split([3, 5], -1), strict=True):
        assert float(part.mean()) == pytest.approx(float(old.mean()), rel=1e-5)
        by_hand = old * weights[None, :, None]
        torch.testing.assert_close(part, by_hand * (old.mean() / by_hand.mean()))
    assert weigh(hidden, torch.ones(len(weights)), [8]) is hidden
    plain = generator.embed("a portrait of a doctor")["prompt_embeds"]
    assert torch.equal(generator.embed("a portrait of a (doctor:1)")["prompt_embeds"], plain)
    assert not torch.equal(generator.embed("a portrait of a (doctor:1.3)")["prompt_embeds"], plain)


# --- what probes see


def test_attention_is_told_by_the_words_that_are_tokenised(generator):
    tap = AttentionRecorder(1, False, False, 0)
    table = rows(texts=("a portrait of a (doctor:1.3), doc", "[cook]")).assign(seed=0)
    plain = generator.denoise(table)
    assert torch.equal(generator.denoise(table, [tap]), plain)
    assert [r.notes["prompt"]["words"] for r in tap.records()] == [
        ["a", "portrait", "of", "a (2)", "doctor", "doc", "<start>", "<end>"],
        ["cook", "<start>", "<end>"],
    ]


def test_the_text_probe_reads_through_adapters_embeddings_and_weights(folder, tmp_path):
    lora = str(folder / "lora.safetensors")
    texts = ["a portrait of a doctor", "a (farmer:1.4)", "a mystyle"]
    path = write_spec(
        tmp_path,
        probes=["text"],
        vaes={"own": "own"},
        prompts={"list": texts},
        prompt_syntax="a1111",
        embeddings={"mystyle": str(folder / "word.safetensors")},
        adapters={"none": {}, "on": {"loras": {lora: {"text_encoder": 1}}}},
    )
    audit = open_audit(path, tmp_path / "run")
    plan, provenance = plan_audit(audit, quiet)
    begin(audit, plan, provenance)
    score(audit, plan, quiet)
    units = set(text_units(audit).values())
    table = audit.run.read_scores(audit.run.read_json("instruments.json")["text"], units)
    made = Generator(pipeline(), 1, extras_of(audit.spec, "balanced", audit.base))
    for level in ("none", "on"):
        made.adapt(level)
        for text in texts:
            row = table[(table["adapters"] == level) & (table["text"] == text)].iloc[0]
            wanted = made.embed(text)["prompt_embeds"][0].double().numpy()
            np.testing.assert_array_equal(states_of(row), wanted)
    findings, figures = analyse.analyse(audit)
    apart = [f for f in findings if f.id.startswith("text/distance/")]
    assert {f.subject["adapters"] for f in apart} == {"on"}
    assert all(f.value > 0 for f in apart if f.subject["position"] != "start")
    shown = next(e for e in figures if e.id == "text/tokens").table
    assert "not applied" not in " ".join(shown["note"])
    assert len({f.id for f in findings}) == len(findings)


# --- refusals


def test_a_lora_of_another_family_is_refused(generator, tmp_path):
    file = tmp_path / "l.safetensors"
    sdxl = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    flux = "transformer.single_transformer_blocks.0.attn.to_q"
    for names, said in (
        ((f"{sdxl}.lora_down.weight", f"{sdxl}.lora_up.weight"), "SDXL .*2048.*width 96"),
        ((f"{flux}.lora_A.weight", f"{flux}.lora_B.weight"), "a LoRA for Flux; the checkpoint"),
    ):
        save_file({names[0]: torch.zeros(2, 2048), names[1]: torch.zeros(640, 2)}, file)
        with pytest.raises(WeightsError, match=said):
            check_fit(file, generator.pipe)


def changed(folder, tmp_path, change):
    tensors = load_file(folder / "lora.safetensors")
    save_file(change(tensors), tmp_path / "l.safetensors")
    return tmp_path / "l.safetensors"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: {n: v * np.nan for n, v in t.items()}, "NaN or infinity"),
        (lambda t: {**t, "x.oft_diag": torch.ones(1)}, "an OFT, GLoRA or IA3; LoRA, LoCon"),
        (lambda t: {"emb_params": torch.ones(1, 4)}, "textual-inversion embedding; name a LoRA"),
    ],
)
def test_what_is_no_finite_plain_lora_is_refused(folder, tmp_path, change, said):
    with pytest.raises(WeightsError, match=said):
        digest_of_lora(changed(folder, tmp_path, change))


def test_layers_without_a_place_are_refused(folder, tmp_path):
    path = changed(
        folder,
        tmp_path,
        lambda t: {n.replace("down_blocks.1", "down_blocks.7"): v for n, v in t.items()},
    )
    made = Generator(pipeline(), 2, Extras({"l": [Lora(path, 1, 1)]}))
    with pytest.raises(WeightsError, match=r"have no place|does not fit"):
        made.adapt("l")


def test_a_hub_id_that_cannot_be_reached_is_one_line_and_exit_2(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("the network is unreachable")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    spec = write_spec(tmp_path, checkpoints={"m": "nobody/such-model"}, vaes={"own": "own"})
    result = CliRunner().invoke(main, ["plan", str(spec)])
    assert result.exit_code == 2
    assert (
        result.output.strip()
        .splitlines()[-1]
        .startswith("error: checkpoints.m: 'nobody/such-model': the hub id cannot be reached")
    )


def test_bad_files_end_in_one_line_and_exit_2(folder, tmp_path):
    save_file({"emb_params": torch.zeros(1, 768)}, tmp_path / "wide.safetensors")
    assert digest_of_embedding(tmp_path / "wide.safetensors")
    for changes, said in (
        ({"adapters": {"x": {"loras": {"none.safetensors": 1}}}}, "adapters.x.loras: "),
        ({"embeddings": {"w": "wide.safetensors"}}, "width 768; the checkpoint's text encoder"),
        ({"embeddings": {"w": str(folder / "lora.safetensors")}}, "seems to be a LoRA"),
        ({"adapters": {"x": {"lora": {}}}}, "unknown key"),
    ):
        spec = write_spec(tmp_path, vaes={"own": "own"}, **changes)
        result = CliRunner().invoke(main, ["plan", str(spec)])
        assert result.exit_code == 2, result.output
        last = result.output.strip().splitlines()
        assert len([line for line in last if line.startswith("error:")]) == 1
        assert said in last[-1]
