"""The commands `audit dashboard` and `audit export`."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from audit.commands.errors import one_line_errors
from harness.json_types import JsonObject
from harness.terminal import out, say

ADDRESS = "127.0.0.1"
OPTIONS: JsonObject = {
    "server.address": ADDRESS,
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
    "theme.light.textColor": "#0f141b",
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
    """Serve runs to a browser on this machine.

    Ctrl-C ends it.
    """
    for file in gates:
        if not file.is_file():
            raise Wrong(
                f"--gate {file}: no such file; `audit gate … --out DIR` writes DIR/gate.json"
            )
    check_runs(runs)
    with listening(port) as held:
        serve([str(r.resolve()) for r in runs], [str(g.resolve()) for g in gates], held)


def check_runs(runs: tuple[Path, ...]) -> None:
    """Refuse folders that hold no run, in one line, before anything slow is loaded."""
    from dashboard.run_index import RunError, index

    for folder in runs:
        try:
            index(folder)
        except RunError as error:
            raise Wrong(str(error)) from None


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """The server's socket, bound before anything slow is loaded, so that a port in use is said."""
    with socket.socket() as held:
        if os.name != "nt":  # where it would let two servers share the port
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((ADDRESS, port))
            held.listen(2048)
        except OSError as error:
            raise Wrong(
                f"--port {port}: cannot listen on {ADDRESS} ({error.strerror}); "
                "end the program that uses it or choose another port"
            ) from None
        yield held


def serve(runs: list[str], gates: list[str], held: socket.socket) -> None:
    """Serve runs on a bound socket until Ctrl-C; prints the address with its token, once."""
    import streamlit as st
    import uvicorn
    from streamlit.web import bootstrap

    from dashboard import components, figures, findings, image_dialog  # noqa: F401  loaded before anyone waits
    from dashboard.access import TokenGate, new_token
    from dashboard.label_routes import label_routes
    from dashboard.queries import RunView
    from dashboard.run_index import RunError

    try:
        first = components.open_view(runs[0])
        for other in runs[1:]:
            RunView(Path(other)).close()
    except RunError as error:
        raise Wrong(str(error)) from None
    first.made()
    findings.frame(first)
    os.environ[components.RUNS] = json.dumps({"runs": runs, "gates": gates})
    port = held.getsockname()[1]
    options = OPTIONS | {"server.port": port}
    bootstrap.load_config_options({n.replace(".", "_"): v for n, v in options.items()})
    app = st.App(Path(__file__).with_name("app.py"), routes=label_routes())
    token = new_token()
    config = uvicorn.Config(
        TokenGate(app, token, port),
        ws="websockets-sansio",
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=2,
    )
    out(f"http://{ADDRESS}:{port}/?token={token}")
    say("Whoever has this address can see the runs and write labels. Ctrl-C ends it.")
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[held])


@click.command("export")
@click.argument("run_folder", metavar="RUN", type=RUN)
@click.argument("file", type=FILE)
@click.option("--side", type=click.IntRange(16, 512), default=96, show_default=True)
@click.option("--no-images", is_flag=True, help="Leave the thumbnails out.")
@one_line_errors
def export_command(run_folder: Path, file: Path, side: int, no_images: bool) -> None:
    """Write RUN as one Parquet FILE for other viewers.

    Columns: settings, outcomes, scores, x, y and image.
    Thumbnails are WebP of at most --side px.
    """
    from dashboard.export import export
    from dashboard.run_index import RunError

    if file.suffix != ".parquet":
        raise Wrong(f"{file}: the file's name must end in .parquet")
    try:
        rows, columns = export(run_folder, file, 0 if no_images else side)
    except (RunError, OSError) as error:
        raise Wrong(str(error)) from None
    size = file.stat().st_size / 1e6
    out(f"{file}: {rows:,} images, {columns} columns, {size:,.1f} MB")
