"""Attributes: declared sets of classes that images are sorted into, with a target.

An attribute of one's own needs a few lines:

    name: glasses
    classes:
      - {name: glasses, prompts: [a photo of a person wearing glasses]}
      - {name: no glasses, prompts: [a photo of a person without glasses]}

A class's prompts are several phrasings of the same thing; a CLIP model scores an image by
their mean embedding. Classes are declared, never observed: one that no image shows has the
share zero and still counts. 'nobody', 'several' and 'cannot tell' are outcomes beside the
classes. The target is a choice, so one that is not 'equal' must say where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from harness.errors import AuditError
from harness.files.yaml_files import read_yaml, shown
from harness.images.colorimetry import MONK_SWATCHES
from harness.spec.json_schema import Described
from harness.spec.prompts import SUITES, Texts
from harness.text import nearest, slug

OUTCOMES = ("nobody", "several", "cannot tell")
"""What an image can be besides a class; no class may be named so."""
TOLERANCE = 1e-6
CLIP, COLORIMETRY = "clip", "colorimetry"
"""Instruments that need no name of their own in a spec."""


class AttributeClass(Described, BaseModel):
    """One class: its name and the phrasings a CLIP model knows it by.

    Attributes:
        name: name of the class.
        prompts: phrasings of an image of it; CLIP scores an image by their mean embedding.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    prompts: Texts = ()


class AttributeSpec(Described, BaseModel):
    """A declared set of classes.

    Attributes:
        name: short name, by which prompts' targets refer to it; becomes lower case with
            hyphens.
        title: what reports call it; the name where empty.
        classes: at least two.
        person: phrasings of an image of one person, which `nobody` and `several` are weighed
            against; where empty, the classes' own prompts are.
        nobody: phrasings of an image without a person; empty: not an outcome.
        several: phrasings of an image of several people; empty: not an outcome.
        target: 'equal', or the share of each class, summing to 1.
        target_source: where the target's shares come from, with place and year.
        instrument: what reads it, one or several. 'clip': each of the spec's classifiers weighs
            images against the prompts. 'colorimetry': the nearest of the ten Monk swatches to the
            mean colour of the skin; takes ten classes from light to dark. Else one of the spec's
            `instruments`, or an installed one by its name.
        labels: for an instrument that has labels of its own: those that mean a class, 'nobody' or
            'several'; of a class that is not named here, its own name.
        otherwise: the class of an image that none of these labels holds for.
        note: what a reader of the numbers must know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str = ""
    classes: tuple[AttributeClass, ...]
    person: Texts = ()
    nobody: Texts = ()
    several: Texts = ()
    target: Literal["equal"] | dict[str, float] = "equal"
    target_source: str = ""
    instrument: Texts = (CLIP,)
    labels: dict[str, Texts] = {}
    otherwise: str = ""
    note: str = ""

    @field_validator("name")
    @classmethod
    def _slugged(cls, name: str) -> str:
        if not slug(name):
            raise AuditError("name: is empty")
        return slug(name)

    @model_validator(mode="after")
    def _consistent(self) -> AttributeSpec:
        names = self.class_names
        if len(names) < 2:
            raise AuditError(f"{self.name}: {list(names)} is not two classes or more")
        for i, name in enumerate(names):
            if name in names[:i]:
                raise AuditError(f"{self.name}: class {name!r} is there twice")
            if name in OUTCOMES or not name.strip():
                raise AuditError(f"{self.name}: a class cannot be named {name!r}")
        if not self.instrument or (self.by_colour and len(self.instrument) > 1):
            raise AuditError(
                f"{self.name}: instrument: {', '.join(self.instrument) or 'none'}; name one, or "
                "several of which none is colorimetry"
            )
        if self.by_colour and len(names) != len(MONK_SWATCHES):
            raise AuditError(
                f"{self.name}: colorimetry tells {len(MONK_SWATCHES)} classes, not {len(names)}"
            )
        self._check_prompts()
        if self.by_clip:
            self.refuse_without_prompts("CLIP")
        self._check_labels()
        if isinstance(self.target, dict):
            self.shares(self.target)
            if not self.target_source.strip():
                raise AuditError(
                    f"{self.name}: target_source is missing; say where the target comes from"
                )
        return self

    def _check_prompts(self) -> None:
        owner: dict[str, str] = {}
        beside = {"person": self.person, "nobody": self.nobody, "several": self.several}
        for name, prompts in [(c.name, c.prompts) for c in self.classes] + list(beside.items()):
            for prompt in prompts:
                if not prompt.strip():
                    raise AuditError(f"{self.name}: {name!r} has an empty prompt")
                if prompt in owner:
                    raise AuditError(
                        f"{self.name}: prompt {prompt!r} is in {owner[prompt]!r} and {name!r}"
                    )
                owner[prompt] = name

    def refuse_without_prompts(self, reader: str) -> None:
        """Refuse classes that an instrument knows by prompts alone, and that have none.

        Args:
            reader: The instrument.

        Raises:
            AuditError: A class has no prompts.
        """
        for one in self.classes:
            if not one.prompts:
                raise AuditError(f"{self.name}: class {one.name!r} has no prompts for {reader}")

    def _check_labels(self) -> None:
        names = self.class_names
        for name in self.labels:
            if name not in (*names, *OUTCOMES[:2]):
                raise AuditError(
                    f"{self.name}: labels: {name!r} is no class; {nearest(name, names)}"
                )
        if self.otherwise and (self.otherwise not in names or self.otherwise in self.labels):
            raise AuditError(
                f"{self.name}: otherwise: {self.otherwise!r} must be a class, and one without "
                f"labels of its own; the classes are {', '.join(names)}"
            )

    @field_serializer("instrument")
    def _one_alone(self, instrument: tuple[str, ...]) -> str | tuple[str, ...]:
        return instrument[0] if len(instrument) == 1 else instrument

    @property
    def by_clip(self) -> bool:
        """Whether the spec's classifiers read it."""
        return CLIP in self.instrument

    @property
    def by_colour(self) -> bool:
        """Whether it is the colour of the skin."""
        return COLORIMETRY in self.instrument

    @property
    def own_instruments(self) -> tuple[str, ...]:
        """The instruments beside the classifiers that read it."""
        return tuple(i for i in self.instrument if i not in (CLIP, COLORIMETRY))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, in the order declared."""
        return tuple(c.name for c in self.classes)

    def shares(self, target: Mapping[str, float] | None = None) -> dict[str, float]:
        """Target share of every class, in the order declared, summing to 1.

        Args:
            target: shares that replace the attribute's own, such as a prompt's. One class may
                be left out; it gets what the others leave.

        Raises:
            AuditError: An unknown class, more than one left out, a share outside 0 to 1, or a
                sum that is not 1.
        """
        names = self.class_names
        wanted = self.target if target is None else target
        if isinstance(wanted, str):
            return dict.fromkeys(names, 1 / len(names))
        for name, share in wanted.items():
            if name not in names:
                raise AuditError(
                    f"{self.name}: target names no class {name!r}; {nearest(name, names)}"
                )
            if not 0 <= share <= 1:
                raise AuditError(f"{self.name}: target of {name!r} is {share}, not from 0 to 1")
        left_out = [name for name in names if name not in wanted]
        total = sum(wanted.values())
        if len(left_out) > 1:
            raise AuditError(f"{self.name}: target leaves out {', '.join(map(repr, left_out))}")
        if total > 1 + TOLERANCE or (not left_out and total < 1 - TOLERANCE):
            raise AuditError(f"{self.name}: target shares sum to {total:g}, not 1")
        return {name: wanted.get(name, max(0.0, 1 - total)) for name in names}


def builtin_attributes() -> dict[str, AttributeSpec]:
    """The built-in attributes by name."""
    files = sorted((SUITES / "attributes").glob("*.yaml"))
    return {path.stem: _from_file(path) for path in files}


def load_attribute(name_or_mapping: str | Mapping[str, object], base_dir: Path) -> AttributeSpec:
    """An attribute by its built-in name, from a YAML file, or from the spec itself.

    Args:
        name_or_mapping: a built-in's name, a path ending in .yaml or .yml relative to
            `base_dir`, or the attribute's keys and values.
        base_dir: the spec's folder.

    Raises:
        AuditError: One line with the key, the value and what would be right.
    """
    if isinstance(name_or_mapping, Mapping):
        return _checked(name_or_mapping, f"attribute {name_or_mapping.get('name', '')!r}")
    if not isinstance(name_or_mapping, str):
        raise AuditError(
            f"attributes: {shown(name_or_mapping)} is a {type(name_or_mapping).__name__}; name an "
            "attribute, a YAML file, or give the attribute's own keys"
        )
    if name_or_mapping.endswith((".yaml", ".yml")):
        return _from_file(base_dir / name_or_mapping)
    folder = SUITES / "attributes"
    path = folder / f"{name_or_mapping}.yaml"
    known = sorted(other.stem for other in folder.glob("*.yaml"))
    if name_or_mapping not in known:
        raise AuditError(
            f"attributes: no attribute {name_or_mapping!r}; {nearest(name_or_mapping, known)}"
        )
    return _from_file(path)


def _from_file(path: Path) -> AttributeSpec:
    loaded = read_yaml(path)
    if not isinstance(loaded, dict):
        raise AuditError(f"{path}: holds {type(loaded).__name__}, not keys and values")
    return _checked(loaded, str(path))


def _checked(values: Mapping[str, object], where: str) -> AttributeSpec:
    """The values as an attribute; pydantic's report becomes one line."""
    try:
        return AttributeSpec.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model = AttributeClass if len(first["loc"]) > 1 else AttributeSpec
        unknown = str(first["loc"][-1])
        raise AuditError(f"{where}: unknown key {key!r}; {nearest(unknown, model.model_fields)}")
    if first["type"] == "missing":
        raise AuditError(f"{where}: {key} is missing")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":
        message = f"{key}: {message}, not {shown(first['input'])}"
    raise AuditError(f"{where}: {message}")
