"""The checkpoints of a spec, loaded one at a time; the last is kept until another is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import AuditError, SpecError
from harness.generate.sampling import Generator, extras_of
from harness.json_types import JsonObject
from harness.models import loading
from harness.spec.schema import Spec

if TYPE_CHECKING:
    import torch


class Loaded(NamedTuple):
    """One checkpoint on its device, with all that a spec has it do.

    Attributes:
        name: its name in the spec.
        checkpoint: its pipeline and the digests of its components.
        generator: what denoises and decodes with it.
        vaes: the spec's VAEs by name, checked to be of its latent space.
    """

    name: str
    checkpoint: loading.Checkpoint
    generator: Generator
    vaes: JsonObject


class Checkpoints:
    """Loads checkpoints of a spec when they are wanted, and lets go of the one before.

    Planning, generation and the scores of texts share one of these, so that a run of one
    checkpoint loads it once.

    Args:
        spec: The spec.
        base: Folder that its paths are relative to.
        device: Device that models run on.
        dtype: Precision of the weights.
    """

    def __init__(self, spec: Spec, base: Path, device: str, dtype: torch.dtype) -> None:
        self.spec, self.base, self.device, self.dtype = spec, base, device, dtype
        self._held: Loaded | None = None
        self._compiled = False
        self._checked: set[str] = set()

    @property
    def held(self) -> str:
        """Name of the checkpoint that is loaded; '' where none is."""
        return self._held.name if self._held else ""

    def load(self, name: str) -> Loaded:
        """A checkpoint, not compiled unless it is already.

        Args:
            name: Its name in the spec.

        Raises:
            WeightsError: It, or a VAE of the spec, cannot be used: one line says why.
            SpecError: It does not take the spec's LoRAs, embeddings or prompt syntax.
        """
        if self._held is None or self._held.name != name:
            self._held, self._compiled = None, False  # two of them may not fit into memory
            self.hold(name, self._load(name))
        assert self._held is not None
        return self._held

    def hold(self, name: str, checkpoint: loading.Checkpoint) -> None:
        """Use a pipeline that is loaded already as one of the spec's checkpoints.

        Args:
            name: Its name in the spec.
            checkpoint: The pipeline and its digests.

        Raises:
            WeightsError: A VAE of the spec cannot be used with it.
            SpecError: It does not take the spec's LoRAs, embeddings or prompt syntax.
        """
        spec, pipe = self.spec, checkpoint.pipe
        any_space = spec.allow_latent_space_mismatch or name in self._checked
        vaes = {
            vae: loading.load_vae(vae, source, self.base, pipe, self.dtype, any_space)
            for vae, source in spec.vaes.items()
        }
        try:
            generator = Generator(pipe, spec.batch_size, extras_of(spec, name, self.base))
        except AuditError as error:
            raise SpecError(f"checkpoints.{name}: {error}") from None
        self._held, self._compiled = Loaded(name, checkpoint, generator, vaes), False
        self._checked.add(name)

    def ready(self, name: str) -> Loaded:
        """A checkpoint ready to generate: compiled, and its VAEs where the spec wants them."""
        loaded = self.load(name)
        if not self._compiled:
            self._compiled = True
            if self.spec.runtime.compile:
                loading.compile_denoiser(loaded.checkpoint.pipe)
            if self.spec.runtime.cpu_offload:
                for vae in loaded.vaes.values():
                    vae.to("cpu")
        return loaded

    def release(self) -> None:
        """Let go of the checkpoint that is loaded."""
        self._held = None

    def _load(self, name: str) -> loading.Checkpoint:
        spec = self.spec
        runtime = spec.runtime.model_copy(update={"compile": False})
        source = spec.checkpoints[name]
        return loading.load_checkpoint(name, source, self.base, self.device, self.dtype, runtime)
