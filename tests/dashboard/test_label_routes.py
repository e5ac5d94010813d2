import json

import pytest

pytest.importorskip("streamlit")

from dashboard.label_routes import keep
from harness.store.run import Run
from probes.attributes import label_sampling

pytestmark = pytest.mark.faults


def told(answer):
    return answer.status_code, json.loads(answer.body)


@pytest.fixture
def cells(run, shown):
    shown(run)
    label_sampling.sample(run, "look-0", 200, 0)
    return label_sampling.queue(run, "look-0", "ann")


def rows(run) -> int:
    return len(list((run / "labels").glob("*.parquet")))


def test_events_are_written_once_however_often_they_are_sent(run, cells):
    events = [(1, cells[0], "round"), (2, cells[1], "odd"), (3, cells[0], "square")]
    before = rows(run)
    for _ in range(2):
        assert told(keep("run-a", "look-0", "ann", "page-1", events)) == (200, {"written": 3})
    assert rows(run) == before + 1
    labels = Run(run).labels().set_index("cell")["class"].to_dict()
    assert labels == {cells[0]: "square", cells[1]: "odd"}
    # An old request that comes late does not undo what followed it.
    assert told(keep("run-a", "look-0", "ann", "page-1", events[:1]))[1] == {"written": 3}
    assert Run(run).labels().set_index("cell")["class"].to_dict() == labels
    # Another page of the same person counts for itself.
    assert told(keep("run-a", "look-0", "ann", "page-2", [(1, cells[0], "")]))[1]["written"] == 1
    assert Run(run).labels()["cell"].tolist() == [cells[1]]


def test_what_is_not_as_said_is_refused_and_nothing_written(run, cells):
    good = (1, cells[0], "round")
    for arguments, words in (
        (("elsewhere", "look-0", "ann", "p", [good]), "is not a run"),
        (("../run-a", "look-0", "ann", "p", [good]), "is not a run"),
        (("run-a", "look-9", "ann", "p", [good]), "look-9"),
        (("run-a", "look-0", " ", "p", [good]), "name is missing"),
        (("run-a", "look-0", "ann", "p", [good, (2, cells[1], "oval")]), "oval"),
        (("run-a", "look-0", "ann", "p", [good, (2, "0" * 64, "odd")]), "not in the sample"),
    ):
        status, problem = told(keep(*arguments))
        assert status == 422, arguments
        assert words in problem["problem"]
    assert Run(run).labels().empty


def test_labels_of_two_people_are_kept_apart(run, cells):
    for name in ("ann", "ben"):
        for i, cell in enumerate(label_sampling.queue(run, "look-0", name)[:3]):
            assert (
                told(keep("run-a", "look-0", name, f"of {name}", [(i + 1, cell, "round")]))[0]
                == 200
            )
    assert Run(run).labels().groupby("rater").size().to_dict() == {"ann": 3, "ben": 3}


def test_a_disk_that_refuses_is_said_and_the_labels_can_be_sent_again(run, cells):
    (run / "labels").write_text("a file where the folder should be")
    event = [(1, cells[0], "round")]
    assert told(keep("run-a", "look-0", "ann", "page-3", event))[0] == 507
    (run / "labels").unlink()
    assert told(keep("run-a", "look-0", "ann", "page-3", event))[0] == 200
    assert Run(run).labels()["cell"].tolist() == [cells[0]]
