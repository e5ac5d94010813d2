"""The spec's JSON schema, described by the docstrings of the spec's own classes."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from harness.json_types import JsonObject


class OneAlone:
    """In `Annotated`: one item alone may stand where a list is wanted."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """A list of what was given, where that is no list."""
        return core_schema.no_info_before_validator_function(
            lambda value: value if isinstance(value, list) else [value], handler(source)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonObject:
        """The list, or one of its items."""
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


ONE_ALONE = OneAlone()
ATTRIBUTE = re.compile(r"(\w+(?:, \w+)*): (.*)")


class Described:
    """Beside `BaseModel`: a part of the spec whose JSON schema has its docstring's descriptions.

    The section 'Attributes' of a Google docstring says what each key means; so an editor that
    knows the schema shows the same words as the source.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonObject:
        """The schema that pydantic makes, with descriptions."""
        made = handler(schema)
        held = handler.resolve_ref_schema(made)
        summary, descriptions = read_docstring(cls)
        held["description"] = summary
        for name, prop in held.get("properties", {}).items():
            if name in descriptions:
                prop["description"] = descriptions[name]
        return made


def read_docstring(described: type) -> tuple[str, dict[str, str]]:
    """The first sentence of a Google docstring, and its attributes' descriptions by name."""
    summary, _, rest = inspect.getdoc(described).partition("\n\n")  # type: ignore[union-attr]
    _, _, section = f"{summary}\n\n{rest}".partition("\nAttributes:\n")
    descriptions: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith("    "):
            break
        found = ATTRIBUTE.fullmatch(line.strip()) if not line.startswith("     ") else None
        if found:
            names = found[1].split(", ")
            descriptions |= dict.fromkeys(names, found[2])
        elif line.strip():
            for name in names:
                descriptions[name] += f" {line.strip()}"
    return " ".join(summary.split()), descriptions
