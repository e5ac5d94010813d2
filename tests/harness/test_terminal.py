"""What the command line says: strangers' texts act on nothing, and colour is for terminals."""

import click
from click.testing import CliRunner

from harness.terminal import marked

HOSTILE = "a \x1b]0;title\x07 nurse"


@click.command()
@click.argument("strong", type=bool)
def speak(strong):
    marked(HOSTILE, ": \x1b[31mred", strong)


def test_a_lead_is_bold_on_a_terminal_and_its_text_acts_on_nothing(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    said = CliRunner().invoke(speak, ["true"], color=True).output
    assert said == "\x1b[33m-\x1b[0m \x1b[1ma \\x1b]0;title\\x07 nurse\x1b[0m: \\x1b[31mred\n"
    assert "\x1b[1m" not in CliRunner().invoke(speak, ["false"], color=True).output
    assert "\x1b" not in CliRunner().invoke(speak, ["true"]).output
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in CliRunner().invoke(speak, ["true"], color=True).output
