import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from conftest import make, write_spec

from audit.commands.main import main
from audit.gate.baseline import Side, load, read_side, save, side_of_run
from audit.gate.metric import Metric
from audit.gate.sample_size import lines, need
from audit.gate.verdict import decide
from audit.pipeline.margins import margin_of
from audit.pipeline.session import open_audit
from harness.errors import AuditError, SpecError
from harness.spec.schema import load_spec

PROMPTS = [f"a portrait of a {job}" for job in "abcdefghijklmnopqrstuvwx"]


def audit(*arguments, code):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spec")
    return load_spec(write_spec(folder, attributes=["world-gender"], prompts={"list": PROMPTS}))


def side(spec, arm="a,own", shares=0.5, seeds=48, seed=0, mush=False, **changes) -> Side:
    """An arm whose images show women in a share of `shares`, by seed index not independent."""
    rng, noise = np.random.default_rng(seed), np.random.default_rng(99)
    rows = []
    for i, prompt in enumerate(PROMPTS):
        share = np.broadcast_to(shares, len(PROMPTS))[i]
        latent = 0.8 * noise.random(seeds) + 0.2 * rng.random(seeds)
        away = np.quantile(latent, 1 - share) if 0 < share < 1 else 2.0 * (share == 0) - 0.5
        shown = rng.normal(size=(seeds, 6)) if not mush else np.ones((seeds, 6))
        shown = shown / np.linalg.norm(shown, axis=1, keepdims=True)
        cosines = (shown @ shown.T).round(6).tolist()
        for s in range(seeds):
            rows.append(
                {
                    "prompt": prompt,
                    "seed": s,
                    "cell": f"{arm}-{i}-{s}",
                    "made": True,
                    "likeness:small": (0.1 if mush else 0.8) + 0.01 * float(rng.normal()),
                    "cosines:small": cosines[s],
                    "outcome:small.world-gender": "woman" if latent[s] > away else "man",
                }
            )
    return Side(
        arm=arm,
        cells=pd.DataFrame(rows),
        settings={"negative": "", "sampler": "own", "steps": 2, "guidance": 1.0}
        | {"width": 64, "height": 64},
        targets={},
        spec=spec,
        instruments={"small.likeness": "small.likeness@1", "small.world-gender": "g@1"},
        made_with={"batch size": 4, "device": "cpu"},
        audited=[],
        findings=[],
    )._replace(**changes)


def saved(folder, name, made: Side):
    save(made, folder / name)
    return folder / name


# --- exit codes ---


def test_exit_codes_of_files(tmp_path, spec):
    base = saved(tmp_path, "base.json", side(spec))
    out = ["--out", tmp_path / "gate"]
    same = saved(tmp_path, "same.json", side(spec, "b,own", seed=1))
    result = audit("gate", base, same, *out, code=0)
    assert "PASS" in result.stdout
    assert "A/A" in result.stdout
    # Half of the prompts go up, half down: the mean share stays, the distance does not
    shares = np.where(np.arange(24) % 2, 0.95, 0.05)
    worse = saved(tmp_path, "worse.json", side(spec, "c,own", shares, seed=1))
    audit("gate", base, worse, *out, code=1)
    record = json.loads((tmp_path / "gate" / "gate.json").read_text())
    by_id = {m["id"]: m for m in record["metrics"]}
    distance = by_id["distance/small.world-gender"]
    assert distance["verdict"] == "FAIL"
    assert by_id["share/small.world-gender/woman"]["verdict"] == "PASS"
    assert distance["candidate"] == pytest.approx(0.81, abs=0.05)
    assert distance["worst"][0]["candidate"].startswith("c,own-")
    assert record["false_fail_rate"] <= 0.05
    few = saved(tmp_path, "few.json", side(spec, "d,own", seeds=2))
    audit("gate", base, few, *out, code=3)
    audit("gate", base, few, *out, "--allow-inconclusive", code=0)
    base.write_text(base.read_text()[:-50])
    audit("gate", base, same, *out, code=2)


def test_a_fair_but_broken_candidate_fails_by_its_guards(spec):
    record = decide(side(spec), side(spec, "mush,own", mush=True))
    verdicts = {m["id"]: m["verdict"] for m in record["metrics"]}
    assert record["verdict"] == "FAIL"
    assert verdicts["likeness/small"] == "FAIL"
    assert verdicts["diversity/small"] == "FAIL"
    assert verdicts["share/small.world-gender/woman"] == "PASS"


def test_a_candidate_that_shows_nobody_fails(spec):
    empty = side(spec, "empty,own")
    empty.cells["outcome:small.world-gender"] = "nobody"
    record = decide(side(spec), empty)
    verdicts = {m["id"]: m["verdict"] for m in record["metrics"]}
    assert record["verdict"] == "FAIL"
    assert verdicts["not-counted/small.world-gender"] == "FAIL"
    assert verdicts["share/small.world-gender/woman"] == "ERROR"


def test_groups_go_by_name_and_order_does_not_matter(spec):
    base, other = side(spec), side(spec, "b,own", 0.6, seed=1)
    shuffled = other._replace(cells=other.cells.sample(frac=1, random_state=3))
    # Cosines are held in the rows' order: shuffle them along
    for _, own in shuffled.cells.groupby("prompt", sort=False):
        for at in own.index:
            row = other.cells.at[at, "cosines:small"]
            shuffled.cells.at[at, "cosines:small"] = [row[s] for s in own["seed"]]
    one, two = decide(base, other), decide(base, shuffled)
    for a, b in zip(one["metrics"], two["metrics"], strict=True):
        assert a["value"] == pytest.approx(b["value"], abs=1e-9), a["id"]


# --- what cannot be compared ---


def without(made: Side, cells: int) -> Side:
    made.cells.loc[made.cells.index[:cells], "made"] = False
    return made


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": {"negative": "", "sampler": "ddim", "steps": 2}}, ["sampler", "'ddim'"]),
        ({"instruments": {"small.world-gender": "g@2"}}, ["instrument", "g@1 -> g@2"]),
        ({"targets": {PROMPTS[0]: {"world-gender": {"woman": 0.2}}}}, ["targets"]),
    ],
)
def test_other_settings_instruments_and_targets_are_errors(spec, changes, words):
    record = decide(side(spec), side(spec, "b,own", **changes))
    assert record["verdict"] == "ERROR"
    assert "\n" not in record["message"]
    for word in words:
        assert word in record["message"]


def test_other_prompts_are_an_error_that_names_one(spec):
    other = side(spec, "b,own")
    other.cells["prompt"] = other.cells["prompt"].replace(PROMPTS[3], "a cat")
    message = decide(side(spec), other)["message"]
    assert PROMPTS[3] in message
    assert "a cat" in message


def test_missing_cells_are_told_and_too_many_are_an_error(spec):
    record = decide(side(spec), without(side(spec, "b,own", seed=1), 40))
    assert record["cells"]["candidate_lacks"] == 40
    assert record["cells"]["made_by_both"] == 24 * 48 - 40
    assert record["verdict"] in ("PASS", "INCONCLUSIVE")
    record = decide(side(spec), without(side(spec, "b,own"), 400))
    assert record["verdict"] == "ERROR"
    assert "400" in record["message"]
    record = decide(side(spec), without(side(spec, "b,own"), 24 * 48))
    assert record["verdict"] == "ERROR"


def test_a_margin_that_names_nothing_is_an_error(spec, tmp_path):
    path = write_spec(tmp_path, gate={"margins": {"shares": 0.1}})
    with pytest.raises(SpecError, match=r"no metric 'shares'; available: distance, share"):
        open_audit(path, tmp_path / "run")
    path = write_spec(tmp_path, gate={"margins": {"share": 1.5}})
    with pytest.raises(SpecError, match=r"gate\.margins\.share: 1\.5 is more than 1"):
        open_audit(path, tmp_path / "run")
    gate = spec.gate.model_copy(update={"margins": {"share/small.world-gendr/woman": 0.1}})
    wrong = side(spec.model_copy(update={"gate": gate}))
    with pytest.raises(ValueError, match=r"share/small\.world-gender/woman, not"):
        decide(wrong, side(spec))


def test_the_margin_of_one_metric_goes_before_that_of_its_kind(spec):
    key = "share/small.world-gender/woman"
    gate = spec.gate.model_copy(update={"margins": {"share": 0.2, key: 0.001}})
    assert margin_of(gate, key) == 0.001
    assert margin_of(gate, "share/other/woman") == 0.2
    assert margin_of(gate, "distance/other") == 0.1


# --- metrics that instruments declare ---


def declaring(spec, value, seed, better="lower", span=100.0, margin=2.0, **changes):
    """An arm with a color difference of `value` on every cell, and some noise."""
    made = side(spec, seed=seed, **changes)
    noise = np.random.default_rng(seed).normal(size=len(made.cells))
    about = {"unit": "ΔE", "better": better, "span": span, "margin": margin}
    return made._replace(
        cells=made.cells.assign(**{"value:delta_e/fidelity": value + noise}),
        measured={"delta_e/fidelity": about},
    )


def of(record, name):
    return next(m for m in record["metrics"] if m["id"] == name)


def test_any_declared_metric_is_gated_by_its_margin(spec):
    key = "delta_e/fidelity"
    spec = spec.model_copy(update={"gate": spec.gate.model_copy(update={"margins": {key: 2.0}})})
    base = declaring(spec, 3.0, 0)
    for value, verdict in ((3.5, "PASS"), (1.0, "PASS"), (8.0, "FAIL")):
        found = of(decide(base, declaring(spec, value, 1)), key)
        assert (found["verdict"], found["unit"], found["margin"]) == (verdict, "ΔE", 2.0)
        assert found["value"] == pytest.approx(value - 3.0, abs=0.2)
    lacking = declaring(spec, 3.0, 1)
    lacking = lacking._replace(cells=lacking.cells.drop(columns=f"value:{key}"))
    record = decide(base, lacking)
    assert record["verdict"] == "ERROR"
    assert "'delta_e/fidelity' is not measured in the candidate" in record["message"]


def test_a_metric_without_a_better_direction_is_held_either_way(spec):
    base = declaring(spec, 3.0, 0, better=None)
    record = decide(base, declaring(spec, 0.0, 1, better=None))
    assert of(record, "delta_e/fidelity/drop")["verdict"] == "FAIL"
    assert of(record, "delta_e/fidelity/rise")["verdict"] == "PASS"


def test_a_declared_metric_survives_the_baseline_file(tmp_path, spec):
    base = declaring(spec, 3.0, 0)
    other = declaring(spec, 8.0, 1)
    file = saved(tmp_path, "base.json", base)
    assert of(decide(load(file), other), "delta_e/fidelity") == of(
        decide(base, other), "delta_e/fidelity"
    )


def test_the_color_difference_of_a_vae_is_gated_from_run_to_verdict(tmp_path):
    key = "delta_e/fidelity"
    made = make(
        tmp_path,
        vaes={"own": "own", "copy": "reference:faithful", "pale": "reference:pale"},
        probes=["attributes", "vae"],
        gate={"margins": {key: 0.5}},
        seeds=12,
    )
    folder = made.run.folder
    base = side_of_run(folder, "balanced,own")
    assert base.measured[key] == {"unit": "ΔE", "better": "lower", "span": 100.0, "margin": 0.5}
    pale = of(decide(base, side_of_run(folder, "balanced,pale")), key)
    assert pale["candidate"] > 1 > 0.5 > pale["baseline"] == 0
    assert pale["verdict"] == "FAIL"
    needed = lines(folder / "spec.yaml", folder, 6.0, key)
    assert "a change by 6 ΔE fails from" in needed[-1]
    with pytest.raises(AuditError, match="not gated; these are: distance/"):
        lines(folder / "spec.yaml", folder, 6.0, "ssim/fidelity")


# --- the file ---


def test_a_run_and_its_file_give_the_same_verdict(tmp_path, small_audit):
    folder, file = small_audit.run.folder, tmp_path / "base.json"
    audit("baseline", "save", folder, file, "--arm", "balanced,own", code=0)
    assert file.stat().st_size < 40_000
    assert "png" not in file.read_text()
    pale = side_of_run(folder, "balanced,pale")
    by_file = decide(read_side(file), pale)
    assert by_file == decide(side_of_run(folder, "balanced,own"), pale)
    assert by_file["metrics"]
    with pytest.raises(ValueError, match="holds the arm"):
        read_side(file, "balanced,pale")


def test_a_file_cut_off_edited_or_of_another_kind_is_told(tmp_path, spec):
    file = saved(tmp_path, "base.json", side(spec, seeds=3))
    whole = file.read_text()
    assert load(file).arm == "a,own"
    file.write_text(whole[:-9])
    with pytest.raises(ValueError, match="no whole baseline file"):
        load(file)
    file.write_text(whole.replace('"woman"', '"man"', 1))
    with pytest.raises(ValueError, match="was edited"):
        load(file)
    file.write_text(yaml.safe_dump({"a": 1}))
    with pytest.raises(ValueError, match="no whole baseline file"):
        load(file)


def test_a_spec_as_candidate_is_made_first_and_refused_before_it_costs(tmp_path, small_audit):
    folder = small_audit.run.folder
    file = tmp_path / "base.json"
    audit("baseline", "save", folder, file, "--arm", "balanced,own", code=0)
    candidate = write_spec(tmp_path / "c", vaes={"pale": "reference:pale"})
    where = ["--run", tmp_path / "c" / "run", "--out", tmp_path / "gate"]
    audit("gate", file, candidate, *where, code=3)
    record = json.loads((tmp_path / "gate" / "gate.json").read_text())
    assert record["cells"]["made_by_both"] == 6
    other = write_spec(tmp_path / "d", vaes={"pale": "reference:pale"}, steps=3)
    where = ["--run", tmp_path / "d" / "run", "--out", tmp_path / "gate"]
    result = audit("gate", file, other, *where, code=2)
    assert "steps: 2 -> 3" in result.stdout
    assert not (tmp_path / "d" / "run" / "images").exists()


@pytest.mark.faults
def test_a_run_whose_scoring_was_stopped_is_refused(tmp_path, small_audit):
    folder = tmp_path / "run"
    shutil.copytree(small_audit.run.folder, folder)
    lost = sorted(folder.glob("scores/*.likeness@*/*"))[0]
    shutil.rmtree(lost)
    file = tmp_path / "b.json"
    result = audit("baseline", "save", folder, file, "--arm", "balanced,own", code=2)
    assert "images are not scored with" in result.stderr
    assert not file.exists()


# --- plan --detect ---


def test_the_n_is_that_of_the_variance():
    rng = np.random.default_rng(0)
    a, b = ((rng.random((30, 400)) < 0.5) * 1.0 for _ in range(2))
    share = Metric("share/x/y", a, b, "away from the target", 0.05, 0.5, 1.0)
    found = need(share, 0.1, 16, 1, alone=False)
    # Variance of a cell's difference 0.5. Pass: (2.054 + 1.645)² 0.5 / 30 / 0.05²; fail, told
    # from the margin: (1.645 + 1.282)² 0.5 / 30 / (0.1 - 0.05)²
    assert found.to_pass == pytest.approx(3.699**2 * 0.5 / 30 / 0.05**2, rel=0.03)
    assert found.to_fail == pytest.approx(2.926**2 * 0.5 / 30 / 0.05**2, rel=0.03)
    twice = need(share, 0.1, 16, 1, alone=True)
    assert twice.to_pass == pytest.approx(found.to_pass, rel=0.05)


@pytest.mark.faults
def test_a_pilot_that_shows_a_class_never_still_needs_cells_to_fail_a_change():
    never = np.zeros((2, 3))
    share = Metric("share/x/y", never, never, "away from the target", 0.05, 0.5, 1.0)
    for alone in (True, False):
        found = need(share, 0.1, 16, 1, alone=alone)
        # Of 2 prompts; the change itself has the variance 0.1 x 0.9.
        assert found.to_fail == pytest.approx(2.926**2 * 0.09 / 2 / 0.05**2, rel=0.01)


def test_detect_names_the_n_from_a_pilot(tmp_path, small_audit):
    spec_path = write_spec(tmp_path)
    shown = audit("plan", spec_path, "--out", tmp_path / "none", "--detect", 0.1, code=0).stdout
    assert "no pilot" in shown
    found = audit("plan", spec_path, "--out", small_audit.run.folder, "--detect", 0.1, code=0)
    assert "this suite:" in found.stdout
    assert "prompts like these" in found.stdout
    result = audit("plan", spec_path, "--out", tmp_path / "none", "--detect", 0.04, code=2)
    assert "lies inside the margin" in result.stderr
