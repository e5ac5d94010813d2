"""Read a pickle into notes of its tensors; no name in it is ever imported, looked up or called."""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

import torch

from harness.errors import AuditError

_STORAGES = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
}
# What trainers leave beside the weights. None of it is wanted, so none of it is built.
_INERT_PACKAGES = frozenset(
    {"lightning", "lightning_fabric", "lightning_utilities", "omegaconf", "pytorch_lightning"}
)
_BUILTINS = ("bool", "dict", "float", "frozenset", "int", "list", "object", "set", "str")
_INERT: dict[str, tuple[str, ...]] = {
    "__builtin__": _BUILTINS,
    "_codecs": ("encode",),
    "argparse": ("Namespace",),
    "builtins": _BUILTINS,
    "collections": ("defaultdict",),
    "copy_reg": ("_reconstructor",),
    "copyreg": ("_reconstructor",),
    "numpy": ("dtype", "ndarray"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "pathlib": ("Path", "PosixPath", "WindowsPath"),
    "torch": ("Size", "device", *(str(d).removeprefix("torch.") for d in _STORAGES.values())),
    "typing": ("Any",),
}


class ConvertError(AuditError):
    """A file that is not converted: one line with the file and the reason."""


class Inert:
    """Stands for a class or function that is not wanted; building or filling it does nothing.

    A pickle can set any attribute of what it is given, unless __setstate__ is there: it then
    calls that. With it neither this class nor one made from it can be changed by a file.
    """

    __slots__ = ()

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        """Take any arguments and keep none."""
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Take a state and forget it."""

    def __setitem__(self, key: object, value: object) -> None:
        """Take an item of a dict and forget it."""

    def append(self, value: object) -> None:
        """Take an item of a list and forget it."""

    def extend(self, values: object) -> None:
        """Take items of a list and forget them."""


class TensorNote(Inert):
    """A note of what torch._utils._rebuild_tensor_v2 was to be called with, unchecked."""

    __slots__ = ("args",)
    args: tuple[Any, ...]

    def __new__(cls, *args: object) -> TensorNote:
        """Keep the arguments as they are."""
        note = object.__new__(cls)
        note.args = args
        return note


class ParameterNote(Inert):
    """Stands for torch._utils._rebuild_parameter: the parameter's tensor, no more."""

    __slots__ = ()

    def __new__(cls, data: Any, *rest: object) -> Any:
        """The tensor itself."""
        return data


class Ordered(dict[object, object]):
    """Stands for collections.OrderedDict, without the attributes that modules put on it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Take a state and forget it."""


_TENSORS = {
    "torch._utils._rebuild_tensor_v2": TensorNote,
    "torch._utils._rebuild_parameter": ParameterNote,
    "collections.OrderedDict": Ordered,
}


class Storage(NamedTuple):
    """Bytes of the file that tensors are views of."""

    key: str
    dtype: torch.dtype
    numel: int


class NoteUnpickler(pickle.Unpickler):
    """Reads notes of tensors. No name in the pickle is ever imported or looked up."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for a name that is known, else the refusal of the file."""
        full = f"{module}.{name}"
        if full in _TENSORS:
            return _TENSORS[full]
        if full in _STORAGES:
            return _STORAGES[full]
        if name in _INERT.get(module, ()) or module.split(".")[0] in _INERT_PACKAGES:
            return Inert
        raise ConvertError(
            f"asks for {ascii(full[:80])[1:-1]}, which is no part of weights: refused, and "
            "nothing of it was run; get the weights from someone who offers safetensors"
        )

    def persistent_load(self, pid: Any) -> Storage:
        """A note of the storage that the pickle points to."""
        kind, dtype, key, _, numel, *view = pid
        if kind != "storage" or type(key) is not str or view not in ([], [None]):
            raise ConvertError("holds something other than plain storages")
        if not isinstance(dtype, torch.dtype) or type(numel) is not int or numel < 0:
            raise ConvertError(f"names a storage of no known kind ({key[:80]!a})")
        storage = Storage(key, dtype, numel)
        self.storages.setdefault(key, storage)
        return storage
