from itertools import permutations

import numpy as np
import pytest

from probes.statistics.weat import association, cosines, single, weat

EAST, NORTH = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])


def at(*degrees: float) -> np.ndarray:
    turned = np.radians(degrees)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1)


def test_a_toy_by_hand():
    # s(w) = cos(angle) − sin(angle): 1 at 0°, 0 at 45°, −1 at 90°.
    x, y = at(0, 45), at(90, 45)
    np.testing.assert_allclose(association(x, EAST, NORTH), [1, 0], atol=1e-12)
    found = weat(x, y, EAST, NORTH)
    # Means 1/2 and −1/2; the four values 1, 0, −1, 0 have the sample variance 2/3.
    assert found.effect == pytest.approx(1 / np.sqrt(2 / 3))
    # Of the six pairs from (1, 0, −1, 0) only (1, 0) and (1, 0) sum to 1 or more.
    assert found.p == pytest.approx(2 / 6)
    assert found.p_either == pytest.approx(4 / 6)
    assert (found.partitions, found.exact) == (6, True)


def test_the_sign_is_positive_where_x_is_with_a():
    x, y = at(5, 10, 15), at(80, 85, 75)
    there, back = weat(x, y, EAST, NORTH), weat(y, x, EAST, NORTH)
    assert there.effect == pytest.approx(-back.effect)
    assert there.effect > 1.5
    assert (there.p, back.p) == (1 / 20, 1.0)
    assert weat(x, y, NORTH, EAST).effect < 0
    assert single(at(10)[0], EAST, NORTH).effect > 0
    assert single(at(80)[0], EAST, NORTH).effect < 0


def test_p_is_that_of_all_orders():
    rng = np.random.default_rng(0)
    x, y, a, b = (rng.normal(size=(n, 5)) for n in (3, 3, 4, 2))
    s = np.concatenate([association(x, a, b), association(y, a, b)])
    sums = [sum(s[list(order[:3])]) for order in permutations(range(6))]
    wanted = np.mean([v >= s[:3].sum() - 1e-12 for v in sums])
    assert weat(x, y, a, b).p == pytest.approx(wanted)


def test_cosines_do_not_depend_on_length():
    np.testing.assert_allclose(cosines(3 * at(0, 60), 5 * at(60)), [[0.5], [1]], atol=1e-12)


def test_many_texts_are_drawn_and_say_so():
    rng = np.random.default_rng(1)
    found = weat(rng.normal(size=(12, 4)), rng.normal(size=(12, 4)), EAST @ np.eye(2, 4), np.eye(4))
    assert not found.exact
    assert 0 < found.p <= 1


def test_unrelated_texts_are_rarely_found():
    small = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        small.append(weat(*(rng.normal(size=(n, 6)) for n in (4, 4, 3, 3))).p <= 0.05)
    assert np.mean(small) < 0.1


def test_the_same_text_throughout_cannot_be_told():
    assert np.isnan(weat(at(1, 1), at(1, 1), EAST, NORTH).effect)
