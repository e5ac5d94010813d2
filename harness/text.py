"""Words in messages and names: the nearest valid one, slugs, articles."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

NEAREST_OF = 2_000
"""Words among which the nearest is looked for: comparing takes time for each."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """'the nearest is X' among the valid words, for an error message."""
    words = list(valid)
    if len(words) > NEAREST_OF or len(word) > 200:
        return f"there are {len(words):,}, the first is {words[0][:80]!r}" if words else ""
    close = difflib.get_close_matches(word, [w[:200] for w in words], n=1, cutoff=0)
    return f"the nearest is {close[0]!r}" if close else "there are none"


def slug(name: str) -> str:
    """A name for comparing: lower case, hyphens for spaces ('Age group' is 'age-group')."""
    return re.sub(r"[\s_-]+", "-", name.strip()).casefold()


def with_article(noun: str) -> str:
    """A noun after its indefinite article: 'an engineer', 'a pilot', 'an hour', 'an MRI scan'.

    Goes by the first letters, so that a few words come out wrong ('an NASA engineer'): write
    the article into such a value and use the slot without `a:`.
    """
    first = noun.split()[0] if noun.split() else ""
    if len(first) > 1 and first.split("-")[0].isupper():
        vowel = first[0] in "AEFHILMNORSX"
    elif re.match(r"(eu|one\b|once|uni(?![nmd])|us[eu]|uti|uro|ukr|uk[eu])", first, re.IGNORECASE):
        vowel = False
    else:
        vowel = re.match(r"([aeiou]|hour|hono|honest|heir)", first, re.IGNORECASE) is not None
    return f"{'an' if vowel else 'a'} {noun}"
