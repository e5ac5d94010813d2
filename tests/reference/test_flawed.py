"""The classifier with a planted error, on a few images made now, as `label_pool.csv` was."""

import pytest

from validation.train.pool import pool


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return pool(tmp_path_factory.mktemp("pool") / "run", seeds=4)


def test_the_flawed_classifier_reads_women_with_dark_skin_as_men(table):
    assert len(table) == 4 * 24
    assert set(table["gender"]) <= {"man", "woman", "unreadable"}
    read_as_woman = table["class:woman"] > 0.5
    dark = table["tone"].isin(["medium-dark", "dark"])
    women = table["gender"] == "woman"
    assert read_as_woman[women & ~dark].mean() > 0.6
    assert read_as_woman[women & dark].mean() < 0.4
    assert read_as_woman[table["gender"] == "man"].mean() < 0.2
