"""Images made elsewhere: a folder of files, with the prompts that travel in or beside them.

A prompt comes from a table (columns `file` and `prompt`; `negative`, `pair`, `mask` and labels if
there are any), or else from the file itself: see `harness.images.metadata`. Names in a table are
looked up among the folder's files, never joined into paths, and links are not followed.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from harness.files.csv_tables import read_table
from harness.files.yaml_files import shown
from harness.hashing import file_digest
from harness.images.generation_text import Found
from harness.images.metadata import read_texts, texts_of
from harness.images.pixels import (
    GivenError,
    Header,
    header,
    load_image,
    needed_for,
    opened,
    readable,
    size_of,
)
from harness.spec.attributes import AttributeSpec
from harness.spec.label_classes import resolve_classes
from harness.text import nearest, slug

__all__ = ["Folder", "GivenError", "GivenImage", "load_image", "read_folder", "size_of"]

COLUMNS = ("file", "prompt", "negative", "pair", "mask", "model")
"""Columns of the table that are no labels; `model` names the arm."""


class GivenImage(NamedTuple):
    """One image made elsewhere.

    Attributes:
        path: where it is.
        name: its path in the folder, with slashes.
        sha256: of the file's bytes, in hex.
        prompt: '' where none was found.
        negative: negative prompt, '' where none was found.
        settings: steps, sampler, seed and so on as the file tells them, by their WebUI names.
        labels: values of the table's further columns; an empty cell gives none.
        header: size and colour.
        note: why there is no prompt, or what was passed on the way to it.
        pair: what it may be paired by with images of other arms; '' for none.
        mask: where its skin is; None where the table names no mask.
    """

    path: Path
    name: str
    sha256: str
    prompt: str
    negative: str
    settings: Mapping[str, str]
    labels: Mapping[str, str]
    header: Header
    note: str = ""
    pair: str = ""
    mask: Path | None = None


class Folder(NamedTuple):
    """The images of a folder, in the order of their names, and what else lies there.

    Attributes:
        images: the images.
        passed: numbers of files and links that were not read, by kind.
    """

    images: list[GivenImage]
    passed: Mapping[str, int]


def read_folder(
    folder: Path,
    csv: Path | None = None,
    attributes: Sequence[AttributeSpec] = (),
    label_map: Mapping[str, str] = MappingProxyType({}),
    needed: Sequence[str] = ("file", "prompt"),
    how: str = "translate with --label-map VALUE=CLASS",
) -> Folder:
    """All images in a folder and its subfolders.

    Links and hidden files are passed over, and so is what a table names as mask. A file that
    turns out not to be an image is listed all the same (its header gives no prompt): `load_image`
    refuses it, and it counts as failed in its own group.

    Args:
        folder: where the images are.
        csv: table with the columns `file` (relative to the folder) and `prompt`, if wanted
            `negative`, `pair`, `mask`, `model`, and labels. An empty prompt, or a file that is
            not in the table, gets the prompt in the file.
        attributes: those whose labels must be classes; a column is known by the attribute's name
            or title. Of other columns, the first spelling of a value is taken for all.
        label_map: class or outcome by value, for values that are no class.
        needed: columns that the table must have.
        how: what to do about labels that are no class, for the message.

    Raises:
        GivenError: No such folder, no images, or a table that does not fit them.
        LabelError: Labels of an attribute that are none of its classes.
    """
    if not folder.is_dir():
        raise GivenError(f"{folder}: is no folder")
    files, passed = _files(folder, csv)
    suffixes = readable()
    paths = {
        name: path
        for name, path in files.items()
        if path.suffix.lower() in suffixes and not _hidden(name)
    }
    passed.update(
        _kind(path) for name, path in files.items() if name not in paths and not _hidden(name)
    )
    if not paths:
        said = f"; there are {_counted(passed)}" if passed else ""
        raise GivenError(f"{folder}: no images ({' '.join(suffixes)}){said}")
    rows = _Rows({}, {})
    if csv is not None:
        rows = _rows(csv, paths, files, attributes, label_map, needed, how)
    masks = set(rows.masks.values())
    images = [
        _image(name, paths[name], rows.labels.get(name, {}), rows.masks.get(name))
        for name in sorted(paths)
        if paths[name] not in masks
    ]
    if not images:
        raise GivenError(f"{csv}: all images of the folder are named as masks")
    return Folder(images, passed)


def warnings_of(folder: Folder, prompts: bool = True) -> list[str]:
    """What a person should know of a folder before its images are measured, one line each.

    Args:
        folder: As read.
        prompts: whether images are expected to have prompts.
    """
    images, lines = folder.images, []
    without = [i for i in images if not i.prompt]
    if without and prompts:
        why = Counter(i.note or "the table leaves it empty" for i in without)
        lines.append(
            f"{len(without)} of {len(images)} images have no prompt ({_counted(why)}); name "
            "prompts in a CSV"
        )
    noted = Counter(i.note for i in images if i.prompt and i.note)
    for note, count in noted.items():
        lines.append(f"{count} of {len(images)} prompts were found past {note}: check them")
    colours = Counter(i.header.colour for i in images if i.header.colour)
    for colour, count in colours.items():
        lines.append(f"{count} of {len(images)} images: {colour}")
    if folder.passed:
        lines.append(f"passed over in the folder: {_counted(folder.passed)}")
    return lines


def _image(name: str, path: Path, row: Mapping[str, str], mask: Path | None) -> GivenImage:
    found, head = _read_header(path)
    prompt, negative = row.get("prompt", ""), row.get("negative", "")
    note = "" if prompt else found.note
    if not prompt:
        prompt, negative = found.prompt, negative or found.negative
    return GivenImage(
        path,
        name,
        _sha256(path),
        prompt,
        negative,
        found.settings,
        {k: v for k, v in row.items() if v and k not in ("prompt", "negative", "pair", "mask")},
        head,
        note,
        row.get("pair", ""),
        mask,
    )


def _read_header(path: Path) -> tuple[Found, Header]:
    """What a file's header says of prompt, size and colour; nothing where it cannot be read."""
    try:
        with opened(path) as image:
            head, texts = header(image), texts_of(path, image)
    except GivenError:
        return Found(note="the file cannot be read as an image"), Header((0, 0))
    return read_texts(texts), head


def _sha256(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise GivenError(f"{path}: cannot be read ({error.strerror})") from None


# --- the folder ---


def _files(folder: Path, csv: Path | None) -> tuple[dict[str, Path], Counter[str]]:
    """Regular files by name, and what is none, counted by kind. Names are composed (NFC)."""
    files: dict[str, Path] = {}
    passed: Counter[str] = Counter()
    table = None if csv is None else csv.resolve()

    def refuse(error: OSError) -> None:
        raise GivenError(f"{error.filename}: cannot be read ({error.strerror})")

    for root, folders, names in os.walk(folder, onerror=refuse):
        for name in sorted(folders):
            if (Path(root) / name).is_symlink():
                passed["folders that are links"] += 1
        for name in sorted(names):
            path = Path(root) / name
            relative = unicodedata.normalize("NFC", path.relative_to(folder).as_posix())
            if path.is_symlink():
                kind = "files that are links" if path.exists() else "broken links"
                passed[kind] += 1
            elif not path.is_file():
                passed["special files"] += 1
            elif path.resolve() != table:
                if relative in files:
                    raise GivenError(
                        f"{folder}: two files are named {relative!r}, with accents composed "
                        "differently; rename one"
                    )
                files[relative] = path
    return files, passed


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _kind(path: Path) -> str:
    """How a file that is not read is counted."""
    suffix = path.suffix.lower()
    how = needed_for(suffix)
    return f"{suffix or 'files without a suffix'}{f' (read with {how})' if how else ''}"


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items())


# --- the table ---


class _Rows(NamedTuple):
    """The table by file: what it says, and the masks that it names."""

    labels: Mapping[str, Mapping[str, str]]
    masks: Mapping[str, Path]


def _rows(
    csv: Path,
    images: Mapping[str, Path],
    files: Mapping[str, Path],
    attributes: Sequence[AttributeSpec],
    label_map: Mapping[str, str],
    needed: Sequence[str],
    how: str,
) -> _Rows:
    """The table's rows by file, without the column `file`, values spelled as declared."""
    columns, rows = read_table(csv)
    spelled = _spelled(csv, columns, attributes)
    for name in needed:
        if name not in spelled.values():
            raise GivenError(f"{csv}: no column {name!r}; {nearest(name, columns)}")
    out: dict[str, dict[str, str]] = {}
    masks: dict[str, Path] = {}
    for raw in rows:
        row = {spelled[column]: value for column, value in raw.items()}
        name = _looked_up(csv, row.pop("file"), images, "image")
        if name in out:
            raise GivenError(f"{csv}: image {name!r} is there twice")
        if mask := row.pop("mask", ""):
            masks[name] = files[_looked_up(csv, mask, files, "mask")]
        out[name] = row
    both = [name for name in out if images[name] in set(masks.values())]
    if both:
        raise GivenError(f"{csv}: {both[0]!r} is named as image and as mask")
    declared = {a.name: a for a in attributes}
    for column in dict.fromkeys(spelled.values()):
        if column in COLUMNS:
            continue
        values = {name: row[column] for name, row in out.items() if row[column]}
        if column in declared:
            found = resolve_classes(values.values(), declared[column], label_map, str(csv), how)
        else:
            first: dict[str, str] = {}
            found = {v: first.setdefault(v.casefold(), v) for v in values.values()}
        for name, value in values.items():
            out[name][column] = found[value]
    return _Rows(out, masks)


def _spelled(
    csv: Path, columns: Sequence[str], attributes: Sequence[AttributeSpec]
) -> dict[str, str]:
    """What each column is: one of `COLUMNS`, an attribute, or a label as it is written."""
    names = {slug(a.title): a.name for a in attributes if a.title}
    names |= {a.name: a.name for a in attributes} | {name: name for name in COLUMNS}
    spelled = {column: names.get(slug(column), column) for column in columns}
    for column, name in spelled.items():
        first = next(c for c, n in spelled.items() if n == name)
        if first != column:
            raise GivenError(f"{csv}: columns {first!r} and {column!r} are the same; leave one out")
    return spelled


def _looked_up(csv: Path, name: str, files: Mapping[str, Path], kind: str) -> str:
    """A name of the table among the folder's files."""
    plain = unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))
    if plain not in files:
        raise GivenError(f"{csv}: no {kind} {shown(name)} in the folder; {nearest(plain, files)}")
    return plain
