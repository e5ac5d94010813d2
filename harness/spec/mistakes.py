"""What is wrong with plain data that a pydantic model refused: one line a mistake."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.files.yaml_files import shown
from harness.text import nearest


def mistakes(error: ValidationError, model: type[BaseModel], where: str = "") -> list[str]:
    """All mistakes, each as 'KEY: what is wrong; what would be right'.

    Args:
        error: What the model's validation raised.
        model: The model.
        where: Key that all of it stands under; '' for the top.
    """
    lines = [_line(one, model, where) for one in error.errors(include_url=False)]
    return list(dict.fromkeys(lines))


def _line(one: Any, model: type[BaseModel], where: str) -> str:
    place = tuple(one["loc"])
    key = ".".join([where] * bool(where) + [str(part)[:80] for part in place]) or "spec"
    if one["type"] == "extra_forbidden":
        parent = model_at(model, place[:-1]) or model
        return f"{key}: unknown key; {nearest(str(place[-1]), tuple(parent.model_fields))}"
    if one["type"] == "missing":
        return f"{key}: missing"
    message = one["msg"].removeprefix("Value error, ")
    if one["type"] == "value_error":
        return message if message.startswith(f"{key}:") else f"{key}: {message}"
    return f"{key}: {message}, not {shown(one['input'])}"


def model_at(model: type[BaseModel], place: Sequence[object]) -> type[BaseModel] | None:
    """The model that a key lies in, found by the annotations on the way; None where there is none.

    Args:
        model: The model at the top.
        place: Keys and indices from there on.
    """
    here: list[type[BaseModel]] = [model]
    annotations: list[object] = [model]
    for part in place:
        inside: list[object] = []
        for one in here:
            if part in one.model_fields:
                inside.append(one.model_fields[part].annotation)
        # A name or number that is no field is an item of a mapping or list: the model stays.
        annotations = inside or annotations
        here = [m for a in annotations for m in models_in(a)]
        if not here:
            return None
    return here[0]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that an annotation names, however deep in unions and containers."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Annotated, types.UnionType) or typing.get_args(
        annotation
    ):
        return [m for a in typing.get_args(annotation) for m in models_in(a)]
    return []
