"""`audit vae` on real VAEs and photographs: sizes, objects, precision and scale."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from audit.pipeline import vae_audit as trial
from audit.pipeline.plan import begin
from audit.pipeline.round_trip import RoundTripWorker, round_trip_audit, send, store_originals
from audit.pipeline.round_trip_inputs import images_of_folder
from audit.pipeline.vae_table import figures
from harness.models.latent_spaces import KNOWN
from harness.models.vae_identity import codec, load_vae_alone, same_space
from harness.models.vae_precision import precision
from harness.models.vae_scaling import FEWEST, check_scale
from harness.plan.cells import units_of
from harness.store.run import Run
from reference import MODELS
from validation.real import photographs
from validation.real.vaes import APPROX, LIGHT, NAMES, SD1, load
from validation.simulations.scale import FOUR, SD, XL, Remembered, verdicts

pytestmark = pytest.mark.faults


class Counted(torch.nn.Module):
    """A real VAE that counts the images of its forwards."""

    def __init__(self, vae):
        super().__init__()
        self.vae, self.step = vae, vae.step
        self.encoded = []

    def encode(self, images):
        self.encoded.append(tuple(images.shape))
        return self.vae.encode(images)

    def decode(self, latents):
        return self.vae.decode(latents)


class Convolutions(TorchDispatchMode):
    """Counts convolutions by the type of their input."""

    def __init__(self):
        super().__init__()
        self.types = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "convolution" in str(function):
            self.types[args[0].dtype] += 1
        return function(*args, **(kwargs or {}))


# --- real VAEs


@pytest.mark.parametrize("name", NAMES)
def test_a_real_vae_gives_back_photographs(name):
    least = {"light": 19.5, "taef2": 27, "approx": 18.5}[name.split("-")[0]]
    pixels = np.stack(photographs.tiles(photographs.SCENES, 6, 64, 0))
    images, latents = send(load(name), pixels, 6)
    error = float(np.mean((images - pixels / 255) ** 2))
    assert -10 * np.log10(error) > least
    assert latents.shape == (6, 32 if name == "taef2" else 4, 8, 8)


def test_real_vaes_of_one_space_are_told_from_another():
    assert same_space(load("light-10024"), load("approx-sd1.5")) > 0.5
    with pytest.raises(ValueError, match="unknown real VAE 'light'; available: light-10024, "):
        load("light")


# --- S30: sizes


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """11 photographs of 9 sizes, through two real VAEs and a copy, with `batch` 4."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in photographs.EVERY[:10]:
        Image.fromarray(photographs.scaled(name, 64)).save(folder / f"{name.split('.')[0]}.png")
    mirrored = np.fliplr(photographs.scaled("astronaut.png", 64))
    Image.fromarray(mirrored).save(folder / "mirrored.png")
    light = load("light-10024")
    vaes = {"light": light, "again": light, "taef2": load("taef2")}
    said = []
    out = tmp_path_factory.mktemp("out") / "run"
    audit = trial.run(folder, None, vaes, out, 1024, 4, (), (), said.append)
    return audit, said, folder


def test_no_image_is_encoded_twice_to_fill_a_batch(mixed, tmp_path):
    folder = mixed[-1]
    vae = Counted(load("approx-sd1.4"))
    pictures = images_of_folder(folder, None, (), lambda text: None)
    audit, plan, provenance, loaded = round_trip_audit(
        "sizes", pictures, {"approx": vae}, tmp_path / "run", 1024, 4
    )
    begin(audit, plan, provenance)
    store_originals(audit, plan, pictures)
    vae.encoded.clear()
    worker = RoundTripWorker(audit.run, loaded, 4, "cpu")
    units = units_of(plan)
    assert sum(worker(unit).images for unit in units) == 11
    assert sum(shape[0] for shape in vae.encoded) == 11
    sizes = Counter(p.size for p in pictures)
    assert len(vae.encoded) == len(units) == sum(-(-n // 4) for n in sizes.values())


def test_a_copy_differs_by_exactly_nothing(mixed):
    audit, *_ = mixed
    plan = audit.run.read_plan()
    images = {}
    for (unit, file), part in plan.groupby(["unit", "vae_file"], sort=False):
        table = audit.run.read_images(str(unit), str(file)).set_index("cell")["png"]
        for row in part.itertuples():
            images[row.trajectory, row.vae] = table[row.cell]
    for one in plan["trajectory"].unique():
        assert images[one, "light"] == images[one, "again"] != images[one, "original"]


def test_work_is_said_before_it_starts(mixed):
    _, said, _ = mixed
    examined = [line for line in said if line.startswith("examine ")]
    assert examined[0].startswith(
        "examine 1/3 light: scaling factor on 11 images, activations in fp32, about 0:0"
    )
    first = next(n for n, line in enumerate(said) if line.startswith("round trip"))
    assert said[first].startswith("round trip: 11 images by 3 VAEs on cpu, ")
    assert " forwards of up to 4, at least 0:0" in said[first]
    assert said[first + 1].startswith("round trip ")  # one line: it takes less than ten seconds
    assert ", took 0:0" in said[first + 1]
    assert "again has the same weights as light" in said


def test_objects_are_named_in_the_run(mixed):
    audit, *_ = mixed
    rows = audit.run.read_json("vaes.json")
    told = {row["name"]: (row["channels"], row["scaling_factor"], row["source"]) for row in rows}
    assert told == {
        "light": (4, None, "object:Light"),
        "again": (4, None, "object:Light"),
        "taef2": (32, None, "object:Taef2"),
    }
    table = figures(audit.run)[0].table
    assert list(table["scaling factor"]) == ["none"] * 3
    assert set(table["float16"]) == {"not checked"}


def test_images_of_one_size_after_scaling_share_a_unit(tmp_path):
    """Photographs of 512 and 300 pixels, scaled to 64: one forward, not two."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    pixels = photographs.photograph("astronaut.png")
    for number, side in enumerate((512, 300, 64)):
        Image.fromarray(pixels[:side, :side]).save(folder / f"{number}.png")
    vae = Counted(load("light-10024"))
    trial.run(folder, None, {"light": vae}, tmp_path / "run", 64, 4, (), (), lambda text: None)
    assert (3, 3, 64, 64) in vae.encoded
    assert Run(tmp_path / "run").read_plan()["unit"].nunique() == 1


# --- S26: precision


def overflowing():
    """The reference VAE with activations beyond fp16 in one layer, and the same images."""
    vae = load_vae_alone("v", "reference:faithful", MODELS)
    with torch.no_grad():
        vae.decoder.mid_block.resnets[0].conv1.weight.mul_(1e5)
        vae.decoder.mid_block.resnets[0].conv1.bias.mul_(1e5)
    return vae


def true_outcome(vae, images):
    """The first layer with a value that is not finite, in fp16."""
    bad = []
    vae = torch.nn.Module.to(vae, torch.float16)
    for name, module in vae.named_modules():
        if name:
            module.register_forward_hook(
                lambda _m, _i, out, name=name: bad.extend([name] * (not out.isfinite().all()))
            )
    with torch.no_grad():
        # Decoded from latents of the encoder in fp16, which does not overflow in either.
        codec(vae).decode(codec(vae).encode(images))
    return f"overflows at {bad[0]}" if bad else "fits"


@pytest.mark.parametrize(
    "make", [overflowing, lambda: load_vae_alone("v", "reference:faithful", MODELS)]
)
def test_the_check_of_precision_is_that_of_fp16_and_runs_no_such_convolution(make):
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = make()
    with Convolutions() as counted:
        table, found = precision(vae, images)
    assert set(counted.types) == {torch.float32}
    # One forward for three precisions.
    layers = sum(isinstance(m, torch.nn.Conv2d) for m in vae.modules())
    assert counted.types[torch.float32] == layers
    assert vae.dtype == torch.float32
    assert found["float16"] == true_outcome(make(), images)
    assert found["float32"] == found["bfloat16"] == "fits"
    assert (found["float16"] == "fits") == (table["largest"].max() < 65504)


def test_weights_beyond_fp16_overflow_though_their_results_would_not():
    vae = load_vae_alone("v", "reference:faithful", MODELS)
    with torch.no_grad():
        vae.decoder.conv_out.weight.zero_()
        vae.decoder.conv_out.weight[0, 0, 0, 0] = 1e5
        vae.decoder.conv_norm_out.weight.zero_()
        vae.decoder.conv_norm_out.bias.zero_()
    found = precision(vae, torch.zeros(1, 3, 16, 16))[1]
    assert found["float16"] == "overflows at decoder.conv_out"


def test_the_latent_space_of_a_vae_in_fp16_is_compared_in_fp32():
    vae = load_vae_alone("v", "reference:faithful", MODELS)
    half = load_vae_alone("v", "reference:faithful", MODELS, torch.float16)
    with Convolutions() as counted:
        assert same_space(vae, half) > 0.999
    assert set(counted.types) == {torch.float32}
    assert half.dtype == torch.float16


# --- S29: scale


@pytest.fixture(scope="module")
def light():
    return Remembered(load("light-12727"))


@pytest.fixture(scope="module")
def approx():
    return Remembered(load(APPROX[0]))


def sets(count, n):
    return [photographs.tiles(photographs.COLOUR, n, 64, seed) for seed in range(count)]


def test_sdxls_factor_is_named_on_photographs_and_sd1s_never_accused(light, approx):
    """20 draws of 48 tiles of photographs; the full table is in docs/simulations/scale.md."""
    for vae in (light, approx):
        draws = sets(20 if vae is approx else 5, 48)
        wrong = verdicts(vae, draws, SD, XL)
        right = verdicts(vae, draws, SD, SD)
        assert wrong.named >= 0.9 * wrong.draws
        assert right.accused == 0
        assert right.confirmed >= 0.9 * right.draws


def test_latents_in_sdxls_scale_are_judged_as_well(light):
    draws = sets(5, 48)
    assert verdicts(light, draws, XL, XL).accused == 0
    assert verdicts(light, draws, XL, SD).accused == 0


def test_more_photographs_say_more(light):
    draws = [photographs.tiles(photographs.EVERY, n, 64, 0) for n in (12, 24, 48)]
    errors = [check_scale(light, images, SD1, FOUR).sampling for images in draws]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] / errors[2] == pytest.approx(2, rel=0.35)


def test_a_vae_that_normalises_its_latents_does_not_make_photographs_alike():
    images = photographs.tiles(photographs.COLOUR, 16, 64, 0)
    vae = load("taef2")
    found = check_scale(vae, images, 1.25, [])
    assert found.verdict == "right"
    assert "alike" not in found.why
    assert found.images == 16


@pytest.mark.parametrize("name", LIGHT)
def test_flat_or_few_images_say_nothing(name):
    vae = Remembered(load(name))
    textures = photographs.tiles(photographs.TEXTURES, 24, 64, 0)
    few = photographs.tiles(photographs.COLOUR, FEWEST - 1, 64, 0)
    for true in (SD, XL):
        for configured in (SD, XL):
            count = verdicts(vae, [textures, few], true, configured)
            assert (count.named, count.confirmed, count.accused) == (0, 0, 0)


def test_a_vae_says_nothing_of_images_that_it_does_not_know():
    """The reference VAE's latents of photographs spread 1.29 times too wide."""
    vae = load_vae_alone("v", "reference:faithful", MODELS)
    images = photographs.tiles(photographs.COLOUR, 24, 64, 0)
    for configured in (0.87808, 0.87808 / 1.4):
        found = check_scale(codec(vae), images, configured, list(KNOWN.values()))
        assert found.verdict == "cannot tell"
        assert found.why.startswith("the VAE does not reconstruct these images (")
