"""Every command and option that README and docs name exists, and every one is named there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from audit.commands.main import main

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "reference/CARD.md", *sorted((ROOT / "docs").glob("**/*.md"))]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}


def commands(group: click.Command = main, name: str = "audit"):
    """(full name, command) of every command that takes arguments."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for part in group.list_commands(context):
            yield from commands(group.get_command(context, part), f"{name} {part}")
    else:
        yield name, group


KNOWN = dict(commands())
OPTIONS = {
    o for c in KNOWN.values() for p in c.params if isinstance(p, click.Option) for o in p.opts
}


def named(page: Path):
    """Command lines of a page: 'audit …' in code, without comments, brackets and dots."""
    text = TEXT[page]
    lines = [line.strip() for line in text.splitlines() if re.match(r" {4,}audit [a-z]", line)]
    lines += re.findall(r"(?:run: +|^)(audit [a-z][^\n]*)", "\n".join(fenced(text)), re.MULTILINE)
    lines += [" ".join(code.split()) for code in re.findall(r"`(audit [a-z][^`]*)`", text)]
    for line in lines:
        yield re.sub(r"\s+#.*|…|\[|\]", " ", line).strip()


def fenced(text: str) -> list[str]:
    return re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


def split(line: str) -> tuple[str, list[str]]:
    """A command's full name and its arguments."""
    words = shlex.split(line)
    for length in (3, 2):
        if " ".join(words[:length]) in KNOWN:
            return " ".join(words[:length]), words[length:]
    return " ".join(words[:2]), words[2:]


LINES = [(page.name, line) for page in PAGES for line in named(page)]


def problem(line: str) -> str:
    """What is wrong with a command line, or ''."""
    name, arguments = split(line)
    if name not in KNOWN:
        group = any(known.startswith(f"{name} ") for known in KNOWN)
        return "" if group and not arguments else f"no command {name!r}"
    command = KNOWN[name]
    given = [a.split("=")[0].rstrip(",") for a in arguments if a.startswith("-")]
    own = {o for p in command.params if isinstance(p, click.Option) for o in p.opts}
    if unknown := [o for o in given if o not in own]:
        return f"{name} has no option {unknown[0]}"
    try:
        command.make_context(name, [a.rstrip(",") for a in arguments])
    except (click.MissingParameter, click.BadOptionUsage):
        return ""  # named in prose, without its arguments
    except click.UsageError as error:
        return error.format_message()
    except click.exceptions.Exit:
        return ""
    return ""


def test_the_pages_hold_command_lines():
    assert len(LINES) > 60
    assert {split(line)[0] for _, line in LINES} >= {
        "audit run",
        "audit gate",
        "audit labels sample",
    }


@pytest.mark.parametrize(("page", "line"), LINES)
def test_each_command_line_parses(page, line):
    assert problem(line) == ""


@pytest.mark.parametrize(
    "line",
    ["audit gat a b", "audit gate a b --arm x", "audit run", "audit plan a.yaml --detect many"],
)
def test_a_wrong_line_would_be_seen(line):
    assert bool(problem(line)) == (line != "audit run")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_each_option_that_is_named_alone_is_one_of_a_command(page):
    """Of code such as `--grid vae,prompt`; what belongs to another program names it.

    Pages of simulations name options of their own modules.
    """
    of_modules = re.findall(
        r'add_argument\("(--[a-z-]+)"',
        "".join(p.read_text() for p in (ROOT / "validation").rglob("*.py"))
        if page.parent.name == "simulations"
        else "",
    )
    for code in re.findall(r"`(--[a-z][^`]*)`", TEXT[page]):
        for option in re.findall(r"--[a-z][a-z-]*", code):
            assert option in {*OPTIONS, *of_modules}, (page.name, code)


@pytest.mark.parametrize("name", KNOWN)
def test_each_command_and_option_is_in_the_docs(name):
    everything = "\n".join(TEXT.values())
    assert re.search(rf"{name}\b", everything), name
    for parameter in KNOWN[name].params:
        if isinstance(parameter, click.Option):
            assert any(re.search(rf"{o}\b", everything) for o in parameter.opts), parameter.opts


def test_modules_and_make_targets_that_are_named_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page, text in TEXT.items():
        for module in re.findall(r"python -m ((?:benchmarks|reference|validation)[\w.]*)", text):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), (
                page,
                module,
            )
        for target in re.findall(r"(?:`| {4})make ([a-z]+)", text):
            assert target in targets, (page.name, target)


def test_what_is_not_published_is_not_installed_by_name():
    for page, text in TEXT.items():
        if page.name != "gate.md":
            assert not re.search(r"pip install diffusion-audit", text), page.name


def test_dependencies_are_imported():
    """What pyproject.toml lists is imported somewhere, or needed by name by another library."""
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    modules = {
        "huggingface-hub": "huggingface_hub",
        "open_clip_torch": "open_clip",
        "pillow": "PIL",
        "pyyaml": "yaml",
        "scikit-image": "skimage",
        "scikit-learn": "sklearn",
        "umap-learn": "umap",
    }
    by_name = {
        "accelerate": "cpu_offload and sharded folders, by diffusers",
        "peft": "LoRA, by diffusers",
        "torchvision": "preprocessing, by open_clip",
        "vl-convert-python": "charts as SVG, by altair",
    }
    folders = ("audit", "harness", "probes", "reports", "dashboard", "reference", "validation")
    source = "\n".join(p.read_text() for f in folders for p in (ROOT / f).rglob("*.py"))
    for entry in listed:
        name = re.match(r"[\w-]+", entry)[0]
        module = modules.get(name, name.replace("-", "_"))
        used = re.search(rf"^\s*(?:import|from) {module}\b", source, re.MULTILINE)
        assert used or name in by_name, name
