"""Notation of other tools in prompts is named, not passed on as words in silence."""

import pytest
import torch
from conftest import write_spec
from safetensors.torch import save_file

from audit.pipeline.plan import plan_audit
from audit.pipeline.session import open_audit
from harness.models.prompt_syntax import warnings_of

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("prompt", "example", "advice"),
    [
        ("a cat <lora:fur:.8>, big", "<lora:fur:.8>", "adapters"),
        ("a cat <lyco:fur:1>", "<lyco:fur:1>", "adapters"),
        ("a cat <hypernet:x:1>", "<hypernet:x:1>", "adapters"),
        ("a cat, embedding:easynegative.pt", "embedding:easynegative.pt", "embeddings"),
        ("a photo of <cat-toy>", "<cat-toy>", "embeddings"),
        ("a {red|blue} cat", "{red|blue}", "template"),
        ("a __job__ at work", "__job__", "template"),
        ("a __jobs/old__ at work", "__jobs/old__", "template"),
        ("a (red:1.3) cat", "(red:1.3)", "prompt_syntax: a1111"),
        ("a [red:blue:0.5] cat", "[red:blue:0.5]", "write the prompts out"),
        ("a [red|blue] cat", "[red|blue]", "write the prompts out"),
        ("a cat AND a dog", "AND", "write the prompts out"),
        ("a cat BREAK a dog", "BREAK", "write the prompts out"),
    ],
)
def test_each_notation_gives_one_line_that_quotes_it(prompt, example, advice):
    (line,) = warnings_of([prompt, "a plain dog"], "none", [])
    assert line.startswith(repr(example))
    assert advice in line


@pytest.mark.parametrize(
    "prompt",
    ["a cat (orange)", "3 < 4 > 2 cats", "snake_case __ cat", "[a hat]", "a sandy land", "{a cat}"],
)
def test_plain_prompts_give_none(prompt):
    assert warnings_of([prompt], "none", []) == []


def test_many_prompts_give_one_line_a_notation():
    (line,) = warnings_of([f"a cat <lora:a{i}:1>" for i in range(9)], "none", [])
    assert "(in 9 prompts)" in line


def test_weights_that_are_applied_and_embeddings_that_are_loaded_are_not_warned_of():
    assert warnings_of(["a (red:1.2) cat"], "a1111", []) == []
    assert warnings_of(["a <cat-toy>"], "none", ["<Cat-Toy>"]) == []
    (line,) = warnings_of(["a <cat-toy> and a <dog-toy>"], "none", ["<cat-toy>"])
    assert line.startswith("'<dog-toy>'")


def test_a_plan_says_it_once_and_takes_an_embedding_with_its_brackets(tmp_path):
    width = 128
    from harness.models.loading import load_checkpoint
    from harness.spec.sections import CheckpointSpec

    spec = CheckpointSpec(source="reference:balanced")
    pipe = load_checkpoint("b", spec, tmp_path, "cpu", torch.float32).pipe
    width = pipe.text_encoder.config.hidden_size
    save_file({"emb_params": torch.ones(1, width)}, tmp_path / "toy.safetensors")
    path = write_spec(
        tmp_path,
        vaes={"own": "own"},
        prompts={"list": ["a portrait of a <cat-toy>", "a __job__", "another __job__"]},
        embeddings={"<cat-toy>": "toy.safetensors"},
    )
    said = []
    plan, _ = plan_audit(open_audit(path, tmp_path / "run"), said.append)
    assert sum("wildcard" in line for line in said) == 1
    assert not any("cat-toy" in line for line in said)
    assert len(plan)
