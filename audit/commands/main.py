"""The command `audit`: a module of this folder each, and the entry points of other packages.

A module of this folder is a command where it holds one of its own name. Others register theirs
under `diffusion_audit.commands`; one that cannot be loaded costs itself and no other. Heavy imports
are inside the commands: `audit --help` answers at once.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

import audit.commands
from audit.commands.errors import reported
from harness import __version__
from harness.errors import reason

GROUP = "diffusion_audit.commands"
OLD_NAMES = {"attribute": "components"}
"""Accepted for one version, and not listed."""


class Commands(click.Group):
    """All commands by name, each loaded when it is asked for."""

    @cached_property
    def others(self) -> dict[str, EntryPoint]:
        """Commands of other packages."""
        return {entry.name: entry for entry in entry_points(group=GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        modules = [m.name for m in pkgutil.iter_modules(audit.commands.__path__)]
        return sorted([m for m in modules if _command_of(m)] + list(self.others))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """One command; where it cannot be loaded, one that says why."""
        name = OLD_NAMES.get(name, name)
        found = _command_of(name)
        if found is None and name in self.others:
            try:
                found = self.others[name].load()
            except Exception as error:
                found = _broken(name, self.others[name].value, error)
        return found

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, standalone_mode: bool = True, **kwargs: Any
    ) -> Any:
        """Run a command, as click does; what it says is escaped as all else."""
        run = super().main
        if not standalone_mode:
            return run(args, standalone_mode=False, **kwargs)
        return reported(lambda: run(args, standalone_mode=False, **kwargs))


def _command_of(name: str) -> click.Command | None:
    """The command of a module of this folder; None where it is no command's."""
    if name not in {m.name for m in pkgutil.iter_modules(audit.commands.__path__)}:
        return None
    module = import_module(f"audit.commands.{name}")
    for value in vars(module).values():
        if isinstance(value, click.Command) and value.name == name and value is not main:
            return value
    return None


def _broken(name: str, source: str, error: Exception) -> click.Command:
    """Stands for a command of another package that cannot be loaded."""
    text = f"Cannot be loaded: {reason(error, 200)}"

    def fail() -> None:
        raise click.ClickException(f"{name!r} of {source}: {text[0].lower()}{text[1:]}")

    return click.Command(name, callback=fail, help=text)


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="audit")
def main() -> None:
    """Audit text-to-image models: which bias, how sure, and which part carries it."""


if __name__ == "__main__":
    main()
