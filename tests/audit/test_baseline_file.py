"""Baseline files that were edited, are malformed, or were written by another version."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import write_spec

from audit.commands.main import main
from audit.gate.baseline import Side, load, save
from audit.gate.verdict import decide
from harness.errors import AuditError
from harness.hashing import canonical_digest
from harness.spec.schema import load_spec

pytestmark = pytest.mark.faults

OLD = Path(__file__).parents[1] / "fixtures" / "0.1.0" / "baseline.json"
PROMPTS = ["a portrait of a nurse", "a portrait of a pilot"]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A whole baseline file of two prompts and three seeds."""
    folder = tmp_path_factory.mktemp("baseline")
    spec = load_spec(write_spec(folder, attributes=["world-gender"], prompts={"list": PROMPTS}))
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": prompt,
            "seed": seed,
            "cell": f"{prompt[-5:]}-{seed}",
            "made": True,
            "likeness:small": 0.8 + 0.01 * float(rng.normal()),
            "cosines:small": np.where(np.eye(3)[seed] == 1, 1.0, 0.5).tolist(),
            "outcome:small.world-gender": "woman" if rng.random() < 0.5 else "man",
        }
        for prompt in PROMPTS
        for seed in range(3)
    ]
    side = Side(
        arm="a,own",
        cells=pd.DataFrame(rows),
        settings={"negative": "", "sampler": "own", "steps": 2, "guidance": 1.0}
        | {"width": 64, "height": 64},
        targets={PROMPTS[0]: {"world-gender": {"woman": 0.3}}},
        spec=spec,
        instruments={"small.likeness": "small.likeness@1", "small.world-gender": "g@1"},
        made_with={"batch size": 4, "device": "cpu"},
        audited=[{"name": "a", "kind": "checkpoint", "digest": "0"}],
        findings=[],
    )
    path = folder / "whole.json"
    save(side, path)
    return path


def written(path: Path, content: dict) -> Path:
    """The content as a file whose digest is right."""
    path.write_text(json.dumps({"digest": canonical_digest(content), "content": content}))
    return path


def places(value, at=()):
    """The way to every value inside plain data; of a list the first item stands for all.

    Inside the spec, whose own tests those are, only the gate's section.
    """
    if at[:1] == ("spec",) and at[1:2] not in ((), ("gate",)):
        return
    if at:
        yield at
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*at, key))
    if isinstance(value, list) and value:
        yield from places(value[0], (*at, 0))


def changed(content: dict, at: tuple, new) -> dict:
    made = copy.deepcopy(content)
    inside = made
    for key in at[:-1]:
        inside = inside[key]
    if new is ...:
        del inside[at[-1]]
    else:
        inside[at[-1]] = new
    return made


def refusal(path: Path, whole: Side) -> str | None:
    """The line with which a file, or what it is compared with, is refused; None: it is not."""
    try:
        decide(load(path), whole)
    except AuditError as error:
        return str(error)
    return None


def test_a_whole_file_is_read_and_compares_with_itself(file):
    side = load(file)
    assert side.targets == {PROMPTS[0]: {"world-gender": {"woman": 0.3}}}
    assert decide(side, side)["verdict"] == "INCONCLUSIVE"


@pytest.mark.parametrize(
    "new",
    [..., None, [], {}, "x", -1, [[]], [{}], 10**30, "\ud800"],
    ids=repr,
)
def test_any_value_replaced_gives_a_verdict_or_one_line(file, tmp_path, new):
    """Also where the digest was made again: one line that names the file, never a traceback."""
    content = json.loads(file.read_text())["content"]
    whole, refused = load(file), 0
    for at in places(content):
        path = tmp_path / "edited.json"
        try:
            written(path, changed(content, at, new))
        except UnicodeEncodeError:  # a digest of lone surrogates cannot be made
            text = json.dumps({"digest": "0", "content": changed(content, at, new)})
            path.write_text(text)
        message = refusal(path, whole)
        refused += message is not None
        if message is not None:
            assert len(message.splitlines()) == 1, at
            assert str(path) in message or "gate" in message, at
    assert refused >= len(list(places(content))) // 2


@pytest.mark.parametrize(
    ("at", "new", "words"),
    [
        (("cells", "seed", 1), 0, "seed 0 of 'a portrait of a nurse' is there twice"),
        (("cells", "made"), ..., "cells: no column 'made'"),
        (("cells", "seed", 0), "7", "cells.seed: 0: Input should be a valid integer"),
        (("cells", "cell"), ["x"], "cells: 'cell' has 1 rows, 'prompt' 6"),
        (("cells", "cosines:small", 0), [1.0], "a row needs one number for each cell"),
        (("cells", "outcome:small.world-gender"), ..., "though its instrument is named"),
        (("cells", "more"), [1] * 6, "unknown column 'more'"),
        (("settings", "steps"), ..., "settings: no 'steps'"),
        (("targets", PROMPTS[0], "hats"), {"a": 1}, "names no attribute 'hats'"),
        (("targets", PROMPTS[0], "world-gender", "woman"), 1.5, "is 1.5, not from 0 to 1"),
        (("audited", 0, "name"), 3, "a component without a name"),
        (("spec", "gate", "margins"), {"share/x": 0.1, "hats": 0.1}, "'hats' is no metric"),
    ],
)
def test_what_is_wrong_is_named(file, tmp_path, at, new, words):
    content = json.loads(file.read_text())["content"]
    with pytest.raises(AuditError) as found:
        load(written(tmp_path / "edited.json", changed(content, at, new)))
    assert words in str(found.value)
    assert str(found.value).startswith(f"{tmp_path / 'edited.json'}: ")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "3",
        "[]",
        "{}",
        '{"content": 3}',
        '{"content": {}}',
        "[" * 100_000,
        "\x00",
        "NaN",
    ],
    ids=lambda t: repr(t[:12]),
)
def test_what_is_no_baseline_is_one_line(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(AuditError, match="baseline file") as found:
        load(path)
    assert len(str(found.value).splitlines()) == 1
    path.write_bytes(b"\xff\xfe\x00" + text.encode()[:10])
    with pytest.raises(AuditError):
        load(path)


def test_a_number_that_is_none_is_refused(file, tmp_path):
    text = file.read_text().replace('"batch size": 4', '"batch size": NaN')
    content = json.loads(text)["content"]
    content["cells"]["likeness:small"][0] = float("inf")
    with pytest.raises(AuditError, match=r"likeness:small: 0: Input should be a finite number"):
        load(written(tmp_path / "edited.json", content))


def test_a_baseline_of_0_1_0_is_refused_with_what_changed_and_how_to_go_on(tmp_path):
    with pytest.raises(AuditError) as found:
        load(OLD)
    message = str(found.value)
    assert len(message.splitlines()) == 1
    for words in ("format 1", "0.1.0", "worse than the margin", "audit run", "baseline save"):
        assert words in message
    # The command: exit 2, and gate.json says the same
    shutil.copy(OLD, tmp_path / "old.json")
    arguments = ["gate", str(tmp_path / "old.json"), str(OLD), "--out", str(tmp_path / "gate")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert "format 1" in json.loads((tmp_path / "gate" / "gate.json").read_text())["message"]


def test_a_baseline_of_a_later_version_says_update(file, tmp_path):
    content = json.loads(file.read_text())["content"]
    content |= {"format": "diffusion-audit baseline 9", "version": "4.0.0", "news": 1}
    with pytest.raises(AuditError, match=r"format 9 \(diffusion-audit 4\.0\.0\).*update it"):
        load(written(tmp_path / "later.json", content))
