"""A run of 0.1.0 is opened, gone on with and never mixed; a run of a later version is refused."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import quiet

from audit.commands.main import main
from audit.gate.baseline import side_of_run
from audit.pipeline.analyse import analyse
from audit.pipeline.plan import plan_audit
from audit.pipeline.run import complete
from audit.pipeline.session import open_audit, reopen
from dashboard.queries import RunView
from dashboard.run_index import RunError
from harness.files import checksums
from harness.store.run import Run
from probes.attributes import label_sampling

pytestmark = pytest.mark.faults

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy of the run that 0.1.0 made."""
    return Path(shutil.copytree(FIXTURES / "run-0.1.0", tmp_path / "run"))


def here(old: Path) -> None:
    """Have the run say that it was made with this machine's libraries."""
    audit = open_audit(FIXTURES / "run-0.1.0.yaml", old.parent / "none")
    _, provenance = plan_audit(audit, quiet)
    path = old / "provenance.json"
    told = json.loads(path.read_text())
    told["made with"] = provenance["made with"]
    path.write_text(json.dumps(told))


def test_an_old_run_is_opened_by_every_reader(old):
    audit = reopen(old)
    assert audit.run.format == 1
    findings, _ = analyse(audit)
    assert sum(f.status == "measured" for f in findings) > 10
    plan = audit.run.read_plan()
    assert len(plan) == 8
    for row in plan.itertuples():
        assert audit.run.image(row.unit, row.vae_file, row.cell).startswith(b"\x89PNG")
        assert row.trajectory in audit.run.read_latents(row.unit)
    assert len(audit.run.labels()) == 8
    assert len(label_sampling.sample(old, "world-gender", 5, 0)) == 8
    assert label_sampling.queue(old, "world-gender", "ada") == []
    assert len(side_of_run(old, "balanced,own").cells) == 4
    view = RunView(old)
    assert view.damaged == []
    assert int(view.made()["made"].sum()) == 8
    view.close()


def test_an_old_run_is_gone_on_with_and_says_once_that_it_has_no_checksums(old):
    here(old)
    paths = [p for t in ("images", "latents", "labels") for p in old.glob(f"{t}/**/*.*")]
    kept = {p: p.read_bytes() for p in paths}
    said = []
    audit = open_audit(FIXTURES / "run-0.1.0.yaml", old)
    complete(audit, said.append)
    assert [t for t in said if "no checksums: made by 0.1.0" in t] == said[:1]
    assert kept
    assert all(p.read_bytes() == data for p, data in kept.items())
    assert not (old / "damaged").exists()
    # It stays a run whose older files have none; what is written from now on has.
    again = Run(old)
    assert again.format == 1
    assert again.provenance()["written by"].startswith("diffusion-audit 0.2")
    plan = old / "plan.parquet"
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 8
    plan.write_bytes(data)
    with pytest.raises(checksums.DamagedError, match=r"plan\.parquet"):
        reopen(old)


def test_an_old_run_with_other_libraries_is_refused(old):
    here(old)
    path = old / "provenance.json"
    told = json.loads(path.read_text())
    told["made with"]["libraries"]["diffusers"] = "0.30.0"
    path.write_text(json.dumps(told))
    before = sorted(old.rglob("*"))
    with pytest.raises(ValueError, match="another set-up"):
        complete(open_audit(FIXTURES / "run-0.1.0.yaml", old), quiet)
    made = {p.relative_to(old).parts[0] for p in set(old.rglob("*")) - set(before)}
    assert made <= {"checked", "locks"}


def test_scores_of_another_version_of_an_instrument_are_not_mixed_in(old):
    here(old)
    audit = open_audit(FIXTURES / "run-0.1.0.yaml", old)
    complete(audit, quiet)
    right = audit.run.read_json("instruments.json")
    units = set(audit.run.read_plan()["unit"])
    name = "small.world-gender"
    table = audit.run.read_scores(right[name], units)
    # As an older version would have left them: in a folder of another digest, of other values.
    older = f"{name}@000000000000"
    for path in (old / "scores" / right[name]).rglob("*.parquet"):
        rows = pd.read_parquet(path).assign(**{"class:woman": 0.5, "class:man": 0.5})
        audit.run.write_scores(older, path.parent.name, path.stem, rows)
    shutil.rmtree(old / "scores" / right[name])
    audit.run.write_json("instruments.json", right | {name: older})
    complete(audit, quiet)
    assert audit.run.read_json("instruments.json") == right
    pd.testing.assert_frame_equal(audit.run.read_scores(right[name], units), table)


def test_labels_are_never_lost_on_the_way_to_a_new_version(old):
    here(old)
    before = Run(old).labels()
    complete(open_audit(FIXTURES / "run-0.1.0.yaml", old), quiet)
    pd.testing.assert_frame_equal(Run(old).labels(), before)
    label_sampling.add(old, "world-gender", before["cell"].iloc[0], "bob", "man")
    pd.testing.assert_frame_equal(Run(old).labels().iloc[:-1], before)
    assert Run(old).labels().iloc[-1]["rater"] == "bob"


def test_a_truncated_file_of_an_old_run_is_named_and_made_again(old):
    here(old)
    audit = open_audit(FIXTURES / "run-0.1.0.yaml", old)
    path = sorted(old.glob("images/*/*.parquet"))[0]
    path.write_bytes(path.read_bytes()[:1000])
    said = []
    complete(audit, said.append)
    assert any(path.name in text and "damaged" in text for text in said)
    assert len(audit.run.read_images(path.parent.name, path.stem)) == 2


@pytest.mark.parametrize("sealed", [True, False])
def test_a_run_of_a_newer_format_is_refused_in_one_line(old, sealed):
    told = json.loads((old / "provenance.json").read_text()) | {"format": checksums.FORMAT + 1}
    path = old / "provenance.json"
    if sealed:
        Run(old).write_json("provenance.json", told)
    else:
        path.write_text(json.dumps(told))
    cell = pd.read_parquet(old / "plan.parquet")["cell"].iloc[0]
    before = {p: p.read_bytes() for p in old.rglob("*") if p.is_file()}
    commands = [
        ["run", str(FIXTURES / "run-0.1.0.yaml"), "--out", str(old)],
        ["report", str(old)],
        ["show", str(old), cell],
        ["labels", "agreement", str(old)],
        ["baseline", "save", str(old), str(old.parent / "b.json")],
    ]
    for command in commands:
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2, (command, result.output)
        assert len(result.stderr.strip().splitlines()) == 1
        assert "newer diffusion-audit" in result.stderr
    with pytest.raises(RunError, match="newer diffusion-audit"):
        RunView(old)
    assert {p: p.read_bytes() for p in old.rglob("*") if p.is_file()} == before


def test_labels_of_a_newer_format_are_refused_and_stay(old):
    path = sorted(old.glob("labels/*.parquet"))[0]
    table = pd.read_parquet(path)
    run = Run(old)
    run.write_labels("newer", [tuple(r) for r in table.to_numpy()])
    newer = old / "labels" / "newer.parquet"
    data = newer.read_bytes().replace(b"diffusion-audit/2 sha256:", b"diffusion-audit/3 sha256:")
    at = data.rindex(b"diffusion-audit/3 sha256:") + 25
    import hashlib

    blank = data[:at] + b"0" * 64 + data[at + 64 :]
    newer.write_bytes(blank[:at] + hashlib.sha256(blank).hexdigest().encode() + blank[at + 64 :])
    with pytest.raises(checksums.NewerFormatError, match=r"newer\.parquet"):
        run.labels()
    assert newer.exists()
