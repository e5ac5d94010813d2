"""Tokens of groups of words, counted by hand in CLIP's real vocabulary."""

import numpy as np
import open_clip
import pandas as pd
import pytest
from conftest import make  # tests/conftest.py

from audit.pipeline import analyse
from probes.contracts import Finding
from probes.error_control import adjusted
from probes.text_encoder.token_tax import permutation_p, token_tax

NAMES = {
    "US English": ["james", "mary", "robert", "linda", "michael", "susan"],
    "Vietnamese": ["nguyễn", "trần", "phạm", "huỳnh", "đặng", "bùi"],
}


def rows_of(counts, length=77):
    return pd.DataFrame(
        [
            {
                "checkpoint": "a", "adapters": "none", "encoder": "", "text": text,
                "wanted": n + 2, "used": min(n + 2, length), "length": length, "starts": True,
            }
            for text, n in counts.items()
        ]
    )  # fmt: skip


class Adapters:
    adapters = {"none": None}  # noqa: RUF012


def tokens_by_clip(text):
    return len(open_clip.get_tokenizer("ViT-B-32").encode(text))


def test_counts_are_those_of_clips_vocabulary_by_hand():
    counts = {name: tokens_by_clip(name) for names in NAMES.values() for name in names}
    assert [counts[n] for n in NAMES["US English"]] == [1, 1, 1, 1, 1, 1]
    findings, (figure,) = token_tax(rows_of(counts), Adapters, {"names": NAMES})
    found = {(f.metric.name, f.subject["words"]): f for f in findings}
    assert found["length of a text", "names: US English"].value == 1.0
    mean = np.mean([counts[n] for n in NAMES["Vietnamese"]])
    assert mean > 2
    assert found["length of a text", "names: Vietnamese"].value == pytest.approx(mean)
    more = found["extra length of a text", "names: Vietnamese"]
    assert more.value == pytest.approx(mean - 1)
    assert more.p == pytest.approx(2 / 924)  # all 924 ways of parting twelve words
    assert more.low > 0
    assert more.headline
    assert list(figure.table["label"]) == list(NAMES)


def test_the_part_that_is_cut_is_told():
    counts = {"short one": 10, "short two": 12, "long one": 150, "long two": 75}
    groups = {"a": ["short one", "short two"], "b": ["long one", "long two"]}
    findings, _ = token_tax(rows_of(counts), Adapters, {"texts": groups})
    cut = {f.subject["words"]: f.value for f in findings if "cut off" in f.metric.name}
    assert cut == {"texts: a": 0.0, "texts: b": pytest.approx(50 * 75 / 152)}


def test_shuffled_groups_give_no_finding():
    rng = np.random.default_rng(0)
    words = [f"word {i}" for i in range(36)]
    counts = dict(zip(words, rng.integers(1, 8, len(words)).tolist(), strict=True))
    table, said = rows_of(counts), 0
    for _ in range(200):
        rng.shuffle(words)
        groups = {name: words[i * 12 : i * 12 + 12] for i, name in enumerate("abc")}
        findings, _ = token_tax(table, Adapters, {"shuffled": groups})
        tests: list[Finding] = [f for f in adjusted(findings) if f.family]
        said += any(f.p <= 0.05 for f in tests)
    assert said <= 18  # at most 5 % of 200, within its 99 % range


def test_p_of_equal_words_is_one_and_of_parted_words_small():
    assert permutation_p(np.ones(4), np.ones(5)) == 1.0
    assert permutation_p(np.arange(8.0), np.arange(8.0) + 20) < 0.001


def test_a_run_counts_the_words_of_its_spec_for_its_own_tokenizer(tmp_path):
    groups = {"roles": ["doctor", "farmer"], "long": ["a portrait of a doctor", "a man and a man"]}
    audit = make(
        tmp_path,
        probes={"text": {"token_tax": {"words": groups}}},
        seeds=1,
        vaes={"own": "own"},
    )
    findings, figures = analyse.analyse(audit)
    found = {(f.metric.name, f.subject.get("words")): f for f in findings}
    assert (
        found["length of a text", "words: roles"].value
        < found["length of a text", "words: long"].value
    )
    assert "text/token-tax" in {f.id for f in figures}
    assert analyse.report(audit, findings, figures).exists()
