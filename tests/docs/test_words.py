"""README and docs use the field's words: none of these stands outside code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
RULED_OUT = {
    "picture": "image",
    "by heart": "memorized, memorization",
    "likeness": "CLIP score",
    "error table": "confusion matrix",
    "measured errors": "confusion matrix",
    "who pays": "groups affected more than the rest",
    "told": "reported, measured, given",
    "claims": "estimates, verdicts",
    "set-up": "generation settings",
    "set-ups": "generation settings",
    "exhibit": "figure",
    "unbiased": "say what was measured",
    "debiased": "say what was measured",
    "leans": "is on the other side, is off target",
    "alike": "uniform, equal",
}
CODE = re.compile(r"```.*?```|`[^`\n]*`|^(?: {4}|\t).*$|\]\([^)]*\)", re.DOTALL | re.MULTILINE)


def ruled_out_in(text: str) -> list[str]:
    prose = CODE.sub(" ", text)
    return [w for w in RULED_OUT if re.search(rf"\b{re.escape(w)}s?\b", prose, re.IGNORECASE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_page_has_no_word_that_is_ruled_out(page):
    found = ruled_out_in(page.read_text(encoding="utf-8"))
    assert not found, {word: RULED_OUT[word] for word in found}


def test_words_are_found_in_prose_and_not_in_code():
    assert ruled_out_in("It draws pictures that it learned by heart.") == ["picture", "by heart"]
    assert ruled_out_in("`likeness/clip` and\n```yaml\nprompts: [a picture]\n```") == []
