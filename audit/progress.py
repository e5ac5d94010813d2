"""How far a stage is, and how it is stopped between two batches."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Say = Callable[[str], None]


class Stopped(Exception):
    """Ctrl-C was pressed: stopped between two batches."""


class Progress:
    """Progress with rate and time left: a bar on a terminal, one line a unit otherwise."""

    def __init__(self, stage: str, total: int, say: Say) -> None:
        self.stage, self.total, self.say = stage, total, say
        self.done = self.images = 0
        self.started = time.monotonic()

    def step(self, unit: str, images: int, reason: str) -> None:
        """One unit is done, or failed for a reason."""
        self.done += 1
        self.images += images
        elapsed = time.monotonic() - self.started
        left = elapsed / self.done * (self.total - self.done)
        text = (
            f"{self.stage} {self.done}/{self.total} {unit} {self.images / elapsed:.1f} images/s, "
            f"{int(left) // 60}:{int(left) % 60:02d} left"
        )
        if reason:
            self.say(f"{self.stage} {self.done}/{self.total} {unit} failed: {reason}")
        elif sys.stderr.isatty():
            end = "\n" if self.done == self.total else ""
            sys.stderr.write(f"\r\x1b[K{text}{end}")
            sys.stderr.flush()
        else:
            self.say(text)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """While open, the first Ctrl-C only asks to stop between batches; the second is itself."""
    pressed: list[int] = []

    def on_interrupt(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        sys.stderr.write("\nstopping after this batch; press Ctrl-C again to stop at once\n")

    try:
        before = signal.signal(signal.SIGINT, on_interrupt)
    except ValueError:  # not the main thread: Ctrl-C is somebody else's to handle
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def until(items: list[Any], stopped: Callable[[], bool]) -> Iterator[Any]:
    """The items, one by one, until it is asked to stop."""
    for item in items:
        if stopped():
            return
        yield item
