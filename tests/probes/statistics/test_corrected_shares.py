import numpy as np
import pytest
from scipy.stats import beta

from probes.statistics.corrected_shares import (
    CorrectedShares,
    ErrorTable,
    corrected_shares,
    simulate_absolute_error,
)
from probes.statistics.intervals import share_interval

MEN_WOMEN = ("man", "woman")


def symmetric(accuracy: float, labels: int, classes: int = 2) -> ErrorTable:
    """A table with that accuracy for each class, errors spread evenly over the others."""
    names = tuple("abcdefghij"[:classes])
    wrong = labels * (1 - accuracy) / (classes - 1)
    counts = np.full((classes, classes), wrong)
    np.fill_diagonal(counts, labels * accuracy)
    return ErrorTable(names, names, counts.round().astype(np.int64))


def width(shares: CorrectedShares) -> np.ndarray:
    return shares.high - shares.low


# --- the estimate


def test_by_hand() -> None:
    # Of 100 images 34 read 'woman'; 10 % of men and of women are misread: (.34 - .1) / .8 = .3.
    table = ErrorTable(MEN_WOMEN, MEN_WOMEN, np.array([[90, 10], [10, 90]]))
    value, low, high = corrected_shares([66, 34], table)
    assert value == pytest.approx([0.7, 0.3], abs=1e-6)
    assert low[1] < 0.25 < 0.35 < high[1]


@pytest.mark.parametrize("read", [0, 3, 10, 40, 95, 100])
def test_two_classes_are_rogan_and_gladen_cut_off(read: int) -> None:
    plain = (read / 100 - 0.1) / 0.75  # sensitivity .85, specificity .9
    table = ErrorTable(MEN_WOMEN, MEN_WOMEN, np.array([[90, 10], [15, 85]]))
    assert corrected_shares([100 - read, read], table).value[1] == pytest.approx(
        np.clip(plain, 0, 1), abs=1e-3
    )


def test_an_instrument_without_error_changes_nothing() -> None:
    table = symmetric(1, 100_000, 5)
    value, low, high = corrected_shares([16, 8, 4, 4, 0], table)
    assert value == pytest.approx([0.5, 0.25, 0.125, 0.125, 0])
    # The posterior of counted images: Dirichlet with 1/2 for each class as prior.
    posterior = beta(np.array([16, 8, 4, 4, 0]) + 0.5, np.array([16, 24, 28, 28, 32]) + 2)
    assert low == pytest.approx(np.minimum(posterior.ppf(0.025), value), abs=0.02)
    assert high == pytest.approx(posterior.ppf(0.975), abs=0.02)


def test_shares_are_shares_whatever_was_read() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = ErrorTable(
            ("a", "b", "c"),
            ("a", "b", "c", "cannot tell"),
            rng.integers(0, 9, (3, 4)) + 20 * np.eye(3, 4, dtype=np.int64),
        )
        value, low, high = corrected_shares(
            rng.multinomial(32, rng.dirichlet([0.3] * 4)), table, 200
        )
        assert value.sum() == pytest.approx(1)
        assert (low >= 0).all()
        assert (low <= value).all()
        assert (value <= high).all()
        assert (high <= 1).all()
        assert (low < high).all()


def test_cannot_tell_says_something_where_one_class_has_more_of_it() -> None:
    outcomes = ("light", "dark", "cannot tell")
    alike = ErrorTable(outcomes[:2], outcomes, np.array([[80, 0, 20], [0, 80, 20]]))
    unlike = ErrorTable(outcomes[:2], outcomes, np.array([[100, 0, 0], [0, 60, 40]]))
    # Dropping the rows would give 2/3 and 1/3 in both.
    assert corrected_shares([40, 20, 20], alike).value == pytest.approx([2 / 3, 1 / 3], abs=1e-6)
    # 40 of the light and 20 + 20 of the dark were here: nothing else fits better.
    assert corrected_shares([48, 32, 20], unlike).value == pytest.approx([0.48, 0.52], abs=1e-6)


def test_an_outcome_that_the_table_never_saw_tells_nothing_of_the_class() -> None:
    outcomes = (*MEN_WOMEN, "nobody")
    table = ErrorTable(MEN_WOMEN, outcomes, np.array([[90, 10, 0], [10, 90, 0]]))
    value, low, high = corrected_shares([66, 34, 50], table)
    assert value == pytest.approx([0.7, 0.3], abs=1e-6)
    assert low[1] < 0.3 < high[1]
    assert np.isnan(corrected_shares([0, 0, 50], table).value).all()
    assert corrected_shares([0, 0, 50], table).high == pytest.approx([1, 1], abs=0.01)


def test_the_names_of_classes_do_not_matter() -> None:
    counts = np.array([[50, 5, 3, 2], [2, 40, 8, 0], [1, 9, 60, 5]])
    read, order = np.array([9, 14, 8, 1]), [2, 0, 1]
    one = corrected_shares(read, ErrorTable(("a", "b", "c"), ("a", "b", "c", "?"), counts))
    other = corrected_shares(
        read[[*order, 3]],
        ErrorTable(("c", "a", "b"), ("c", "a", "b", "?"), counts[order][:, [*order, 3]]),
    )
    assert other.value == pytest.approx(one.value[order], abs=1e-5)
    assert other.low == pytest.approx(one.low[order], abs=0.02)
    assert other.high == pytest.approx(one.high[order], abs=0.03)


# --- the interval


@pytest.mark.parametrize(("accuracy", "read"), [(0.95, (20, 12)), (0.8, (31, 1)), (0.8, (20, 12))])
def test_with_a_known_table_the_posterior_is_the_one_found_by_integration(accuracy, read) -> None:
    table = symmetric(accuracy, 10_000_000)
    share = (np.arange(100_000) + 0.5) / 100_000
    chance = share * accuracy + (1 - share) * (1 - accuracy)
    density = read[0] * np.log(chance) + read[1] * np.log(1 - chance)
    density = np.exp(density - 0.5 * np.log(share * (1 - share)))
    below = density.cumsum() / density.sum()
    expected = share[np.searchsorted(below, [0.025, 0.975])]
    _, low, high = corrected_shares(read, table, draws=4000)
    assert (low[0], high[0]) == pytest.approx(tuple(expected), abs=0.015)


def test_the_interval_does_not_shrink_with_the_number_of_draws() -> None:
    table = symmetric(0.9, 60, 5)
    few, many = (width(corrected_shares([14, 8, 5, 4, 1], table, d)) for d in (500, 8000))
    # The standard error of a mean over resamples, which some print, would shrink to a quarter.
    assert many == pytest.approx(few, rel=0.12)
    assert many.mean() == pytest.approx(few.mean(), rel=0.05)


def test_the_same_question_gets_the_same_answer() -> None:
    table = symmetric(0.9, 60)
    assert np.array_equal(corrected_shares([20, 12], table), corrected_shares([20, 12], table))


def test_fewer_labels_give_wider_intervals() -> None:
    widths = [width(corrected_shares([200, 50], symmetric(0.9, m)))[0] for m in (20, 100, 1000)]
    assert widths[0] > 1.2 * widths[1]
    assert widths[1] > 1.2 * widths[2]


def test_a_useless_instrument_leaves_everything_open() -> None:
    value, low, high = corrected_shares([50, 50], symmetric(0.5, 100))
    assert (low < 0.05).all()
    assert (high > 0.95).all()
    assert value.sum() == pytest.approx(1)


def audits(classes: int, repeats: int):
    """Instruments of accuracy .9 to .99 with 40 to 200 labels a class, and 32 images a role."""
    rng = np.random.default_rng(11)
    for i in range(repeats):
        accuracy, labels = [(0.9, 40), (0.95, 100), (0.99, 40), (0.9, 200)][i % 4]
        outcomes = classes + i // 4 % 2
        chance = rng.dirichlet(np.ones(outcomes), classes)
        for k in range(classes):
            chance[k, k] = 0
            chance[k] *= (1 - accuracy) / chance[k].sum()
            chance[k, k] = accuracy
        if classes == 2:
            own = rng.choice([0.02, 0.05, 0.1, 0.3, 0.5])
            truth = rng.permutation([own, 1 - own])
        else:
            truth = rng.permutation(
                [(0.02, 0.02, 0.06, 0.1, 0.8), (0.05, 0.05, 0.1, 0.3, 0.5)][i // 8 % 2]
            )
        names = tuple("abcdef"[:outcomes])
        table = np.array([rng.multinomial(labels, row) for row in chance])
        read = rng.multinomial(32, truth @ chance)
        yield truth, ErrorTable(names[:classes], names, table), read


@pytest.mark.parametrize("classes", [2, 5])
def test_coverage(classes: int) -> None:
    """95 % intervals over (role, class) pairs; 32 images a role; shares .02 to .98.

    With 1,200 audits: .963 of pairs at two classes, .967 at five; .94 at the worst share.
    """
    ours, plain, errors, expected = [], [], [], []
    for seed, (truth, table, read) in enumerate(audits(classes, 120)):
        value, low, high = corrected_shares(read, table, draws=200)
        ours.append((low <= truth) & (truth <= high))
        wilson = [share_interval(int(k), 32) for k in read[:classes]]
        plain.append([w.low <= t <= w.high for w, t in zip(wilson, truth, strict=True)])
        errors.append(np.abs(value - truth).mean())
        expected.append(simulate_absolute_error(truth, table, 32, draws=20, seed=seed))
    assert np.mean(ours) >= 0.93
    # The control: counted shares with Wilson's interval forget that the instrument errs.
    assert np.mean(plain) < np.mean(ours) - 0.02
    # And the error is the one that theory predicts.
    assert np.mean(errors) == pytest.approx(np.mean(expected), rel=0.2)


# --- the error to expect


def test_a_faultless_instrument_errs_as_counting_does() -> None:
    table = symmetric(1, 1_000_000_000)
    # The mean distance of 10 tosses of an even coin from one half is .1230.
    error = simulate_absolute_error([0.5, 0.5], table, 10, draws=20_000)
    assert error == pytest.approx(0.1230, abs=0.002)


def test_errors_and_few_images_add_to_the_error() -> None:
    good, bad = symmetric(0.99, 200, 5), symmetric(0.8, 40, 5)
    truth = [0.4, 0.3, 0.2, 0.05, 0.05]
    errors = [simulate_absolute_error(truth, *p) for p in ((good, 256), (good, 32), (bad, 32))]
    assert errors[0] < errors[1] < errors[2]
    assert simulate_absolute_error(truth, bad, 32) == errors[2]


# --- what is refused


def test_what_was_not_measured_is_not_a_number() -> None:
    shares = corrected_shares([0, 0], symmetric(0.9, 50))
    assert all(np.isnan(x).all() for x in shares)


def test_tables_and_counts_that_do_not_fit_are_refused() -> None:
    names = ("light", "dark")
    with pytest.raises(ValueError, match="no labelled image of 'dark'"):
        corrected_shares([3, 4], ErrorTable(names, names, np.array([[9, 1], [0, 0]])))
    with pytest.raises(ValueError, match="the outcomes must begin with the classes"):
        corrected_shares([3, 4], ErrorTable(names, names[::-1], np.array([[9, 1], [1, 9]])))
    with pytest.raises(ValueError, match="one whole number for each of"):
        corrected_shares([3, 4, 5], symmetric(0.9, 50))
    with pytest.raises(ValueError, match="one whole number for each of"):
        corrected_shares([0.3, 0.7], symmetric(0.9, 50))
    with pytest.raises(ValueError, match="they must sum to 1"):
        simulate_absolute_error([0.5, 0.6], symmetric(0.9, 50), 32)
