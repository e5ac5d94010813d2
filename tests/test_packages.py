"""What pip installs: the packages that pyproject.toml lists, with all their data."""

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git here to ask")
CODE = {".py", ".typed"}
CHECKOUT_ONLY = ("validation/real", "validation/simulations")
"""Real VAEs and simulations: for whoever doubts a table in docs/, who has a checkout."""


def settings():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "setuptools"
    ]


def tracked(folder) -> set[Path]:
    said = subprocess.run(
        ["git", "ls-files", "-z", "--", folder],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    names = {name for name in said.split("\0") if name}
    return {ROOT / name for name in names if not name.startswith(CHECKOUT_ONLY)}


def owner(path, packages) -> str | None:
    """The innermost package that a file lies in."""
    held = [p for p in packages if path.is_relative_to(ROOT / p.replace(".", "/"))]
    return max(held, key=len, default=None)


def test_every_package_with_code_is_listed():
    packages = settings()["packages"]
    roots = {p.split(".")[0] for p in packages}
    with_code = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for root in roots
        for path in tracked(root)
        if path.name == "__init__.py"
    }
    assert with_code <= set(packages)
    for path in {p for root in roots for p in tracked(root) if p.suffix == ".py"}:
        own = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        assert own in packages, f"{path} lies in no listed package"


def test_every_data_file_is_shipped():
    setup = settings()
    packages, globs = setup["packages"], setup["package-data"]
    assert set(globs) <= set(packages)
    shipped = {
        path
        for package, patterns in globs.items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
        if path.is_file()
    }
    data = {
        path
        for root in {p.split(".")[0] for p in packages}
        for path in tracked(root)
        if path.suffix not in CODE and owner(path, packages)
    }
    left_out = sorted(str(p.relative_to(ROOT)) for p in data - shipped)
    assert left_out == []
    kinds = {p.suffix for p in data}
    assert kinds >= {".json", ".yaml", ".csv", ".safetensors", ".j2"}, kinds
