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
EVERY = 10.0
"""Seconds between two lines of a log."""
BAR = 24
"""Letters of a bar."""
F = TypeVar("F", bound=Callable[..., Any])
Item = TypeVar("Item")


class Stopped(KeyboardInterrupt):
    """Ctrl-C was pressed, or the process was asked to end (SIGTERM).

    Attributes:
        code: Exit code, 128 and the signal's number: 130 or 143.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by signal {number}")
        self.code = 128 + number


class Progress:
    """Progress with rate and time left: a bar on a terminal, else a line every `EVERY` seconds.

    Args:
        stage: What is done, a verb.
        total: Number of units.
        say: Where lines go.
        now: Seconds that only go forward.
    """

    def __init__(
        self, stage: str, total: int, say: Say, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.stage, self.total, self.say, self.now = stage, total, say, now
        self.done = self.images = 0
        self.started = self.told = now()
        self.open = False
        """Whether the terminal's last line is a bar that goes on."""

    def step(self, unit: str, images: int, reason: str) -> None:
        """One unit is done, or failed for a reason."""
        self.done += 1
        self.images += images
        now = self.now()
        if reason:
            self._line(f"{self.stage} {self.done}/{self.total} {unit} failed: {reason}")
        elif sys.stderr.isatty():
            self.open = self.done < self.total
            bar = "█" * round(BAR * self.done / self.total)
            end = "" if self.open else "\n"
            sys.stderr.write(f"\r\x1b[K{self.stage:<10} {bar:░<{BAR}} {self._told(now)}{end}")
            sys.stderr.flush()
        elif self.done == self.total or now - self.told >= EVERY:
            self.told = now
            self.say(f"{self.stage} {self._told(now)}")

    def _told(self, now: float) -> str:
        elapsed = max(now - self.started, 1e-9)
        rate = f", {self.images / elapsed:.1f} images/s" if self.images else ""
        if self.done == self.total:
            return f"{self.done}/{self.total}{rate}, took {_minutes(elapsed)}"
        left = elapsed / self.done * (self.total - self.done)
        return f"{self.done}/{self.total}{rate}, {_minutes(left)} left"

    def _line(self, text: str) -> None:
        if self.open:
            sys.stderr.write("\n")
            self.open = False
        self.say(text)


def _minutes(seconds: float) -> str:
    """Minutes and seconds: '2:05'; hours where there are any: '1:02:05'."""
    whole = int(seconds)
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    minutes = whole // 60 % 60
    return f"{hours}{minutes:0{2 if hours else 1}d}:{whole % 60:02d}"


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

    def on_signal(number: int, frame: object) -> None:
        if asked():
            raise Stopped(number)
        asked.number = number
        sys.stderr.write("\nstopping after this batch; press Ctrl-C again to stop at once\n")

    with _handling(on_signal):
        yield asked


def stoppable(command: F) -> F:
    """Have Ctrl-C and SIGTERM end a command alike: what is written is kept, exit 130 or 143."""

    def at_once(number: int, frame: object) -> None:
        raise Stopped(number)

    @wraps(command)
    def wrapped(*args: object, **kwargs: object) -> Any:
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


def until(items: list[Item], stopped: Callable[[], bool]) -> Iterator[Item]:
    """The items, one by one, until it is asked to stop."""
    for item in items:
        if stopped():
            return
        yield item
