"""Prompts in chunks: by hand, against compel, and unchanged where one chunk is enough."""

import numpy as np
import pytest
import torch
from compel import CompelForSD, CompelForSDXL
from conftest import make, write_spec  # tests/conftest.py
from tiny_pipelines import flux, plainly, rows_of, sd1, sd2, sdxl, words

from audit.pipeline.run import read_batch
from audit.pipeline.session import open_audit
from audit.pipeline.text_scores import text_rows
from harness.errors import AuditError, SpecError
from harness.generate.sampling import Extras, Generator
from harness.models.prompt_chunks import chunks_of
from harness.models.prompt_weights import weigh
from harness.models.textual_inversion import LEARNED
from harness.models.token_alignment import read_chunks, read_words
from harness.plan.cells import units_of
from harness.taps.attention_record import AttentionRecorder
from harness.taps.attention_words import END, START

TOKENIZER = words()
LONG = " ".join(["a portrait of a nurse with red hair"] * 20)  # 160 tokens, no comma
IN_CHUNKS = Extras(in_chunks=True)
A1111 = Extras(weighting="a1111", in_chunks=True)


def split(text, breaks=False):
    """Words of each chunk."""
    return [
        " ".join(t.piece.removesuffix("</w>") for t in chunk)
        for chunk in chunks_of(TOKENIZER, text, breaks)
    ]


def cats(count):
    return " ".join(["cat"] * count)


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("", [0]),
        (cats(75), [75]),
        (cats(76), [75, 1]),
        (cats(160), [75, 75, 10]),
        # a comma within the last 20 of a full chunk: what is behind it goes over
        (f"{cats(60)}, {cats(20)}", [61, 20]),
        (f"{cats(55)}, {cats(30)}", [56, 30]),  # 20 from the end, the comma counted
        (f"{cats(54)}, {cats(30)}", [75, 10]),  # 21
        (f"{cats(10)}, {cats(50)}, {cats(30)}", [62, 30]),  # the last comma counts
        (f"{cats(74)}, {cats(5)}", [75, 5]),  # the comma is the last one of the chunk
        (f"{cats(75)}, {cats(5)}", [75, 6]),  # it begins the next one
        (f"{cats(60)}, {cats(14)}", [75]),  # just full: nothing goes over
        (f"{cats(60)}, {cats(15)}", [61, 15]),
        (f"{cats(70)}, {cats(70)}, {cats(70)}", [71, 71, 70]),
    ],
)
def test_chunks_by_hand(text, lengths):
    assert [len(c) for c in chunks_of(TOKENIZER, text, False)] == lengths
    flat = [t.id for c in chunks_of(TOKENIZER, text, False) for t in c]
    assert flat == TOKENIZER(text, add_special_tokens=False, verbose=False).input_ids


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a cat BREAK a dog", ["a cat", "a dog"]),
        ("a catBREAK a dog", ["a cat break a dog"]),
        ("BREAK a dog", ["", "a dog"]),
        ("a cat BREAK", ["a cat"]),
        ("a BREAK BREAK b", ["a", "", "b"]),
        ("a break b", ["a break b"]),
        (f"{cats(80)} BREAK b", [cats(75), cats(5), "b"]),
    ],
)
def test_break_ends_a_chunk(text, parts):
    assert split(text, breaks=True) == parts
    assert len(split(text)) == 1 + (len(TOKENIZER.tokenize(text)) > 75)  # else it is a word


def test_an_embedding_is_not_torn_apart():
    tokenizer = words()
    tokenizer.add_tokens([f"<|mine {i}|>" for i in range(4)])
    spelled = "".join(f"<|mine {i}|>" for i in range(4))
    chunks = chunks_of(tokenizer, f"{cats(73)} {spelled} b {spelled}{spelled}", False)
    assert [len(c) for c in chunks] == [73, 13]
    assert all(LEARNED.fullmatch(t.piece) for t in chunks[1][:4])


@pytest.mark.parametrize("pipeline", [sd1, sd2, sdxl])
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_the_vectors_of_a_chunk_are_the_pipelines_own(pipeline, clip_skip):
    """Each chunk encoded alone, one behind the other; the pooled vector is the first one's."""
    pipe = pipeline()
    made = Generator(pipe, 1, IN_CHUNKS._replace(clip_skip=clip_skip)).embed(LONG)
    plain = Generator(pipe, 1, Extras(clip_skip=clip_skip))
    parts = [plain.embed(text) for text in split(LONG)]
    assert made["prompt_embeds"].shape[1] == 3 * 77
    wanted = torch.cat([p["prompt_embeds"] for p in parts], dim=1)
    assert torch.equal(made["prompt_embeds"], wanted)
    if "pooled_prompt_embeds" in made:
        assert torch.equal(made["pooled_prompt_embeds"], parts[0]["pooled_prompt_embeds"])


@pytest.mark.parametrize(("pipeline", "oracle"), [(sd1, CompelForSD), (sdxl, CompelForSDXL)])
def test_compel_makes_the_same_of_150_tokens_without_commas(pipeline, oracle):
    pipe = pipeline()
    ours = Generator(pipe, 1, IN_CHUNKS)
    for text in (LONG, " ".join(LONG.split()[:150])):
        assert torch.equal(ours.embed(text)["prompt_embeds"], oracle(pipe)(text).embeds)


@pytest.mark.parametrize("pipeline", [sd1, sdxl])
def test_one_chunk_keeps_what_it_was(pipeline):
    pipe = pipeline()
    for text in ("a cat", "", cats(75)):
        one, other = (Generator(pipe, 1, e).embed(text) for e in (Extras(), IN_CHUNKS))
        assert all(torch.equal(one[k], other[k]) for k in one)
    long, cut = (Generator(pipe, 1, e).embed(LONG)["prompt_embeds"] for e in (IN_CHUNKS, Extras()))
    assert torch.equal(long[:, :77], cut)


def test_weights_keep_each_chunks_mean():
    pipe = sd1()
    generator = Generator(pipe, 1, A1111)
    text = f"({cats(70)}:1.5) {cats(5)} BREAK a (dog:0.5)"
    made = generator.embed(text)["prompt_embeds"].split(77, dim=1)
    parts = Generator(pipe, 1, IN_CHUNKS)
    weights = [[1, *[1.5] * 70, *[1] * 6], [1, 1, 0.5, *[1] * 74]]
    for part, plain, by_hand in zip(made, (cats(75), "a dog"), weights, strict=True):
        hidden = parts.embed(plain)["prompt_embeds"]
        assert torch.equal(part, weigh(hidden, torch.tensor(by_hand), [32]))


@pytest.mark.parametrize("pipeline", [sd1, sdxl])
def test_a_long_prompt_and_a_short_negative_are_drawn_as_the_pipeline_draws_them(pipeline):
    pipe = pipeline()
    generator = Generator(pipe, 1, IN_CHUNKS)
    made = generator.denoise(rows_of([LONG], "blurry")).clone()
    long, short = generator.embed(LONG), generator.embed_negative("blurry")
    empty = Generator(pipe, 1).embed("")["prompt_embeds"]
    arguments = {"negative_" + k: v for k, v in short.items()} | long
    arguments["negative_prompt_embeds"] = torch.cat([short["prompt_embeds"], empty, empty], dim=1)
    wanted = plainly(pipe, **arguments)
    assert torch.equal(made, wanted)


def test_neighbours_do_not_matter_in_a_batch_of_one_length():
    generator = Generator(sd1(), 2, IN_CHUNKS)
    other = " ".join(reversed(LONG.split()))
    pair, alone = (generator.denoise(rows_of(t)) for t in ([LONG, other], [LONG]))
    assert torch.equal(pair[0], alone[0])


def drawn(run, plan):
    """Images by cell."""
    found = {}
    for unit in units_of(plan):
        batch = read_batch(run, unit, unit.rows["vae_file"].iloc[0])
        found |= dict(zip(batch.cells, batch.images, strict=True))
    return found


def test_a_plan_puts_no_short_prompt_beside_a_long_one(tmp_path):
    """So a short one's pixels are what they were, and the long one's cell has another name."""
    prompts = {"list": ["a portrait of a doctor", LONG, "a portrait of a cook"]}
    few = {
        "prompts": prompts,
        "seeds": 1,
        "vaes": {"own": "own"},
        "attributes": [],
        "classifiers": {},
        "probes": ["vae"],
    }
    cut = make(tmp_path / "cut", **few).run
    audit = make(tmp_path / "long", **few, long_prompts="chunks")
    plan, before = audit.run.read_plan(), cut.read_plan()
    same = {p: set(rows["cell"]) for p, rows in plan.groupby("prompt")}
    for prompt, rows in before.groupby("prompt"):
        assert (same[prompt] == set(rows["cell"])) == (prompt != LONG)
    assert all(u.rows["prompt"].eq(LONG).nunique() == 1 for u in units_of(plan))
    short = plan[plan["prompt"] != LONG]["cell"]
    ours, theirs = drawn(audit.run, plan), drawn(cut, before)
    for cell in short:
        np.testing.assert_array_equal(ours[cell], theirs[cell])


def test_words_are_where_their_chunk_has_them():
    text = f"{cats(70)}, a very tall nurse, a judge"
    reading = read_chunks(TOKENIZER, text, False)
    assert reading.cut == ""
    assert (reading.used, reading.length) == (71 + 4 + 1 + 2 + 2, 154)
    assert reading.start_at == (0, 77)
    assert reading.end_at == (1 + 75, 77 + 1 + 3)  # the second comma is its chunk's 76th token
    by_label = {w.label: w for w in reading.words}
    (nurse,), (judge,) = by_label["nurse"].tokens, by_label["judge"].tokens
    ids = [t.piece for c in chunks_of(TOKENIZER, text, False) for t in c]
    assert {"nurse</w>", "judge</w>"} <= set(ids)
    assert reading.words[0].tokens == (1,)
    assert all(w.whole for w in reading.words)
    assert nurse < judge
    covered = [t for w in reading.words for t in w.tokens]
    rest = {*reading.start_at, *reading.end_at, *reading.padding_at}
    assert not rest & set(covered)
    assert len(reading.pieces) == reading.used + 2  # a second start and end
    one = read_chunks(TOKENIZER, "a nurse BREAK", True)
    assert one == read_words(TOKENIZER, "a nurse")._replace(words=one.words, pieces=one.pieces)


def test_attention_and_text_states_follow_every_chunk():
    pipe = sd1()
    generator = Generator(pipe, 2, IN_CHUNKS)
    tap = AttentionRecorder(1, True, True, 0)
    plain = generator.denoise(rows_of([LONG, "a cat"], "blurry"))
    followed = generator.denoise(rows_of([LONG, "a cat"], "blurry"), [tap])
    assert torch.equal(plain, followed)
    for record, last in zip(tap.records(), ("hair (20)", "cat"), strict=True):
        names = record.notes["prompt"]["words"]
        assert names[-2:] == [START, END]
        assert last in names
        assert record.notes["prompt"]["cut"] == ""
        share = record.arrays["prompt/moments"][..., 0]
        np.testing.assert_allclose(share.sum(axis=1), 1, atol=1e-5)  # no token is left out
    (text,) = text_rows("a", "none", generator, LONG, ["prompt"])
    assert len(text["states"]) == text["length"] * text["width"] == 231 * 32
    assert (text["used"], text["wanted"], text["cut"]) == (162, 162, "")
    assert len(text["end_at"]) == 3


def test_what_reads_no_chunks_is_refused(tmp_path):
    with pytest.raises(AuditError, match="long_prompts: chunks: a Flux does not read chunks"):
        Generator(flux(), 1, IN_CHUNKS)
    cut = Generator(sd1(), 1, Extras(weighting="a1111"))
    with pytest.raises(AuditError, match="BREAK begins a chunk; long_prompts: cut has none"):
        cut.embed("a BREAK b")
    with pytest.raises(SpecError, match="long_prompts"):
        open_audit(write_spec(tmp_path, long_prompts="split"), tmp_path / "run")
