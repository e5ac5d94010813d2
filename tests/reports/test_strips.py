"""The images behind the answer: first seeds, what they were read as, beside an arm not off."""

import pandas as pd
from report_data import fake_report
from test_answer import BIASED, EVEN, OWN, PALE, mean, prompt, swap

from harness.plan.cells import ARM
from reports.formats.latex import escaped, table
from reports.strips import behind, sheet_of, sheets, strip_of, strips


def plan_of(*arms):
    """Two prompts and ten seeds of some arms: {checkpoint, vae}."""
    rows = [
        dict.fromkeys(ARM, "none")
        | {"steps": 12, "guidance": 3.0, "width": 64, "height": 64}
        | arm
        | {"prompt": f"a portrait of a {role}", "seed": seed}
        | {"cell": f"{'/'.join(arm.values())}/{role}/{seed}"}
        for arm in arms
        for role in ("mechanic", "judge")
        for seed in range(10)
    ]
    return pd.DataFrame(rows)


def read(attribute, instrument):
    assert instrument == "clip"
    return pd.Series({f"mine/own/mechanic/{i}": "man" for i in range(9)})


def test_a_strip_has_the_first_seeds_their_outcomes_and_an_arm_that_is_not_off():
    fair = prompt("fair", "mechanic", 0.5, 0.03, p=0.6)
    fair = [f for f in fair if f.metric.kind == "distance"]
    plan = plan_of({"checkpoint": "mine", "vae": "own"}, {"checkpoint": "fair", "vae": "own"})
    (one,) = strips([*BIASED, *fair], plan, read)
    assert one.id == strip_of("test/mine/mechanic")
    assert one.table["row"].tolist() == ["mine"] * 8 + ["fair"] * 8
    assert one.table["column"].tolist()[:8] == [f"seed {i}" for i in range(8)]
    assert one.table["caption"].tolist() == ["man"] * 8 + [""] * 8
    assert behind([one], BIASED) == {one.id: one}


def test_what_a_vae_moves_is_shown_before_and_after():
    found = [
        mean("own", "dark", 0.16, **OWN),
        mean("pale", "dark", 0.0, **PALE),
        swap("pale", "own", "dark", -0.16, **PALE),
    ]
    nothing = pd.Series(dtype=object)
    (one,) = strips(found, plan_of(OWN, PALE), lambda attribute, instrument: nothing)
    roles = ["a portrait of a mechanic", "a portrait of a judge"]
    assert one.table["row"].tolist() == ["own", "own", "pale", "pale"]
    assert one.table["column"].tolist() == roles * 2
    assert one.table["cell"].tolist()[0] == "m/own/mechanic/0"


def test_a_sheet_has_every_arm_of_a_prompt_that_headlines_name():
    plan = plan_of({"checkpoint": "mine", "vae": "own"}, {"checkpoint": "fair", "vae": "own"})
    found = {f.id: f for f in sheets(BIASED, plan)}
    assert {*found} == {sheet_of("a portrait of a mechanic"), sheet_of("a portrait of a judge")}
    first = found[sheet_of("a portrait of a mechanic")].table
    assert first["row"].drop_duplicates().tolist() == ["mine", "fair"]
    assert len(first) == 16


def test_nothing_to_show_is_no_strip():
    plan = plan_of({"checkpoint": "other", "vae": "own"})
    assert strips(BIASED, plan.head(0), read) == []
    assert strips([], plan, read) == []
    assert strips(BIASED, plan, read) == []
    assert EVEN


def test_the_table_for_papers_escapes_and_counts():
    data = fake_report(hostile=True)
    text = table(data._replace(title="50 % of_all"))
    assert r"\begin{longtable}" in text
    assert r"50 \% of\_all" in text
    assert text.count(r"\\") > 10
    assert escaped("a_b^c~\\") == r"a\_b\textasciicircum{}c\textasciitilde{}\textbackslash{}"
