"""Audits and measurements from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike, NDArray

from diffusion_audit.runs import Run
from harness.errors import AuditError
from probes.contracts import Batch, Context, Instrument
from probes.registry import instruments_of

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from harness.models.vae_identity import Codec


def audit(
    spec: str | PathLike[str] | Mapping[str, object],
    out: str | PathLike[str],
    say: Callable[[str], None] = lambda text: None,
) -> Run:
    """Generate the images of a spec, score them and write the report, as `audit run`.

    Args:
        spec: Path of a spec, or its plain data; relative paths in plain data are taken from the
            working directory.
        out: Run directory to write to; one that exists is resumed.
        say: Receives lines of progress.

    Returns:
        The run, opened.

    Raises:
        AuditError: The spec or a file that it names cannot be used.
    """
    from audit.pipeline import analyse
    from audit.pipeline.run import complete
    from audit.pipeline.session import open_audit

    if isinstance(spec, Mapping):
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        # Beside where its relative paths begin, only while it is read.
        path = Path.cwd() / f".{folder.name}.{id(spec):x}.yaml"
        path.write_text(yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True))
        try:
            opened = open_audit(path, folder)
        finally:
            path.unlink()
    else:
        opened = open_audit(Path(spec), Path(out))
    complete(opened, say)
    analyse.report(opened, *analyse.analyse(opened))
    return Run(out)


def instruments(
    attributes: Sequence[str] = (),
    classifiers: Sequence[str] = (),
    probes: Sequence[str] = ("attributes",),
) -> dict[str, Instrument]:
    """The instruments that a spec with these attributes, classifiers and probes would use.

    Args:
        attributes: Attributes by name, or YAML files.
        classifiers: open_clip models: ARCHITECTURE:TAG, hf-hub:…, local-dir:…, reference:NAME.
        probes: Probes whose instruments are wanted.

    Returns:
        Instruments by name, for `measure`.

    Raises:
        AuditError: One of them is unknown.
    """
    from audit.pipeline.imported_images import classifier_name, classifier_spec
    from harness.spec.schema import parse_spec

    spec = parse_spec(
        {
            "checkpoints": {"none": "none"},
            "prompts": {"list": ["none"]},
            "attributes": list(attributes),
            "classifiers": {classifier_name(c): classifier_spec(c) for c in classifiers},
            "probes": list(probes),
        },
        Path("instruments"),
    )
    return {i.name: i for i in instruments_of(spec)}


def measure(
    images: Iterable[ArrayLike],
    instruments: Iterable[Instrument] | Mapping[str, Instrument],
    prompts: Sequence[str] = (),
    references: Sequence[ArrayLike] = (),
    device: str = "cpu",
) -> pd.DataFrame:
    """Measure images.

    Args:
        images: Images, each (height, width, 3), uint8 sRGB (a PIL image is one, too).
        instruments: Instruments of images, such as `instruments(…)` gives.
        prompts: Prompt of each image, where an instrument compares them.
        references: Image that each is held against, of the same size, where an instrument
            compares them.
        device: Device that classifiers run on.

    Returns:
        One row an image, in their order; columns 'INSTRUMENT/COLUMN'. Instruments that need what
        is not given (masks, latents, taps) are left out.

    Raises:
        AuditError: Numbers of images, prompts and references differ, or no instrument is left.
    """
    pixels = tuple(_pixels(image) for image in images)
    against = tuple(_pixels(image) for image in references)
    for name, given in (("prompts", prompts), ("references", against)):
        if given and len(given) != len(pixels):
            raise AuditError(f"{len(pixels)} images, but {len(given)} {name}")
    cells = tuple(str(i) for i in range(len(pixels)))
    batch = Batch(cells, tuple(prompts) or ("",) * len(pixels), pixels, against)
    have = {"images"} | ({"references"} if against else set())
    chosen = instruments.values() if isinstance(instruments, Mapping) else instruments
    fitting = [i for i in chosen if i.inputs <= have]
    if not fitting:
        raise AuditError(f"no instrument measures from {' and '.join(sorted(have))} alone")
    tables = []
    for instrument in fitting:
        rows = instrument.measure(batch, Context(device))
        tables.append(rows.set_index("cell").add_prefix(f"{instrument.name}/"))
    return pd.concat(tables, axis=1).reindex(cells).reset_index(drop=True)


def round_trip(
    images: Iterable[ArrayLike], vae: Codec | ModelMixin, batch_size: int = 4
) -> tuple[pd.DataFrame, list[NDArray[np.uint8]]]:
    """Measure what a VAE loses: each image encoded, decoded and compared with itself.

    Args:
        images: Images, each (height, width, 3), uint8 sRGB; sides that are no multiple of the
            VAE's step are padded by their edges and cut again.
        vae: A VAE of diffusers, or any object with `encode`, from images (n, 3, height, width) in
            [-1, 1] to latents, and `decode` back.
        batch_size: Images per forward pass, at most; images of one size go together.

    Returns:
        Fidelity of each image (mse, psnr in dB, ssim, delta_e, …), and the decoded images.

    Raises:
        AuditError: An image is no such array.
        TypeError: The VAE has no such methods.
    """
    from audit.pipeline.round_trip import send
    from harness.models.vae_identity import codec
    from probes.vae.fidelity import Fidelity

    pixels = [_pixels(image) for image in images]
    way = codec(vae)
    broken = np.zeros(len(pixels), bool)
    decoded: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)] * len(pixels)
    for shape in dict.fromkeys(p.shape for p in pixels):
        places = [i for i, p in enumerate(pixels) if p.shape == shape]
        made, _ = send(way, np.stack([pixels[i] for i in places]), batch_size)
        for i, image in zip(places, made, strict=True):
            broken[i] = not np.isfinite(image).all()
            decoded[i] = (np.nan_to_num(image) * 255).round().astype(np.uint8)
    table = measure(decoded, [Fidelity()], references=pixels)
    table = table.rename(columns=lambda c: c.removeprefix("fidelity/"))
    table.loc[broken, table.columns != "note"] = np.nan
    table.loc[broken, "note"] = "NaN pixels: the decoder overflowed"
    return table, decoded


def _pixels(image: ArrayLike) -> NDArray[np.uint8]:
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise AuditError(
            f"an image of shape {array.shape} and type {array.dtype}; needed: (height, width, 3) "
            "of uint8, such as np.asarray(image.convert('RGB'))"
        )
    return array
