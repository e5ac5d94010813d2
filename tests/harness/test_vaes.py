import itertools
import json

import numpy as np
import pandas as pd
import pytest
import skimage.data
import torch
from accelerate import init_empty_weights
from diffusers import AsymmetricAutoencoderKL, AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file

from harness.models.digests import digest_of
from harness.models.latent_spaces import KNOWN, Known
from harness.models.safetensors_header import Header, WeightsError, read_header
from harness.models.single_file import CONFIGS, load_vae_as
from harness.models.vae_files import ASSUMED, config_of
from harness.models.vae_identity import (
    codec,
    compare,
    identify,
    legal,
    load_vae_alone,
    spatial_factor,
)
from harness.models.vae_precision import precision
from harness.models.vae_scaling import check_scale, check_shift, check_vae_scale, settle
from reference import MODELS
from reference.world import STYLES, picture_grid

TINY = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 8,
}
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return AutoencoderKL(**(TINY | changes)).eval()


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def identity(vae, name="a"):
    return identify(name, "somewhere", vae, digest_of(vae))


# --- identity


def test_a_vae_saved_again_in_fp16_under_old_names_is_a_copy(tmp_path):
    vae = tiny()
    folder = tmp_path / "again"
    vae.save_pretrained(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, tensor in reversed(load_file(weights).items()):
        for new, old in OLD.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor.half()
    assert any("proj_attn" in name for name in renamed)
    save_file(renamed, weights)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.13025}))
    again = load_vae_alone("b", "again", tmp_path)
    a, b = identity(vae), identity(again, "b")
    assert (a.scaling_factor, b.scaling_factor) == (0.18215, 0.13025)
    assert a.exact != b.exact
    assert a.normalised == b.normalised
    assert compare(a, b) == "a copy"
    assert compare(a, identity(vae, "another name")) == "the same file"


@pytest.mark.parametrize(
    ("touched", "kinship"),
    [
        ("decoder.conv_out.bias", "same encoder, other decoder"),
        ("post_quant_conv.bias", "same encoder, other decoder"),
        ("encoder.conv_in.bias", "same decoder, other encoder"),
        ("quant_conv.bias", "same decoder, other encoder"),
        ("", "different"),
    ],
)
def test_one_changed_number_tells_which_half_differs(touched, kinship):
    one, other = tiny(), tiny()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name == touched or not touched:
                parameter.reshape(-1)[0] += 1
    assert compare(identity(one), identity(other)) == kinship


def test_the_reference_vaes_share_an_encoder_and_not_a_decoder():
    faithful, pale = (load_vae_alone(n, f"reference:{n}", MODELS) for n in ("faithful", "pale"))
    a, b = identity(faithful), identity(pale)
    assert (a.channels, a.pixels, a.kind) == (8, 8, "AutoencoderKL")
    assert (a.scaling_factor, a.shift_factor) == (0.87808, None)
    assert compare(a, b) == "same encoder, other decoder"


# --- legality


def test_a_swap_is_legal_only_in_the_same_latent_space():
    vae = tiny()
    assert spatial_factor(vae) == 2
    assert legal(vae, 4, 2) == ""
    assert "have 4 channels, the denoiser's 16" in legal(vae, 16, 2)
    assert "covers 2 x 2 pixels, the checkpoint's 8 x 8" in legal(vae, 4, 8)
    assert legal(AutoencoderTiny(), 4, 8) == ""


# --- loading


ASYMMETRIC = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "down_block_out_channels": [32, 64],
    "layers_per_down_block": 1,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "up_block_out_channels": [64, 96],
    "layers_per_up_block": 2,
}


@pytest.mark.parametrize(
    "make",
    [
        lambda: tiny(),
        lambda: tiny(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False),
        lambda: AutoencoderTiny(latent_channels=4),
        lambda: AsymmetricAutoencoderKL(**ASYMMETRIC),
    ],
    ids=["4 channels", "16 channels", "tiny", "asymmetric"],
)
def test_every_class_is_loaded_from_a_folder(tmp_path, make):
    vae = make().eval()
    vae.save_pretrained(tmp_path / "vae")
    got = load_vae_alone("v", "vae", tmp_path)
    assert type(got) is type(vae)
    assert same_weights(got, vae)
    assert got.dtype == torch.float32
    assert not got.training
    assert ASSUMED not in got.config


def test_tiny_and_asymmetric_files_are_told_from_their_tensors(tmp_path):
    wide = AutoencoderTiny(latent_channels=16)
    save_file(wide.state_dict(), tmp_path / "taef1.safetensors")
    got = load_vae_alone("v", "taef1.safetensors", tmp_path)
    assert same_weights(got, wide)
    assert (got.config.latent_channels, got.config.scaling_factor) == (16, 1.0)
    assert ASSUMED not in got.config
    odd = AsymmetricAutoencoderKL(**ASYMMETRIC)
    save_file(odd.state_dict(), tmp_path / "odd.safetensors")
    got = load_vae_alone("v", "odd.safetensors", tmp_path, torch.float16)
    assert got.dtype == torch.float16
    assert same_weights(got, odd.half())
    assert got.config[ASSUMED]
    assert tuple(got.config.up_block_out_channels) == (64, 96)


def kl_header(**changes):
    config = json.loads((CONFIGS / "sd15" / "vae" / "config.json").read_text())
    with init_empty_weights():
        vae = AutoencoderKL.from_config(config | changes)
    return Header("v.safetensors", {n: tuple(t.shape) for n, t in vae.state_dict().items()}, {}, {})


def test_the_family_of_a_file_is_told_from_its_latent_channels():
    four = kl_header()
    sixteen = kl_header(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
    wanted = {
        (None, 4): (0.18215, None),
        ("sdxl", 4): (0.13025, None),
        (None, 16): (1.5305, 0.0609),
        ("flux", 16): (0.3611, 0.1159),
    }
    for (family, channels), pair in wanted.items():
        config = config_of(four if channels == 4 else sixteen, family)
        assert config["latent_channels"] == channels
        assert (config["scaling_factor"], config["shift_factor"]) == pair
        assert config["use_quant_conv"] is (channels == 4)
    with pytest.raises(WeightsError, match="latents of 8 channels; known are 4 and 16"):
        config_of(kl_header(latent_channels=8), None)


def test_a_file_of_16_channels_is_loaded_with_and_without_the_1x1_convolutions(tmp_path):
    for convs in (True, False):
        vae = tiny(latent_channels=16, use_quant_conv=convs, use_post_quant_conv=convs)
        save_file(vae.state_dict(), tmp_path / "vae.safetensors")
        header = read_header(tmp_path / "vae.safetensors")
        # Only widths are made small: full-size weights would take 170 MB.
        got = load_vae_as(header, torch.float32, config_of(header, "flux") | TINY)
        assert same_weights(got, vae)
        assert got.config.shift_factor == 0.1159
    with pytest.raises(WeightsError, match="latents of 16 channels; this checkpoint's have 4"):
        load_vae_alone("v", "vae.safetensors", tmp_path, family="sdxl")


def test_what_is_no_vae_is_refused_in_one_line(tmp_path):
    torch.save({"decoder.conv_in.weight": torch.zeros(1)}, tmp_path / "a.vae.pt")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    broken = AutoencoderTiny().state_dict()
    del broken["encoder.layers.0.weight"]
    save_file(broken, tmp_path / "broken.safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"_class_name": "VQModel"}')
    for source, reason in {
        "a.vae.pt": "is a pickle .*`audit convert",
        "gone.safetensors": "does not exist",
        "gone": "no such VAE; name a folder with config.json",
        "x.safetensors": "has no VAE decoder",
        "broken.safetensors": "lacks 1 of",
        "other": "a VQModel; supported: AutoencoderKL, AutoencoderTiny",
        "reference:faithfull": "did you mean 'faithful'",
    }.items():
        with pytest.raises(WeightsError, match=rf"vaes\.v: '{source}': .*{reason}") as error:
            load_vae_alone("v", source, tmp_path)
        assert "\n" not in str(error.value)


# --- codecs


def test_a_codec_gives_the_mode_of_the_posterior_and_takes_the_same_range_of_every_class():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = tiny()
    way = codec(vae)
    with torch.no_grad():
        want = vae.quant_conv(vae.encoder(images))[:, :4]
    assert torch.equal(way.encode(images), want)
    assert way.decode(way.encode(images)).shape == images.shape
    assert way.step == 2
    small = AutoencoderTiny().eval()
    with torch.no_grad():
        want = small.encoder.layers((images + 1) / 2)  # Trained on [0, 1].
        drawn = small.decoder.layers(torch.tanh(want / 3) * 3) * 2 - 1
    assert torch.allclose(codec(small).encode(images), want)
    assert torch.allclose(codec(small).decode(want), drawn)


class Halving:
    """Somebody's own: every latent is the mean of 2 x 2 pixels."""

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 2)

    def decode(self, latents):
        return latents.repeat_interleave(2, -1).repeat_interleave(2, -2)


def test_any_object_that_encodes_and_decodes_is_a_codec():
    way = codec(Halving())
    assert way.step == 2
    flat = torch.full((1, 3, 4, 4), 0.5)
    assert torch.equal(way.decode(way.encode(flat)), flat)
    with pytest.raises(TypeError, match="a dict is no VAE"):
        codec({})


# --- scale


class Given:
    """Latents of a known deviation, `scale` times 1 + the first pixel, signs as the squares."""

    step = 8

    def __init__(self, scale):
        self.scale = scale

    def encode(self, images):
        signs = torch.nn.functional.avg_pool2d(images[:, :1], 8).sign()
        return (self.scale * (images[:, :1, :1, :1] + 1) * signs).expand(-1, 4, -1, -1)

    def decode(self, latents):
        return latents[:, :3].sign().repeat_interleave(8, -1).repeat_interleave(8, -2)


def numbered(levels):
    """Different images of 32 black and 32 white squares; the first pixel has a level."""
    rng = np.random.default_rng(0)
    images = []
    for level in levels:
        squares = (rng.permutation(64) % 2 * 255).astype(np.uint8).reshape(8, 8, 1)
        image = np.repeat(squares.repeat(8, 0).repeat(8, 1), 3, axis=2)
        image[0, 0] = level
        images.append(image)
    return images


def test_the_fitted_factor_and_its_error_by_hand():
    two = [100] * 10 + [200] * 10
    found = check_scale(Given(1), numbered(two), 1.0, [Known("k", 4, 4.0)])
    # Levels 100 and 200 are 0.784 and 1.569 above -1; their squares 0.615 and 2.462, 1.538 pooled.
    assert found.fitted == pytest.approx(1 / np.sqrt(1.538), rel=1e-3)
    # Each square is 0.923 from the pooled one; standard error 0.923 sqrt(20 / 19) / sqrt(20), and
    # half of its share of 1.538 is that of the logarithm of the deviation.
    assert found.sampling == pytest.approx(0.923 / np.sqrt(19) / 1.538 / 2, rel=1e-3)
    assert found.error == pytest.approx(np.hypot(found.sampling, 0.08), rel=1e-3)
    assert found.std == pytest.approx([1.2409] * 4, rel=1e-2)
    assert found.mean == pytest.approx([0] * 4)
    assert found.verdict == "right"
    assert check_scale(Given(1), [], 1.0, []).verdict == "cannot tell"
    for scale, images in ((1, two[:11]), (0, two), (float("nan"), two)):
        assert check_scale(Given(scale), numbered(images), 4, []).verdict == "cannot tell"


def test_the_sampling_error_falls_with_the_root_of_the_number_of_images():
    levels = [90, 110, 130, 150] * 4
    few = check_scale(Given(1), numbered(levels), 1.0, [])
    many = check_scale(Given(1), numbered(levels * 4), 1.0, [])
    assert many.fitted == pytest.approx(few.fitted, rel=1e-3)
    assert many.sampling == pytest.approx(few.sampling / 2 * np.sqrt(15 / 16 * 64 / 63), rel=1e-3)
    assert many.error < few.error


def test_copies_of_an_image_count_once_and_like_images_say_nothing():
    twelve = numbered([100, 150] * 6)
    assert check_scale(Given(1), twelve, 1.0, []).images == 12
    again = check_scale(Given(1), twelve[:6] * 4, 1.0, [])
    assert (again.images, again.verdict) == (6, "cannot tell")
    alike = [np.where(np.arange(64) == i, 9, twelve[0].T).T.astype(np.uint8) for i in range(20)]
    found = check_scale(Given(1), alike, 1.0, [])
    assert (found.images, found.why) == (20, "the images are too alike; give different ones")


def test_another_factor_must_fit_clearly_better():
    images = numbered([100, 110, 121, 133] * 5)  # Each 10 % above the last.
    std = 1 / check_scale(Given(1), images, 1.0, []).fitted
    known = [Known("a", 4, 1.0), Known("b", 4, 2.0), Known("c", 4, 2.1)]

    def verdict(true, configured):
        return check_scale(Given(1 / (std * true)), images, configured, known).verdict

    assert verdict(1.0, 1.0) == "right"
    assert verdict(2.0, 1.0) == "wrong: 2 or 2.1 fit clearly better"
    assert verdict(2.0, 2.0) == "cannot tell"  # 2.1 is too near.
    assert verdict(1.4, 1.0) == "cannot tell"  # Half way.
    assert verdict(9.0, 1.0) == "cannot tell"  # Nothing known is near.


@pytest.fixture(scope="module")
def pictures():
    """16 images of the world, and 16 crops of 16 of scikit-image's photographs."""
    rng = np.random.default_rng(0)
    world = np.concatenate([picture_grid(style).reshape(-1, 64, 64, 3) for style in STYLES])
    chosen = rng.choice(len(world), 16, replace=False)
    names = (
        "astronaut brick camera cat cell clock coffee coins grass gravel hubble_deep_field "
        "immunohistochemistry moon page retina rocket"
    )
    photographs = []
    for name in names.split():
        pixels = getattr(skimage.data, name)()
        pixels = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels[..., :3]
        y, x = (int(rng.integers(side - 63)) for side in pixels.shape[:2])
        photographs.append(pixels[y : y + 64, x : x + 64])
    return {"world": list(world[chosen]), "photographs": photographs}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """40 VAEs: (wrong?, true factor, source). Each fits its factor on the world within 8 %."""
    root = tmp_path_factory.mktemp("files")
    vae = load_vae_alone("faithful", "reference:faithful", MODELS)
    start = {n: t.clone() for n, t in vae.state_dict().items()}
    rng = np.random.default_rng(0)
    factors = [known.factor for known in KNOWN.values()]
    pairs = list(itertools.islice(itertools.cycle(itertools.permutations(factors, 2)), 20))
    pairs += [(factor, factor) for factor in factors] * 5
    made = []
    for number, (true, configured) in enumerate(pairs):
        # faithful's own factor is that of all the world's images.
        by = 0.87808 / true * rng.uniform(0.92, 1.08)
        state = dict(start)
        moved = torch.cat([torch.full((8,), by), torch.ones(8)])  # Mean; logarithm of variance.
        state["quant_conv.weight"] = start["quant_conv.weight"] * moved.reshape(-1, 1, 1, 1)
        state["quant_conv.bias"] = start["quant_conv.bias"] * moved
        state["quant_conv.bias"][8:] += 2 * float(np.log(by))
        state["post_quant_conv.weight"] = start["post_quant_conv.weight"] / by
        vae.load_state_dict(state)
        vae.register_to_config(scaling_factor=configured, shift_factor=None)
        vae.save_pretrained(root / str(number))
        made.append((true != configured, true, root / str(number)))
    return made


def test_a_rescaled_file_draws_the_same_images(files, pictures):
    """Otherwise the files would be broken, not wrongly labelled."""
    images = torch.from_numpy(np.stack(pictures["world"][:2])).permute(0, 3, 1, 2) / 127.5 - 1
    drawn = []
    for source in ("reference:faithful", str(files[0][2])):
        way = codec(load_vae_alone("v", source, MODELS))
        drawn.append(way.decode(way.encode(images)))
    assert torch.allclose(*drawn, atol=1e-3)


class Remembered(torch.nn.Module):
    """An encoder that runs once on the same images: the files differ only behind it."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.known = encoder, {}

    def forward(self, images):
        key = images.numpy().tobytes()
        if key not in self.known:
            self.known[key] = self.encoder(images)
        return self.known[key]


def test_wrong_scale_metadata_are_flagged_and_right_ones_never(files, pictures):
    """On images that it was trained on; of photographs, which it does not know, it says nothing."""
    shared = Remembered(load_vae_alone("v", "reference:faithful", MODELS).encoder)
    rows = []
    for wrong, true, source in files:
        vae = load_vae_alone("v", str(source), MODELS)
        assert same_weights(vae.encoder, shared.encoder)
        vae.encoder = shared
        for kind, images in pictures.items():
            found = check_vae_scale(vae, images)
            flagged = found.verdict.startswith("wrong: ")
            named = true in [known.factor for known in found.fits]
            rows.append((kind, wrong, flagged, named, found.verdict))
            print(kind, true, found.configured, found.verdict, round(found.error, 3))
    table = pd.DataFrame(rows, columns=["kind", "wrong", "flagged", "named", "verdict"])
    count = table.groupby(["kind", "wrong"])[["flagged", "named"]].sum()
    assert count.loc[("world", False), "flagged"] == 0
    assert count.loc[("world", True), "flagged"] == 20
    assert set(table.loc[table["kind"] == "photographs", "verdict"]) == {"cannot tell"}
    assert (table["named"] == table["flagged"]).all()


def test_the_reference_vae_is_right_and_an_assumed_factor_is_settled(pictures):
    vae = load_vae_alone("faithful", "reference:faithful", MODELS)
    assert check_vae_scale(vae, pictures["world"]).verdict == "right"
    assert settle(vae, pictures["world"]) == (vae, "")
    true = Known("the world", 8, 0.87808)
    vae.register_to_config(scaling_factor=0.13025, **{ASSUMED: True})
    found = check_vae_scale(vae, pictures["world"], [true])
    assert found.fits == (true,)
    same, said = settle(vae, pictures["world"])
    assert same is vae
    assert "cannot tell" in said
    with torch.no_grad():
        for part in (vae.quant_conv.weight, vae.quant_conv.bias):
            part[:8] *= 0.87808 / 0.3611
    before = digest_of(vae)
    other, said = settle(vae, pictures["world"])
    assert said.startswith("scaling factor 0.3611 (Flux)")
    assert (other.config.scaling_factor, other.config.shift_factor) == (0.3611, 0.1159)
    # what was named by its digest is as it was, and the settled one is another
    assert vae.config.scaling_factor == 0.13025
    assert digest_of(vae) == before != digest_of(other)
    assert check_vae_scale(other, pictures["world"]).configured == 0.3611


def test_the_shift_is_held_against_the_scaling_factor():
    vae = tiny()
    assert check_shift(vae) == "right"
    vae.register_to_config(scaling_factor=1.5305)
    assert check_shift(vae) == "wrong: 0.0609 belongs to 1.5305"
    vae.register_to_config(scaling_factor=0.3611, shift_factor=0.1159)
    assert check_shift(vae) == "right"
    vae.register_to_config(scaling_factor=0.5)
    assert check_shift(vae) == "cannot tell"


# --- precision


def test_a_large_convolution_overflows_in_fp16_alone():
    vae = tiny()
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    table, verdicts = precision(vae, images)
    assert verdicts == {"float32": "fits", "float16": "fits", "bfloat16": "fits"}
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e7)
    table, verdicts = precision(vae, images)
    assert verdicts == {
        "float32": "fits",
        "float16": "overflows at decoder.conv_in",
        "bfloat16": "fits",
    }
    layers = table.set_index(["layer", "dtype"])
    assert layers.loc[("decoder.conv_in", "float32"), "largest"] > 65504
    assert layers.loc[("decoder.conv_in", "float16"), "nonfinite"] > 0
    assert layers.loc[("encoder", "float16"), "nonfinite"] == 0
    assert vae.dtype == torch.float32
