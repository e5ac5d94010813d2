"""From what people wrote to the classes that an attribute declares.

A label counts only where its class is known: 'F' is not 'woman' until somebody says so. What is
neither a class nor an outcome beside the classes is refused, with its count; never taken for
'cannot tell', which is an answer of its own.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from harness.errors import AuditError
from harness.spec.attributes import OUTCOMES, AttributeSpec
from harness.text import slug

MOST_QUOTED = 8
IN_SPEC = "translate with labels: {map: {VALUE: CLASS}}"
"""What to do about unknown values where the labels are those of a spec."""


class LabelError(AuditError):
    """Labels name classes that nobody declared; the message is one line that lists them."""


def parse_label_map(pairs: Iterable[str]) -> dict[str, str]:
    """A label map as the command line gives it, VALUE=CLASS a time.

    Raises:
        LabelError: One has no '=' or no value before it.
    """
    mapping = {}
    for pair in pairs:
        value, found, name = pair.rpartition("=")
        if not found or not value.strip():
            raise LabelError(f"--label-map {pair!r}: write VALUE=CLASS, such as F=woman")
        mapping[value.strip()] = name.strip()
    return mapping


def check_label_map(mapping: Mapping[str, str], attributes: Sequence[AttributeSpec]) -> None:
    """Refuse a label map that leads to no class of any attribute.

    Raises:
        LabelError: One line that names the value, its translation and the classes.
    """
    known = {n for a in attributes for n in (*a.class_names, *OUTCOMES)}
    for value, name in mapping.items():
        if name and attributes and name not in known:
            raise LabelError(
                f"label map: {value!r} leads to {name!r}, which is no class; "
                f"{'; '.join(_classes(a) for a in attributes)}"
            )


def resolve_classes(
    values: Iterable[str],
    attribute: AttributeSpec,
    mapping: Mapping[str, str],
    where: str,
    how: str = IN_SPEC,
) -> dict[str, str]:
    """The class of every value; '' for one that is no label.

    A value is, in this order: a class or outcome as declared; what the map says of it; a class or
    outcome in another case. Spaces at the ends do not count, nor how accents are composed.

    Args:
        values: What people wrote, one for each label.
        attribute: The attribute that they label.
        mapping: Class, outcome or '' (no label) by value, for values that are no class.
        where: What holds the labels, for the message.
        how: What to do about a value that is no class, for the message.

    Returns:
        Class or outcome by value as written.

    Raises:
        LabelError: Values that are neither: one line with the values, their counts and the
            classes.
    """
    counts = Counter(values)
    declared = {_plain(n): n for n in (*attribute.class_names, *OUTCOMES)}
    translated = {_plain(v): n for v, n in mapping.items()}
    folded: dict[str, list[str]] = {}
    for plain, name in declared.items():
        folded.setdefault(plain.casefold(), []).append(name)
    out: dict[str, str] = {}
    unknown: dict[str, int] = {}
    for value, count in counts.items():
        plain = _plain(value)
        alike = folded.get(plain.casefold(), [])
        if not plain or plain in declared:
            out[value] = declared.get(plain, "")
        elif plain in translated:
            out[value] = translated[plain]
        elif len(alike) == 1:
            out[value] = alike[0]
        else:
            unknown[plain] = unknown.get(plain, 0) + count
    wrong = {n for n in out.values() if n and n not in declared.values()}
    if wrong:
        raise LabelError(
            f"{where}: the label map leads to {sorted(wrong)[0]!r}; {_classes(attribute)}"
        )
    if unknown:
        quoted = [f"{v[:40]!r} ({n})" for v, n in list(unknown.items())[:MOST_QUOTED]]
        more, count = len(unknown) - len(quoted), sum(unknown.values())
        said = (
            f"{count} label{'s' * (count > 1)} of {attribute.name} {'are' if count > 1 else 'is'}"
        )
        raise LabelError(
            f"{where}: {said} no class: "
            f"{', '.join(quoted)}{f' and {more} more values' if more > 0 else ''}; "
            f"{_classes(attribute)}; {how}"
        )
    return out


def resolve_labels(
    labels: pd.DataFrame,
    attributes: Sequence[AttributeSpec],
    mapping: Mapping[str, str],
    where: str,
    how: str = IN_SPEC,
) -> pd.DataFrame:
    """Labels with attributes and classes spelled as declared; those without a class are left out.

    Labels of other attributes stay as they are: they may belong to another spec.

    Args:
        labels: Columns attribute and class, among others.
        attributes: The attributes of the spec.
        mapping: As `resolve_classes`.
        where: As `resolve_classes`.
        how: As `resolve_classes`.

    Raises:
        LabelError: As `resolve_classes`.
    """
    labels = labels.copy()
    named = {a.name: a for a in attributes}
    spelled = {str(v): slug(str(v)) for v in labels["attribute"].unique()}
    labels["attribute"] = [
        spelled[str(v)] if spelled[str(v)] in named else v for v in labels["attribute"]
    ]
    labels["class"] = ["" if v is None or v != v else str(v) for v in labels["class"]]
    for name, attribute in named.items():
        own = labels["attribute"] == name
        found = resolve_classes(labels.loc[own, "class"], attribute, mapping, where, how)
        labels.loc[own, "class"] = labels.loc[own, "class"].map(found)
    kept = np.array([bool(str(v).strip()) for v in labels["class"]], bool)
    return labels[kept].reset_index(drop=True)


def _plain(value: str) -> str:
    return unicodedata.normalize("NFC", value).strip()


def _classes(attribute: AttributeSpec) -> str:
    return (
        f"the classes of {attribute.name} are {', '.join(attribute.class_names)}, "
        f"beside {', '.join(OUTCOMES)}"
    )
