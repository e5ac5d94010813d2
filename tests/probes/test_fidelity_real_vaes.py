"""Fidelity of real VAEs on photographs, against direct computations."""

import numpy as np
import pytest
import torch
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from audit.pipeline.round_trip import send
from probes.vae.fidelity import Fidelity, colour_shift, detail_loss, ms_ssim, psnr, ssim
from validation.real.photographs import photograph
from validation.real.vaes import load

pytestmark = pytest.mark.faults
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang and others 2003, table of section 4.


@pytest.fixture(scope="module", params=["light-12727", "taef2"])
def pairs(request):
    """Round trips of three photographs, one of odd sides: (image, reference)."""
    vae = load(request.param)
    made = []
    for name, size in (("coffee.png", (192, 192)), ("astronaut.png", (176, 200))):
        made.append(photograph(name)[: size[0], : size[1]])
    made.append(photograph("chelsea.png")[:201, :177])
    out = []
    for reference in made:
        images, _ = send(vae, reference[None], 1)
        out.append(((images[0] * 255).round().astype(np.uint8), reference))
    return out


def window():
    steps = np.arange(11) - 5
    one = np.exp(-(steps**2) / (2 * 1.5**2))
    return torch.tensor(np.outer(one, one) / one.sum() ** 2)[None, None]


def direct_ms_ssim(image, reference):
    """Wang 2003 in one convolution a moment, without padding; channels as images of their own."""
    a, b = (
        torch.tensor(x / 255.0).permute(2, 0, 1)[:, None].to(torch.float64)
        for x in (image, reference)
    )
    total = torch.ones((), dtype=torch.float64)
    for scale, weight in enumerate(WEIGHTS):
        ua, ub, aa, bb, ab = (
            torch.nn.functional.conv2d(x, window()) for x in (a, b, a * a, b * b, a * b)
        )
        contrast = (2 * (ab - ua * ub) + 0.03**2) / (aa - ua**2 + bb - ub**2 + 0.03**2)
        light = (2 * ua * ub + 0.01**2) / (ua**2 + ub**2 + 0.01**2)
        total *= (contrast * light if scale == 4 else contrast).mean() ** weight
        odd = (0, a.shape[-1] % 2, 0, a.shape[-2] % 2)
        a, b = (
            torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, odd, "replicate"), 2)
            for x in (a, b)
        )
    return float(total)


def test_ms_ssim_is_that_of_wang_2003(pairs):
    for image, reference in pairs:
        assert ms_ssim(image, reference) == pytest.approx(
            direct_ms_ssim(image, reference), abs=1e-4
        )


def test_a_reflected_border_would_be_seen(pairs):
    """The control: what torchmetrics makes of it differs by more than the tolerance."""
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    apart = []
    for image, reference in pairs[:1]:
        a, b = (torch.tensor(x).permute(2, 0, 1)[None].float() / 255 for x in (image, reference))
        other = float(multiscale_structural_similarity_index_measure(a, b, data_range=1.0))
        apart.append(abs(other - direct_ms_ssim(image, reference)))
    assert max(apart) > 1e-4


def test_the_other_measures_are_those_of_a_direct_computation(pairs):
    for image, reference in pairs:
        assert psnr(image, reference) == pytest.approx(
            peak_signal_noise_ratio(reference, image), abs=1e-5
        )
        assert ssim(image, reference) == pytest.approx(
            structural_similarity(reference, image, channel_axis=2), abs=1e-5
        )
        lab = [rgb2lab(x) for x in (image, reference)]
        light = float(lab[0][..., 0].mean() - lab[1][..., 0].mean())
        chroma = [np.sqrt(x[..., 1] ** 2 + x[..., 2] ** 2).mean() for x in lab]
        found = colour_shift(image, reference)
        assert found.delta_e == pytest.approx(float(deltaE_ciede2000(*lab).mean()), abs=1e-5)
        assert found.lightness == pytest.approx(light, abs=1e-5)
        assert found.chroma == pytest.approx(float(chroma[0] - chroma[1]), abs=1e-5)
        assert detail_loss(image, reference) == pytest.approx(
            1 - edges(image) / edges(reference), abs=1e-5
        )


def edges(image):
    """Mean Sobel magnitude of luma by hand: two 3 x 3 kernels, edges repeated, over sqrt 2."""
    luma = image / 255.0 @ np.array([0.2125, 0.7154, 0.0721])
    grown = np.pad(luma, 1, mode="symmetric")
    h, w = luma.shape
    part = {(y, x): grown[y : y + h, x : x + w] for y in range(3) for x in range(3)}
    along = [part[y, 2] - part[y, 0] for y in range(3)]
    down = [part[2, x] - part[0, x] for x in range(3)]
    both = [(d[0] + 2 * d[1] + d[2]) / 4 for d in (along, down)]
    return float(np.sqrt((both[0] ** 2 + both[1] ** 2) / 2).mean())


def test_scores_of_before_are_not_mixed_with_these():
    identity = Fidelity().cache_key()
    assert identity["version"] == "2"
    assert "torchmetrics" not in identity
