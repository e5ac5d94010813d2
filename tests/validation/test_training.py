import numpy as np
import pytest
import torch

from reference.world import GENDERS, ROLES, STYLES, TONES, neutral_prompt
from validation.train.diffusion import BATCH, draw, expected
from validation.train.shares import allowed, neutral_counts


def test_the_mean_of_two_images_is_the_logistic_of_their_distance():
    latents = torch.tensor([[[[[-1.0]]]], [[[[1.0]]]]])  # two images, no shift
    noisy = torch.tensor([[[[0.3]]], [[[-0.1]]]])
    signal, noise = torch.tensor([0.8, 0.8]), torch.tensor([0.6, 0.6])
    likely = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    found = expected(noisy, signal, noise, latents, likely).flatten()
    odds = 4 * np.exp(2 * 0.8 * 0.3 / 0.36)
    assert found[0].item() == pytest.approx((odds - 1) / (odds + 1), abs=1e-6)
    assert found[1].item() == -1  # what the caption rules out is not behind it


def test_the_mean_is_that_of_what_was_noised():
    rng = np.random.default_rng(0)
    latents = torch.from_numpy(rng.standard_normal((3, 2, 1, 2, 2), dtype=np.float32))
    prior = np.array([0.5, 0.3, 0.2])
    n, a, b = 200_000, 0.6, 0.8
    clean = latents[rng.choice(3, n, p=prior), rng.integers(2, size=n)]
    noisy = a * clean + b * torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    likely = torch.from_numpy(np.tile(prior, (n, 1)).astype(np.float32))
    found = expected(noisy, torch.full((n,), a), torch.full((n,), b), latents, likely)
    # The regression of the truth on the mean is the identity: nothing is left to explain.
    left = ((clean - found) * found).mean(dim=0)
    assert left.abs().max() < 0.01
    assert ((clean - found) * noisy).mean(dim=0).abs().max() < 0.01
    assert (clean - noisy / a).square().mean() > 1.5 * (clean - found).square().mean()


def test_captions_rule_out_what_they_do_not_say():
    pictures, captions, likely = draw(np.random.default_rng(0), "planted-unet")
    shape = (len(STYLES), len(ROLES), len(GENDERS), len(TONES))
    assert likely.shape == (BATCH, np.prod(shape))
    assert np.allclose(likely.sum(axis=1), 1)
    assert (likely[np.arange(BATCH), pictures] > 0).all()
    for caption, row in zip(captions, likely.reshape(BATCH, *shape), strict=True):
        roles = [ROLES[i] for i in np.flatnonzero(row.sum(axis=(0, 2, 3)))]
        if not caption:
            assert len(roles) == len(ROLES)
            continue
        (role,) = roles
        table = row[:, ROLES.index(role)].sum(axis=0)
        if caption == neutral_prompt(role):
            planted = neutral_counts("planted-unet")[ROLES.index(role)]
            assert np.allclose(table, planted / planted.sum())
            continue
        genders = [g for g, share in zip(GENDERS, table.sum(axis=1), strict=True) if share]
        assert len(genders) == 1
        assert genders[0] in caption.split()
        tones = {t for t, share in zip(TONES, table.sum(axis=0), strict=True) if share}
        said = {t for t in TONES if f"with {t} skin" in caption}
        shown = allowed(role)[GENDERS.index(genders[0])]
        every = {t for t, ok in zip(TONES, shown, strict=True) if ok}
        assert tones == (said or every)
        styles = {s for s, share in zip(STYLES, row.sum(axis=(1, 2, 3)), strict=True) if share}
        assert styles == ({s for s in STYLES if s in caption.split(", ")[-1]} or set(STYLES))
