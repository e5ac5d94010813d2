"""Examples in docstrings say what happens."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("diffusion_audit", "harness", "probes", "reports", "audit", "dashboard", "validation")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
)


def test_there_are_examples():
    assert len(MODULES) > 4


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_hold(name):
    failed, tried = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.IGNORE_EXCEPTION_DETAIL
    )
    assert tried > 0
    assert failed == 0
