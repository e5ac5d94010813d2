import numpy as np
import pytest

from probes.statistics.share_ends import allowed_ends, joint_log_likelihood


def matrix(classes, accuracy):
    rows = np.full((classes, classes + 2), (1 - accuracy) / (classes - 1))
    np.fill_diagonal(rows, accuracy)
    rows *= 0.97
    rows[:, classes:] = (0.02, 0.01)
    return rows


@pytest.mark.faults
@pytest.mark.parametrize(
    ("classes", "labels", "accuracy", "share"),
    [(2, 10, 0.8, 0), (2, 50, 0.95, 1), (3, 50, 0.8, 1), (5, 50, 0.8, 1), (5, 10, 0.95, 0)],
)
def test_a_true_share_at_an_end_is_allowed(classes, labels, accuracy, share):
    """Until this test five classes reached a true share of 1 in 89 % of audits."""
    rng = np.random.default_rng(5)
    rows, trials = matrix(classes, accuracy), 300
    truth = np.full(classes, (1 - share) / (classes - 1))
    truth[0] = share
    held = 0
    for _ in range(trials):
        counts = np.array([rng.multinomial(labels, row) for row in rows], float)
        outcomes = rng.multinomial(80, truth @ rows).astype(float)
        held += allowed_ends(outcomes, counts, 0.025, 500, 0)[share][0]
    assert held / trials >= 0.92


@pytest.mark.faults
def test_an_end_that_nothing_speaks_for_is_left_out():
    counts = np.array([[95.0, 2, 2], [2, 95, 2]])
    none, whole = allowed_ends(np.array([40.0, 40, 2]), counts, 0.025, 500, 0)
    assert not none.any()
    assert not whole.any()
    none, whole = allowed_ends(np.array([80.0, 0, 0]), counts, 0.025, 500, 0)
    assert none.tolist() == [False, True]
    assert whole.tolist() == [True, False]


def test_the_likelihood_of_one_class_alone_is_that_of_its_pooled_counts():
    outcomes, counts = np.array([30.0, 8, 2]), np.array([[9.0, 1, 0], [2, 7, 1]])
    found = joint_log_likelihood(outcomes, counts, np.array([[True, False]]))[0]
    pooled = outcomes + counts[0]
    by_hand = (pooled * np.log(pooled / 50)).sum() + (counts[1] * np.log(counts[1] / 10)).sum()
    assert found == pytest.approx(by_hand)


def test_more_classes_never_fit_worse():
    outcomes, counts = np.array([30.0, 8, 2]), np.array([[9.0, 1, 0], [2, 7, 1]])
    support = np.array([[True, True], [True, False], [False, True]])
    both, first, second = joint_log_likelihood(outcomes, counts, support)
    assert both >= first - 1e-6
    assert both >= second
