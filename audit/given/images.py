"""Images made elsewhere: a folder of files, with the prompts that travel in or beside them.

A prompt comes from a table (columns `file` and `prompt`; `negative` and labels if there are
any), or else from the file itself: the `parameters` text of the A1111 WebUI in a PNG, or the
graph that ComfyUI stores there. Images become 8-bit RGB on white, upright; what cannot be
read as one is refused by name. Files are data of strangers: their size is checked before
anything is decoded, and names in a table are looked up, never joined into paths.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from audit.errors import AuditError
from audit.given.parameters import read_graph, read_parameters
from audit.prompts import nearest, read_table, slug

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Decoders let loose on strangers' files; Pillow knows many more, some start other programs."""
MAX_PIXELS = 64_000_000


class GivenError(AuditError):
    """A given file cannot be used; the message is one line that names it."""


class GivenImage(NamedTuple):
    """One image made elsewhere.

    Attributes:
        path: where it is.
        sha256: of the file's bytes, in hex.
        prompt: '' where none was found.
        negative: negative prompt, '' where none was found.
        settings: steps, sampler, seed and so on as the file tells them, by their WebUI names.
        labels: values of the table's further columns; an empty cell gives none.
    """

    path: Path
    sha256: str
    prompt: str
    negative: str
    settings: dict[str, str]
    labels: dict[str, str]


# --- the folder ---


def read_folder(
    folder: Path,
    csv: Path | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    needed: Sequence[str] = ("file", "prompt"),
) -> list[GivenImage]:
    """All images in a folder and its subfolders, in the order of their names.

    Other files and hidden ones are passed over. A file that turns out not to be an image is
    listed all the same (its header gives no prompt): `load_image` refuses it, and it counts as
    failed in its own group.

    Args:
        folder: where the images are.
        csv: table with the columns `file` (relative to the folder) and `prompt`, if wanted
            `negative`, and labels. An empty prompt, or a file that is not in the table, gets
            the prompt in the file.
        needed: columns that the table must have.
        labels: classes of the label columns that must be there; a value is matched whatever
            its case. Of other columns, the first spelling of a value is taken for all.

    Raises:
        GivenError: No such folder, no images, or a table that does not fit them.
    """
    if not folder.is_dir():
        raise GivenError(f"{folder}: is no folder")
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    if not paths:
        raise GivenError(f"{folder}: no images ({' '.join(SUFFIXES)})")
    rows = {} if csv is None else _rows(csv, paths, labels or {}, needed)
    images = []
    for name in sorted(paths):
        row = dict(rows.get(name, {}))
        prompt, negative = row.pop("prompt", ""), row.pop("negative", "")
        found, found_negative, settings = _read_prompt(paths[name])
        if not prompt:
            prompt, negative = found, negative or found_negative
        digest = _sha256(paths[name])
        images.append(
            GivenImage(
                paths[name], digest, prompt, negative, settings, {k: v for k, v in row.items() if v}
            )
        )
    return images


def without_prompt(images: Sequence[GivenImage]) -> int:
    """How many of the images came without a prompt."""
    return sum(not image.prompt for image in images)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise GivenError(f"{path}: cannot be read ({error.strerror})") from None


def _rows(
    csv: Path,
    files: Mapping[str, Path],
    labels: Mapping[str, Sequence[str]],
    needed: Sequence[str],
) -> dict[str, dict[str, str]]:
    """The table's rows by file, without the column `file`, values spelled as declared."""
    try:
        columns, rows = read_table(csv)
    except ValueError as error:
        raise GivenError(str(error)) from None
    names = {slug(name): name for name in (*labels, "negative", "prompt", "file")}
    spelled = {column: names.get(slug(column), column) for column in columns}
    for name in (*needed, *labels):
        if name not in spelled.values():
            raise GivenError(f"{csv}: no column {name!r}; {nearest(name, columns)}")
    known = {name: {c.casefold(): c for c in classes} for name, classes in labels.items()}
    out: dict[str, dict[str, str]] = {}
    for raw in rows:
        row = {spelled[column]: value for column, value in raw.items()}
        name = row.pop("file").replace("\\", "/").removeprefix("./")
        if name not in files:
            raise GivenError(f"{csv}: no image {name!r} in the folder; {nearest(name, files)}")
        if name in out:
            raise GivenError(f"{csv}: image {name!r} is there twice")
        for column, value in row.items():
            if column in ("prompt", "negative") or not value:
                continue
            values = known.setdefault(column, {})
            if column in labels and value.casefold() not in values:
                raise GivenError(
                    f"{csv}: {name!r} has {column} {value!r}; {nearest(value, values.values())}"
                )
            row[column] = values.setdefault(value.casefold(), value)
        out[name] = row
    return out


# --- pixels ---


def load_image(path: Path) -> NDArray[np.uint8]:
    """An image file's pixels, (height, width, 3), uint8 RGB.

    Transparent parts become white, EXIF orientation is applied, the first frame of an
    animation is taken, 16-bit values are scaled to 8 bits.

    Raises:
        GivenError: Not an image, truncated, of 32-bit values, or more than 64 megapixels.
    """
    with _opened(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            grey = np.round(np.asarray(upright, dtype=np.uint16) / 257).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if upright.mode in ("I", "F"):
            raise GivenError(f"{path}: has 32-bit values; save it with 8 or 16 bits")
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.array(upright.convert("RGB"))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height as `load_image` gives them, from the header; (0, 0) where it would fail."""
    try:
        with _opened(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
            return (height, width) if turned else (width, height)
    except GivenError:
        return (0, 0)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image opened by its header; whatever goes wrong with it is a GivenError."""
    try:
        with warnings.catch_warnings():
            # Pillow has a limit of its own, above ours, that warns before the size is known.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except GivenError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise GivenError(f"{path}: more than {MAX_PIXELS // 10**6} megapixels") from None
    except UnidentifiedImageError:
        raise GivenError(
            f"{path}: is not an image of a known kind ({', '.join(FORMATS)})"
        ) from None
    except FileNotFoundError:
        raise GivenError(f"{path}: no such file") from None
    except Exception as error:  # Decoders of broken files raise many types.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise GivenError(f"{path}: cannot be read as an image ({reason})") from None


# --- prompts in files ---


def _read_prompt(path: Path) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative and settings in a file's header; empty where there are none."""
    try:
        with _opened(path) as image:
            parameters, graph = image.info.get("parameters"), image.info.get("prompt")
    except GivenError:
        return "", "", {}
    if isinstance(parameters, str):
        prompt, negative, settings = read_parameters(parameters)
    elif isinstance(graph, str):
        prompt, negative, settings = read_graph(graph)
    else:
        return "", "", {}
    return _clean(prompt), _clean(negative), {_clean(k): _clean(v) for k, v in settings.items()}


def _clean(text: str) -> str:
    """Text that can be written anywhere: JSON can hold half characters and NUL, UTF-8 files not."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
