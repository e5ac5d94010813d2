"""The five journeys: every command of the page is run in its order and says what it must."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from audit.commands.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "journeys.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    audit (.+)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each command printed, run one after the other in one folder."""
    folder = tmp_path_factory.mktemp("journeys")
    for name, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE, re.DOTALL):
        (folder / name).write_text(text)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    printed = {}
    for line in COMMANDS:
        command, _, note = line.partition("#")
        code = int(m[1]) if (m := re.match(r" exit (\d)", note)) else 0
        if "CELL" in command:
            plan = pd.read_parquet(folder / "mine-run" / "plan.parquet")
            command = command.replace("CELL", plan["cell"][0][:16])
        result = CliRunner().invoke(main, shlex.split(command))
        assert result.exit_code == code, (command, result.output, result.stderr)
        printed[command.split()[0], command.split()[-1]] = result.output
    yield folder, printed
    patch.undo()


def test_the_page_has_all_five(said):
    assert len(re.findall(r"^## ", PAGE, re.MULTILINE)) == 5
    assert len(COMMANDS) == len(said[1]) == 12


def test_the_answers_are_those_of_the_page(said):
    folder, printed = said
    run = printed["run", "mine-run"]
    assert re.search(r"mine: .* is off target for [123] of 3 prompts", run)
    assert "men too often" in run
    assert re.search(r"base: .* off target for none of 3 prompts", run)
    assert "other against kept: " in printed["vae", "vae-run"]
    gate = next(text for (name, last), text in printed.items() if (name, last) == ("gate", "mine"))
    assert "FAIL" in gate
    report = folder / "mine-run" / "report"
    for file in ("findings.tex", "csv/findings.csv", "card.md", "summary.html", "bom.cdx.json"):
        assert (report / file).is_file(), file
    assert len(pd.read_csv(folder / "to-label.csv")) > 5
