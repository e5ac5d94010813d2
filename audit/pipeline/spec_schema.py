"""The JSON schema of a whole spec: its own keys, and the options of all probes and instruments."""

from __future__ import annotations

from harness.json_types import JsonObject
from harness.spec.schema import Spec
from probes.instruments.kinds import kinds
from probes.registry import registry


def spec_schema() -> JsonObject:
    """JSON schema of the spec, for editors: probes by name, each with its options."""
    schema = Spec.model_json_schema()
    shared: JsonObject = schema["$defs"]
    options: JsonObject = {}
    for name, probe in sorted(registry().items()):
        own = probe.Options.model_json_schema()
        shared |= own.pop("$defs", {})
        options[name] = {"anyOf": [own, {"type": "null"}]}
    one = {"enum": list(options)}
    by_name = {"type": "object", "properties": options, "additionalProperties": False}
    probes = schema["properties"]["probes"]
    probes["anyOf"] = [
        one,
        {"type": "array", "minItems": 1, "items": {"anyOf": [one, by_name]}},
        by_name | {"minProperties": 1},
    ]
    schema["properties"]["instruments"]["additionalProperties"] = {"anyOf": _kinds(shared)}
    return schema


def _kinds(shared: JsonObject) -> list[JsonObject]:
    """An instrument by each kind: its own options beside what all kinds have in common."""
    common: JsonObject = shared["InstrumentSpec"]["properties"]
    found = []
    for kind in kinds().values():
        own = kind.Options.model_json_schema()
        shared |= own.pop("$defs", {})
        own["properties"] |= common
        found.append(own)
    return found
