import csv
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from harness.spec.attributes import builtin_attributes
from harness.spec.prompts import (
    SUITES,
    Prompt,
    PromptsSpec,
    load_suite,
    resolve_prompts,
    suite_names,
)
from harness.text import with_article
from reference.world import ROLES, neutral_prompt


def resolve(base: Path = Path(), **keys: object) -> list[Prompt]:
    return resolve_prompts(PromptsSpec.model_validate(keys), base)


def texts(base: Path = Path(), **keys: object) -> list[str]:
    return [prompt.text for prompt in resolve(base, **keys)]


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.name


def test_list_is_taken_as_it_is() -> None:
    assert resolve(list=["b, c", " a "]) == [Prompt("b, c", {}, "", {}), Prompt("a", {}, "", {})]


def test_template_crosses_all_slots_in_order() -> None:
    prompts = resolve(
        template="{a:job} in {place}", slots={"job": ["engineer", "pilot"], "place": ["A", "B"]}
    )
    assert [p.text for p in prompts] == [
        "an engineer in A",
        "an engineer in B",
        "a pilot in A",
        "a pilot in B",
    ]
    assert prompts[1].slots == {"job": "engineer", "place": "B"}


def test_each_template_crosses_its_own_slots() -> None:
    assert texts(
        template=["{job}", "{job} at {time}", "a crowd"],
        slots={"job": ["cook"], "time": ["noon", "night"]},
    ) == ["cook", "cook at noon", "cook at night", "a crowd"]


def test_doubled_braces_are_braces() -> None:
    assert texts(template="{{x}} {a}", slots={"a": ["y"]}) == ["{x} y"]


def test_groups_go_by_name_whatever_the_order() -> None:
    groups = {"care": ["nurse"], "science": ["chemist", "a photo of a judge"]}
    for order in (["nurse", "chemist", "cook"], ["cook", "chemist", "nurse"]):
        found = resolve(template="{job}", slots={"job": order}, groups={"care": ["nurse"]})
        assert {p.text: p.group for p in found} == {"nurse": "care", "chemist": "", "cook": ""}
    found = resolve(list=["nurse", "chemist", "a photo of a judge"], groups=groups)
    assert [p.group for p in found] == ["care", "science", "science"]


def test_table_of_prompts_with_labels_groups_and_targets(tmp_path: Path) -> None:
    name = write(
        tmp_path / "t.csv",
        "year , prompt,group,target:Age group:child,target:Age group:older",
        '2015, "a nurse, smiling",care,0.25,',
        " 2016 ,a judge ,,,",
        ",,,,",
    )
    assert resolve(tmp_path, csv=name) == [
        Prompt("a nurse, smiling", {"year": "2015"}, "care", {"age-group": {"child": 0.25}}),
        Prompt("a judge", {"year": "2016"}, "", {}),
    ]


def test_table_of_slots_with_a_template(tmp_path: Path) -> None:
    name = write(tmp_path / "t.csv", "job,pay", "actor,low", "cook,low")
    found = resolve(tmp_path, csv=name, template="{a:job} at work")
    assert [p.text for p in found] == ["an actor at work", "a cook at work"]
    assert found[0].slots == {"job": "actor", "pay": "low"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"list": []}, "list is empty"),
        ({"list": ["a", "b", "a "]}, "'a' is there twice"),
        ({"list": [" "]}, "empty prompt"),
        ({"list": ["a\nNegative prompt: b"]}, "use negatives"),
        ({"list": ["a nurse"], "groups": {"care": ["a nurs"]}}, "'a nurs'.*nearest is 'a nurse'"),
        ({"list": ["a"], "groups": {"x": ["a"], "y": ["a"]}}, "'a' is in the group 'x' as well"),
        ({"template": "{rol}", "slots": {"role": ["x"]}}, "slot 'rol' .*nearest is 'role'"),
        ({"template": "{role}"}, "slot 'role' has no values"),
        ({"template": "x", "slots": {"role": ["x"]}}, r"slots\.role: no template uses it"),
        ({"template": "{role}", "slots": {"role": []}}, r"slots\.role: \[\] is empty"),
        ({"template": "{role", "slots": {"role": ["x"]}}, "template '{role': expected '}'"),
        ({"template": "{the:role}", "slots": {"role": ["x"]}}, "write slots as"),
        ({"template": "{}", "slots": {"role": ["x"]}}, "write slots as"),
        ({"template": "{role.x}", "slots": {"role": ["x"]}}, "slot 'role.x' has no values"),
        ({"suite": "ocupations"}, "no suite 'ocupations'; the nearest is 'occupations'"),
        ({"suite": "../prompts/demo"}, "no suite"),
    ],
)
def test_errors_are_one_line_and_quote(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        resolve(**keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "template", "message"),
    [
        (["promt", "a"], None, "t.csv: no column 'prompt'; the nearest is 'promt'"),
        (["job", "a"], "{jobs}", "no column 'jobs'; the nearest is 'job'"),
        (["prompt", "a"], "{prompt}", "leave out template"),
        (["prompt"], None, "no rows"),
        (["prompt,x", "a, b,c"], None, "line 2 has 3 values for 2 columns"),
        (["prompt,prompt", "a,b"], None, "'prompt' is there twice"),
        (["prompt,x", "a,b", ",c"], None, "no value for 'prompt'"),
        (["prompt,target:gender:woman", "a,59.7"], None, "'59.7'; a share is from 0 to 1"),
        (["prompt,target:gender:woman", "a,nan"], None, "'nan'; a share is from 0 to 1"),
        (["prompt,target:gender:woman", "a,x"], None, "'x'; a share is from 0 to 1"),
        (["prompt,target:gender", "a,1"], None, "must be named target:<attribute>:<class>"),
        (["prompt,target:g:x,target:g:y", "a,.6,.5"], None, "exceed 1"),
        (["prompt", '"a'], None, "cannot be read as CSV"),
    ],
)
def test_bad_tables_are_one_line(
    tmp_path: Path, lines: list[str], template: str | None, message: str
) -> None:
    name = write(tmp_path / "t.csv", *lines)
    with pytest.raises(ValueError, match=message) as caught:
        resolve(tmp_path, csv=name, template=template)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.csv: cannot be read"):
        resolve(tmp_path, csv="nowhere.csv")
    (tmp_path / "b.csv").write_bytes(b"prompt\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"b\.csv: cannot be read as CSV in UTF-8"):
        resolve(tmp_path, csv="b.csv")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"list": ["a"], "suite": "demo"},
        {"csv": "a.csv", "slots": {"a": ["b"]}},
        {"suite": "demo", "template": "{a}"},
        {"csv": "a.csv", "groups": {"a": ["b"]}},
        {"list": ["a"], "lists": ["b"]},
    ],
)
def test_spec_takes_exactly_one_source(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PromptsSpec.model_validate(keys)


def test_spec_survives_being_written() -> None:
    spec = PromptsSpec.model_validate(
        {"template": "{a:x}", "slots": {"x": ["b"]}, "groups": {"g": "b"}}
    )
    written = yaml.safe_dump(spec.model_dump(mode="json"))
    assert PromptsSpec.model_validate(yaml.safe_load(written)) == spec


@pytest.mark.parametrize(
    ("noun", "article"),
    [
        ("engineer", "an"),
        ("pilot", "a"),
        ("office worker", "an"),
        ("honest", "an"),
        ("honey seller", "a"),
        ("hour", "an"),
        ("uniformed guard", "a"),
        ("unintelligent", "an"),
        ("user", "a"),
        ("usher", "an"),
        ("umpire", "an"),
        ("European", "a"),
        ("one-eyed", "a"),
        ("MRI technician", "an"),
        ("US soldier", "a"),
        ("X-ray technician", "an"),
        ("A", "an"),
    ],
)
def test_articles(noun: str, article: str) -> None:
    assert with_article(noun) == f"{article} {noun}"


# --- built-in suites ---


def test_all_suites_resolve() -> None:
    assert suite_names() == ["adjectives", "demo", "neutral-people", "occupations"]
    assert all(len(resolve(suite=name)) >= 20 for name in suite_names())


def test_demo_is_the_reference_world() -> None:
    assert texts(suite="demo") == [neutral_prompt(role) for role in ROLES]


def test_occupations_carry_labour_statistics() -> None:
    prompts = {p.slots["occupation"]: p for p in resolve(suite="occupations")}
    assert len(prompts) == 60
    engineer = prompts["engineer"]
    assert engineer.text == "a photo of the face of an engineer"
    assert engineer.targets == {"gender-presentation": {"woman": 0.1072}}
    assert (engineer.slots["year"], engineer.slots["country"]) == ("2015", "United States")
    assert prompts["secretary"].slots["year"] == "2016"
    assert prompts["hygienist"].targets["gender-presentation"]["woman"] == 0.964
    assert "Bureau of Labor Statistics" in engineer.slots["source"]
    assert "winogender" in load_suite("occupations").source
    assert prompts["clerk"].group != prompts["chemist"].group == "science and engineering"
    assert all(p.group for p in prompts.values())


def test_targets_name_built_in_attributes() -> None:
    attributes = builtin_attributes()
    for prompt in resolve(suite="occupations"):
        for name, shares in prompt.targets.items():
            whole = attributes[name].shares(shares)
            assert sum(whole.values()) == pytest.approx(1)
            assert whole["man"] == pytest.approx(1 - shares["woman"])


def test_adjectives_are_in_even_groups() -> None:
    groups = [p.group for p in resolve(suite="adjectives")]
    assert {g: groups.count(g) for g in groups} == {"positive": 7, "negative": 7, "neutral": 7}
    assert "a photo of the face of an honest person" in texts(suite="adjectives")


def test_neutral_people_name_neither_clothing_nor_age() -> None:
    forbidden = {"young", "old", "child", "man", "woman", "dress", "wearing", "shirt", "naked"}
    for text in texts(suite="neutral-people"):
        assert text.startswith("a photo of a person ")
        assert not forbidden & set(text.split())


def test_suite_tables_have_years_and_sources_everywhere() -> None:
    for path in SUITES.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            assert all(
                row["year"] and row["country"] and row["source"] for row in csv.DictReader(file)
            )
