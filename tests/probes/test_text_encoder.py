import numpy as np
import pandas as pd
import pytest
from conftest import analysed_by, quiet, write_spec

from audit.pipeline import analyse
from audit.pipeline.plan import begin, plan_audit
from audit.pipeline.run import score
from audit.pipeline.session import open_audit
from probes.contracts import Finding
from probes.text_encoder.probe import distance
from probes.text_encoder.states import part_of, states_of
from reference.world import ROLES, neutral_prompt

PROMPTS = [neutral_prompt(r) for r in ROLES]
LONG = "a portrait of a doctor " + " ".join(["farmer"] * 300)


def texts_only(folder, **changes):
    """Plan and read the texts; no image is made."""
    path = write_spec(folder, **({"probes": ["text"], "attributes": ["world-gender"]} | changes))
    audit = open_audit(path, folder / "run")
    plan, provenance = plan_audit(audit, quiet)
    begin(audit, plan, provenance)
    score(audit, plan, quiet)
    return audit


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    names = ("balanced", "balanced-b", "planted-unet", "planted-text")
    audit = texts_only(
        tmp_path_factory.mktemp("text"),
        checkpoints={n: f"reference:{n}" for n in names},
        vaes={"own": "own"},
        prompts={"list": [*PROMPTS, LONG, "doctor", "a (doctor:1.3)"]},
        probes={
            "text": {
                "associations": [
                    {
                        "name": "leaning roles",
                        "x": [neutral_prompt(r) for r in ("mechanic", "firefighter", "pilot")],
                        "y": [neutral_prompt(r) for r in ("parent", "teacher", "elf")],
                        "a": ["a man", "a portrait of a man"],
                        "b": ["a woman", "a portrait of a woman"],
                    }
                ]
            }
        },
    )
    return audit, *analyse.analyse(audit)


def value(findings: list[Finding], checkpoint: str, position: str = "all positions") -> Finding:
    return next(
        f
        for f in findings
        if f.id.startswith("text/distance/")
        and f.subject["checkpoint"] == checkpoint
        and f.subject["position"] == position
        and f.estimand == "this suite"
    )


def test_the_same_text_encoder_is_at_distance_zero_exactly(read):
    _, findings, _ = read
    for position in ("all positions", "start", "words", "end", "padding"):
        found = value(findings, "planted-unet", position)
        assert (found.value, found.low, found.high) == (0, 0, 0)
        assert found.note == "the same numbers, bit for bit"
    assert value(findings, "balanced-b").value > 0


def test_a_planted_text_encoder_is_farther_than_one_trained_on_without_effect(read):
    _, findings, _ = read
    planted, null = value(findings, "planted-text"), value(findings, "balanced-b")
    assert planted.value > null.value


def test_prompts_as_the_model_gets_them(read):
    _, findings, figures = read
    shown = next(e for e in figures if e.id == "text/tokens").table
    own = shown[shown["checkpoint"] == "balanced"].set_index("text")
    assert own.at["doctor", "tokens"] == "<|startoftext|> doctor</w> <|endoftext|>"
    assert own.at["doctor", "seen"] == "3 of 3"
    assert own.at[LONG, "seen"] == "32 of 307"
    assert own.at[LONG, "cut"].split() == ["farmer"] * 275
    assert "weights are not applied" in own.at["a (doctor:1.3)", "note"]
    cut = next(f for f in findings if f.id == "text/cut/balanced")
    assert (cut.value, cut.n) == (1, len(PROMPTS) + 4)  # with the empty negative


def test_states_are_what_the_denoiser_sees(read):
    audit, _, _ = read
    from audit.pipeline.text_scores import text_units
    from harness.generate.sampling import Generator
    from harness.models.loading import load_checkpoint

    folder = audit.run.read_json("instruments.json")["text"]
    table = audit.run.read_scores(folder, set(text_units(audit).values()))
    loaded = load_checkpoint(
        "b", audit.spec.checkpoints["balanced-b"], audit.base, "cpu", audit.dtype
    )
    row = table[(table["checkpoint"] == "balanced-b") & (table["text"] == PROMPTS[3])].iloc[0]
    embedded = Generator(loaded.pipe, 1).embed(PROMPTS[3])["prompt_embeds"][0]
    np.testing.assert_array_equal(states_of(row), embedded.double().numpy())
    parts = [part_of(row, p) for p in ("start", "words", "end", "padding")]
    assert sorted(at for part in parts for at in part) == list(range(32))


def test_associations_are_told_with_their_p(read):
    _, findings, figures = read
    tests = [f for f in findings if f.subject.get("test") == "leaning roles"]
    assert all(f.n == 20 and 1 / 20 <= f.p <= 1 for f in tests)
    single = [f for f in findings if f.id.startswith("text/association/")]
    assert {f.subject["attribute"] for f in single} == {"world-gender"}
    assert all(f.n == 252 for f in single)  # five phrasings of each class
    assert any(e.id == "text/association" for e in figures)
    assert len({f.id for f in findings}) == len(findings)


def test_texts_are_read_once(read):
    audit, _, _ = read
    said: list[str] = []
    score(audit, audit.run.read_plan(), said.append)
    assert said == []


def test_distance_by_hand():
    one = np.array([[3.0, 0], [0, 4]])
    assert distance(one, one) == 0
    assert distance(one, -one) == pytest.approx(2)
    assert distance(one, np.array([[0.0, 3], [4, 0]])) == pytest.approx(np.sqrt(2))
    assert distance(np.zeros(2), np.zeros(2)) == 0


def test_an_association_of_one_text_is_refused(tmp_path):
    bad = {"name": "t", "x": ["a"], "y": ["b", "c"], "a": ["d"], "b": ["e"]}
    path = write_spec(tmp_path, probes={"text": {"associations": [bad]}})
    with pytest.raises(ValueError, match=r"text\.associations\.0\.x"):
        open_audit(path, tmp_path / "run")


def test_no_text_encoder_is_not_measured(read):
    audit, _, _ = read
    nothing = pd.DataFrame()
    empty = pd.DataFrame({"cell": []})
    found, _ = analysed_by("text", {"text": empty}, nothing, nothing, audit.spec)
    assert [f.status for f in found] == ["not-measured"]
