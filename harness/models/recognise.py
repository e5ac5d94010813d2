"""What a file or folder of weights is, told from its names and shapes; no tensor is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from harness.errors import AuditError, reason
from harness.models.folders import read_config
from harness.models.safetensors_header import (
    VAE_OF,
    Header,
    WeightsError,
    family_of,
    kind_of,
    read_header,
)

OF_LORA = {
    "Stable Diffusion 1.x": "sd15",
    "Stable Diffusion 2.x": "sd2",
    "SDXL": "sdxl",
    "Stable Diffusion 3": "sd3",
    "Flux": "flux",
}
"""Names of `harness.models.lora` as families of `TITLES`."""
TITLES = {
    "sd15": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "SDXL",
    "sd3": "Stable Diffusion 3 and 3.5",
    "flux": "Flux",
}
MOST_FILES = 2_000


class Found(NamedTuple):
    """One file or folder of weights.

    Attributes:
        path: where it is.
        kind: 'checkpoint', 'VAE', 'LoRA' or 'embedding'; '' where it cannot be used.
        families: those of `TITLES` that it may be of; a VAE of 4 channels may be of several.
        note: why it cannot be used, or ''.
    """

    path: Path
    kind: str
    families: tuple[str, ...] = ()
    note: str = ""


def look(paths: list[Path]) -> list[Found]:
    """Recognise files, and all weights in folders, in the order of their names.

    Args:
        paths: Files, diffusers folders, or folders of these.

    Raises:
        AuditError: One of them is not there, or holds more than `MOST_FILES` files of weights.
    """
    found: list[Found] = []
    for path in paths:
        if not path.exists():
            raise AuditError(f"{str(path)!r} does not exist; name files or folders of weights")
        for number, one in enumerate(_inside(path)):
            if number == MOST_FILES:
                raise AuditError(
                    f"{str(path)!r} holds more than {MOST_FILES:,} files of weights; name some"
                )
            found.append(recognise(one))
    return found


def recognise(path: Path) -> Found:
    """What one file or diffusers folder is.

    >>> recognise(Path("no-such.safetensors")).kind
    ''
    """
    try:
        if path.is_dir():
            return _folder(path)
        return _file(read_header(path))
    except (AuditError, OSError) as error:
        return Found(path, "", note=reason(error))


def _inside(path: Path) -> Iterator[Path]:
    """Weights in a folder: diffusers folders whole, .safetensors files one by one."""
    if path.is_file() or _is_model(path):
        yield path
        return
    for one in sorted(path.iterdir()):
        if one.is_symlink() and not one.exists():
            continue
        if one.is_dir():
            yield from _inside(one)
        elif one.suffix == ".safetensors":
            yield one


def _is_model(path: Path) -> bool:
    if (path / "model_index.json").is_file():
        return True
    from harness.models.vae_files import VAE_CLASSES

    config = path / "config.json"
    return config.is_file() and read_config(config).get("_class_name") in VAE_CLASSES


def _folder(path: Path) -> Found:
    if not (path / "model_index.json").is_file():
        config = read_config(path / "config.json")
        return Found(path, "VAE", _vae_families(config.get("latent_channels", 4)))
    from harness.models.families import families

    name = str(read_config(path / "model_index.json").get("_class_name"))
    known = families().get(name)
    family = (known.vae_family if known else None) or name
    if family == "sd15":
        width = read_config(path / "unet" / "config.json").get("cross_attention_dim")
        family = "sd2" if width == 1024 else "sd15"
    return Found(path, "checkpoint", (family,))


def _file(header: Header) -> Found:
    from harness.models.lora import family_of_lora
    from harness.models.single_file import vae_names

    try:
        family = family_of(header)
        known = VAE_OF[family]
        return Found(header.path, "checkpoint", ("sd2" if family == "sd2" else known,))
    except WeightsError as error:
        why = error
    kind = kind_of(header)
    if kind == "LoRA":
        told = OF_LORA.get(family_of_lora(header), "")
        return Found(header.path, "LoRA", (told,) if told else tuple(TITLES))
    if kind == "embedding":
        return Found(header.path, "embedding", tuple(TITLES))
    if kind == "tiny VAE":
        shape = header.shapes.get("decoder.layers.0.weight", (0, 4))
        return Found(header.path, "VAE", _vae_families(shape[1]))
    try:
        names = vae_names(header)
    except WeightsError:
        return Found(header.path, "", note=reason(why))
    entry = next(old for old, new in names.items() if new == "decoder.conv_in.weight")
    return Found(header.path, "VAE", _vae_families(header.shapes[entry][1]))


def _vae_families(channels: object) -> tuple[str, ...]:
    if channels == 16:
        return ("sd3", "flux")
    return ("sd15", "sd2", "sdxl") if channels == 4 else ()
