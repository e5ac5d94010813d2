"""An image at native size, or two of one prompt and seed under a slider."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from harness.images.stored import UnreadableImageError, opened

FOLDER = Path(__file__).parent
VIEWER = st.components.v2.component(
    "audit_viewer",
    html='<div class="viewer"></div>',
    css=(FOLDER / "image_viewer.css").read_text(encoding="utf-8"),
    js=(FOLDER / "image_viewer.js").read_text(encoding="utf-8"),
)


def viewer(images: Mapping[str, bytes], key: str) -> None:
    """One image with a button for its native size; two of one size also with a slider.

    Args:
        images: PNG bytes by the name that stands beside the slider; the first two are shown.
        key: of the widget.
    """
    shown = []
    for name, png in list(images.items())[:2]:
        try:
            shown.append((name, png, opened(png).size))
        except UnreadableImageError:
            continue
    if not shown:
        st.caption("missing: no image in the run")
        return
    size = shown[0][2]
    same = [(name, png) for name, png, own in shown if own == size]
    digest = hashlib.sha256(b"".join(png for _, png in same)).hexdigest()[:16]
    data = {
        "key": f"{key} {digest} {[name for name, _ in same]}",
        "images": [
            {"name": name, "uri": f"data:image/png;base64,{b64encode(png).decode()}"}
            for name, png in same
        ],
        "width": size[0],
        "height": size[1],
    }
    VIEWER(key=f"viewer {key}", data=data)
