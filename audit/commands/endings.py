"""How commands that measure something end: with the report, and exit code 1 where a part failed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from harness.terminal import out as put
from harness.terminal import say

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


def work(audit: Any) -> Path:
    """Plan, generate, score, analyse and report one audit; returns the report's path.

    Where nothing has changed since it was finished, nothing is done and no model is loaded.
    """
    from audit.pipeline.finished import finished_page, mark_finished

    known = finished_page(audit)
    if known is not None:
        say("nothing to do: neither the spec, its files nor this run have changed")
        return known
    from audit.pipeline import analyse
    from audit.pipeline.run import complete

    complete(audit, say)
    findings, figures = analyse.analyse(audit)
    page = analyse.report(audit, findings, figures)
    end(audit, findings, page)
    mark_finished(audit)
    return page


def end(audit: Any, findings: Any, page: Path) -> None:
    """End with exit code 1, after the report's path, where a part of an audit failed."""
    from audit.pipeline.run import problems

    failed = problems(audit, findings)
    for line in failed:
        say(line)
    if failed:
        put(page)
        sys.exit(1)
