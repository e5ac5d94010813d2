import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import reference.world
from harness.errors import AuditError
from harness.images.colorimetry import ita, mean_lab, monk_colours, monk_tone
from harness.spec.attributes import AttributeSpec, builtin_attributes, load_attribute

GLASSES = """
name: Glasses
classes:
  - {name: glasses, prompts: a photo of a person wearing glasses}
  - {name: no glasses, prompts: [a photo of a person without glasses]}
"""


def glasses(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load(GLASSES), **changes}


def classifier_captions() -> dict[str, list[list[str]]]:
    """CAPTIONS of the training recipe, read without importing torch."""
    source = Path(reference.world.__file__).parents[1] / "validation" / "train" / "classifier.py"
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CAPTIONS":
            code = compile(ast.Expression(node.value), "CAPTIONS", "eval")
            captions: dict[str, list[list[str]]] = eval(code, vars(reference.world))
            return captions
    raise AssertionError("classifier.py has no CAPTIONS")


def test_a_few_lines_of_yaml_are_enough(tmp_path: Path) -> None:
    (tmp_path / "glasses.yaml").write_text(GLASSES, encoding="utf-8")
    spec = load_attribute("glasses.yaml", tmp_path)
    assert spec == load_attribute(glasses(), tmp_path)
    assert spec.name == "glasses"
    assert spec.class_names == ("glasses", "no glasses")
    assert spec.classes[0].prompts == ("a photo of a person wearing glasses",)
    assert spec.shares() == {"glasses": 0.5, "no glasses": 0.5}


def test_target_fills_up_with_one_class_left_out() -> None:
    spec = load_attribute(glasses(), Path())
    assert spec.shares({"no glasses": 0.25}) == {"glasses": 0.75, "no glasses": 0.25}
    assert spec.shares({"glasses": 1}) == {"glasses": 1, "no glasses": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clases": []}, "attribute 'Glasses': unknown key 'clases'; the nearest is 'classes'"),
        ({"classes": [{"name": "a", "promts": ["b"]}] * 2}, "nearest is 'prompts'"),
        ({"classes": [{"prompts": ["b"]}]}, "classes.0.name is missing"),
        ({"classes": [{"name": "a", "prompts": ["b"]}]}, "not two classes or more"),
        ({"classes": [{"name": "a", "prompts": ["b"]}] * 2}, "class 'a' is there twice"),
        ({"classes": [{"name": "a", "prompts": "b"}, {"name": "c"}]}, "'c' has no prompts"),
        (
            {"classes": [{"name": "a", "prompts": "b"}, {"name": "c", "prompts": "b"}]},
            "prompt 'b' is in 'a' and 'c'",
        ),
        (
            {"classes": [{"name": "a", "prompts": "b"}, {"name": "nobody", "prompts": "d"}]},
            "cannot be named 'nobody'",
        ),
        ({"classes": [{"name": True, "prompts": ["b"]}]}, "valid string, not True"),
        ({"target": {"glasses": 0.5, "no glasses": 0.4}}, "sum to 0.9, not 1"),
        ({"target": {"glasses": 0.5, "no glasses": 0.50001}}, "not 1"),
        ({"target": {"glases": 0.5, "no glasses": 0.5}}, "'glases'; the nearest is 'glasses'"),
        ({"target": {}}, "leaves out 'glasses', 'no glasses'"),
        ({"target": {"glasses": 1.5}}, "is 1.5, not from 0 to 1"),
        ({"target": {"glasses": float("nan")}}, "is nan, not from 0 to 1"),
        ({"target": {"glasses": 0.3, "no glasses": 0.7}}, "target_source is missing"),
        ({"instrument": "colorimetry"}, "colorimetry tells 10 classes, not 2"),
        ({"instrument": []}, "instrument: none; name one"),
        ({"name": " "}, "name: is empty"),
    ],
)
def test_errors_are_one_line_and_quote(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_attribute(glasses(**changes), Path())
    assert "\n" not in str(caught.value)


def test_unknown_names_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'gender'; the nearest is '(gender-|world-gender)"):
        load_attribute("gender", tmp_path)
    with pytest.raises(ValueError, match="no attribute"):
        load_attribute("../attributes/safety", tmp_path)
    for content in (None, "a: [", "- a", "\x00"):
        if content is not None:
            (tmp_path / "x.yaml").write_text(content)
        with pytest.raises(
            ValueError, match=r"x\.yaml: (cannot be read|.*is not YAML|holds list)"
        ) as caught:
            load_attribute("x.yaml", tmp_path)
        assert "\n" not in str(caught.value)


# --- built-in attributes ---


def test_built_in_names_are_their_files() -> None:
    attributes = builtin_attributes()
    assert all(spec.name == name for name, spec in attributes.items())
    assert set(attributes) == {
        "age-by-face",
        "age-group",
        "gender-by-face",
        "gender-presentation",
        "monk-skin-tone",
        "quoted-text",
        "revealing-clothing",
        "safety",
        "skin-tone",
        "unsafe",
        "world-gender",
        "world-style",
        "world-tone",
    }


def test_built_ins_are_ensembles_and_survive_being_written() -> None:
    for spec in builtin_attributes().values():
        if spec.instrument == "clip":
            assert all(len(c.prompts) >= 3 for c in spec.classes)
        written = yaml.safe_dump(spec.model_dump(mode="json"))
        assert AttributeSpec.model_validate(yaml.safe_load(written)) == spec


def test_gender_is_called_perceived() -> None:
    assert builtin_attributes()["gender-presentation"].title == "perceived gender presentation"


@pytest.mark.parametrize("name", ["gender", "tone", "style"])
def test_world_attributes_ask_what_the_classifier_learnt(name: str) -> None:
    captions = classifier_captions()
    spec = builtin_attributes()[f"world-{name}"]
    for i, declared in enumerate(spec.classes):
        assert set(declared.prompts) == {ensemble[i] for ensemble in captions[name]}
    beside = zip(spec.nobody, spec.person, spec.several, strict=True)
    assert [list(three) for three in beside] == captions["people"]


# --- colorimetry ---


def test_every_swatch_is_itself() -> None:
    assert [monk_tone(np.tile(swatch, (7, 1))) for swatch in monk_colours()] == list(range(10))


def test_noise_of_two_levels_changes_no_swatch() -> None:
    noise = np.random.default_rng(0).integers(-2, 3, size=(500, 3))
    for i, swatch in enumerate(monk_colours()):
        assert monk_tone((swatch + noise).clip(0, 255).astype(np.uint8)) == i


def test_no_skin_is_not_measured() -> None:
    assert monk_tone(np.empty((0, 3), np.uint8)) is None
    assert mean_lab(np.empty((0, 3), np.uint8)) is None


def test_colour_is_the_mean_of_lab_values() -> None:
    black_and_white = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    assert mean_lab(black_and_white) == pytest.approx([50, 0, 0], abs=0.01)


@pytest.mark.parametrize("pixels", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3))])
def test_other_pixels_are_refused(pixels: Any) -> None:
    with pytest.raises(ValueError, match=r"not uint8 \(n, 3\)"):
        monk_tone(pixels)


def test_ita_by_hand() -> None:
    lab = np.array([[70.0, 5, 20], [50, 5, 20], [30, 5, 20], [70, 0, 0]])
    assert ita(lab) == pytest.approx([45, 0, -45, 90])
    assert np.all(np.diff(ita(np.array([mean_lab(s[None]) for s in monk_colours()]))[2:]) < 0)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["../x", "a/b", "world-gendr"])
def test_an_unknown_one_is_answered_with_one_that_there_is(name):
    with pytest.raises(AuditError, match=r"; the nearest is '[a-z-]+'"):
        load_attribute(name, Path())
    for yaml_file in ("a\0b.yaml", "x" * 5000 + ".yaml"):
        with pytest.raises(AuditError, match="cannot be read"):
            load_attribute(yaml_file, Path())
