"""Which tensors of a file reach the model: a rehearsal on shapes that remembers where each is from.

The converters of names drop what they do not know without a word. A tensor here holds no data and
knows the names it was made of, through any slicing, joining or turning; what no tensor of the
model was made of was dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch


class Traced(torch.Tensor):
    """A tensor on the meta device with the names of the tensors it was made of."""

    names: frozenset[str] = frozenset()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: object = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and hand the names on."""
        out = super().__torch_function__(func, types, args, kwargs or {})
        made = [t for t in _flat([out]) if isinstance(t, Traced)]
        if made:
            names = frozenset().union(
                *(t.names for t in _flat([args, list((kwargs or {}).values())]) if type(t) is cls)
            )
            for tensor in made:
                tensor.names = names
        return out


def traced(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Traced:
    """A tensor without data that stands for one of a file."""
    tensor = torch.empty(shape, dtype=dtype, device="meta").as_subclass(Traced)
    tensor.names = frozenset([name])
    return tensor


def names_in(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """The names of all tensors that these were made of; of plain tensors none."""
    return {n for t in tensors.values() if isinstance(t, Traced) for n in t.names}


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            yield from _flat(value)
        else:
            yield value
