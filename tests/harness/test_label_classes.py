"""Labels that name no class are refused with their counts, and translated where told how."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from conftest import write_spec

from audit.commands.main import main
from audit.pipeline.imported_images import given_audit
from audit.pipeline.run import plan_audit
from audit.pipeline.session import open_audit
from audit.pipeline.spec_tables import read_labels
from harness.errors import SpecError
from harness.spec.attributes import load_attribute
from harness.spec.label_classes import LabelError, parse_label_map, resolve_classes
from harness.spec.schema import load_spec
from harness.store.run import Run
from reference.world import Person, picture

pytestmark = pytest.mark.faults

GENDER = load_attribute("gender-presentation", Path())
MIXED = ["F"] * 5 + ["female", "Woman", "man", " man ", "cannot tell", "Nobody", ""]
SCORE = ["--attribute", "world-gender", "--classifier", "reference:balanced"]
MAP = {"F": "woman", "female": "woman"}


def resolved(values, mapping=None):
    return resolve_classes(values, GENDER, mapping or {}, "labels.csv")


def test_unknown_values_are_refused_with_counts_and_classes():
    with pytest.raises(LabelError) as caught:
        resolved(MIXED)
    text = str(caught.value)
    assert text.startswith("labels.csv: 6 labels of gender-presentation are no class: 'F' (5)")
    assert "'female' (1)" in text
    for name in (*GENDER.class_names, "nobody", "several", "cannot tell"):
        assert name in text
    assert "\n" not in text
    assert "Woman" not in text


def test_a_map_translates_what_is_no_class_and_nothing_else():
    found = resolved(MIXED, MAP)
    assert found["F"] == found["female"] == found["Woman"] == "woman"
    assert found["man"] == found[" man "] == "man"
    assert found["cannot tell"] == "cannot tell"
    assert found["Nobody"] == "nobody"
    assert found[""] == ""
    assert resolved(["NA"], {"NA": ""}) == {"NA": ""}


def test_case_counts_where_it_tells_classes_apart():
    two = load_attribute(
        {
            "name": "letters",
            "classes": [{"name": "a", "prompts": ["x"]}, {"name": "A", "prompts": ["y"]}],
        },
        Path(),
    )
    assert resolve_classes(["a", "A"], two, {}, "t") == {"a": "a", "A": "A"}
    one = load_attribute(
        {
            "name": "accents",
            "classes": [{"name": "Zoë", "prompts": ["x"]}, {"name": "b", "prompts": ["y"]}],
        },
        Path(),
    )
    assert resolve_classes(["Zoe\u0308"], one, {}, "t") == {"Zoe\u0308": "Zoë"}


@pytest.mark.parametrize("pair", ["F", "=woman", ""])
def test_a_map_on_the_command_line_has_two_sides(pair):
    with pytest.raises(LabelError, match="VALUE=CLASS"):
        parse_label_map([pair])


def test_a_map_to_no_class_is_refused(tmp_path):
    spec = write_spec(tmp_path, labels={"map": {"F": "womn"}})
    with pytest.raises(
        (SpecError, LabelError), match="'F' leads to 'womn', which is no class; the"
    ):
        load_spec(spec)


def labels_csv(folder: Path, values) -> None:
    lines = [f"c{i},world-gender,{v}" for i, v in enumerate(values)]
    (folder / "labels.csv").write_text("\n".join(["cell,attribute,class", *lines]))


def test_labels_of_a_spec(tmp_path):
    labels_csv(tmp_path, MIXED)
    spec = write_spec(tmp_path, labels="labels.csv", checkpoints={"a": "nowhere"})
    result = CliRunner().invoke(main, ["run", str(spec), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "6 labels of world-gender are no class: 'F' (5), 'female' (1)" in result.stderr
    spec = write_spec(tmp_path, labels={"file": "labels.csv", "map": MAP})
    table = read_labels(open_audit(spec, tmp_path / "run"))
    assert table["class"].value_counts().to_dict() == {
        "woman": 7,
        "man": 2,
        "cannot tell": 1,
        "nobody": 1,
    }


def test_numbers_and_nothing_in_a_map(tmp_path):
    labels_csv(tmp_path, ["0", "1", "x"])
    spec = write_spec(tmp_path)
    raw = yaml.safe_load(spec.read_text())
    text = "labels:\n  file: labels.csv\n  map: {0: man, 1: woman, x: }\n"
    spec.write_text(yaml.safe_dump(raw) + text)
    table = read_labels(open_audit(spec, tmp_path / "run"))
    assert table["class"].tolist() == ["man", "woman"]


def people(folder: Path, values) -> Path:
    from PIL import Image

    folder.mkdir()
    for i, gender in enumerate(values):
        person = Person("doctor", gender, ("light", "medium", "dark")[i % 3], "noto")
        Image.fromarray(picture(person)).save(folder / f"{i}.png", pnginfo=None)
    return folder


def test_audit_score(tmp_path):
    folder = people(tmp_path / "images", ["man", "woman", "woman"])
    table = tmp_path / "t.csv"
    table.write_text("file;prompt;World Gender\n0.png;a;M\n1.png;a;F\n2.png;a;WOMAN\n")
    arguments = ["score", str(folder), "--csv", str(table), "--out", str(tmp_path / "run"), *SCORE]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "2 labels of world-gender are no class: 'M' (1), 'F' (1)" in result.stderr
    assert "--label-map VALUE=CLASS" in result.stderr
    assert not (tmp_path / "run").exists()
    maps = ["--label-map", "F=woman", "--label-map", "M=man"]
    result = CliRunner().invoke(main, [*arguments, *maps])
    assert result.exit_code == 0, result.stderr
    labels = Run(tmp_path / "run").labels()
    assert labels["attribute"].unique().tolist() == ["world-gender"]
    assert sorted(labels["class"]) == ["man", "woman", "woman"]


def test_labels_that_an_old_version_kept_are_refused_and_can_be_translated(small_audit, tmp_path):
    import shutil

    from audit.pipeline.analyse import analyse
    from audit.pipeline.session import reopen

    shutil.copytree(small_audit.run.folder, tmp_path / "run")
    audit = reopen(tmp_path / "run")
    cells = audit.run.read_plan()["cell"].unique()[:2]
    audit.run.append_labels([(c, "world-gender", "F", "") for c in cells])
    with pytest.raises(LabelError, match=r"2 labels of world-gender are no class: 'F' \(2\)"):
        analyse(audit)
    spec = audit.spec.model_copy(
        update={"labels": load_spec(write_spec(tmp_path, labels={"map": {"F": "woman"}})).labels}
    )
    analyse(replace(audit, spec=spec))
    assert audit.run.labels()["class"].tolist() == ["F", "F"]  # nothing is rewritten


def test_labels_that_no_image_has_are_said(small_audit, tmp_path):
    labels_csv(tmp_path, ["woman", "man"])
    with (tmp_path / "labels.csv").open("a") as file:
        file.write("\nc0,glasses,yes\n")
    spec = write_spec(tmp_path, labels="labels.csv")
    said: list[str] = []
    plan_audit(open_audit(spec, tmp_path / "run"), said.append)
    assert any("3 of 3 name no image of this run" in line for line in said)
    assert any("1 are of attributes not in this spec: glasses" in line for line in said)


def test_a_table_for_labels_add(small_audit, tmp_path):
    import shutil

    shutil.copytree(small_audit.run.folder, tmp_path / "run")
    cells = Run(tmp_path / "run").read_plan()["cell"].drop_duplicates().tolist()
    table = pd.DataFrame({"cell": cells[:3], "attribute": "world-gender", "class": ["F", "F", "m"]})
    table.to_csv(tmp_path / "t.csv", index=False, sep=";")
    arguments = ["labels", "add", str(tmp_path / "run"), str(tmp_path / "t.csv")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "3 labels of world-gender are no class: 'F' (2), 'm' (1)" in result.stderr
    maps = ["--label-map", "F=woman", "--label-map", "m=man"]
    assert CliRunner().invoke(main, [*arguments, *maps]).exit_code == 0
    assert sorted(Run(tmp_path / "run").labels()["class"]) == ["man", "woman", "woman"]


def test_unknown_labels_are_refused_by_the_importer_itself(tmp_path):
    folder = people(tmp_path / "images", ["man"])
    (tmp_path / "t.csv").write_text("file,prompt,world gender\n0.png,a,?\n")
    with pytest.raises(LabelError, match=r"'\?' \(1\)"):
        given_audit(
            folder,
            tmp_path / "t.csv",
            tmp_path / "run",
            ["world-gender"],
            ["reference:balanced"],
            print,
        )
