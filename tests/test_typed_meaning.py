"""What a finding means is in its fields: no code reads it back out of words."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "probes", "reports", "audit", "dashboard", "diffusion_audit", "validation")
WORDS = r"(?:metric(?:\.name)?|note|estimator|estimand|adjustment|caption|alt|reading)"
PARSED = re.compile(
    rf"\.{WORDS}(?:\.lower\(\))?\."
    r"(?:startswith|endswith|partition|rpartition|split|replace|removeprefix|removesuffix|find)\("
    rf"|[\"'] in (?:f|found|finding|one)\.{WORDS}\b"
    rf"|re\.\w+\([^)]*\.{WORDS}\b"
)
WORDED = "card.py"
"""Words of a metric's name as a slug of the model card: written, not read."""


def parsed_in(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if PARSED.search(line)]


def test_no_meaning_is_parsed_out_of_words():
    found = {
        f"{path.relative_to(ROOT)}: {line}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for line in parsed_in(path.read_text())
        if '.metric.name.replace("_", " ")' not in line and path.name != WORDED
    }
    assert not found


def test_what_this_test_looks_for_is_found():
    for line in (
        'if blank.note.startswith("estimated"):',
        'name = f.metric.removeprefix("difference of ")',
        'if "distance" in finding.metric.name:',
        'f.metric.lower().partition(" ")',
        "re.search(PATTERN, f.note)",
    ):
        assert parsed_in(line) == [line]
