import pytest
from transformers import CLIPTokenizer

import reference
from harness.models.token_alignment import read_words


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(reference.MODELS / "tokenizer")


def spelled(word) -> str:
    return "".join(word.pieces).replace("</w>", "")


def test_words_keep_all_their_tokens_and_repeats_stay_apart(tokenizer):
    reading = read_words(tokenizer, "a  Portrait of a medium-dark don't-know firefighterish doctor")
    labels = [w.label for w in reading.words]
    assert labels == [
        "a", "Portrait", "of", "a (2)", "medium-dark", "don't-know", "firefighterish", "doctor"
    ]  # fmt: skip
    assert [w.tokens for w in reading.words][:4] == [(1,), (2,), (3,), (4,)]
    for word in reading.words:
        assert spelled(word) == word.text.lower()
        assert word.whole
    tokens = [t for w in reading.words for t in w.tokens]
    assert tokens == sorted(set(tokens))
    assert len(reading.words[6].tokens) > 1
    assert reading.used == reading.wanted == tokens[-1] + 2
    assert reading.cut == ""


def test_a_short_word_is_not_found_inside_a_longer_one(tokenizer):
    reading = read_words(tokenizer, "art artist")
    first, second = reading.words
    assert not set(first.tokens) & set(second.tokens)
    assert spelled(first) == "art"


def test_punctuation_belongs_to_no_word(tokenizer):
    reading = read_words(tokenizer, "skin, noto")
    assert [w.tokens for w in reading.words] == [(1,), (3,)]


def test_one_word_and_three_hundred(tokenizer):
    one = read_words(tokenizer, "doctor")
    assert [(w.text, w.tokens) for w in one.words] == [("doctor", (1,))]
    text = " ".join(["doctor"] * 300)
    many = read_words(tokenizer, text)
    assert (len(many.words), many.length, many.used, many.wanted) == (300, 32, 32, 302)
    assert [w.whole for w in many.words] == [True] * 30 + [False] * 270
    assert many.words[299].label == "doctor (300)"
    assert many.words[30].tokens == ()
    assert many.cut.split() == ["doctor"] * 270


def test_a_word_that_the_cut_splits_is_not_whole(tokenizer):
    reading = read_words(tokenizer, "a " * 29 + "firefighterish")
    assert reading.words[-1].tokens == (30,)
    assert not reading.words[-1].whole


def test_nothing_at_all(tokenizer):
    assert read_words(tokenizer, "").words == ()
    assert read_words(tokenizer, "!").words == ()


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow gives no offsets; a fast tokenizer is needed"):
        read_words(Slow(), "a")
