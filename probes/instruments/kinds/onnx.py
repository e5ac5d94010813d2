"""Classifiers and taggers as ONNX files: what most people can export their own as."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from harness.errors import AuditError, reading
from harness.files.csv_tables import TableError, read_table
from harness.hashing import file_digest
from harness.json_types import JsonObject
from harness.models.onnx_check import check_onnx
from harness.spec.sections import Fit, InstrumentSpec
from probes.contracts import Batch
from probes.instruments.kinds import Kind, KindOptions, Reader, naming, register
from probes.instruments.labels import Floats, LabelReader, LabelScores, all_seen

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

RESAMPLED = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
Activation = Literal["softmax", "sigmoid", "none"]
Side = Annotated[int, Field(ge=1, le=4096)]
Three = tuple[float, float, float]


class InputOptions(KindOptions):
    """What an ONNX model wants its image as; what is not given is read off the file.

    Attributes:
        size: width and height in pixels, where the file leaves them open.
        layout: order of the dimensions.
        scale: largest value of a channel before mean and std.
        mean: of each channel, subtracted.
        std: of each channel, divided by.
        colours: order of the channels.
        resample: how an image is brought to the size.
    """

    size: tuple[Side, Side] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    scale: Literal[1, 255] | None = None
    mean: Three = (0.0, 0.0, 0.0)
    std: Three = (1.0, 1.0, 1.0)
    colours: Literal["RGB", "BGR"] = "RGB"
    resample: Literal["bicubic", "bilinear"] = "bicubic"


class OnnxOptions(KindOptions):
    """A classifier as an ONNX file.

    Attributes:
        onnx: the file.
        labels: what its outputs mean, in their order; or a file with a line each, or a CSV with a
            column 'name'.
        input: how it wants its image.
        output: name of the output with a score for each label; the first one where not given.
        activation: what makes probabilities of its outputs: 'softmax' (one label an image),
            'sigmoid' (any number of labels), 'none' (they are probabilities already).
        exclusive: whether an image has one label alone; not given: unless 'sigmoid'.
    """

    onnx: str
    labels: tuple[str, ...] | str
    input: InputOptions = InputOptions()
    output: str | None = None
    activation: Activation = "softmax"
    exclusive: bool | None = None


@register
class Onnx(Kind[OnnxOptions]):
    """Outputs of an ONNX file."""

    name = "onnx"
    Options = OnnxOptions
    paths = ("onnx", "labels")

    def reader(self, name: str, options: OnnxOptions, common: InstrumentSpec, fit: Fit) -> Reader:
        """A reader of its labels."""
        return LabelReader(name, common, fit, lambda: OnnxModel(name, options))


class OnnxModel:
    """An ONNX classifier.

    Args:
        name: Of the instrument, for messages.
        options: Which file, and how it is used.

    Raises:
        AuditError: The file or its labels are not what a classifier needs, or it asks for more
            than its own data.
    """

    whole = False

    def __init__(self, name: str, options: OnnxOptions) -> None:
        self.options, self.path, self.what = options, Path(options.onnx), f"instruments.{name}"
        self.labels = _labels(self.what, options.labels)
        sigmoid = options.activation == "sigmoid"
        self.exclusive = not sigmoid if options.exclusive is None else options.exclusive
        with naming(name):
            self.files = check_onnx(self.path)
        self.sessions: dict[str, InferenceSession] = {}
        session = self._session("cpu")
        if len(session.get_inputs()) != 1:
            names = ", ".join(repr(i.name) for i in session.get_inputs())
            raise AuditError(f"{self.what}: takes {names}; a classifier takes one image")
        given = session.get_inputs()[0]
        self.input, kind = given.name, given.type.removeprefix("tensor(").removesuffix(")")
        if kind not in ("float", "float16", "double", "uint8"):
            raise AuditError(f"{self.what}: its input is {given.type}, no image")
        self.type = np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))
        outputs = [o.name for o in session.get_outputs()]
        self.output = options.output or outputs[0]
        if self.output not in outputs:
            raise AuditError(f"{self.what}: no output {self.output!r}; it has {', '.join(outputs)}")
        self.layout, self.size, self.batch = self._shape(list(given.shape))
        width = session.get_outputs()[outputs.index(self.output)].shape[-1:]
        if width and isinstance(width[0], int):
            self._refuse_other_labels(width[0])

    def _shape(self, shape: list[int | str | None]) -> tuple[str, tuple[int, int], int | None]:
        """Layout, width and height, and the number of images that it takes (None: any)."""
        if len(shape) != 4:
            raise AuditError(f"{self.what}: its input has the shape {shape}, no image's")
        fixed = [d if isinstance(d, int) and d > 0 else None for d in shape]
        layout = self.options.input.layout
        if layout is None:
            layout = "NHWC" if fixed[3] == 3 and fixed[1] != 3 else "NCHW"
        height, width = fixed[2:] if layout == "NCHW" else fixed[1:3]
        size = self.options.input.size or (
            (width, height) if width is not None and height is not None else None
        )
        if size is None:
            raise AuditError(
                f"{self.what}: the file leaves the image's size open; give input: "
                "{size: [WIDTH, HEIGHT]}"
            )
        if (width or size[0], height or size[1]) != size:
            raise AuditError(f"{self.what}: takes {width} x {height}, not {size[0]} x {size[1]}")
        return layout, size, fixed[0]

    def _session(self, device: str) -> InferenceSession:
        """The session on a device; on the CPU where onnxruntime has no other."""
        import onnxruntime

        kind, _, number = device.partition(":")
        if device not in self.sessions:
            there = onnxruntime.get_available_providers()
            card = ("CUDAExecutionProvider", {"device_id": int(number or 0)})
            on_card = kind == "cuda" and card[0] in there
            providers = [*([card] if on_card else []), "CPUExecutionProvider"]
            quiet = onnxruntime.SessionOptions()
            quiet.log_severity_level = 3
            with reading(f"{self.what}: {str(self.path)!r}", AuditError):
                self.sessions[device] = onnxruntime.InferenceSession(
                    str(self.path), quiet, providers=providers
                )
        return self.sessions[device]

    def identity(self) -> JsonObject:
        """Digest of the file, and all options but its place."""
        return {
            "onnx": [file_digest(file) for file in self.files],
            "labels": list(self.labels),
            "options": self.options.model_dump(mode="json", exclude={"onnx", "labels"}),
        }

    def prepared(self, images: list[NDArray[np.uint8]]) -> NDArray[np.generic]:
        """Images as the model wants them, in one array."""
        wanted = self.options.input
        how, shown = RESAMPLED[wanted.resample], []
        for image in images:
            picture = Image.fromarray(image)
            if picture.size != self.size:
                picture = picture.resize(self.size, how)
            shown.append(np.asarray(picture))
        pixels = np.stack(shown)
        if wanted.colours == "BGR":
            pixels = pixels[..., ::-1]
        scale = wanted.scale or (255 if self.type == np.uint8 else 1)
        plain = (wanted.mean, wanted.std) == ((0.0,) * 3, (1.0,) * 3)
        if not (scale == 255 and plain):
            values = pixels.astype(np.float32) * np.float32(scale / 255)
            pixels = (values - np.array(wanted.mean, np.float32)) / np.array(wanted.std, np.float32)
        if self.layout == "NCHW":
            pixels = pixels.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(pixels, self.type)

    def scores(self, batch: Batch, device: str) -> LabelScores:
        """Probabilities of the labels."""
        session, images = self._session(device), self.prepared(list(batch.images))
        step = self.batch or len(images)
        parts = []
        for start in range(0, len(images), step):
            part = images[start : start + step]
            filled = np.concatenate([part, np.repeat(part[-1:], step - len(part), axis=0)])
            (found,) = session.run([self.output], {self.input: filled})
            parts.append(np.asarray(found, np.float64).reshape(step, -1)[: len(part)])
        return all_seen(self._activated(np.concatenate(parts)))

    def _refuse_other_labels(self, outputs: int) -> None:
        if outputs != len(self.labels):
            raise AuditError(
                f"{self.what}: {outputs} outputs, {len(self.labels)} labels; name a label for each "
                "output, in their order"
            )

    def _activated(self, values: Floats) -> Floats:
        self._refuse_other_labels(values.shape[1])
        if self.options.activation == "softmax":
            raised = np.exp(values - values.max(axis=1, keepdims=True))
            return np.asarray(raised / raised.sum(axis=1, keepdims=True))
        if self.options.activation == "sigmoid":
            return np.asarray(1 / (1 + np.exp(-np.clip(values, -700, 700))))
        if not ((values >= -1e-6) & (values <= 1 + 1e-6)).all():
            raise AuditError(
                f"{self.what}: outputs from {values.min():.3g} to {values.max():.3g} are no "
                "probabilities; give activation: softmax or sigmoid"
            )
        return np.clip(values, 0.0, 1.0)


def _labels(what: str, given: tuple[str, ...] | str) -> tuple[str, ...]:
    """Labels in the order of the outputs, each of another name."""
    if isinstance(given, str):
        path = Path(given)
        try:
            if path.suffix == ".csv":
                columns, rows = read_table(path)
                column = "name" if "name" in columns else columns[0]
                given = tuple(row[column] for row in rows)
            else:
                given = tuple(path.read_text(encoding="utf-8").split("\n"))
        except (TableError, OSError, UnicodeDecodeError) as error:
            raise AuditError(f"{what}: labels: {error}") from None
        given = tuple(g.strip() for g in given if g.strip())
    folded = [label.casefold() for label in given]
    double = next((g for i, g in enumerate(given) if folded.index(g.casefold()) < i), None)
    if double is not None or not given:
        wrong = "none" if double is None else f"{double!r} is there twice"
        raise AuditError(f"{what}: labels: {wrong}")
    return given
