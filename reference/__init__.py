"""Models whose bias is known, how they were made, and the oracle that labels their images.

*The reference world proves the arithmetic and the plumbing, not that CLIP reads photographs
correctly: for that, label some of your own images.*
"""

from __future__ import annotations

import difflib
from pathlib import Path

import yaml

MODELS = Path(__file__).parent / "models"


def names() -> list[str]:
    """Names of the reference checkpoints."""
    return sorted(_table())


def components(checkpoint: str) -> dict[str, Path]:
    """Folders of a reference checkpoint's components.

    Raises:
        ValueError: No such checkpoint; quotes the nearest.
    """
    table = _table()
    if checkpoint not in table:
        close = difflib.get_close_matches(checkpoint, table, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(table)}"
        raise ValueError(f"no reference checkpoint {checkpoint!r}; {hint}")
    parts = {kind: component(kind, name) for kind, name in table[checkpoint].items()}
    return parts | {"tokenizer": MODELS / "tokenizer", "scheduler": MODELS / "scheduler"}


def component(kind: str, name: str) -> Path:
    """Folder of one reference component ('vae', 'unet', 'text_encoder', 'classifier').

    Raises:
        ValueError: No such component; quotes the nearest.
    """
    known = sorted(p.name for p in (MODELS / kind).iterdir())
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise ValueError(f"no reference {kind} {name!r}; {hint}")
    return MODELS / kind / name


def _table() -> dict[str, dict[str, str]]:
    loaded: dict[str, dict[str, str]] = yaml.safe_load((MODELS / "checkpoints.yaml").read_text())
    return loaded
