"""Tell pickles from safetensors, and list what a pickle would call, without running it."""

from __future__ import annotations

from pathlib import Path

PICKLE_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
_ZIP = b"PK\x03\x04"
_PROTOCOLS = tuple(bytes((0x80, number)) for number in range(2, 6))
_SHOWN = 5


def is_pickle(path: Path) -> bool:
    """Whether a file that is no safetensors file is a pickle, by its name or first bytes.

    torch.save writes a zip with a pickle inside, before torch 1.6 a bare pickle. The first
    bytes of a safetensors file are the length of its header and may look like a bare
    pickle's: ask only about files that could not be read as safetensors.
    """
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(4).startswith((_ZIP, *_PROTOCOLS))


def unsafe_globals(path: Path) -> list[str]:
    """Functions and classes that a pickle asks for beyond plain tensors, sorted.

    The pickle is disassembled, never run. Empty where there are none, and also where the
    file is too old or too odd to be listed: an empty list does not make a pickle safe.
    """
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # A hostile file can raise anything here, and is refused in any case.
        return []


def refusal(path: Path) -> str:
    """Why a pickle is not read and what to do, in one line."""
    found = unsafe_globals(path)
    # Names come from the file: ascii() keeps line breaks and control characters out.
    names = ", ".join(ascii(name[:80])[1:-1] for name in found[:_SHOWN])
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    asks = f" (this one asks for {names}{more})" if found else ""
    return (
        f"{str(path)!r} is a pickle (or zip) as torch.save writes it, which can run any code "
        f"when loaded{asks}: run `audit convert FILE`"
    )
