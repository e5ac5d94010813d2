import numpy as np
import pytest
import torch

from probes.statistics.linear_probe import (
    linear_probe,
    pca_plane,
    silhouette,
    umap_plane,
)


def clouds(n: int = 80, width: int = 12, apart: float = 3.0, seed: int = 0):
    """Two classes, apart along one direction, in prompts of four images."""
    rng = np.random.default_rng(seed)
    y = np.array(["man", "woman"] * (n // 2))
    x = rng.normal(size=(n, width))
    x[y == "woman", 0] += apart
    return x, y, np.repeat(np.arange(n // 4), 4).astype(str)


def test_pca_finds_the_directions_of_variance():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)) * [9, 3, 1, 0.1, 0.1]
    plane = pca_plane(x)
    assert plane.explained[:2] == pytest.approx([81 / 91, 9 / 91], abs=0.05)
    assert abs(np.corrcoef(plane.points[:, 0], x[:, 0])[0, 1]) > 0.99
    assert plane.trust > 0.9


def test_a_class_is_read_on_prompts_left_out_and_not_by_chance():
    x, y, prompts = clouds(apart=6.0)
    found = linear_probe(x, y, prompts)
    assert found.right.mean() > 0.85
    assert found.chance == pytest.approx(0.5, abs=0.12)
    assert found.majority == 0.5


def test_features_without_the_class_read_at_chance():
    rates = [linear_probe(*clouds(apart=0, seed=s)).right.mean() for s in range(10)]
    assert np.mean(rates) == pytest.approx(0.5, abs=0.06)


def test_what_only_tells_the_prompt_does_not_tell_the_class():
    # One class a prompt, features that name the prompt: a split within prompts would be fooled.
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(20), 6)
    y = rng.permutation(["man", "woman"] * 10)[prompts]
    x = np.eye(20)[prompts] + 0.01 * rng.normal(size=(120, 20))
    assert linear_probe(x, y, prompts.astype(str)).right.mean() < 0.75


@pytest.mark.parametrize("change", ["class", "prompt"])
def test_one_class_or_one_prompt_is_nothing_to_read(change):
    x, y, prompts = clouds()
    if change == "class":
        y[:] = "man"
    else:
        prompts[:] = "p"
    assert linear_probe(x, y, prompts) is None


def test_silhouette():
    x, y, _ = clouds(apart=30)
    assert silhouette(x, y) > 0.7
    assert np.isnan(silhouette(x, np.array(["man"] * len(x))))


def test_few_images_have_a_plane_without_trust():
    plane = pca_plane(np.arange(9.0).reshape(3, 3))
    assert plane.points.shape == (3, 2)
    assert np.isnan(plane.trust)
    assert pca_plane(np.array([[1.0], [2.0], [4.0], [8.0], [9.0]])).points.shape == (5, 2)


@pytest.mark.filterwarnings("ignore")
def test_umap_is_the_same_twice_and_takes_few_images():
    x, _, _ = clouds(24, apart=8.0)
    one, two = umap_plane(x), umap_plane(x)
    np.testing.assert_array_equal(one.points, two.points)
    assert one.trust > 0.6
    assert umap_plane(x[:8]).neighbours == 3


@pytest.mark.filterwarnings("ignore")
def test_umap_leaves_the_number_of_threads():
    """Images made after it in the same process would have other last bits."""
    before = torch.get_num_threads()
    umap_plane(clouds(24)[0])
    assert torch.get_num_threads() == before
