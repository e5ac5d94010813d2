"""The bill of materials: valid CycloneDX 1.7, and its numbers those of the findings."""

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from report_data import fake_report
from test_answer import BIASED
from test_card import hostile_report

from reports.formats import cyclonedx
from reports.verdicts import headlines, is_measured


def problem(document):
    return JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(document))


@pytest.mark.parametrize("data", [fake_report(), hostile_report()], ids=["plain", "hostile"])
def test_it_is_valid(data, tmp_path):
    cyclonedx.write(data, tmp_path)
    text = (tmp_path / cyclonedx.FILE).read_text(encoding="utf-8")
    assert problem(json.loads(text)) is None
    broken = json.loads(text)
    broken["components"][0]["modelCard"] = {"bias": "none"}
    assert problem(broken) is not None


def test_every_headline_of_a_checkpoint_is_a_metric_with_its_interval():
    data = fake_report()
    made = {c["name"]: c for c in cyclonedx.document(data)["components"]}
    name = "planted-unet"
    heads = [f for f in headlines(data.findings) if is_measured(f)]
    own = [f for f in heads if f.subject.get("checkpoint") == name]
    card = made[name]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert len(metrics) == len(own) > 5
    for f, metric in zip(own, metrics, strict=True):
        assert float(metric["value"]) == pytest.approx(f.value, rel=1e-5)
        bounds = metric["confidenceInterval"]
        assert float(bounds["lowerBound"]) <= float(metric["value"]) <= float(bounds["upperBound"])


def test_what_is_off_target_is_a_fairness_assessment():
    audited = [{"name": "mine", "kind": "denoiser", "digest": "0" * 64}]
    data = fake_report()._replace(findings=BIASED, audited=audited)
    (model,) = cyclonedx.document(data)["components"]
    (harm,) = model["modelCard"]["considerations"]["fairnessAssessments"]
    assert harm["groupAtRisk"] == "gender"
    assert "is off target for 3 of" in harm["harms"]
    assert "men too often" in harm["harms"]
    other = [{"name": "balanced", "kind": "denoiser", "digest": "1" * 64}]
    (model,) = cyclonedx.document(data._replace(audited=other))["components"]
    assert "modelCard" not in model


def test_the_digests_are_of_tensors_and_said_to_be():
    made = cyclonedx.document(fake_report())["components"]
    assert not any("hashes" in c for c in made)
    names = {p["name"] for c in made for p in c["properties"]}
    assert any("denoiser" in name or "digest" in name for name in names)
