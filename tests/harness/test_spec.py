import pytest
from conftest import write_spec

from audit.pipeline.spec_schema import spec_schema
from harness.errors import SpecError
from harness.spec.schema import load_spec


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": {}}, ["checkpoint: unknown key", "'checkpoints'"]),
        ({"samplers": "eular"}, ["'eular' is no sampler", "euler"]),
        ({"baseline": "balancd"}, ["baseline", "'balancd'", "'balanced'"]),
        ({"sizes": [[100, 64]]}, ["100 x 64", "multiples of 8"]),
        ({"seeds": 0}, ["seeds", "greater than or equal to 1", "0"]),
        ({"steps": [0]}, ["steps.0", "0"]),
        ({"attributes": ["world-gendr"]}, ["world-gendr", "world-gender"]),
        ({"classifiers": {}}, ["attributes", "classifier"]),
        ({"checkpoints": {"a": {"source": "x", "triger": ""}}}, ["triger", "'trigger'"]),
        ({"prompts": {"suite": "dmo"}}, []),
    ],
)
def test_bad_specs_are_refused_in_one_line_that_quotes_them(tmp_path, changes, words):
    path = write_spec(tmp_path, **changes)
    if not words:  # found when prompts are resolved, not before
        load_spec(path)
        return
    with pytest.raises(SpecError) as error:
        load_spec(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


def test_yaml_errors_name_the_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nprompts: [\n")
    with pytest.raises(SpecError, match="line 3"):
        load_spec(path)


def test_short_forms_mean_their_long_forms(tmp_path):
    short = load_spec(write_spec(tmp_path, seeds=3, steps=2))
    long = load_spec(
        write_spec(
            tmp_path,
            seeds={"count": 3, "start": 0},
            steps=[2],
            checkpoints={"balanced": {"source": "reference:balanced"}},
        )
    )
    assert short == long
    assert short.digest() == long.digest()


def test_schema_names_every_key():
    assert {"checkpoints", "vaes", "prompts", "seeds"} <= set(spec_schema()["properties"])
