"""The commands `audit dashboard` and `audit export`."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from audit.one_line import one_line_errors
from audit.terminal import out, say

OPTIONS: dict[str, Any] = {
    "server.address": "127.0.0.1",
    "server.headless": True,
    "server.allowedHosts": ["127.0.0.1", "localhost"],
    "server.fileWatcherType": "none",
    "server.enableStaticServing": False,
    "server.maxUploadSize": 1,
    "browser.gatherUsageStats": False,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "runner.magicEnabled": False,
    "theme.baseRadius": "8px",
    "theme.headingFontSizes": ["2.2rem", "1.45rem", "1.1rem"],
    "theme.headingFontWeights": [650, 650, 600],
    "theme.light.codeTextColor": "#4a4fb5",
    "theme.dark.codeTextColor": "#a4a8ff",
    "theme.light.primaryColor": "#4a4fb5",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f6f7f9",
    "theme.light.textColor": "#1c2128",
    "theme.light.borderColor": "#e3e6ea",
    "theme.dark.primaryColor": "#a4a8ff",
    "theme.dark.backgroundColor": "#14171b",
    "theme.dark.secondaryBackgroundColor": "#1b1f25",
    "theme.dark.textColor": "#e7eaee",
    "theme.dark.borderColor": "#2c333b",
}
"""Of the server: local, silent, and in the report's colours."""
RUN = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


class Wrong(click.ClickException):
    """Something given cannot be used: one line, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print it as the other commands do."""
        say(f"error: {self.message}")


@click.command("dashboard")
@click.argument("runs", metavar="RUN [RUN …]", type=RUN, nargs=-1, required=True)
@click.option("--gate", "gates", type=FILE, multiple=True, help="A gate.json to show; repeatable.")
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@one_line_errors
def dashboard_command(runs: tuple[Path, ...], gates: tuple[Path, ...], port: int) -> None:
    """Look at one run or several in the browser, on this machine only. Ctrl-C ends it."""
    if find_spec("streamlit") is None:
        raise Wrong("the dashboard needs Streamlit: pip install 'diffusion-audit[dashboard]'")
    from dashboard.files import RunError
    from dashboard.queries import RunView

    for folder in runs:
        try:
            RunView(folder).close()
        except RunError as error:
            raise Wrong(str(error)) from None
    for file in gates:
        if not file.is_file():
            raise Wrong(
                f"--gate {file}: no such file; `audit gate … --out DIR` writes DIR/gate.json"
            )
    serve([str(r.resolve()) for r in runs], [str(g.resolve()) for g in gates], port)


def serve(runs: list[str], gates: list[str], port: int) -> None:
    """Serve runs until Ctrl-C."""
    from streamlit.web import bootstrap

    from dashboard import figures, findings, history, parts  # noqa: F401  loaded before anyone waits

    first = parts.open_view(runs[0])
    first.made()
    findings.frame(first)
    os.environ["AUDIT_DASHBOARD"] = json.dumps({"runs": runs, "gates": gates})
    options = OPTIONS | {"server.port": port}
    flags = {name.replace(".", "_"): value for name, value in options.items()}
    bootstrap.load_config_options(flag_options=flags)
    app = Path(__file__).with_name("app.py")
    bootstrap.run(str(app), False, [], flags)


@click.command("export")
@click.argument("run_folder", metavar="RUN", type=RUN)
@click.argument("file", type=FILE)
@click.option("--side", type=click.IntRange(16, 512), default=96, show_default=True)
@click.option("--no-pictures", is_flag=True, help="Leave the thumbnails out.")
@one_line_errors
def export_command(run_folder: Path, file: Path, side: int, no_pictures: bool) -> None:
    """Write RUN as one Parquet FILE for other viewers: settings, outcomes, scores, x, y, image.

    Thumbnails are WebP of at most --side px.
    """
    from dashboard.export import export
    from dashboard.files import RunError

    if file.suffix != ".parquet":
        raise Wrong(f"{file}: the file's name must end in .parquet")
    try:
        rows, columns = export(run_folder, file, 0 if no_pictures else side)
    except (RunError, OSError) as error:
        raise Wrong(str(error)) from None
    size = file.stat().st_size / 1e6
    out(f"{file}: {rows:,} pictures, {columns} columns, {size:,.1f} MB")
