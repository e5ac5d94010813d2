"""The JSON schema takes what the parser takes: every spec of the docs, and no wrong one."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from audit.pipeline.spec_schema import spec_schema
from harness.errors import SpecError
from harness.spec.json_schema import read_docstring
from harness.spec.schema import parse_spec
from harness.spec.sections import CheckpointSpec

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
PAGES = sorted(
    p.relative_to(ROOT)
    for p in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("reference/*.md"))
)
WHOLE = {"checkpoints": {"a": "reference:balanced"}, "prompts": {"list": ["a cook"]}}
CLASSIFIER = {"classifiers": {"clip": "ViT-B-32"}}


def specs_of(page):
    """YAML blocks that are specs or keys of one; no workflows, no probe that is to be added."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        lines = block.splitlines()
        indent = min(len(x) - len(x.lstrip()) for x in lines if x.strip())
        raw = yaml.safe_load("\n".join(x[indent:] for x in lines))
        if not {"jobs", "on", True} & set(raw) and "sharpness" not in raw.get("probes", ()):
            yield raw


def blocks():
    found = [(str(page), i, raw) for page in PAGES for i, raw in enumerate(specs_of(page))]
    demo = yaml.safe_load((ROOT / "reference/demo.yaml").read_text(encoding="utf-8"))
    return [*found, ("reference/demo.yaml", 0, demo)]


@pytest.fixture(scope="module")
def validator():
    schema = spec_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def complete(raw):
    """Keys of a spec, with what every spec must have beside them."""
    return WHOLE | (CLASSIFIER if "attributes" in raw else {}) | raw


@pytest.mark.parametrize(("page", "place", "raw"), blocks())
def test_every_spec_of_the_docs_is_valid(validator, page, place, raw):
    validator.validate(complete(raw))
    parse_spec(complete(raw), ROOT / page)


def test_the_docs_hold_the_specs_that_are_checked():
    assert len(blocks()) >= 14
    assert {"README.md", "docs/quickstart.md", "docs/checkpoints.md"} <= {b[0] for b in blocks()}


GOOD = (
    {"seeds": 4},
    {"seeds": {"count": 4, "shared": True}},
    {"steps": 5, "guidance": 3, "samplers": "ddim", "probes": "attributes"},
    {"steps": [5, 6], "guidance": [0, 7.5], "samplers": ["own"], "probes": ["steps"]},
    {"checkpoints": {"a": {"source": "x", "loras": {"l": 0.5, "m": {"denoiser": 1}}}}},
    {"prompts": {"list": "a cook"}},
    {"prompts": {"template": "a {job}", "slots": {"job": ["cook"]}, "groups": {"g": "cook"}}},
    {"prompts": {"csv": "x.csv", "template": "{job}"}},
    {"attributes": "gender-presentation", **CLASSIFIER},
    {"classifiers": {"c": {"model": "ViT-B-32", "pretrained": "t", "faces": True}}},
    {"sizes": [[512, 512]], "vaes": {"own": "own"}, "negatives": {"none": ""}},
    {"gate": {"margins": {"share": 0.1}}, "baseline": "a"},
)
BAD = (
    {"seeds": 0},
    {"seeds": "four"},
    {"seeds": {"number": 4}},
    {"steps": 0},
    {"steps": [1, 1001]},
    {"steps": []},
    {"guidance": -1},
    {"samplers": "no such"},
    {"checkpoints": {}},
    {"checkpoints": {"a": {"sauce": "x"}}},
    {"checkpoints": {"a": 5}},
    {"checkpoints": {"a": {"source": "x", "loras": {"l": 11}}}},
    {"prompts": {}},
    {"prompts": {"list": ["a"], "suite": "demo"}},
    {"prompts": ["a cook"]},
    {"sizes": [[512]]},
    {"gate": {"margins": {"share": 0}}},
    {"dtype": "int8"},
    {"promts": {"list": ["a"]}},
    {"attributes": [{"classes": []}], **CLASSIFIER},
    {"attributes": [["x"]], **CLASSIFIER},
)


@pytest.mark.parametrize("keys", GOOD, ids=str)
def test_what_the_parser_takes_the_schema_takes(validator, keys):
    parse_spec(WHOLE | keys, ROOT / "spec.yaml")
    validator.validate(WHOLE | keys)


@pytest.mark.parametrize("keys", BAD, ids=str)
def test_what_the_parser_refuses_the_schema_refuses(validator, keys):
    with pytest.raises((SpecError, AttributeError)):
        parse_spec(WHOLE | keys, ROOT / "spec.yaml")
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(WHOLE | keys)


def test_every_key_is_described():
    schema = spec_schema()
    for name, part in {"Spec": schema, **schema["$defs"]}.items():
        assert part["description"], name
        for key, value in part.get("properties", {}).items():
            assert value.get("description"), (name, key)


def test_a_docstring_of_several_lines_is_read_whole():
    summary, described = read_docstring(CheckpointSpec)
    assert summary == (
        "A pipeline's weights, with component swaps and its own recommended settings."
    )
    assert described["components_from"] == (
        "a diffusers folder that gives a single file what it lacks: VAE, text encoders, tokenizers."
    )
    assert described["revision"] == "commit of a hub id."
