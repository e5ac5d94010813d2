"""Turn a pickle of weights (.ckpt, .pt, .pth, .bin) into safetensors without running it.

A pickle is a small program that names functions and has them called. Here a name never
leads to the thing it names: it leads to a note of a tensor, to an inert stand-in, or to a
refusal of the whole file. Nothing is imported on a pickle's word, and only when it has been
read to its end are the tensors made from the notes, with every size checked. What is not on
the lists below is refused: lists of what is bad have always turned out too short.
"""

from __future__ import annotations

import hashlib
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from harness.files.atomic import write_atomic
from harness.models.pickle_reader import ConvertError, NoteUnpickler, Storage, TensorNote
from harness.models.safetensors_header import some

MAX_PICKLE = 8 << 20  # A full SDXL checkpoint names its tensors in less than 1 MB.
MAX_TUPLES = 50_000  # Four per tensor. Deeper nesting overflows the stack where it is hashed.
SLACK = 1 << 20
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # What torch before 1.6 wrote first.


class Converted(NamedTuple):
    """What was written."""

    path: Path
    tensors: int
    size: int
    """Bytes."""
    sha256: str
    dropped: tuple[str, ...]
    """Names of the values besides them that were left out."""


class View(NamedTuple):
    """A tensor's place in its storage, in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    numel: int


class Content(NamedTuple):
    """What was read of a file: its notes, and where its storages' bytes are."""

    root: object
    sizes: dict[str, int]
    """Bytes of each storage as the file has it."""
    read: Callable[[str], bytes]


def convert(path: Path, out: Path | None = None, key: str | None = None) -> Converted:
    """Write a pickle's tensors as a .safetensors file, names, dtypes and bits unchanged.

    Args:
        path: a file as torch.save writes it, today's zip or the one before torch 1.6.
        out: default: beside it, under the same name with .safetensors for an ending.
        key: name under which a training checkpoint keeps the tensors wanted, such as 'model' or
            'ema.model'; None: those at the top, or in 'state_dict'.

    Raises:
        ConvertError: Refused or unreadable, in one line; nothing is written then.
    """
    from safetensors.torch import save

    out = out or path.with_suffix(".safetensors")
    if not path.is_file():
        raise ConvertError(f"{str(path)!r} does not exist; name a file that torch.save wrote")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = _contents(file, size)
            if out.suffix != ".safetensors":
                raise ConvertError(f"cannot become {str(out)!r}: end its name in '.safetensors'")
            if os.path.lexists(out):
                raise ConvertError(f"was not converted: {str(out)!r} exists; give another --out")
            views, dropped = _named_views(_under(content.root, key), size)
            data = save(_tensors(views, content), metadata={"format": "pt"})
    except ConvertError as error:
        raise ConvertError(f"{str(path)!r} {error}") from None
    except OSError:
        raise
    except Exception as error:  # A hostile or damaged file can raise anything here.
        raise ConvertError(
            f"{str(path)!r} cannot be read ({type(error).__name__}): it is cut short, damaged, "
            "or not as torch.save writes it"
        ) from None
    write_atomic(out, data)
    return Converted(out, len(views), len(data), hashlib.sha256(data).hexdigest(), dropped)


def _contents(file: BinaryIO, size: int) -> Content:
    start = file.read(len(_LEGACY))
    file.seek(0)
    if not start:
        raise ConvertError("is empty: get it again")
    if start.startswith(b"PK\x03\x04"):
        return _zip(file, size)
    if start == _LEGACY:
        return _before_1_6(file, size)
    if start[8:9] == b"{":
        raise ConvertError("is a safetensors file already: there is nothing to convert")
    raise ConvertError("is no file that torch.save wrote: name a .ckpt, .pt, .pth or .bin of one")


def _zip(file: BinaryIO, size: int) -> Content:
    archive = zipfile.ZipFile(file)
    infos = {info.filename: info for info in archive.infolist()}
    # torch.save stores as is, so what is inside cannot be more than the file.
    if len(infos) < len(archive.infolist()) or any(
        info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size
        for info in infos.values()
    ):
        raise ConvertError("is a zip with compressed or repeated entries: torch.save writes none")
    total = sum(info.file_size for info in infos.values())
    if total > size:
        raise ConvertError(f"claims to hold {total} bytes in a file of {size}: refused")
    names = [name for name in infos if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ConvertError("is a zip, but not one that torch.save wrote (it has no data.pkl)")
    folder = names[0].removesuffix("data.pkl")
    order = infos.get(f"{folder}byteorder")
    if order is not None and archive.read(order) != b"little":
        raise ConvertError("was written on a big-endian machine, which is not supported")
    if infos[names[0]].file_size > MAX_PICKLE:
        raise ConvertError(f"holds a pickle of more than {MAX_PICKLE} bytes, too much for weights")
    prefix = f"{folder}data/"
    return Content(
        NoteUnpickler(_first_pickle(archive.read(names[0]))).load(),
        {n.removeprefix(prefix): i.file_size for n, i in infos.items() if n.startswith(prefix)},
        lambda key: archive.read(infos[prefix + key]),
    )


def _before_1_6(file: BinaryIO, size: int) -> Content:
    """Five pickles (magic number, version, machine, content, keys), then the storages."""

    def unpickler() -> NoteUnpickler:
        start = file.tell()
        data = _first_pickle(file.read(MAX_PICKLE))
        file.seek(start + len(data))
        return NoteUnpickler(data)

    _, version, machine = (unpickler().load() for _ in range(3))
    if version != 1001 or not machine["little_endian"]:
        raise ConvertError("was written by an unknown version or on a big-endian machine")
    content = unpickler()
    root = content.load()
    places: dict[str, tuple[int, int]] = {}
    for key in unpickler().load():
        (numel,) = struct.unpack("<q", file.read(8))
        start, length = file.tell(), numel * content.storages[key].dtype.itemsize
        if not 0 <= length <= size - start:
            raise ConvertError("is cut short: get it again")
        places[key] = start, length
        file.seek(start + length)

    def read(key: str) -> bytes:
        start, length = places[key]
        file.seek(start)
        return file.read(length)

    return Content(root, {key: length for key, (_, length) in places.items()}, read)


def _first_pickle(data: bytes) -> bytes:
    """The first pickle in some bytes, scanned but not run.

    Python's unpickler makes room for as many notes as the largest number in the pickle, and
    hashes nested tuples without end: a few bytes could ask for gigabytes or crash it.
    """
    tuples = 0
    end = 0
    for count, (code, value, position) in enumerate(pickletools.genops(data)):
        tuples += code.name.startswith("TUPLE") or code.name == "FROZENSET"
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and (value or 0) > count:
            raise ConvertError("holds a pickle with notes out of order, as torch.save writes none")
        end = (position or 0) + 1
    if tuples > MAX_TUPLES:
        raise ConvertError(f"holds a pickle of {tuples} tuples, more than any weights need")
    return data[:end]


def _under(root: object, key: str | None) -> object:
    """What lies under a key, or under one key inside another ('ema.model')."""
    if key is None:
        return root
    if isinstance(root, dict):
        if key in root:
            return root[key]
        first = next((k for k in root if isinstance(k, str) and key.startswith(f"{k}.")), None)
        if first is not None:
            return _under(root[first], key.removeprefix(f"{first}."))
    raise ConvertError(f"holds nothing under {key[:80]!a}{_keys_with_tensors(root)}")


def _keys_with_tensors(root: object) -> str:
    if not isinstance(root, dict):
        return ""
    found = [k for k, v in root.items() if isinstance(k, str) and isinstance(v, dict)]
    found = [k for k in found if any(isinstance(v, TensorNote) for v in root[k].values())]
    return f"; tensors lie under {some(found)}" if found else ""


def _named_views(root: object, file_size: int) -> tuple[dict[str, View], tuple[str, ...]]:
    """Tensors by name, checked, and the names of what is left out."""
    dropped: list[str] = []
    if isinstance(root, dict) and isinstance(root.get("state_dict"), dict):
        dropped += [str(name) for name in root if name != "state_dict"]
        root = root["state_dict"]
    if isinstance(root, dict) and isinstance(root.get("string_to_param"), dict):
        # A textual inversion as the WebUI saves it: one tensor under the name '*'.
        dropped += [str(name) for name in root if name != "string_to_param"]
        root = {"emb_params" if n == "*" else n: t for n, t in root["string_to_param"].items()}
    if not isinstance(root, dict):
        raise ConvertError("holds no dict of tensors: save a state_dict, not a whole model")
    views: dict[str, View] = {}
    for name, value in root.items():
        if isinstance(value, TensorNote):
            if type(name) is not str or name == "__metadata__":
                raise ConvertError(f"holds a tensor named {ascii(name)[:80]}, which is no name")
            views[name] = _view(name, value)
        elif _holds_tensor(value):
            raise ConvertError(
                f"holds tensors inside {ascii(name)[:80]}: only those at the top or in "
                f"'state_dict' are taken by themselves{_keys_with_tensors(root)}; to take those, "
                f"run again with --key {ascii(name)[:80]}"
            )
        else:
            dropped.append(str(name))
    if not views:
        raise ConvertError("holds no tensors at the top or in 'state_dict'")
    # Many names for one storage, or one number repeated, could grow without end.
    total = sum(view.numel * view.storage.dtype.itemsize for view in views.values())
    if total > 2 * file_size + SLACK:
        raise ConvertError(f"would grow from {file_size} to {total} bytes: refused")
    return views, tuple(dropped)


def _holds_tensor(value: object) -> bool:
    stack, seen = [value], set()
    while stack:
        item = stack.pop()
        if isinstance(item, TensorNote):
            return True
        if id(item) in seen or not isinstance(item, (dict, list, tuple, set, frozenset)):
            continue
        seen.add(id(item))  # A pickle can hold a list in itself.
        stack.extend(item.values() if isinstance(item, dict) else item)
    return False


def _view(name: str, note: TensorNote) -> View:
    """Where in its storage a tensor lies.

    Raises:
        ConvertError: Not the arguments that torch.save writes, or outside the storage.
    """
    storage, offset, size, stride, _, _, *metadata = note.args
    numbers = [offset, *size, *stride]
    if (
        not isinstance(storage, Storage)
        or not isinstance(size, tuple)
        or not isinstance(stride, tuple)
        or len(size) != len(stride)
        or any(type(number) is not int or number < 0 for number in numbers)
        or any(metadata)
    ):
        raise ConvertError(f"holds a tensor of no plain kind, {name[:80]!a}")
    numel = 1
    for length in size:
        numel *= length
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if numel and last >= storage.numel:
        raise ConvertError(f"holds a tensor that reaches beyond its storage, {name[:80]!a}")
    return View(storage, offset, size, stride, numel)


def _tensors(views: dict[str, View], content: Content) -> dict[str, torch.Tensor]:
    """Read the storages one after another; each name gets a copy of its part."""
    tensors: dict[str, torch.Tensor] = {}
    for storage, group in groupby(
        sorted(views.items(), key=lambda item: str(item[1].storage)), lambda item: item[1].storage
    ):
        expected = storage.numel * storage.dtype.itemsize
        if content.sizes.get(storage.key) != expected:
            raise ConvertError(
                f"is damaged: storage {storage.key[:80]!a} should have {expected} bytes and "
                f"has {content.sizes.get(storage.key, 'none')}"
            )
        # A storage of no bytes cannot be a buffer.
        flat = torch.empty(0, dtype=storage.dtype)
        if expected:
            flat = torch.frombuffer(bytearray(content.read(storage.key)), dtype=storage.dtype)
        for name, view in group:
            part = flat.as_strided(view.size, view.stride, view.offset)
            tensors[name] = part.clone(memory_format=torch.contiguous_format)
    return tensors


def lines(converted: Converted) -> list[str]:
    """What was written and what was left out, in lines to print."""
    size = f"{converted.size / 1e6:.1f} MB"
    text = [f"wrote {str(converted.path)!r}: {converted.tensors} tensors, {size}"]
    if converted.dropped:
        count = len(converted.dropped)
        text.append(f"left out {count} values besides them: {some(converted.dropped)}")
    return [*text, f"sha256 {converted.sha256}"]
