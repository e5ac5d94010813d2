"""Report formats: a module each, ours and others'."""

import sys

import pytest
from click.testing import CliRunner
from report_data import fake_report

from audit.commands.main import main
from harness.errors import AuditError
from reports.writers import names, write_report, writer

MARKDOWN = """
from pathlib import Path

FILE = "findings.md"


def write(data, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(f"# {data.title}\\n{len(data.findings)} findings")
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package of somebody else that registers two formats, one of them broken."""
    (tmp_path / "their_markdown.py").write_text(MARKDOWN)
    info = tmp_path / "their_formats-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: their-formats\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[diffusion_audit.writers]\nmd = their_markdown\nbroken = not_there\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("their_markdown", None)


def test_every_format_is_a_module_with_its_main_file(tmp_path):
    assert names() == ("html", "card", "json", "csv", "latex", "cyclonedx")
    written = write_report(fake_report(), tmp_path, ("csv", "json"))
    assert [p.relative_to(tmp_path).as_posix() for p in written] == [
        "report.json",
        "csv/findings.csv",
    ]
    assert all(p.exists() for p in written)
    assert not (tmp_path / "index.html").exists()


def test_a_format_of_another_package_is_written_beside_ours(tmp_path, installed):
    assert names() == ("html", "card", "json", "csv", "latex", "cyclonedx", "broken", "md")
    (path,) = write_report(fake_report(), tmp_path / "report", ("md",))
    assert path.read_text().startswith("# Occupations, two checkpoints and two VAEs\n")
    with pytest.raises(AuditError, match="'broken' cannot be loaded: ModuleNotFoundError"):
        writer("broken")


def test_an_unknown_format_is_refused_with_the_list(tmp_path):
    result = CliRunner().invoke(main, ["report", str(tmp_path), "--format", "pdf"])
    assert result.exit_code == 2
    assert "'pdf' is no format; any of html,card,json,csv" in result.output
