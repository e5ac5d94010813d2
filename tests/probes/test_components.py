import numpy as np
import pandas as pd
import pytest

from probes.components.shapley import attribute_share, combinations, directions, shapley

SUBJECT = {"attribute": "gender", "class": "woman", "checkpoint": "b", "baseline": "a"}


def cells(values, prompts=24, seeds=16) -> pd.DataFrame:
    rows = [
        {"prompt": f"p{p}", "seed": s, **dict(enumerate(values(p, s)))}
        for p in range(prompts)
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def found(findings, metric, estimand="this suite"):
    return next(f for f in findings if f.metric.name == metric and f.estimand == estimand)


def test_the_eight_combinations_begin_with_a_and_end_with_b():
    assert combinations()[0] == (False, False, False)
    assert combinations()[4] == (True, False, False)
    assert combinations()[7] == (True, True, True)


def test_shapley_of_a_hand_made_game():
    # text encoder alone 1, denoiser alone 2, VAE alone 0, text and denoiser together 6.
    worth = {"": 0, "t": 1, "d": 2, "v": 0, "td": 6, "tv": 1, "dv": 2, "tdv": 6}
    values = np.array(
        [worth["".join(n for n, on in zip("tdv", c, strict=True) if on)] for c in combinations()],
        float,
    )
    # The three that text and denoiser only have together is halved: 1 + 1.5, 2 + 1.5, 0.
    assert shapley(values) == pytest.approx([2.5, 3.5, 0])


def test_values_sum_to_the_whole():
    values = np.random.default_rng(0).random((50, 8))
    assert shapley(values).sum(axis=1) == pytest.approx(values[:, 7] - values[:, 0], abs=1e-12)


def test_a_against_a_is_exactly_zero():
    rng = np.random.default_rng(1)
    frame = cells(lambda p, s: [float(rng.random() < 0.5)] * 8)
    for finding in attribute_share(frame, SUBJECT, "clip.gender", {}):
        assert finding.value == 0
        assert finding.low < 0 < finding.high


def test_a_planted_denoiser_is_found_and_null_players_hold_zero():
    rng = np.random.default_rng(2)

    def values(p, s):
        u = rng.random()
        share = 0.8 if p % 2 else 0.2
        return [float(u < (share if c[1] else 0.5)) for c in combinations()]

    findings = attribute_share(cells(values), SUBJECT, "clip.gender", {})
    whole = found(findings, "difference of the whole")
    denoiser = found(findings, "difference carried by the denoiser")
    assert denoiser.low < 0.3 < denoiser.high
    assert denoiser.value == pytest.approx(whole.value)
    for other in ("text encoder", "VAE"):
        assert found(findings, f"difference carried by the {other}").value == 0
    assert found(findings, "part carried by the denoiser").value == pytest.approx(1)
    left = found(findings, "difference left over by one exchange at a time")
    assert left.value == pytest.approx(0)


def test_noise_is_no_effect_and_the_naive_sign_would_make_it_one():
    values, naive = [], []
    for trial in range(60):
        rng = np.random.default_rng(trial)
        frame = cells(lambda p, s, r=rng: (r.random(8) < 0.5).astype(float), 20, 8)
        values.append(found(attribute_share(frame, SUBJECT, "x", {}), "difference of the whole"))
        shift = (frame[7] - frame[0]).groupby(frame["prompt"]).mean()
        naive.append(shift.abs().mean())
    held = np.mean([f.low <= 0 <= f.high for f in values])
    assert held >= 0.9
    assert abs(np.mean([f.value for f in values])) < 0.02
    assert np.mean(naive) > 0.1


def test_declared_directions_are_taken():
    frame = pd.DataFrame({"prompt": ["p", "p", "q", "q"], "seed": [0, 1, 0, 1]})
    frame = frame.assign(a=0.0, b=[1.0, 1.0, 1.0, 1.0])
    assert directions(frame, {"p": -1}).tolist() == [-1, -1, 1, 1]


def test_cells_that_lack_an_image_are_left_out_and_counted():
    frame = cells(lambda p, s: [0.0] * 7 + [1.0])
    frame.loc[0, 3] = np.nan
    findings = attribute_share(frame, SUBJECT, "x", {})
    assert findings[0].n == len(frame) - 1
    assert findings[0].note.endswith("1 cells lack one of the eight images")
    empty = attribute_share(frame.iloc[:1], SUBJECT, "x", {})
    assert [f.status for f in empty] == ["not-measured"]
