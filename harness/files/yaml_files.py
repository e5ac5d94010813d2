"""The one way to read a YAML file that somebody gave.

YAML can say a lot in few bytes: nine lines of aliases stand for 10^9 values, brackets nest until
the reader's stack ends, and a key that is there twice silently loses its first value. All of
this is counted on the parser's events and nodes, before anything is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from harness.errors import AuditError, reason

LARGEST = 8_000_000
"""Bytes of a file; longer lists of prompts are kept in a CSV."""
DEEPEST = 50
"""Levels of nesting; a spec has six."""
MOST = 500_000
"""Values with all aliases written out."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, kind: type[AuditError] = AuditError, largest: int = LARGEST) -> Any:
    """The plain data in a YAML file.

    Args:
        path: The file.
        kind: Class of the errors.
        largest: Bytes that it may have.

    Raises:
        AuditError: One line with the file and, where known, the line: unreadable, no YAML, too
            large, nested too deeply, aliases that stand for too much, or a key that is there twice.
    """
    try:
        size = path.stat().st_size
        if size > largest:
            raise kind(f"{path}: has {size:,} bytes; at most {largest:,} are read as YAML")
        text = path.read_text(encoding="utf-8-sig")
    except AuditError:
        raise
    except (OSError, ValueError) as error:  # no UTF-8, or a name that no file can have
        raise kind(f"{path}: cannot be read ({reason(error)})") from None
    return parse_yaml(text, str(path), kind)


def parse_yaml(text: str | bytes, where: str, kind: type[AuditError] = AuditError) -> Any:
    """The plain data in a YAML text; `where` names it in errors, which are those of `read_yaml`."""
    loader = None
    try:
        _check_depth(text, where, kind)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, where, kind)
        _check_scalars(node, where, kind)
        return loader.construct_document(node)
    except AuditError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or reason(error)
        raise kind(f"{where}:{line} is not YAML: {' '.join(str(said).split())}") from None
    except Exception as error:  # a value that Python cannot hold, such as the date 2024-13-45
        raise kind(f"{where}: holds a value that cannot be read ({reason(error)})") from None
    finally:
        if loader is not None:
            loader.dispose()


def shown(value: object) -> str:
    """A value as an error quotes it: on one line, cut where it is long."""
    text = repr(value[:100] if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:80]} …"


def _check_depth(text: str | bytes, where: str, kind: type[AuditError]) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                line = event.start_mark.line + 1
                raise kind(f"{where}: line {line} is nested more than {DEEPEST} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _check_size(root: yaml.Node, where: str, kind: type[AuditError]) -> None:
    """Refuse what grows beyond `MOST` values, or without end, where aliases are written out."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: yaml.Node) -> int:  # as deep as the text is nested, and once a node
        known = sizes.get(id(node))
        if known is not None:
            return known
        line = node.start_mark.line + 1
        if id(node) in open_:
            raise kind(f"{where}: line {line} holds itself through an alias")
        open_.add(id(node))
        total = 1 + sum(size(child) for child in _children(node))
        open_.discard(id(node))
        if total > MOST:
            raise kind(
                f"{where}: line {line} stands for {total:,} values with its aliases written out; "
                f"at most {MOST:,} are read: leave out aliases, or put lists of prompts into a CSV"
            )
        sizes[id(node)] = total
        return total

    size(root)


def _check_scalars(root: yaml.Node, where: str, kind: type[AuditError]) -> None:
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        stack.extend(_children(node))
        if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
            line = node.start_mark.line + 1
            raise kind(f"{where}: line {line}: {shown(node.value)} holds the character NUL")
        if not isinstance(node, yaml.MappingNode):
            continue
        keys: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise kind(f"{where}: line {line}: a key is one word, not a list or mapping")
            if (key.tag, key.value) in keys:
                raise kind(
                    f"{where}: line {line}: the key {key.value[:80]!r} is there twice (first in "
                    f"line {keys[key.tag, key.value]})"
                )
            keys[key.tag, key.value] = line
