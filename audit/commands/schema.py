"""`audit schema`: the spec's JSON schema."""

from __future__ import annotations

import json

import click

from audit.commands.errors import one_line_errors


@click.command("schema")
@one_line_errors
def schema_command() -> None:
    """Print the spec's JSON schema, for editors."""
    from audit.pipeline.spec_schema import spec_schema

    click.echo(json.dumps(spec_schema(), indent=2))
