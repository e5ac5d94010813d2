import numpy as np
import pytest

import reference
from reference import oracle
from reference.world import GENDERS, ROLES, STYLES, TONES, Person, picture, picture_grid, shift
from validation.train.shares import allowed, joint, planted_role


def test_the_oracle_reads_known_images_within_its_bars():
    pixels, truth = oracle.known_pictures(seed=1)
    assert len(truth) == len(ROLES) * len(GENDERS) * len(TONES) * len(STYLES)
    errors = oracle.measure_error(pixels, truth)
    assert errors["gender"]["wrong"] <= 0.02
    assert errors["tone"]["wrong"] <= 0.05
    assert errors["role"]["wrong"] == 0


def test_the_oracle_does_not_read_what_is_no_person():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    assert set(oracle.read(noise)["gender"]) == {oracle.UNREADABLE}


def test_shuffled_truth_is_told_from_the_right_one():
    pixels, truth = oracle.known_pictures()
    shuffled = truth.sample(frac=1, random_state=0).reset_index(drop=True)
    assert oracle.measure_error(pixels[:96], shuffled[:96])["gender"]["wrong"] > 0.3


def test_shift_uncovers_white_and_keeps_the_rest():
    person = picture(Person("doctor", "woman", "dark", "noto"))
    moved = shift(person, 2, -1)
    assert (moved[:2] == 255).all()
    assert (moved[:, -1] == 255).all()
    np.testing.assert_array_equal(moved[2:, :-1], person[:-2, 1:])


@pytest.mark.parametrize("checkpoint", ["balanced", "planted-unet"])
def test_planted_joints_have_the_planted_margins_and_nothing_held_out(checkpoint):
    for role in ROLES:
        table = joint(checkpoint, role)
        women, tones = planted_role(checkpoint, role)
        assert table[1].sum() == pytest.approx(women, abs=1e-6)
        assert table.sum(axis=0) == pytest.approx(tones, abs=1e-6)
        assert (table[~allowed(role)] == 0).all()


def test_reference_names_are_looked_up_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'planted-unet'"):
        reference.components("planted-une")


def test_the_sheets_hold_distinct_images():
    for style in STYLES:
        grid = picture_grid(style)
        flat = grid.reshape(-1, grid.shape[-3] * grid.shape[-2] * 3)
        assert len(np.unique(flat, axis=0)) == len(flat)
