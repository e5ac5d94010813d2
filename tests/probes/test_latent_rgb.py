import numpy as np
import pytest

from probes.trajectory.latent_rgb import LatentRgb, explained, fit, preview, sums

FACTORS = np.array([[0.2, 0.1, 0.0], [-0.1, 0.15, 0.05], [0.0, 0.05, -0.2], [0.1, -0.1, 0.1]])
BIAS = np.array([0.5, 0.45, 0.55])


def pair(seed: int, noise: float = 0.0, block: int = 8):
    rng = np.random.default_rng(seed)
    latents = rng.uniform(-1, 1, (4, 6, 9))
    colours = np.einsum("crk,cj->rkj", latents, FACTORS) + BIAS
    colours = (colours + noise * rng.normal(size=colours.shape)).clip(0, 1)
    pixels = np.repeat(np.repeat(colours, block, axis=0), block, axis=1)
    return latents, (pixels * 255).round().astype(np.uint8)


def test_a_planted_map_of_four_channels_is_recovered():
    found = fit(sum(sums(*pair(seed)) for seed in range(20)))
    np.testing.assert_allclose(found.factors, FACTORS, atol=2e-4)  # 8 bits
    np.testing.assert_allclose(found.bias, BIAS, atol=2e-4)
    assert found.r2 > 0.9999
    latents, pixels = pair(99)
    assert np.abs(preview(latents, found).astype(int) - pixels[::8, ::8]).max() <= 1


def test_r2_is_that_of_the_definition_and_falls_with_noise():
    pairs = [pair(seed, noise=0.1) for seed in range(8)]
    total = sum(sums(*p) for p in pairs)
    found = fit(total)
    truth = np.concatenate([p[::8, ::8].reshape(-1, 3) / 255 for _, p in pairs])
    guess = np.concatenate(
        [(lat.reshape(4, -1).T @ found.factors + found.bias) for lat, _ in pairs]
    )
    wanted = 1 - ((truth - guess) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum()
    assert found.r2 == pytest.approx(wanted, abs=1e-9)
    assert found.r2 < 0.9


def test_latents_that_say_nothing_explain_nothing_elsewhere():
    rng = np.random.default_rng(0)
    total = sum(sums(rng.normal(size=(4, 6, 9)), pair(seed)[1]) for seed in range(20))
    found = fit(total)
    solution = np.vstack([found.factors, found.bias])
    assert found.r2 < 0.05
    other = sums(rng.normal(size=(4, 6, 9)), pair(50)[1])
    assert explained(other, solution) < 0.02


def test_one_colour_has_no_r2():
    found = fit(sums(pair(0)[0], np.full((48, 72, 3), 128, np.uint8)))
    assert np.isnan(found.r2)


def test_colours_are_kept_within_bounds():
    loud = LatentRgb(FACTORS * 100, BIAS, 1.0)
    assert set(np.unique(preview(pair(0)[0], loud))) <= set(range(256))
