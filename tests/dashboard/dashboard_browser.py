"""A dashboard in a process of its own, and Debian's Chromium to look at it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SLOW = 120_000
"""Milliseconds to wait at most; a busy machine is no failure."""


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextmanager
def served(*runs: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `audit dashboard` until left; gives the address it printed, and the process."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "audit.commands.main",
        "dashboard",
        *map(str, runs),
        "--port",
        str(port),
    ]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(p for p in (str(root), os.environ.get("PYTHONPATH", "")) if p)
    server = subprocess.Popen(
        command,
        cwd=root,
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        entry = server.stdout.readline().strip()
        assert "?token=" in entry, f"the server ended: {server.poll()}"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(600):
            try:
                with direct.open(entry.replace("?", "_stcore/health?"), timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, "the server ended"
                time.sleep(0.5)
        else:
            raise AssertionError("the server does not answer")
        yield entry, server
    finally:
        server.terminate()
        server.wait(30)
        server.stdout.close()


def at(entry: str, path: str = "") -> str:
    """A page's address by the printed one: 'label?run=a' with the token."""
    base, token = entry.split("?")
    return f"{base}{path}{'&' if '?' in path else '?'}{token}"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            browser.close()


def visit(page: Any, url: str) -> None:
    """Open an address and wait until it stands still."""
    page.goto(url, wait_until="commit", timeout=SLOW)
    page.wait_for_selector("h1", timeout=SLOW)
    settled(page)


def settled(page: Any) -> None:
    """Wait until the script has run."""
    page.wait_for_function(
        "document.querySelector('[data-testid=\"stApp\"]').dataset.testScriptState"
        " === 'notRunning'",
        timeout=SLOW,
    )
