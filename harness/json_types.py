"""The type of what JSON and YAML files hold."""

from __future__ import annotations

from typing import Any, TypeAlias

JsonObject: TypeAlias = dict[str, Any]
"""A mapping as JSON has it: its readers know its keys, and files of strangers are checked first."""
