"""What other libraries print while a run prints its own progress: no bars, each warning once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import transformers


class Once(logging.Filter):
    """Lets each message pass once a process: what is true of a checkpoint is true of all."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is new."""
        text = record.getMessage()
        new = text not in self._seen
        self._seen.add(text)
        return new


ONCE = Once()


def quieten() -> None:
    """Silence the bars of diffusers, transformers and the hub; may be called again."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.get_logger()  # makes the library's handler where it has none yet
    for name in ("diffusers", "transformers"):
        for handler in logging.getLogger(name).handlers:
            if ONCE not in handler.filters:
                handler.addFilter(ONCE)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' reports, which quote names of tensors as they are, off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
