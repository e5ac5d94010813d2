from math import isnan, log, pi

import numpy as np
import pytest
from scipy.ndimage import fourier_gaussian
from skimage import data

from probes.contracts import Batch
from probes.spectrum.probe import LatentSpectrum, Spectrum
from probes.statistics.power_spectrum import (
    BINS,
    HIGH,
    bin_centres,
    grid_peak,
    high_frequency_gain,
    high_frequency_ratio,
    log_slope,
    log_spectral_error,
    power_spectrum,
    radial,
)

WHITE_PEAK = 10 * np.log10(1 / log(2))


class Somewhere:
    device = "cpu"


def white(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (height, width))


def stripe(frequency: float, size: int = 64) -> np.ndarray:
    """Lines that run across, so that intensity changes downwards."""
    return np.cos(2 * pi * frequency * np.arange(size))[:, None] * np.ones(size)


def checker(square: int, size: int = 64) -> np.ndarray:
    i, j = np.indices((size, size)) // square
    return (i + j) % 2 - 0.5


def blurred(array: np.ndarray, sigma: float) -> np.ndarray:
    return np.fft.ifft2(fourier_gaussian(np.fft.fft2(array), sigma)).real


def coloured(array: np.ndarray, contrast: float = 40) -> np.ndarray:
    grey = np.clip(np.rint(128 + contrast * array), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def batch_of(images=(), references=(), latents=()) -> Batch:
    names = tuple(f"c{i}" for i in range(max(len(images), len(latents))))
    return Batch(
        names,
        ("",) * len(names),
        tuple(images),
        references=tuple(references),
        latents=tuple(latents),
    )


@pytest.mark.parametrize("shape", [(64, 64), (63, 40), (8, 8), (5, 1)])
def test_the_power_is_the_variance(shape):
    array = 3 + white(0, *shape)
    power = power_spectrum(array, window=False)
    assert power.mean() == pytest.approx(array.var(), rel=1e-9)
    rings = radial(power)
    total = np.nansum(rings.power * rings.coefficients) / array.size
    assert total == pytest.approx(array.var(), rel=1e-9)
    assert rings.coefficients.sum() == array.size - 1


def test_with_a_window_the_power_is_the_windowed_variance():
    array = 3 + white(0, 32, 48)
    down, across = ((1 - np.cos(2 * pi * np.arange(n) / n)) / 2 for n in (32, 48))
    window = np.outer(down, across)
    mean = (window * array).sum() / window.sum()
    wanted = ((window * (array - mean)) ** 2).sum() / (window**2).sum()
    assert power_spectrum(array).mean() == pytest.approx(wanted, rel=1e-9)


def test_white_noise_is_flat():
    spectra = [radial(power_spectrum(white(s), window=False)) for s in range(20)]
    power = np.mean([s.power for s in spectra], axis=0)
    # A coefficient's power is exponential, its standard deviation its mean; half are mirrors.
    # The corners' single coefficients are real: twice the variance and no mirror.
    error = np.sqrt(2 / (20 * spectra[0].coefficients))
    assert (np.abs(power - 1) < 4 * error).all()
    assert np.abs(power - 1).max() > 0
    slopes = [log_slope(s) for s in spectra]
    assert abs(np.mean(slopes)) < 4 * np.std(slopes, ddof=1) / 20**0.5


def test_white_noise_has_its_share_outside_a_quarter():
    shares = [high_frequency_ratio(power_spectrum(white(s))) for s in range(20)]
    error = np.std(shares, ddof=1) / 20**0.5
    assert error < 0.005
    assert np.mean(shares) == pytest.approx(1 - pi / 16, abs=4 * error)


def test_a_blur_multiplies_power_by_its_gaussian():
    sharp = white(1)
    sigma = 0.7
    before, after = (power_spectrum(x, window=False) for x in (sharp, blurred(sharp, sigma)))
    radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64))
    factor = np.exp(-4 * pi**2 * sigma**2 * radius**2)
    assert after == pytest.approx(before * factor, rel=1e-9)
    one, two = radial(after), radial(before)
    wanted = -10 / log(10) * 4 * pi**2 * sigma**2 * two.frequency**2
    # The factor is not constant within a bin: a few tenths of a dB.
    assert log_spectral_error(one, two) == pytest.approx(wanted, abs=0.4)
    lost = (before * factor)[radius > HIGH].sum() / before[radius > HIGH].sum()
    assert high_frequency_gain(after, before) == pytest.approx(10 * np.log10(lost), abs=1e-6)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("window", [False, True])
def test_a_stripe_lies_in_its_bin(turned, window):
    array = stripe(12 / 64)
    spectrum = radial(power_spectrum(array.T if turned else array, window))
    at = int(np.argmax(spectrum.power))
    assert abs(bin_centres()[at] - 12 / 64) <= 0.71 / BINS / 2
    if not window:
        others = np.delete(spectrum.power, at)
        assert spectrum.power[at] * spectrum.coefficients[at] == pytest.approx(64**2 / 2)
        assert others.max() < 1e-20


def test_stripes_are_low_or_high():
    low, high = (power_spectrum(stripe(f), window=False) for f in (15 / 64, 17 / 64))
    assert high_frequency_ratio(low) == pytest.approx(0, abs=1e-12)
    assert high_frequency_ratio(high) == pytest.approx(1)
    assert isnan(high_frequency_ratio(power_spectrum(np.full((8, 8), 0.3))))


def test_twice_the_contrast_is_6_db_everywhere():
    one, two = (power_spectrum(k * white(2)) for k in (1, 2))
    assert log_spectral_error(radial(two), radial(one)) == pytest.approx(6.0206, abs=1e-3)
    assert high_frequency_gain(two, one) == pytest.approx(6.0206, abs=1e-3)


def test_no_power_is_nan_without_a_floor_and_the_floor_with():
    nothing, noise = power_spectrum(np.zeros((64, 64))), power_spectrum(white(3))
    assert np.isnan(log_spectral_error(radial(nothing), radial(noise))).all()
    assert isnan(high_frequency_gain(nothing, noise))
    assert high_frequency_gain(nothing, noise, 0.01) == pytest.approx(-20, abs=0.5)
    assert log_spectral_error(radial(nothing), radial(nothing), 0.01) == pytest.approx(0)
    with pytest.raises(ValueError, match="one size"):
        high_frequency_gain(nothing, power_spectrum(white(3, 32)))


@pytest.mark.parametrize("window", [False, True])
def test_white_noise_has_no_grid(window):
    peaks = [grid_peak(power_spectrum(white(s), window)) for s in range(100)]
    assert np.mean(peaks) == pytest.approx(WHITE_PEAK, abs=0.3)
    assert max(peaks) < 5


@pytest.mark.parametrize("size", [40, 64, 100, 256])
def test_a_checker_of_period_8_is_a_grid(size):
    array = checker(4, size) + 0.1 * white(0, size, size)
    assert grid_peak(power_spectrum(array)) > 20


def test_a_checker_of_squares_of_8_is_one_of_period_16():
    power = power_spectrum(checker(8, 128) + 0.1 * white(0, 128, 128))
    assert grid_peak(power, period=16) > 20
    assert grid_peak(power, period=8) < 5


def test_a_faint_grid_stands_out_and_another_period_does_not():
    noise = white(4, 128, 128)
    ghost = np.zeros((128, 128))
    ghost[::8, ::8] = 1
    assert grid_peak(power_spectrum(noise + ghost)) > grid_peak(power_spectrum(noise)) + 3
    ghost = np.zeros((128, 128))
    ghost[::5, ::5] = 1
    assert grid_peak(power_spectrum(noise + ghost)) < 3


def test_a_grid_needs_five_periods():
    assert isnan(grid_peak(power_spectrum(white(0, 39, 64))))
    assert not isnan(grid_peak(power_spectrum(white(0, 40, 64))))


@pytest.mark.parametrize("exponent", [-1, -2, -3])
def test_a_power_law_has_its_slope(exponent):
    radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64))
    radius[0, 0] = 1
    power = radius**exponent
    power[0, 0] = 0
    # The lowest bins are wide beside their frequency, where the mean of a power is above it.
    assert log_slope(radial(power)) == pytest.approx(exponent, abs=0.03)
    assert isnan(log_slope(radial(power, bins=2)))


def test_a_photograph_falls_with_frequency():
    power = power_spectrum(data.camera()[:256, :256] / 255)
    assert -4 < log_slope(radial(power)) < -1
    assert high_frequency_ratio(power) < 0.1


def test_the_instrument_sees_a_blur_and_a_grid():
    noise = white(5)
    sharp, soft = coloured(noise), coloured(blurred(noise, 1))
    ghost = coloured(noise + 0.7 * checker(4))
    rows = Spectrum().measure(
        batch_of([sharp, soft, ghost, sharp, sharp], [sharp, sharp, sharp, None, sharp[:32]]),
        Somewhere(),
    )
    assert list(rows["cell"]) == ["c0", "c1", "c2", "c3", "c4"]
    assert [len(e) for e in rows["log_spectral_error"]] == [BINS] * 5
    assert rows["log_spectral_error"][0] == pytest.approx(0)
    assert rows["log_spectral_error"][1][BINS // 2] < -10
    assert rows["hf_gain"][0] == 0
    assert rows["hf_gain"][1] < -10
    assert rows["hf_ratio"][1] < rows["hf_ratio"][0]
    assert rows["grid_peak"][2] > rows["grid_peak_reference"][2] + 5
    compared = ["hf_gain", "grid_peak_reference"]
    assert rows.loc[[3, 4], compared].isna().all(axis=None)
    assert np.isnan(rows["log_spectral_error"][4]).all()
    assert rows["hf_ratio"][4] == rows["hf_ratio"][0]


def test_flat_images_differ_by_nothing():
    flat = np.full((64, 64, 3), 77, np.uint8)
    row = Spectrum().measure(batch_of([flat], [flat]), Somewhere()).loc[0]
    assert isnan(row["hf_ratio"])
    assert row["hf_gain"] == 0
    assert row["grid_peak"] == 0
    assert row["log_spectral_error"] == pytest.approx(0)


@pytest.mark.parametrize("size", [8, 32])
def test_latents_are_told_apart_by_their_slope(size):
    rough = np.stack([white(s, size, size) for s in range(8)]).astype(np.float32)
    smooth = np.stack([blurred(x, 0.8) for x in rough]).astype(np.float32)
    broken = rough.copy()
    broken[0, 0, 0] = np.nan
    flat = np.zeros_like(rough)
    rows = LatentSpectrum().measure(
        batch_of(latents=[rough, smooth, None, broken, flat]), Somewhere()
    )
    assert abs(rows["slope"][0]) < 0.5
    assert rows["slope"][1] < -1
    assert rows["hf_ratio"][0] == pytest.approx(1 - pi / 16, abs=0.1)
    assert rows["hf_ratio"][1] < 0.5
    assert rows.loc[[2, 3, 4], ["slope", "hf_ratio"]].isna().all(axis=None)


def test_identities_name_the_settings():
    assert Spectrum().cache_key() == Spectrum().cache_key()
    assert Spectrum(16).cache_key() != Spectrum(8).cache_key()
    assert LatentSpectrum().cache_key()["version"] == "1"


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="not \\(height, width\\)"):
        power_spectrum(np.zeros((8, 8, 3)))
