"""What would work without end is counted first, and refused with the number and the limit."""

import json

import pytest
import yaml
from click.testing import CliRunner
from conftest import SPEC

from audit.commands.main import main
from harness.errors import AuditError
from harness.files.yaml_files import parse_yaml
from harness.spec.prompts import MOST_PROMPTS, PromptsSpec, resolve_prompts

pytestmark = pytest.mark.faults
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
WIDE = {"template": "a {a} {b} {c}", "slots": {k: [f"{k}{n}" for n in range(1000)] for k in "abc"}}


def refused(folder, text: str) -> str:
    path = folder / "audit.yaml"
    path.write_text(text)
    result = CliRunner().invoke(main, ["plan", str(path), "--out", str(folder / "run")])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert len(line) < 1000
    return line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 10**12}, ["2,000,000,000,000 images", "2,000,000", "AUDIT_MOST_IMAGES"]),
        ({"seeds": 10**6, "steps": [1, 2, 3]}, ["6,000,000 images"]),
        ({"prompts": WIDE}, ["1,000,000,000 prompts", f"{MOST_PROMPTS:,}"]),
        ({"prompts": {"list": ["a " * 2_500_000]}}, ["4,999,999", "20,000"]),
        ({"prompts": {"list": ["a " * 5_000_000]}}, ["10,000,", "8,000,000"]),
        ({"sizes": [[8_000_000, 8_000_000]]}, ["8000000", "8192"]),
        ({"seeds": {"count": 1, "start": 10**30}}, ["seeds"]),
    ],
    ids=["seeds", "settings", "template", "prompt", "file", "size", "start"],
)
def test_counted_before_it_is_built(tmp_path, changes, words):
    # JSON is YAML, and is written at once.
    line = refused(tmp_path, json.dumps(SPEC | {"vaes": {"own": "own"}} | changes))
    assert all(word in line for word in words), line


def test_the_limit_can_be_raised(tmp_path, monkeypatch):
    text = yaml.safe_dump(
        SPEC
        | {"vaes": {"own": "own"}, "seeds": 1_000_001}
        | {"checkpoints": {"a": "no/such/folder"}, "attributes": [], "classifiers": {}}
    )
    assert "2,000,002 images" in refused(tmp_path, text)
    monkeypatch.setenv("AUDIT_MOST_IMAGES", "2000002")
    assert "no such folder" in refused(tmp_path, text)
    monkeypatch.setenv("AUDIT_MOST_IMAGES", "many")
    assert "give a whole number" in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "with its aliases written out"),
        ("a: &a [*a]", "holds itself"),
        ("a: " + "[" * 60 + "]" * 60, "levels deep"),
        ("a: " + "[" * 100_000, "levels deep"),
        ("a: 1\nb: 2\na: 3", r"line 3: the key 'a' is there twice \(first in line 1\)"),
        ("a: {b: 1, c: 2, b: 1}", "'b' is there twice"),
        ("- x\n- {y: 1, y: 1}", "'y' is there twice"),
        ("? [a]\n: 1", "a key is one word"),
        ("a: 2024-13-45", "cannot be read"),
        ("a: !!python/object/apply:os.system [true]", "not YAML|could not determine"),
        ("a: [", "is not YAML"),
        ("a: " + "9" * 5000, "cannot be read"),
    ],
    ids=lambda x: x[:20],
)
def test_yaml_that_says_more_than_it_should(tmp_path, text, words):
    with pytest.raises(AuditError, match=words) as caught:
        parse_yaml(text, "x.yaml")
    assert str(caught.value).startswith("x.yaml")
    assert "\n" not in str(caught.value)
    refused(tmp_path, text)


def test_aliases_and_merges_that_stand_for_little_are_read():
    text = "base: &b {x: 1}\nmine: {<<: *b, y: [*b, *b]}"
    assert parse_yaml(text, "x") == {
        "base": {"x": 1},
        "mine": {"x": 1, "y": [{"x": 1}, {"x": 1}]},
    }


def test_a_key_twice_in_a_spec_and_an_attribute(tmp_path):
    line = refused(tmp_path, yaml.safe_dump(SPEC) + "seeds: 5\n")
    assert "'seeds' is there twice" in line
    (tmp_path / "hat.yaml").write_text("name: a\nname: b\n")
    line = refused(tmp_path, yaml.safe_dump(SPEC | {"attributes": ["hat.yaml"]}))
    assert "'name' is there twice" in line


def test_a_wrong_word_among_very_many_is_answered_at_once(tmp_path):
    spec = PromptsSpec.model_validate(
        {"list": [f"prompt {n}" for n in range(50_000)], "groups": {"g": ["no such"]}}
    )
    with pytest.raises(AuditError, match=r"there are 50,000"):
        resolve_prompts(spec, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize(
    "changes",
    [
        {"classifiers": {"c": "local-dir:a\0b"}},
        {"checkpoints": {"a": {"source": "reference:balanced", "text_encoder": "a\0b"}}},
        {"labels": "a\0b.csv"},
        {"name": "a\0b"},
    ],
)
def test_the_character_nul_is_refused_wherever_it_stands(tmp_path, changes):
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(SPEC | changes))
    result = CliRunner().invoke(main, ["plan", str(path)])
    assert result.exit_code == 2
    assert "holds the character NUL" in result.stderr
    assert "line" in result.stderr
