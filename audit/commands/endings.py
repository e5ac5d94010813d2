"""How commands that measure something end: with the report, and exit code 1 where a part failed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.terminal import marked, say
from harness.terminal import out as put

if TYPE_CHECKING:
    from audit.pipeline.session import Audit
    from probes.contracts import Finding

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


def work(audit: Audit) -> Path:
    """Plan, generate, score, analyse and report one audit; returns the report's path.

    Where nothing has changed since it was finished, nothing is done and no model is loaded.
    """
    from audit.pipeline.finished import finished_page, mark_finished

    known = finished_page(audit)
    if known is not None:
        say("nothing to do: neither the spec, its files nor this run have changed")
        put_answer(kept_findings(known.parent))
        return known
    from audit.pipeline import analyse
    from audit.pipeline.run import complete

    complete(audit, say)
    findings, figures = analyse.analyse(audit, say=say)
    say("write the report")
    page = analyse.report(audit, findings, figures)
    end(audit, findings, page)
    mark_finished(audit)
    return page


def put_answer(findings: Sequence[Finding]) -> None:
    """Say what the report says, in a few lines."""
    from reports.answer import answer

    for statement in answer(findings):
        marked(statement.lead, statement.rest, statement.apart)


def kept_findings(report: Path) -> list[Finding]:
    """The findings of a report's folder; none where they cannot be read."""
    from harness.errors import AuditError
    from reports.formats import json

    try:
        return json.read_findings(report / json.FILE)
    except AuditError:
        return []


def end(audit: Audit, findings: Sequence[Finding], page: Path) -> None:
    """Say the answer; end with exit code 1, after the report's path, where a part failed."""
    from audit.pipeline.run import problems

    put_answer(findings)
    failed = problems(audit, findings)
    for line in failed:
        say(line)
    if failed:
        put(page)
        sys.exit(1)
