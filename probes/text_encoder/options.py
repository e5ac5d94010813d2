"""Options of the probe `text`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from probes.contracts import ProbeOptions


class Association(ProbeOptions):
    """A test of association: do texts x lie nearer to a, and texts y nearer to b?

    Attributes:
        name: name of the test in the report.
        x, y: two sets of texts, such as prompts with occupations of two kinds.
        a, b: two sets of attribute texts, such as 'a man' and 'a woman'.
    """

    name: str
    x: tuple[str, ...] = Field(min_length=2)
    y: tuple[str, ...] = Field(min_length=2)
    a: tuple[str, ...] = Field(min_length=1)
    b: tuple[str, ...] = Field(min_length=1)


Group = Annotated[tuple[str, ...], Field(min_length=2)]
Groups = Annotated[dict[str, Group], Field(min_length=2)]


class TextOptions(ProbeOptions):
    """Options of the probe `text`.

    Attributes:
        associations: tests beside those of every prompt with every attribute of two classes.
        token_tax: by the name of a comparison, texts by group, such as names by origin or a
            sentence in several languages: how many tokens each group needs.
    """

    associations: tuple[Association, ...] = ()
    token_tax: dict[str, Groups] = Field(default={})
