"""Colour profiles: what an imported image shows, in sRGB."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from skimage.color import rgb2lab

from audit.pipeline.imported_images import given_audit
from harness.images.colorimetry import ita
from harness.images.folder import read_folder, warnings_of
from harness.images.pixels import load_image

pytestmark = pytest.mark.faults

# Columns of red, green and blue in XYZ, adapted to D50 (Bradford); the standards' values.
SRGB = [[0.4360, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]]
DISPLAY_P3 = [[0.5151, 0.2919, 0.1572], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]]
ADOBE_RGB = [[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]]
SKIN = np.array([141, 85, 36])


def srgb_curve(x):
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def adobe_curve(x):
    return x ** (563 / 256)


def profile(matrix, curve) -> bytes:
    """An ICC profile (version 2, matrix and curves), built from its parts."""
    steps = (curve(np.linspace(0, 1, 1024)) * 65535).round().astype(">u2").tobytes()

    def xyz(values) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    name = b"a test's"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(80),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz([0.9642, 1, 0.8249]),
        **{
            k: xyz(c)
            for k, c in zip((b"rXYZ", b"gXYZ", b"bXYZ"), zip(*matrix, strict=True), strict=True)
        },
        **{
            k: b"curv\0\0\0\0" + struct.pack(">I", 1024) + steps
            for k in (b"rTRC", b"gTRC", b"bTRC")
        },
    }
    at = 128 + 4 + 12 * len(tags)
    index, body = struct.pack(">I", len(tags)), b""
    for key, data in tags.items():
        data += bytes(-len(data) % 4)
        index += key + struct.pack(">II", at + len(body), len(data))
        body += data
    head = bytearray(128)
    head[8:12] = b"\x02\x40\0\0"
    head[12:24] = b"mntrRGB XYZ "
    head[36:40] = b"acsp"
    head[68:80] = struct.pack(">iii", *(round(v * 65536) for v in (0.9642, 1, 0.8249)))
    head[0:4] = struct.pack(">I", 128 + len(index) + len(body))
    return bytes(head) + index + body


def encoded(colour, matrix, curve) -> np.ndarray:
    """An sRGB colour's values in another space, by the definitions and a search of the curve."""
    linear = np.linalg.solve(
        np.array(matrix), np.array(SRGB) @ srgb_curve(np.asarray(colour) / 255)
    )
    levels = curve(np.linspace(0, 1, 256))
    return np.abs(levels[None] - linear[:, None]).argmin(axis=1).astype(np.uint8)


SPACES = {"p3": (DISPLAY_P3, srgb_curve), "adobe": (ADOBE_RGB, adobe_curve)}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".jpg", ".avif"])
def test_wide_spaces_become_srgb(tmp_path, space, suffix):
    matrix, curve = SPACES[space]
    values = encoded(SKIN, matrix, curve)
    assert np.abs(values.astype(int) - SKIN).max() > 8
    lossless = {".webp": {"lossless": True}}.get(suffix, {"quality": 100})
    if suffix in (".png", ".tiff"):
        lossless = {}
    pixels = np.broadcast_to(values, (16, 16, 3))
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        tmp_path / f"a{suffix}", icc_profile=profile(matrix, curve), **lossless
    )
    found = load_image(tmp_path / f"a{suffix}")
    assert np.abs(found.astype(int) - SKIN).max() <= 3
    angles = [float(ita(rgb2lab(np.uint8([[c]]))[0, 0])) for c in (SKIN, found[0, 0], values)]
    assert abs(angles[1] - angles[0]) < 1.5
    assert abs(angles[2] - angles[0]) > 2  # the control: as it was before
    said = warnings_of(read_folder(tmp_path), prompts=False)
    assert said == ["1 of 1 images: converted to sRGB by its colour profile"]


def test_an_image_in_srgb_keeps_its_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name, data in (
        ("own.png", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
        ("built.png", profile(SRGB, srgb_curve)),
        ("none.png", None),
    ):
        Image.fromarray(pixels).save(tmp_path / name, icc_profile=data)
        assert np.array_equal(load_image(tmp_path / name), pixels)
    assert warnings_of(read_folder(tmp_path), prompts=False) == []


@pytest.mark.parametrize("data", [b"no profile", bytes(200), b"\0" * 127 + b"x" * 400])
def test_a_broken_profile_is_counted_and_taken_as_srgb(tmp_path, data):
    Image.new("RGB", (8, 8), tuple(map(int, SKIN))).save(tmp_path / "a.png", icc_profile=data)
    assert (load_image(tmp_path / "a.png") == SKIN).all()
    said = warnings_of(read_folder(tmp_path), prompts=False)
    assert said == ["1 of 1 images: colour profile that cannot be used (taken as sRGB)"]


def test_mutated_profiles_never_raise(tmp_path):
    rng = np.random.default_rng(0)
    whole = bytearray(profile(DISPLAY_P3, srgb_curve))
    for i in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, 400, 5):
            data[at] = rng.integers(256)
        Image.new("RGB", (4, 4), "red").save(tmp_path / f"{i}.png", icc_profile=bytes(data))
        assert load_image(tmp_path / f"{i}.png").shape == (4, 4, 3)
    assert len(read_folder(tmp_path).images) == 150


def test_grey_transparent_and_printed_images(tmp_path):
    grey = Image.new("L", (8, 8), 100)
    grey.save(tmp_path / "grey.png", icc_profile=profile(DISPLAY_P3, srgb_curve))
    assert (load_image(tmp_path / "grey.png") == 100).all()  # an RGB profile says nothing of greys
    values = (*map(int, encoded(SKIN, DISPLAY_P3, srgb_curve)), 255)
    half = Image.new("RGBA", (8, 8), values)
    half.putpixel((0, 0), (0, 0, 0, 0))
    half.save(tmp_path / "alpha.png", icc_profile=profile(DISPLAY_P3, srgb_curve))
    found = load_image(tmp_path / "alpha.png")
    assert (found[0, 0] == 255).all()
    assert np.abs(found[4, 4].astype(int) - SKIN).max() <= 3
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert load_image(tmp_path / "print.jpg")[4, 4].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_a_profile_applies_whatever_the_path(tmp_path):
    nested = tmp_path / "a" / "b"
    nested.mkdir(parents=True)
    values = tuple(map(int, encoded(SKIN, ADOBE_RGB, adobe_curve)))
    Image.new("RGB", (8, 8), values).save(
        nested / "c.png", icc_profile=profile(ADOBE_RGB, adobe_curve)
    )
    (only,) = read_folder(tmp_path).images
    assert only.path == Path(nested / "c.png")
    assert only.header.colour


def test_a_run_from_before_profiles_were_converted_is_not_mixed_with(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    values = tuple(map(int, encoded(SKIN, ADOBE_RGB, adobe_curve)))
    Image.new("RGB", (64, 64), values).save(folder / "a.png")

    def made_with() -> dict:
        arguments = (folder, None, tmp_path / "run", ["world-gender"], ["reference:balanced"])
        return given_audit(*arguments, print).provenance["made with"]

    plain = made_with()
    assert "colour profiles" not in plain
    data = profile(ADOBE_RGB, adobe_curve)
    Image.new("RGB", (64, 64), values).save(folder / "a.png", icc_profile=data)
    assert made_with() == plain | {"colour profiles": "converted to sRGB"}
