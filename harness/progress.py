"""How far a stage is, and how it is stopped between two batches."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

Say = Callable[[str], None]
F = TypeVar("F", bound=Callable[..., Any])


class Stopped(KeyboardInterrupt):
    """Ctrl-C was pressed, or the process was asked to end (SIGTERM).

    Attributes:
        code: Exit code, 128 and the signal's number: 130 or 143.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by signal {number}")
        self.code = 128 + number


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


class Stopping:
    """Whether it is asked to stop; false until then."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        """Whether a signal has come."""
        return self.number > 0

    def check(self) -> None:
        """Stop where it was asked.

        Raises:
            Stopped: It was.
        """
        if self.number:
            raise Stopped(self.number)


@contextmanager
def stopping() -> Iterator[Stopping]:
    """While open, the first Ctrl-C or SIGTERM only asks to stop; the second stops at once."""
    asked = Stopping()

    def on_signal(number: int, frame: Any) -> None:
        if asked():
            raise Stopped(number)
        asked.number = number
        sys.stderr.write("\nstopping after this batch; press Ctrl-C again to stop at once\n")

    with _handling(on_signal):
        yield asked


def stoppable(command: F) -> F:
    """Have Ctrl-C and SIGTERM end a command alike: what is written is kept, exit 130 or 143."""

    def at_once(number: int, frame: Any) -> None:
        raise Stopped(number)

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            with _handling(at_once):
                return command(*args, **kwargs)
        except Stopped as stopped:
            sys.stderr.write("stopped; what is written is kept: run the same command to go on\n")
            sys.exit(stopped.code)

    return wrapped  # type: ignore[return-value]


@contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle both signals, where this is the main thread: elsewhere they are not ours."""
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def until(items: list[Any], stopped: Callable[[], bool]) -> Iterator[Any]:
    """The items, one by one, until it is asked to stop."""
    for item in items:
        if stopped():
            return
        yield item
