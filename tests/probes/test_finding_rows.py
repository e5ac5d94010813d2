"""Findings as rows and back; rows of old reports are read as what they meant."""

import json
from math import isnan, nan
from pathlib import Path

import pandas as pd
import pytest

from probes.contracts import Finding, MetricSpec, Reference
from probes.finding_rows import as_row, findings_frame, from_row
from probes.old_rows import old_subjects
from reports.verdicts import verdict

SHARE = Finding(
    id="a/share/x",
    probe="a",
    metric=MetricSpec("share", "share", "share", "target"),
    subject={"arm": "x; y: z", "class": "woman"},
    value=0.2,
    low=0.1,
    high=0.3,
    reference=Reference(0.5, 0.5, nan, {"man": 0.5, "woman": 0.5}),
)


def test_a_finding_comes_back_from_its_row():
    row = json.loads(json.dumps(as_row(SHARE)).replace("NaN", "null"))
    back = from_row(row)
    assert as_row(back).keys() == as_row(SHARE).keys()
    assert (back.metric.name, back.metric.kind, back.metric.better) == ("share", "share", "target")
    assert (back.subject, back.reference.targets) == (SHARE.subject, SHARE.reference.targets)
    assert back.reference.value == 0.5
    assert isnan(back.p)


def test_a_table_has_one_column_a_subject_key():
    other = Finding(id="b", probe="b", metric=MetricSpec("b"), subject={"vae": "pale"})
    frame = findings_frame([SHARE, other])
    assert frame["subject.arm"].tolist() == ["x; y: z", ""]
    assert frame["subject.vae"].tolist() == ["", "pale"]
    assert frame["targets"].tolist() == ["man 0.5, woman 0.5", ""]
    assert findings_frame([])["id"].tolist() == []


OLD = {
    "id": "x", "probe": "p", "value": 0.2, "low": 0.1, "high": 0.3, "p": 0.001, "headline": True,
    "family": "f", "adjustment": "BH", "unit": "share", "higher_is_better": None, "null": 0.5,
    "tested_against": None, "status": "measured", "note": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "kind", "reference", "said"),
    [
        ({"metric": "share", "subject": {"class": "woman"}, "target": "man 0.4, woman 60 %"},
         "share", 0.6, "apart"),
        ({"metric": "mean share", "subject": {"class": "woman"}, "target": ""},
         "share", 0.5, "apart"),
        ({"metric": "share", "subject": {"class": "woman"}, "target": "25 %"},
         "share", 0.25, "cannot tell"),
        ({"metric": "total variation", "subject": {}, "tested_against": 0.0},
         "distance", 0.0, "apart"),
        ({"metric": "share difference", "subject": {"baseline": "b"}, "tested_against": 0.0},
         "shift", 0.0, "apart"),
        ({"metric": "lightness shift", "subject": {}, "unit": "L*", "tested_against": 0.4},
         "shift", 0.4, "cannot tell"),
        ({"metric": "PSNR", "subject": {}, "unit": "dB", "family": ""},
         "level", None, "described"),
    ],
)  # fmt: skip
def test_a_row_of_an_old_report_is_read_as_what_it_meant(row, kind, reference, said):
    found = from_row(OLD | row)
    assert found.metric.kind == kind
    assert found.reference.value == reference or (
        reference is None and isnan(found.reference.value)
    )
    assert verdict(found) == said


def test_the_report_of_a_run_of_0_1_0_is_read():
    folder = Path(__file__).parent.parent / "fixtures" / "run-0.1.0"
    rows = json.loads((folder / "report/report.json").read_text())["findings"]
    found = [from_row(row) for row in rows]
    assert len(found) == len(rows) > 10
    assert {f.metric.kind for f in found if f.probe == "attributes"} >= {"share", "distance"}


def test_subjects_of_an_old_table_become_columns():
    old = pd.DataFrame({"id": ["a", "b"], "subject": ["checkpoint: one; vae: own", "arm: x"]})
    new = old_subjects(old)
    assert new["subject.checkpoint"].tolist() == ["one", ""]
    assert new["subject.arm"].tolist() == ["", "x"]
    assert old_subjects(new) is new
