"""CSV dialects: one reader for prompts, imported images, labels and measured errors."""

import codecs
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import write_spec

from audit.commands.main import main
from audit.pipeline.session import open_audit
from audit.pipeline.spec_tables import read_errors, read_labels
from harness.files.csv_tables import TableError, read_table
from harness.spec.prompts import PromptsSpec, resolve_prompts

pytestmark = pytest.mark.faults

ROWS = [
    {"prompt": "a nurse, smiling", "group": "care; health"},
    {"prompt": 'a "judge"\tin Zürich', "group": ""},
]


def written(path: Path, mark: str, encoding: str = "utf-8", first: str = "") -> Path:
    def quoted(value: str) -> str:
        return '"' + value.replace('"', '""') + '"'

    lines = [mark.join(ROWS[0]), *(mark.join(map(quoted, row.values())) for row in ROWS)]
    path.write_bytes((first + "\r\n".join(lines) + "\r\n").encode(encoding))
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_dialects(tmp_path, mark, encoding):
    columns, rows = read_table(written(tmp_path / "t.csv", mark, encoding))
    assert columns == ["prompt", "group"]
    assert rows == ROWS


@pytest.mark.parametrize(
    ("bom", "encoding"),
    [(codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF16_LE, "utf-16-le")],
)
def test_both_byte_orders(tmp_path, bom, encoding):
    (tmp_path / "t.csv").write_bytes(bom + "a;b\n1;2\n".encode(encoding))
    assert read_table(tmp_path / "t.csv") == (["a", "b"], [{"a": "1", "b": "2"}])


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_the_first_line_of_excel(tmp_path, mark):
    assert read_table(written(tmp_path / "t.csv", mark, first=f"sep={mark}\r\n"))[1] == ROWS


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("prompt\na nurse\n", [{"prompt": "a nurse"}]),
        ("file;share\na.png;0,5\n", [{"file": "a.png", "share": "0,5"}]),  # a decimal comma
        ("a,b;c\n1,2;3\n", [{"a": "1", "b;c": "2;3"}]),
        ("a;b,c;d\n1;2,2;3\n", [{"a": "1", "b,c": "2,2", "d": "3"}]),
        ("a,b,,\n1,2,,\n", [{"a": "1", "b": "2"}]),  # a spreadsheet's empty columns
        ('\n a , b \n\n 1 ,"2\n3"\n\n', [{"a": "1", "b": "2\n3"}]),
    ],
)
def test_what_divides_a_table(tmp_path, text, rows):
    (tmp_path / "t.csv").write_text(text)
    assert read_table(tmp_path / "t.csv")[1] == rows


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a;b\n1;2;3\n", "line 2 has 3 values for 2 columns; quote values that hold semicolons"),
        (b"a,a\n1,2\n", "column 'a' is there twice"),
        (b"a,\n1,2\n", "line 2 has '2' in column 2, which has no heading"),
        (b"a,b\n", "no rows"),
        (b"", "no rows"),
        (b"a\nZ\xfcrich\n", "save it as 'CSV UTF-8'"),
        (b"\xff\xfea\0,", "in UTF-16"),
        (b'a,b\n"1,2\n', "cannot be read as CSV"),
        (b"\0\0\0", "no rows"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(TableError) as caught:
        read_table(tmp_path / "t.csv")
    assert str(caught.value).startswith(f"{tmp_path / 't.csv'}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prompts_with_targets_in_a_german_spreadsheet(tmp_path):
    text = "prompt;group;target:gender-presentation:woman\na nurse;care;0,5\na judge;law;\n"
    (tmp_path / "t.csv").write_bytes(text.encode("utf-16"))
    found = resolve_prompts(PromptsSpec(csv="t.csv"), tmp_path)
    assert [(p.text, p.group) for p in found] == [("a nurse", "care"), ("a judge", "law")]
    assert found[0].targets == {"gender-presentation": {"woman": 0.5}}
    assert found[1].targets == {}


def test_labels_and_errors_of_a_spec_in_any_dialect(tmp_path):
    (tmp_path / "labels.csv").write_bytes(
        "cell;attribute;class\nc;World Gender;WOMAN\n".encode("utf-16")
    )
    (tmp_path / "errors.csv").write_text(
        "attribute\tinstrument\ttrue\toutcome\tcount\tguidance\n"
        "world-gender\tsmall.world-gender\tMan\tcannot tell\t3\t\n"
        "world-gender\tsmall.world-gender\twoman\twoman\t7\t7.5\n"
    )
    spec = write_spec(tmp_path, labels="labels.csv", confusion_matrix="errors.csv")
    audit = open_audit(spec, tmp_path / "run")
    assert read_labels(audit).to_numpy().tolist() == [["c", "world-gender", "woman", ""]]
    errors = read_errors(audit)
    assert errors["count"].tolist() == [3, 7]
    assert errors["true"].tolist() == ["man", "woman"]
    assert errors["guidance"].isna().tolist() == [True, False]
    assert errors["guidance"].tolist()[1] == 7.5


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("world-gender,s,man,woman,many", "count is 'many', not a whole number"),
        (
            "world-gender,s,male,woman,3",
            "column 'true': 1 label of world-gender is no class: 'male'",
        ),
    ],
)
def test_wrong_errors_are_refused_before_anything_is_loaded(tmp_path, row, words):
    (tmp_path / "errors.csv").write_text(f"attribute,instrument,true,outcome,count\n{row}\n")
    spec = write_spec(tmp_path, confusion_matrix="errors.csv", checkpoints={"a": "nowhere"})
    result = CliRunner().invoke(main, ["run", str(spec), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_name_that_no_file_can_have_is_said():
    for name in ("a\0b.csv", "x" * 5000):
        with pytest.raises(TableError, match="cannot be read as CSV"):
            read_table(Path(name))
