"""An image file's pixels as 8-bit sRGB on white, upright; what is no image is refused by name.

Files are data of strangers: the size is checked before anything is decoded, and of Pillow's many
decoders only those of common formats are used.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError, features

from harness.errors import AuditError, reason

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
"""Decoders let loose on strangers' files, and the suffixes that they read; Pillow knows many
more, some start other programs."""
MAX_PIXELS = 64_000_000
MAX_PROFILE = 4_000_000
MOST_ALIKE = 1
"""Levels of 255 within which a profile counts as sRGB: its images keep their bytes."""
BROKEN_PROFILE = "colour profile that cannot be used (taken as sRGB)"
CONVERTED = "converted to sRGB by its colour profile"
ORIENTATION = 0x0112


class GivenError(AuditError):
    """A given file cannot be used; the message is one line that names it."""


class Header(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
        size: width and height, upright; (0, 0) where the file cannot be read.
        colour: '' for sRGB, else `CONVERTED` or `BROKEN_PROFILE`.
    """

    size: tuple[int, int]
    colour: str = ""


def readable() -> dict[str, str]:
    """Suffix to format of the images that this installation reads."""
    formats = dict(FORMATS)
    if not features.check("avif"):
        del formats["AVIF"]
    if not _heif():
        del formats["HEIF"]
    return {suffix: name for name, suffixes in formats.items() for suffix in suffixes}


def needed_for(suffix: str) -> str:
    """What would read a format that this installation does not, '' where nothing is known."""
    if suffix in FORMATS["HEIF"]:
        return "pip install 'diffusion-audit[heif]'"
    return "a Pillow with AVIF" if suffix in FORMATS["AVIF"] else ""


@lru_cache(maxsize=1)
def _heif() -> bool:
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener(thumbnails=False)
    return True


def load_image(path: Path) -> NDArray[np.uint8]:
    """An image file's pixels, (height, width, 3), uint8 sRGB.

    Transparent parts become white, EXIF orientation is applied, an embedded colour profile is
    converted to sRGB (relative colorimetric), the first frame of an animation is taken, 16-bit
    values are scaled to 8 bits.

    Raises:
        GivenError: Not an image, truncated, of 32-bit values, or more than 64 megapixels.
    """
    with opened(path) as image:
        profile = image.info.get("icc_profile")
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            grey = np.round(np.asarray(upright, dtype=np.uint16) / 257).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if upright.mode in ("I", "F"):
            raise GivenError(f"{path}: has 32-bit values; save it with 8 or 16 bits")
        alpha = None
        if upright.has_transparency_data:
            rgba = upright.convert("RGBA")
            alpha = rgba.getchannel("A")
            if upright.mode == "LA":
                upright = upright.getchannel("L")
            elif upright.mode not in ("RGB", "L"):
                upright = rgba.convert("RGB")
        rgb = _srgb(upright, profile)
        if alpha is not None:
            white = Image.new("RGB", rgb.size, "white")
            rgb = _composited(rgb, white, alpha)
        return np.array(rgb)


def header_of(path: Path) -> Header:
    """Size and colour as `load_image` takes them, without decoding."""
    try:
        with opened(path) as image:
            return header(image)
    except GivenError:
        return Header((0, 0))


def header(image: Image.Image) -> Header:
    """As `header_of`, of an image that is open."""
    width, height = image.size
    # A PNG without EXIF before its pixels would be decoded to look behind them.
    looks = image.format != "PNG" or "exif" in image.info
    turned = looks and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    size = (height, width) if turned else (width, height)
    profile = image.info.get("icc_profile")
    if "icc_profile" not in image.info or image.mode.startswith(("I", "F")):
        return Header(size)
    mode = _mode(image.mode)
    if not isinstance(profile, bytes) or (transform := _transform(profile, mode)) is None:
        return Header(size, BROKEN_PROFILE)
    return Header(size, "" if transform is SRGB else CONVERTED)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height as `load_image` gives them, from the header; (0, 0) where it would fail."""
    return header_of(path).size


SRGB = "sRGB"
"""Stands for the transform of a profile that is sRGB's own."""


def _srgb(image: Image.Image, profile: object) -> Image.Image:
    """An image as sRGB; one whose profile is missing, broken or sRGB's own keeps its values."""
    mode = _mode(image.mode)
    if isinstance(profile, bytes) and profile:
        transform = _transform(profile, mode)
        if transform is not None and transform is not SRGB:
            converted = ImageCms.applyTransform(image.convert(mode), transform)
            assert converted is not None
            return converted
    return image.convert("RGB")


def _mode(mode: str) -> str:
    """The mode in which a profile applies."""
    if mode in ("L", "LA", "1"):
        return "L"
    return mode if mode in ("CMYK", "LAB") else "RGB"


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> Any:
    """The transform of a profile to sRGB, `SRGB` where it changes nothing, None where broken."""
    if not 128 <= len(profile) <= MAX_PROFILE:
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode == "CMYK" or mode == "LAB":
            return transform
        probe = _probe(mode)
        seen = np.asarray(ImageCms.applyTransform(probe, transform), int)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    apart = np.abs(seen - np.asarray(probe.convert("RGB"), int)).max()
    return SRGB if apart <= MOST_ALIKE else transform


def _probe(mode: str) -> Image.Image:
    """Colours all over the cube, or all greys."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return Image.fromarray(lattice)


def _composited(image: Image.Image, ground: Image.Image, alpha: Image.Image) -> Image.Image:
    over = image.convert("RGBA")
    over.putalpha(alpha)
    return Image.alpha_composite(ground.convert("RGBA"), over).convert("RGB")


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image opened by its header; whatever goes wrong with it is a GivenError."""
    formats = tuple(dict.fromkeys(readable().values()))
    try:
        with warnings.catch_warnings():
            # What Pillow says of odd headers is nothing to be done about; too many pixels are.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=formats)
            with image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except GivenError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise GivenError(f"{path}: more than {MAX_PIXELS // 10**6} megapixels") from None
    except UnidentifiedImageError:
        raise GivenError(
            f"{path}: is not an image of a known kind ({', '.join(formats)})"
        ) from None
    except FileNotFoundError:
        raise GivenError(f"{path}: no such file") from None
    except Exception as error:  # Decoders of broken files raise many types.
        raise GivenError(f"{path}: cannot be read as an image ({reason(error)})") from None
