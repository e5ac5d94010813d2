"""How a command ends when something goes wrong.

What the user gave (`AuditError`), and the files of the machine (OSError), become one line and
exit code 2. Everything else is a bug of ours: its traceback, a line that says so, exit code 70
(EX_SOFTWARE), which no other outcome of a command has.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from harness import __version__
from harness.errors import AuditError, SpecMistakes, reason
from harness.terminal import plain, say

F = TypeVar("F", bound=Callable[..., Any])
GIVEN, BUG = 2, 70
"""Exit codes: something given cannot be used; a bug of ours."""
MOST_MISTAKES = 20
"""Mistakes of one spec that are said."""


def one_line_errors(command: F) -> F:
    """End a command with one line where the user can act, and with a traceback where we must."""

    @wraps(command)
    def wrapped(*args: object, **kwargs: object) -> Any:
        try:
            return command(*args, **kwargs)
        except SpecMistakes as error:
            for line in error.lines[:MOST_MISTAKES]:
                say(f"error: {reason(AuditError(line), 2000)}")
            if len(error.lines) > MOST_MISTAKES:
                say(f"error: {len(error.lines) - MOST_MISTAKES} more mistakes")
            sys.exit(GIVEN)
        except (AuditError, OSError) as error:
            say(f"error: {reason(error, 2000)}")
            sys.exit(GIVEN)
        except Exception as error:
            if isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort):
                raise
            say_bug(error)
            sys.exit(BUG)

    return wrapped  # type: ignore[return-value]


def say_bug(error: Exception) -> None:
    """A bug's traceback and where to report it, on stderr."""
    for line in "".join(traceback.format_exception(error)).splitlines():
        say(line)
    say(
        f"error: this is a bug of diffusion-audit {__version__}, not of what you gave "
        f"({type(error).__name__}): please report it in the project's issues, with the lines above "
        "and the command"
    )


def reported(run: Callable[[], object]) -> object:
    """Run click's own part of a command; its messages are escaped as all others."""
    try:
        code = run()
    except click.ClickException as error:
        vars(error)["message"] = plain(error.message)  # which may quote an argument
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        say("Aborted!")
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def old_spellings(renamed: dict[str, str]) -> type[click.Command]:
    """A class of command that still takes options by their old names, and says the new ones.

    Args:
        renamed: New option by old one, such as {"--longest": "--max-side"}.
    """

    class Command(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            for i, text in enumerate(args):
                old, equals, value = text.partition("=")
                if old in renamed:
                    say(f"warning: {old} is now called {renamed[old]}")
                    args[i] = renamed[old] + equals + value
            return super().parse_args(ctx, args)

    return Command
