"""The world's own small vocabulary, in the form that `CLIPTokenizer` reads.

    python -m validation.train.tokenizer

A byte-level BPE trained on the words of the world's prompts until each is one token; any
other text still encodes, in pieces.
"""

from __future__ import annotations

import json
import re

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from reference.world import GENDERS, HERE, ROLES, STYLES, TONES

MAX_TOKENS = 32
OTHER_WORDS = """
a an the of and or with without in on at to is no not very style skin hair face person people
man woman men women male female boy girl young old adult beard bearded hat glasses long short
portrait photo picture drawing image painting emoji cartoon white black brown red blue green
yellow grey background happy sad angry smiling serious clever kind brave poor rich ugly lovely
good bad best quality worst blurry low high light dark medium tone nobody several two group
"""


def train() -> CLIPTokenizer:
    """Train the vocabulary and return it as a tokenizer of 32 tokens a prompt."""
    words = sorted(
        set(re.findall(r"\w+", " ".join((*ROLES, *GENDERS, *TONES, *STYLES, OTHER_WORDS))))
    )
    bpe = Tokenizer(BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), behavior="removed")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=4000,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator([" ".join(words)], trainer)
    vocabulary = dict(sorted(bpe.get_vocab().items(), key=lambda item: item[1]))
    for letter in sorted(alphabet):
        vocabulary.setdefault(letter + "</w>", len(vocabulary))
    merges = json.loads(bpe.to_str())["model"]["merges"]
    tokenizer = CLIPTokenizer(
        vocab=vocabulary, merges=[tuple(m) for m in merges], model_max_length=MAX_TOKENS
    )
    pieces = {word: tokenizer.tokenize(word) for word in words}
    split = {word: p for word, p in pieces.items() if len(p) != 1}
    assert not split, f"words of more than one token: {split}"
    return tokenizer


if __name__ == "__main__":
    made = train()
    made.save_pretrained(HERE / "models" / "tokenizer")
    print(f"{len(made)} tokens")
