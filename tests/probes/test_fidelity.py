from math import inf, isnan

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from probes.contracts import Batch
from probes.vae.fidelity import (
    ROUNDING_DB,
    Fidelity,
    Lpips,
    colour_shift,
    detail_loss,
    ms_ssim,
    mse,
    psnr,
    psnr_of,
    ssim,
)

PHOTOGRAPHS = {
    "astronaut": data.astronaut()[:256, 100:356],
    "chelsea": data.chelsea()[:200, :300],
    "coffee": data.coffee()[50:250, 100:400],
}


class Somewhere:
    device = "cpu"


def plain(value: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def blurred(image: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    return gaussian_filter(image, (sigma, sigma, 0))


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 10, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def batch_of(images, references) -> Batch:
    names = tuple(f"c{i}" for i in range(len(images)))
    return Batch(names, ("",) * len(images), tuple(images), references=tuple(references))


def test_a_mean_squared_error_of_a_hundredth_is_20_db():
    # 101 of 204 samples off by 26 and 103 by 25: 132651 / 204 = 650.25 = (255 / 10)².
    reference = plain(100, 4, 17)
    image = reference + np.repeat([26, 25], [101, 103]).reshape(4, 17, 3).astype(np.uint8)
    assert mse(image, reference) == pytest.approx(0.01, abs=1e-15)
    assert psnr(image, reference) == pytest.approx(20, abs=1e-9)


def test_an_error_is_the_same_both_ways_though_bytes_would_wrap():
    assert mse(plain(0), plain(255)) == mse(plain(255), plain(0)) == 1
    assert psnr(plain(0), plain(255)) == 0


def test_equal_images_have_no_error():
    image = PHOTOGRAPHS["chelsea"]
    assert psnr(image, image) == inf
    assert psnr_of(0.0) == inf
    assert ssim(image, image) == pytest.approx(1)
    assert ms_ssim(image, image) == pytest.approx(1)
    assert colour_shift(image, image) == (0, 0, 0)
    assert detail_loss(image, image) == 0


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("change", [blurred, noisy])
def test_psnr_and_ssim_are_those_of_scikit_image(name, change):
    reference = PHOTOGRAPHS[name]
    image = change(reference)
    assert psnr(image, reference) == pytest.approx(
        peak_signal_noise_ratio(reference, image), abs=1e-6
    )
    assert ssim(image, reference) == pytest.approx(
        structural_similarity(reference, image, channel_axis=2), abs=1e-6
    )


def test_similarity_falls_with_blur():
    reference = PHOTOGRAPHS["astronaut"]
    one, two = (blurred(reference, s) for s in (1, 3))
    assert 1 > ssim(one, reference) > ssim(two, reference)
    assert 1 > ms_ssim(one, reference) > ms_ssim(two, reference) > 0


def test_images_too_small_for_a_window_are_not_measured():
    assert isnan(ssim(plain(1, 6, 20), plain(1, 6, 20)))
    assert ssim(plain(1, 7, 20), plain(1, 7, 20)) == pytest.approx(1)
    assert isnan(ms_ssim(plain(1, 175, 200), plain(1, 175, 200)))
    assert ms_ssim(plain(1, 176, 200), plain(1, 176, 200)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("one", "two", "difference"),
    [  # pairs 1, 7 and 25 of Sharma, Wu and Dalal (2005), table 1
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ],
)
def test_ciede2000_is_the_published_one(one, two, difference):
    assert deltaE_ciede2000(one, two) == pytest.approx(difference, abs=5e-5)


def test_white_is_100_from_black_and_lighter():
    assert colour_shift(plain(255), plain(0)) == pytest.approx((100, 100, 0), abs=0.02)
    assert colour_shift(plain(0), plain(255)).lightness == pytest.approx(-100, abs=0.02)


def test_a_grey_version_is_paler():
    reference = np.zeros((8, 8, 3), np.uint8)
    reference[..., 0] = 255
    grey = colour_shift(plain(127, 8, 8), reference)
    # sRGB red is L* 53.24, C* 104.55; grey 127 is L* 53.19.
    assert grey.chroma == pytest.approx(-104.55, abs=0.02)
    assert grey.lightness == pytest.approx(-0.05, abs=0.02)
    assert grey.delta_e > 20


def test_blur_loses_detail_and_noise_adds_it():
    reference = PHOTOGRAPHS["astronaut"]
    assert (
        0
        < detail_loss(blurred(reference, 1), reference)
        < detail_loss(blurred(reference, 3), reference)
    )
    assert detail_loss(noisy(reference), reference) < 0
    assert detail_loss(plain(0, 256, 256), reference) == pytest.approx(1)
    assert isnan(detail_loss(reference, plain(77, 256, 256)))


def test_half_the_contrast_is_half_the_detail():
    reference = np.zeros((8, 8, 3), np.uint8)
    reference[:, 4:] = 200
    assert detail_loss(reference // 2, reference) == pytest.approx(0.5)


@pytest.mark.parametrize("measure", [mse, psnr, ssim, ms_ssim, colour_shift, detail_loss])
def test_other_types_and_sizes_are_refused(measure):
    with pytest.raises(ValueError, match="float64"):
        measure(np.zeros((9, 9, 3)), plain(0, 9, 9))
    with pytest.raises(ValueError, match="one size"):
        measure(plain(0, 9, 9), plain(0, 9, 8))


def test_lpips_says_what_is_missing_and_fetches_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    lpips = Lpips()
    assert lpips.missing.startswith("lpips: ")
    assert "missing" in lpips.missing or "not installed" in lpips.missing
    assert lpips.digest == ""
    assert isnan(lpips.distance(plain(0, 64, 64), plain(9, 64, 64)))
    assert list(tmp_path.rglob("*")) == []


def test_lpips_says_that_weights_cannot_be_read(monkeypatch, tmp_path):
    pytest.importorskip("lpips")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = Lpips().missing.split(" no ")[1].split()[0]
    path = tmp_path / "hub" / "checkpoints" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut off")
    assert "unreadable" in Lpips().missing


def test_the_instrument_has_a_row_for_every_cell(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    small = PHOTOGRAPHS["coffee"][:64, :64]
    images = [small, small, blurred(small), small]
    references = [None, plain(0, 32, 64), small, small]
    rows = Fidelity().measure(batch_of(images, references), Somewhere())
    assert list(rows["cell"]) == ["c0", "c1", "c2", "c3"]
    measures = [c for c in rows.columns if c not in ("cell", "note")]
    assert rows.loc[[0, 1], measures].isna().all(axis=None)
    assert rows["note"][0] == "no reference"
    assert rows["note"][1] == "image is 64x64, reference 64x32"
    assert rows["psnr"][2] == psnr(images[2], small)
    assert rows["detail_loss"][2] > 0.1
    assert rows["note"][2].startswith("ms_ssim: a side below 176; lpips: ")
    assert rows["mse"][3] == 0
    assert rows["psnr"][3] == ROUNDING_DB == pytest.approx(58.92, abs=0.01)
    there = [m for m in measures if m not in ("ms_ssim", "lpips")]
    assert np.isfinite(rows.loc[[2, 3], there].to_numpy(float)).all()


def test_the_instruments_identity_names_its_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    one = Fidelity().cache_key()
    assert one == Fidelity().cache_key()
    assert one["version"] == "2"  # 1 had MS-SSIM's reflected border
    assert one["lpips"] == ""
