"""Prompts: from what the spec says to a list of texts with slots, groups and targets.

    prompts: {suite: occupations}

    prompts: {list: [a photo of a nurse, a photo of a judge]}

    prompts:
      template: "a photo of {a:job} in {place}"
      slots: {job: [nurse, engineer], place: [Lagos, Oslo]}
      groups: {care: [nurse], technology: [engineer]}

    prompts: {csv: jobs.csv, template: "a photo of {a:job}"}

`{job}` is a slot's value as written, `{a:job}` has 'a' or 'an' put before it. All values of
all slots are crossed. A table needs a column `prompt`, or the slots of the template; its
column `group` groups prompts by name, a column `target:<attribute>:<class>` holds the target
share of a class (0 to 1) for that prompt, every further column is a label.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from itertools import chain, product
from math import prod
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from harness.errors import AuditError
from harness.files.csv_tables import read_table
from harness.files.yaml_files import read_yaml
from harness.spec.json_schema import Described
from harness.text import nearest, slug, with_article

SUITES = Path(__file__).parent / "suites"

Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(
        lambda value: (value,) if isinstance(value, str) else value,
        json_schema_input_type=str | tuple[str, ...],
    ),
]
"""Several texts; one text alone may be written without brackets."""
MOST_PROMPTS = 100_000
"""Prompts of one audit; a suite has some hundred."""
LONGEST_PROMPT = 20_000
"""Characters of one prompt; text encoders read some hundred words."""


class Prompt(NamedTuple):
    """One prompt, with what is known of it.

    Attributes:
        text: what the text encoder reads.
        slots: the values filled in, and the labels of the table's row.
        group: name of its group, '' where it has none.
        targets: by attribute and class, the share wanted of this prompt's images, 0 to 1.
            Attributes are spelled as `slug` spells them.
    """

    text: str
    slots: dict[str, str]
    group: str
    targets: dict[str, dict[str, float]]


class PromptsSpec(Described, BaseModel):
    """Where prompts come from: exactly one of list, template, csv and suite.

    A csv may have a template with it.

    Attributes:
        list: the prompts themselves.
        template: one or several texts with {slots}.
        slots: the values of each slot; all are crossed.
        csv: a table, relative to the spec's folder.
        suite: name of a built-in suite.
        groups: by group, its members: prompts of the list or values of a slot.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "oneOf": [
                {"required": ["list"]},
                {"required": ["template"], "not": {"required": ["csv"]}},
                {"required": ["csv"]},
                {"required": ["suite"]},
            ]
        },
    )

    list: Texts | None = None
    template: Texts | None = None
    slots: dict[str, Texts] = {}
    csv: str | None = None
    suite: str | None = None
    groups: dict[str, Texts] = {}

    @model_validator(mode="after")
    def _one_source(self) -> PromptsSpec:
        given = [
            key for key in ("list", "template", "csv", "suite") if getattr(self, key) is not None
        ]
        if given not in (["list"], ["template"], ["csv"], ["template", "csv"], ["suite"]):
            found = " and ".join(given) or "none of them"
            raise AuditError(f"prompts: give one of list, template, csv or suite, not {found}")
        if self.slots and given != ["template"]:
            raise AuditError(f"prompts: slots go with a template, not with {' and '.join(given)}")
        if self.groups and given not in (["list"], ["template"]):
            raise AuditError(
                f"prompts: groups go with list or template; of a {given[-1]}, use column 'group'"
            )
        return self


class Suite(BaseModel):
    """A built-in suite of prompts: what it is, where it is from, and its prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    source: str = ""
    note: str = ""
    prompts: PromptsSpec = Field(description="paths are relative to the folder of all suites")


def resolve_prompts(spec: PromptsSpec, base_dir: Path) -> list[Prompt]:
    """All prompts of a spec, in the order given.

    Args:
        spec: where they come from.
        base_dir: the spec's folder; a table's path is relative to it.

    Raises:
        AuditError: One line with the key, the value and what would be right: unknown, unused
            or empty slots, an unreadable table, a missing column, the same prompt twice,
            no prompts at all.
    """
    if spec.suite is not None:
        return resolve_prompts(load_suite(spec.suite).prompts, SUITES)
    if spec.csv is not None:
        prompts = _from_table(base_dir / spec.csv, spec.template)
    elif spec.template is not None:
        prompts = _from_template(spec.template, spec.slots)
    else:
        prompts = [Prompt(text.strip(), {}, "", {}) for text in spec.list or ()]
    _check(prompts)
    return _grouped(prompts, spec.groups)


def suite_names() -> list[str]:
    """Names of the built-in suites."""
    return sorted(path.stem for path in (SUITES / "prompts").glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """A built-in suite by its name."""
    if name not in suite_names():
        raise AuditError(f"prompts.suite: no suite {name!r}; {nearest(name, suite_names())}")
    return Suite.model_validate(read_yaml(SUITES / "prompts" / f"{name}.yaml"))


def _pieces(template: str) -> list[tuple[str, str, bool]]:
    """A template as (text before, slot or '', whether with an article), in order."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise AuditError(f"template {template!r}: {error}; write {{{{ for a brace") from None
    pieces = []
    for text, name, spec, conversion in parsed:
        article = name == "a" and bool(spec)
        slot = (spec if article else name) or ""
        if conversion or (spec and not article) or (name is not None and not slot):
            raise AuditError(f"template {template!r}: write slots as {{name}} or {{a:name}}")
        pieces.append((text, slot, article))
    return pieces


def _fill(pieces: Sequence[tuple[str, str, bool]], values: Mapping[str, str]) -> str:
    filled = (
        text + ((with_article(values[slot]) if article else values[slot]) if slot else "")
        for text, slot, article in pieces
    )
    return "".join(filled).strip()


def _from_template(templates: Sequence[str], slots: Mapping[str, Sequence[str]]) -> list[Prompt]:
    parsed = [_pieces(template) for template in templates]
    wanted = [[slot for _, slot, _ in pieces if slot] for pieces in parsed]
    for template, names in zip(templates, wanted, strict=True):
        for name in names:
            if name not in slots:
                raise AuditError(
                    f"template {template!r}: slot {name!r} has no values in slots; "
                    f"{nearest(name, slots)}"
                )
    for name, values in slots.items():
        used = set(chain(*wanted))
        if name not in used:
            raise AuditError(f"slots.{name}: no template uses it; {nearest(name, used)}")
        if not values or not all(value.strip() for value in values):
            raise AuditError(f"slots.{name}: {list(values)} is empty or holds an empty value")
    _refuse_too_many(
        sum(prod(len(slots[name]) for name in dict.fromkeys(names)) for names in wanted)
    )
    prompts = []
    for pieces, names in zip(parsed, wanted, strict=True):
        crossed = {
            name: [v.strip() for v in values] for name, values in slots.items() if name in names
        }
        for values in product(*crossed.values()):
            chosen = dict(zip(crossed, values, strict=True))
            prompts.append(Prompt(_fill(pieces, chosen), chosen, "", {}))
    return prompts


def _from_table(path: Path, templates: Sequence[str] | None) -> list[Prompt]:
    columns, rows = read_table(path)
    if templates is not None and "prompt" in columns:
        raise AuditError(f"{path}: has a column 'prompt', so leave out template")
    texts = ["{prompt}"] if templates is None else templates
    parsed = [_pieces(text) for text in texts]
    for slot in dict.fromkeys(slot for pieces in parsed for _, slot, _ in pieces if slot):
        if slot not in columns:
            raise AuditError(f"{path}: no column {slot!r}; {nearest(slot, columns)}")
        for row in rows:
            if not row[slot]:
                raise AuditError(f"{path}: no value for {slot!r} in the row {list(row.values())}")
    targets = {
        column: _target_of(column, path) for column in columns if column.startswith("target:")
    }
    apart = {"prompt", "group", *targets}
    return [
        Prompt(
            _fill(pieces, row),
            {k: v for k, v in row.items() if k not in apart},
            row.get("group", ""),
            _shares(row, targets, path),
        )
        for pieces in parsed
        for row in rows
    ]


def _target_of(column: str, path: Path) -> tuple[str, str]:
    parts = [part.strip() for part in column.split(":")]
    if len(parts) != 3 or not all(parts):
        raise AuditError(f"{path}: column {column!r} must be named target:<attribute>:<class>")
    return slug(parts[1]), parts[2]


def _shares(
    row: Mapping[str, str], targets: Mapping[str, tuple[str, str]], path: Path
) -> dict[str, dict[str, float]]:
    """A row's target shares; an empty cell sets none."""
    shares: dict[str, dict[str, float]] = {}
    for column, (attribute, name) in targets.items():
        if not row[column]:
            continue
        try:
            share = float(row[column].replace(",", "."))  # a decimal comma
        except ValueError:
            share = float("nan")
        if not 0 <= share <= 1:
            raise AuditError(f"{path}: {column!r} is {row[column]!r}; a share is from 0 to 1")
        shares.setdefault(attribute, {})[name] = share
    for attribute, classes in shares.items():
        if sum(classes.values()) > 1 + 1e-6:
            raise AuditError(f"{path}: target shares of {attribute!r} in {classes} exceed 1")
    return shares


def _refuse_too_many(count: int) -> None:
    if count > MOST_PROMPTS:
        raise AuditError(
            f"prompts: {count:,} prompts; at most {MOST_PROMPTS:,} are audited at once: name fewer "
            "values of the slots, or split the spec"
        )


def _check(prompts: Sequence[Prompt]) -> None:
    if not prompts:
        raise AuditError("prompts: the list is empty; at least one prompt is needed")
    _refuse_too_many(len(prompts))
    seen = set()
    for prompt in prompts:
        if not prompt.text:
            raise AuditError("prompts: '' is an empty prompt")
        if len(prompt.text) > LONGEST_PROMPT:
            raise AuditError(
                f"prompts: {prompt.text[:60]!r} … has {len(prompt.text):,} characters; at most "
                f"{LONGEST_PROMPT:,} are audited, of which a text encoder reads far fewer"
            )
        if prompt.text in seen:
            raise AuditError(f"prompts: {prompt.text!r} is there twice")
        if re.search(r"^Negative prompt:", prompt.text, re.MULTILINE):
            raise AuditError(f"prompts: {prompt.text!r} holds a negative; use negatives for it")
        seen.add(prompt.text)


def _grouped(prompts: Sequence[Prompt], groups: Mapping[str, Sequence[str]]) -> list[Prompt]:
    """The prompts with the group that names their text or one of their slot values."""
    group_of: dict[str, str] = {}
    valid = {word for prompt in prompts for word in (prompt.text, *prompt.slots.values())}
    for group, members in groups.items():
        for member in members:
            if member not in valid:
                raise AuditError(
                    f"groups.{group}: {member!r} is no prompt and no slot's value; "
                    f"{nearest(member, sorted(valid))}"
                )
            if member in group_of:
                raise AuditError(
                    f"groups.{group}: {member!r} is in the group {group_of[member]!r} as well"
                )
            group_of[member] = group
    out = []
    for prompt in prompts:
        named = {group_of[w] for w in (prompt.text, *prompt.slots.values()) if w in group_of}
        if len(named) > 1:
            raise AuditError(f"groups: {prompt.text!r} is in several: {', '.join(sorted(named))}")
        out.append(prompt._replace(group=named.pop()) if named else prompt)
    return out
