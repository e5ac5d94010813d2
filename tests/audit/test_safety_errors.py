"""Faults of what was given are one line and exit 2; bugs show their traceback and exit 70."""

import json
from dataclasses import replace

import click
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from conftest import SPEC
from report_data import fake_report

from audit.commands.errors import one_line_errors
from audit.commands.main import main
from harness.errors import AuditError, reading, reason
from harness.files.names import file_name, inside, is_plain, part
from harness.store.run import Run
from harness.terminal import ACTIVE, plain, plain_json
from reports.writers import write_report

pytestmark = pytest.mark.faults
HOSTILE = "a nurse \x1b]0;owned\x07 \x1b]8;;http://x\x1b\\click \u202egpj \x9b31m \u2028 \U000e0041"


def ended(error: BaseException):
    @click.command()
    @one_line_errors
    def command() -> None:
        raise error

    return CliRunner().invoke(command, [])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AuditError("audit.yaml: seeds: 'x' is no number"), "audit.yaml: seeds"),
        (FileNotFoundError(2, "No such file or directory", "x.csv"), "x.csv: No such file"),
        (AuditError("a\nb\x1b[31m"), "a b\\x1b[31m"),
    ],
)
def test_what_was_given_is_one_line(error, words):
    result = ended(error)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize(
    "error", [ValueError("ours"), KeyError("ours"), TypeError("ours"), RecursionError("ours")]
)
def test_a_bug_shows_its_traceback_and_says_so(error):
    result = ended(error)
    assert result.exit_code == 70
    *trace, last = result.stderr.splitlines()
    assert trace[0].startswith("Traceback")
    assert "this is a bug of diffusion-audit" in last
    assert "please report it" in last


@pytest.mark.parametrize("code", [0, 1, 3, 130])
def test_a_commands_own_exit_code_is_kept(code):
    assert ended(SystemExit(code)).exit_code == code


def test_the_gate_tells_an_error_from_a_bug(tmp_path):
    """Exit 2 for files that are none; a record is written in both cases."""
    (tmp_path / "b.json").write_text("[]")
    result = CliRunner().invoke(
        main, ["gate", str(tmp_path / "b.json"), str(tmp_path / "b.json"), "--out", str(tmp_path)]
    )
    assert result.exit_code == 2, result.output
    assert json.loads((tmp_path / "gate.json").read_text())["verdict"] == "ERROR"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("_class_name"), "KeyError: '_class_name'"),
        (
            RuntimeError("Error(s) in loading state_dict for CLIP:\n\tMissing key(s): 'a'"),
            "Missing",
        ),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (MemoryError(), "more memory than there is"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "more memory"),
        (TypeError(), "TypeError"),
        (ValueError("x" * 10_000), "x …"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_librarys_error_names_the_file_on_one_line(error, words):
    with pytest.raises(AuditError) as caught, reading("m.safetensors", hint="get it again"):
        raise error
    said = str(caught.value)
    assert said.startswith("m.safetensors: ")
    assert said.endswith("; get it again")
    assert words in said
    assert "\n" not in said
    assert not reason(error).endswith(":")
    assert len(said) < 400


@pytest.mark.parametrize("bad", [[["x"]], [[[[["x"]]]]], [3], [{"name": ["x"]}], ["x", {"": 1}]])
def test_attributes_of_an_odd_shape(tmp_path, bad):
    path = tmp_path / "audit.yaml"
    path.write_text(yaml.safe_dump(SPEC | {"attributes": bad}))
    result = CliRunner().invoke(main, ["plan", str(path)])
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1


# --- names ---


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/b", "a\0b", "-rf", "", ".", "..", "nul", "con.txt", "x" * 300, "é" * 150],
)
def test_a_name_is_never_a_path(tmp_path, name):
    assert not is_plain(name)
    assert is_plain(file_name(name))
    assert file_name(name) == file_name(file_name(name))
    assert file_name(name) != file_name(name + "'")
    with pytest.raises(AuditError, match="no name of a file of a run"):
        part(name)
    run = Run(tmp_path)
    for path in (
        lambda: run.images_path(name, "v"),
        lambda: run.images_path("u", name),
        lambda: run.scores_path(name, "u", "v"),
        lambda: run.latents_path(name),
        lambda: run.taps_path(name, "u"),
        lambda: run.read_mask(name),
        lambda: run.clear_failure(name),
        lambda: run.image(name, "v", "c"),
    ):
        with pytest.raises(AuditError):
            path()


def test_a_mask_must_lie_in_its_folder(tmp_path):
    folder = tmp_path / "images"
    (folder / "masks").mkdir(parents=True)
    (folder / "masks" / "a.png").write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    assert inside(folder, "masks/a.png", "t.csv").name == "a.png"
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        with pytest.raises(AuditError, match=r"t\.csv: .*lies outside"):
            inside(folder, name, "t.csv")
    for name in ("none.png", "a\0b", "x" * 5000):
        with pytest.raises(AuditError, match=r"t\.csv: (no file|.*no name)"):
            inside(folder, name, "t.csv")


def test_names_of_the_spec_reach_no_path(tmp_path):
    """A classifier, an attribute and arms with hostile names: all files stay in the run."""
    images = tmp_path / "in" / "images"
    images.mkdir(parents=True)
    from PIL import Image

    for n in range(2):
        Image.new("RGB", (64, 64), (200, 40 * n, 90)).save(images / f"{n}.png")
    (images.parent / "t.csv").write_text(
        "file,prompt,model\n0.png,a nurse \x1b]0;x\x07,../../arm\n1.png,a nurse \x1b]0;x\x07,b\n"
    )
    attribute = {
        "name": "../../../hat",
        "classes": [
            {"name": "../a", "prompts": ["x"]},
            {"name": "con\u202e", "prompts": ["y"]},
        ],
    }
    (images.parent / "hat.yaml").write_text(yaml.safe_dump(attribute))
    import shutil

    import reference

    classifier = images.parent / ".." / "in" / "-c\x1b[1m"
    shutil.copytree(reference.MODELS / "classifier" / "flawed", classifier)
    out = tmp_path / "deep" / "run"
    before = {p for p in tmp_path.rglob("*") if out not in p.parents}
    result = CliRunner().invoke(
        main,
        [
            *("score", str(images), "--out", str(out), "--csv", str(images.parent / "t.csv")),
            *("--attribute", str(images.parent / "hat.yaml")),
            *("--classifier", f"local-dir:{classifier}"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert not any(ACTIVE.search(line) for line in result.output.splitlines())
    after = {p for p in tmp_path.rglob("*") if out not in p.parents}
    assert after - before == {out.parent, out}
    assert list(out.glob("scores/*/*/*.parquet"))
    for path in out.rglob("*"):
        assert is_plain(path.name) or path.name.startswith("."), path
    plan = pd.read_parquet(out / "plan.parquet")
    shown = CliRunner().invoke(main, ["show", str(out), plan["cell"].iloc[0]])
    assert shown.exit_code == 0, shown.output
    assert "\\x1b]0;x\\x07" in shown.output
    assert not any(ACTIVE.search(line) for line in shown.output.splitlines())


def test_a_plan_with_a_hostile_unit_is_refused(tmp_path):
    run = Run(tmp_path / "run")
    (tmp_path / "outside.parquet").write_bytes(b"x")
    with pytest.raises(AuditError, match="no name of a file of a run"):
        run.image("../..", "outside", "c")


def test_two_names_that_become_one_are_refused(tmp_path):
    path = tmp_path / "audit.yaml"
    path.write_text(
        yaml.safe_dump(SPEC | {"classifiers": dict.fromkeys(["A b", "a-B"], "reference:balanced")})
    )
    result = CliRunner().invoke(main, ["plan", str(path)])
    assert result.exit_code == 2
    assert "rename one" in result.stderr


# --- terminals and tables ---


def test_what_acts_on_a_reader_is_shown():
    said = plain(HOSTILE)
    assert not ACTIVE.search(said)
    assert "\\x1b]0;owned\\x07" in said
    assert "\\u202egpj" in said
    assert "\\x9b31m" in said
    assert plain("Größe 中文 👩🏿‍⚕️ “x”") == "Größe 中文 👩🏿‍⚕️ “x”"
    assert plain("a\nb") == "a\\nb"
    text = json.dumps({"a": HOSTILE}, ensure_ascii=False)
    assert json.loads(plain_json(text)) == {"a": HOSTILE}
    assert not ACTIVE.search(plain_json(text).replace("\n", ""))


def test_messages_of_the_command_line_itself_are_escaped():
    for command in (
        ["run", "x", "--\x1b[31m"],
        ["\x1b]0;x\x07"],
        ["report", "x", "--format", "\x9b"],
    ):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2
        assert not any(ACTIVE.search(line) for line in result.output.splitlines())


def test_csv_and_json_of_a_report_hold_no_escapes(tmp_path):
    data = fake_report()
    finding = data.findings[0]
    hostile = replace(finding, note=HOSTILE, subject={**finding.subject, "prompt": HOSTILE})
    data = data._replace(title=HOSTILE, findings=[hostile, *data.findings[1:]])
    write_report(data, tmp_path, ("csv", "json", "card"))
    for path in tmp_path.rglob("*"):
        if path.suffix in (".csv", ".json", ".md"):
            text = path.read_text(encoding="utf-8")
            assert not ACTIVE.search(text.replace("\n", "").replace("\t", "").replace("\r", "")), (
                path
            )
    assert HOSTILE in json.loads((tmp_path / "report.json").read_text())["title"]
