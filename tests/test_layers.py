"""The layers of the house, and that an import upward would be seen."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "diffusion_audit",
    "reference",
    "harness",
    "probes",
    "reports",
    "audit",
    "dashboard",
    "validation",
)


def linted(root: Path) -> subprocess.CompletedProcess:
    code = "from importlinter.cli import lint_imports_command as c; c()"
    return subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {code}"],
        cwd=root,
        env={"PATH": "", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path) -> Path:
    for name in FOLDERS:
        for path in (ROOT / name).rglob("*.py"):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_a_folder_imports_only_from_those_below_it_and_an_import_upward_is_seen(copy):
    clean = linted(copy)
    assert clean.returncode == 0, clean.stdout
    with (copy / "harness/errors.py").open("a") as file:
        file.write("\nimport probes.contracts\n")
    planted = linted(copy)
    assert planted.returncode == 1
    assert "harness.errors -> probes.contracts" in planted.stdout


def test_few_types_are_left_open():
    """`Any` as a type in all packages: a named type says more, and mypy then looks."""
    roots = [ROOT / name for name in FOLDERS]
    found = [
        node
        for root in roots
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "Any"
    ]
    assert 0 < len(found) <= 150


def test_long_modules_are_named_with_their_reason():
    notes = (ROOT / "docs" / "design-notes.md").read_text(encoding="utf-8")
    long = {}
    for name in FOLDERS:
        for path in (ROOT / name).rglob("*.py"):
            count = len(path.read_text(encoding="utf-8").splitlines())
            if count > 300:
                long[path.relative_to(ROOT).as_posix()] = count
    assert long
    assert max(long.values()) < 450
    assert [p for p in long if not p.startswith("validation/") and f"`{p}`" not in notes] == []
    total = {
        name: sum(len(p.read_text().splitlines()) for p in (ROOT / name).rglob("*.py"))
        for name in FOLDERS
    }
    assert max(total.values()) <= sum(total.values()) / 3
