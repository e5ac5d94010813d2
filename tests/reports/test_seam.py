"""From a probe's rows to the page, the card, the JSON and the dashboard: each says it rightly."""

import json
from math import nan

import pandas as pd
import pytest

from dashboard.findings import chosen, frame, tally
from dashboard.queries import RunView
from harness.plan.cells import Cell
from harness.spec.attributes import load_attribute
from probes.attributes.prompt_shares import by_prompt
from probes.attributes.shares import over_prompts
from probes.contracts import Finding, MetricSpec, Reference
from probes.error_control import ADJUSTMENT, adjusted
from probes.vae.metrics import CHROMA_SHIFT
from reports import ReportData
from reports.page import compose
from reports.verdicts import verdict
from reports.writers import write_report

pytestmark = pytest.mark.faults
GENDER = load_attribute(
    {
        "name": "gender",
        "classes": [
            {"name": "man", "prompts": ["a man"]},
            {"name": "woman", "prompts": ["a woman"]},
        ],
    },
    None,
)
SHIFT = Finding(
    id="vae/chroma-shift/pale", probe="vae", metric=CHROMA_SHIFT, subject={"arm": "pale"},
    value=0.354, low=0.263, high=0.444, headline=True, n=48, reference=Reference(0.4, 0.0), p=1.0,
    family="vae/pale",
)  # fmt: skip
FAILED = Finding(
    id="spectrum/failed", probe="spectrum", metric=MetricSpec("analysis of spectrum"),
    status="failed", note="KeyError: 'slope'",
)  # fmt: skip


def rows() -> pd.DataFrame:
    """Prompt 0 is all women, prompt 1 undecided, prompt 2 has no image."""
    women = {0: 40, 1: 22, 2: 0}
    cells = [
        Cell(f"{p}-{s}", f"{p}-{s}", "u", "made", "model", "own", "none", "", 2, 3.0, 64, 64,
             p, f"prompt {p}", "", s, f"prompt {p}", "", s, "v")
        for p in women
        for s in range(40)
    ]  # fmt: skip
    frame = pd.DataFrame(cells, columns=Cell._fields).assign(arm="model", adapters="none")
    outcome = ["woman" if c.seed < women[c.prompt_index] else "man" for c in cells]
    return frame.assign(outcome=pd.Series(outcome).where(frame["prompt_index"] < 2, nan))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    part = rows()
    probe = by_prompt(part, GENDER, "clip.gender", {}, None)
    probe += over_prompts(part, GENDER, "clip.gender", {})
    findings = adjusted([*probe, SHIFT, FAILED])
    data = ReportData(
        title="seam", audited=[], settings={}, findings=findings, figures=[],
        attrition=pd.DataFrame(columns=["arm", "planned", "made", "failed", "reason"]),
        provenance={}, reproduce=[], images=lambda cell: None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("seam")
    part[list(Cell._fields)].assign(requested_by="").to_parquet(folder / "plan.parquet")
    write_report(data, folder / "report", ("html", "json", "card", "csv"))
    return folder, data


def one(findings, metric, prompt=None):
    return next(
        f for f in findings if f.metric.name == metric and f.subject.get("prompt") in (prompt, None)
    )


KINDS = {
    "apart": ("total variation", "prompt 0"),
    "cannot tell": ("total variation", "prompt 1"),
    "not measured": ("total variation", "prompt 2"),
    "described": ("share", "prompt 0"),
    "failed": ("analysis of spectrum", None),
}
SAID = {
    "apart": f"(p < 0.001 after {ADJUSTMENT}).",
    "cannot tell": "We cannot tell it from a model that meets the target: p = ",
    "not measured": "not measured: no image has a class; not counted: no image 40.",
    "failed": "Failed: KeyError: 'slope' (all arms: analysis of spectrum).",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_finding_of_every_kind_is_what_it_is(run, kind):
    assert verdict(one(run[1].findings, *KINDS[kind])) == kind


def test_the_page_says_each_of_them(run):
    folder, data = run
    made = compose(data)
    told = [h.sentence for h in [*made["headlines"], *made["headlines_folded"]]]
    for said in SAID.values():
        assert any(said in t for t in told), said
    assert any("We cannot tell it from a change of up to 0.4 C*: p = 1.00" in t for t in told)
    # 4 tests of the attribute (2 prompts, a mean share, a mean distance) and the VAE's one; what
    # has no image is counted too.
    counted = {label: n for _, label, n in made["tally"]}
    assert counted == {"Failed": 1, "Off target": 2, "We cannot tell": 3, "Not measured": 1}
    assert made["families"] == [("model/gender/clip.gender", 4), ("vae/pale", 1)]
    page = (folder / "report/index.html").read_text()
    assert "Benjamini and Bogomolov 2014" in page
    assert "model/gender/clip.gender: 4 tests" in page
    assert page.index("KeyError") < page.index("prompt 0")


def test_the_json_holds_every_field_of_a_test(run):
    folder, _ = run
    held = json.loads((folder / "report/report.json").read_text())["findings"]
    test = next(f for f in held if f["id"].endswith("model/prompt 0") and f["headline"])
    assert test["adjustment"] == ADJUSTMENT
    assert test["p"] >= test["p_unadjusted"] > 0
    assert (test["reference"], test["reading"]) == (0.0, "as counted")
    assert test["planned"] == 40
    share = next(f for f in held if f["metric"] == "share")
    assert (share["p"], share["family"], share["adjustment"]) == (None, "", "none")


def test_the_card_and_the_summary_count_every_test(run):
    folder, _ = run
    for name in ("card.md", "summary.md", "summary.html"):
        text = (folder / "report" / name).read_text().replace("\\", "")
        assert "2 off target, 3 we cannot tell" in text, name
        assert "failed" in text.lower(), name
    assert "1 analyses failed" in (folder / "report/card.md").read_text()


def test_the_dashboard_says_the_same_verdicts(run):
    folder, data = run
    view = RunView(folder)
    table = frame(view)
    assert [table.at[i, "verdict"] for i in sorted(table.index)] == [
        verdict(f) for f in data.findings
    ]
    heads = chosen(table, {}, "", True)
    assert tally(heads) == {
        "failed": 1, "apart": 2, "cannot tell": 3, "described": 0, "not measured": 1,
    }  # fmt: skip
    assert table.iloc[0]["verdict"] == "failed"
    assert set(table.loc[table["verdict"] == "apart", "adjustment"]) == {ADJUSTMENT}
