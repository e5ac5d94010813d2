"""Texts in an image file's header, whatever the format: PNG chunks, EXIF, XMP; and their prompt.

A PNG may hold its texts after the pixels, where Pillow finds them only once all is decoded; so its
chunks are walked here. Everything is data of strangers: sizes are limited before anything is
unpacked, and no parser of XML is let loose on it.
"""

from __future__ import annotations

import html
import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from harness.images.a1111 import read_parameters
from harness.images.comfyui import nodes_of, read_graph
from harness.images.generation_text import Found
from harness.images.other_tools import (
    looks_like_json,
    read_dream,
    read_easy,
    read_json,
    read_object,
)

MAX_TEXT = 4_000_000
"""Characters of one text; ComfyUI's graphs have some 100,000."""
MAX_TEXTS = 64
MAX_CHUNKS = 100_000
EXIF_IFD, USER_COMMENT, MODEL = 0x8769, 0x9286, 0x0110
XMP_COMMENT = re.compile(
    r"<exif:UserComment>\s*(?:<rdf:Alt>\s*<rdf:li[^>]{0,200}>)?([^<]*)<|exif:UserComment=\"([^\"]*)\""
)
UNKNOWN = "a text of an unknown tool"


def read_texts(texts: Mapping[str, str]) -> Found:
    """Prompt, negative and settings in an image file's texts.

    Args:
        texts: As `texts_of` returns them.

    Returns:
        What was found; without a prompt its note says why. Never raises.
    """
    found = _of_texts(texts)
    if not found.prompt and not found.note:
        found = found._replace(note=UNKNOWN if texts else "no text in the file")
    return Found(
        _clean(found.prompt),
        _clean(found.negative),
        {_clean(k): _clean(v) for k, v in found.settings.items()},
        found.tool,
        _clean(found.note),
    )


def _of_texts(texts: Mapping[str, str]) -> Found:
    """The prompt in texts by their keys, the surest sign first."""
    if "invokeai_metadata" in texts:
        return read_object(read_json(texts["invokeai_metadata"]))
    if "sd-metadata" in texts:
        return read_object(read_json(texts["sd-metadata"]))
    if "Dream" in texts:
        return read_dream(texts["Dream"])
    if (easy := read_easy(texts)) is not None:
        return easy
    if "parameters" in texts:
        return _of_parameters(texts["parameters"])
    if "prompt" in texts:
        return _of_graph(texts["prompt"])
    if texts.get("Software") == "NovelAI" and "Comment" in texts:
        return _of_novel(texts)
    if "UserComment" in texts:
        return _of_parameters(texts["UserComment"])
    if "xmp comment" in texts:
        return read_object(read_json(texts["xmp comment"]))
    return Found()


def _of_parameters(text: str) -> Found:
    """A text that is A1111's, or another tool's JSON in the same place."""
    if not looks_like_json(text):
        return read_parameters(text)
    value = read_json(text)
    if nodes_of(value):
        return read_graph(text)
    if isinstance(value, dict) and isinstance(value.get("prompt"), str | dict) and len(value) <= 2:
        # ComfyUI's JPEG savers put {"prompt": graph, "workflow": …} into the comment.
        inner = value["prompt"]
        graph = inner if isinstance(inner, dict) else read_json(inner)
        if nodes_of(graph):
            return read_graph(inner if isinstance(inner, str) else json.dumps(inner))
    if isinstance(value, dict) and isinstance(value.get("Comment"), str):
        return read_object(read_json(value["Comment"]))  # NovelAI's WebP
    return read_object(value)


def _of_graph(text: str) -> Found:
    if not looks_like_json(text):
        return Found(note=UNKNOWN)
    return read_graph(text)


def _of_novel(texts: Mapping[str, str]) -> Found:
    found = read_object(read_json(texts["Comment"]))
    # Its first models keep the prompt in the description alone.
    said = texts.get("Description", "").strip()
    if found.prompt or not said:
        return found
    value = read_json(texts["Comment"])
    return read_object({"prompt": said, "uc": "", **value} if isinstance(value, dict) else value)


def texts_of(path: Path, image: Image.Image) -> dict[str, str]:
    """All texts that an image file holds, by the key that a tool gave them.

    Args:
        path: The file.
        image: The same file as Pillow opened it; not decoded.
    """
    texts: dict[str, str] = {}
    if image.format == "PNG":
        with path.open("rb") as file:
            for key, text in png_texts(file):
                texts.setdefault(key, text)
    else:
        for key in ("parameters", "prompt", "comment"):
            value = image.info.get(key)
            if isinstance(value, str) and len(value) <= MAX_TEXT:
                texts[key] = value
    texts |= {k: v for k, v in _exif_texts(image).items() if k not in texts}
    xmp = texts.pop("XML:com.adobe.xmp", None) or image.info.get("xmp")
    if isinstance(xmp, bytes):
        xmp = xmp[:MAX_TEXT].decode("utf-8", "replace")
    if isinstance(xmp, str) and (found := XMP_COMMENT.search(xmp)):
        texts["xmp comment"] = html.unescape(found[1] or found[2] or "")
    return texts


def _exif_texts(image: Image.Image) -> dict[str, str]:
    """ComfyUI's 'prompt:…' and 'workflow:…', and the user comment, wherever a tool put it."""
    if image.format == "PNG" and "exif" not in image.info:
        return {}  # Pillow would decode all pixels to look behind them
    exif = image.getexif()
    texts: dict[str, str] = {}
    for tag in range(MODEL, MODEL - 8, -1):
        value = exif.get(tag)
        if isinstance(value, str) and len(value) <= MAX_TEXT:
            key, found, rest = value.partition(":")
            if found and key in ("prompt", "workflow", "parameters"):
                texts[key] = rest
    for comment in (exif.get_ifd(EXIF_IFD).get(USER_COMMENT), exif.get(USER_COMMENT)):
        text = user_comment(comment) if comment else ""
        if text:
            texts.setdefault("UserComment", text)
    return texts


def user_comment(value: object) -> str:
    """The text of an EXIF user comment, '' where there is none.

    The standard's eight bytes name the encoding; 'UNICODE' leaves the byte order open, so it is
    told by where the zeros of plain letters lie.
    """
    if isinstance(value, str):
        return value.strip("\0 ") if len(value) <= MAX_TEXT else ""
    if not isinstance(value, bytes) or len(value) > 2 * MAX_TEXT:
        return ""
    code, body = value[:8], value[8:]
    if code == b"UNICODE\0":
        if body.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = body.decode("utf-16", "replace")
        else:
            little = body[1::2].count(0) > body[0::2].count(0)
            text = body.decode("utf-16-le" if little else "utf-16-be", "replace")
    elif code in (b"ASCII\0\0\0", bytes(8)):
        text = body.decode("utf-8", "replace")
    else:
        text = value.decode("utf-8", "replace")
    return text.strip("\0 ")


def png_texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Key and text of a PNG's text chunks, before and after its pixels.

    Args:
        file: An open PNG. Texts that are too large, cut off or no text are left out.
    """
    file.seek(8)
    texts = 0
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND" or texts >= MAX_TEXTS:
            return
        length, kind = struct.unpack(">I", head[:4])[0], head[4:]
        if kind in (b"tEXt", b"zTXt", b"iTXt") and length <= 2 * MAX_TEXT:
            found = _png_text(kind, file.read(length))
            file.seek(4, 1)
            if found is not None:
                texts += 1
                yield found
        else:
            file.seek(length + 4, 1)


def _png_text(kind: bytes, data: bytes) -> tuple[str, str] | None:
    key, _, rest = data.partition(b"\0")
    packed, encoding = kind == b"zTXt", "latin-1"
    if kind == b"iTXt":
        packed, encoding = rest[:1] == b"\1", "utf-8"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif packed:
        rest = rest[1:]
    if packed:
        unpack = zlib.decompressobj()
        try:
            rest = unpack.decompress(rest, MAX_TEXT)
        except zlib.error:
            return None
        if unpack.unconsumed_tail:
            return None  # larger than it may be
    text = rest.decode(encoding, "replace")
    if kind == b"tEXt":
        text = _utf8_in_latin1(rest, text)
    return key.decode("latin-1"), text


def _utf8_in_latin1(data: bytes, text: str) -> str:
    """TEXt is latin-1 by the standard; several tools write UTF-8 all the same."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return text


def _clean(text: str) -> str:
    """Text that can be written anywhere: JSON can hold half characters and NUL, UTF-8 files not."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
