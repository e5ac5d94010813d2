"""Units to files: denoise what is missing once, decode it by every VAE, write behind."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from harness.errors import one_line
from harness.files.checksums import DamagedError
from harness.generate.executor import Outcome
from harness.generate.loaded import Checkpoints
from harness.generate.sampling import Generator
from harness.images.png import write_images
from harness.json_types import JsonObject
from harness.plan.cells import Unit
from harness.progress import Say
from harness.store.damage import Damage, set_aside
from harness.store.run import Run
from harness.store.run_folder import DiskFullError, free_bytes
from harness.taps import record
from harness.taps.record import Tap
from harness.taps.trajectory import predicted_latents

if TYPE_CHECKING:
    from diffusers import ModelMixin


class GenerateWorker:
    """Makes what is missing of a unit: its latents, then its images by every VAE.

    PNG encoding and writing overlap the next batch.

    Args:
        run: Run to write to.
        checkpoints: What loads the spec's checkpoints.
        taps: What follows each denoising.
        say: Where it is said that a file was damaged.
    """

    def __init__(
        self,
        run: Run,
        checkpoints: Checkpoints,
        taps: Sequence[Tap] = (),
        say: Say = lambda text: None,
    ) -> None:
        self.say, self.largest = say, 0
        self.run, self.checkpoints, self.spec = run, checkpoints, checkpoints.spec
        self.taps = list(taps)
        self.vaes: JsonObject = {}
        self.writer = ThreadPoolExecutor(1)
        self.writing: tuple[Unit, Future[None]] | None = None

    def use(self, name: str) -> Generator:
        """A checkpoint and its VAEs, ready to generate; the last one is let go."""
        loaded = self.checkpoints.ready(name)
        self.vaes = loaded.vaes
        return loaded.generator

    def __call__(self, unit: Unit) -> Outcome:
        """Make one unit; a failure is an outcome with a reason, not an exception."""
        self._refuse_full_disk()
        self.run.clear_failure(unit.id)
        before = self.run.written
        try:
            made = self._make(unit)
            self.largest = max(self.largest, self.run.written - before)
            return Outcome(unit.id, True, made)
        except DiskFullError:
            raise
        except DamagedError as error:  # since all files were checked
            set_aside(self.run, Damage(error.path, error.reason), self.say)
            return self(unit)
        except (RuntimeError, OSError, ValueError) as error:
            return self._failed(unit, error)

    def close(self) -> None:
        """Wait for the last write."""
        try:
            self.flush()
        finally:
            self.writer.shutdown(wait=True)

    def _refuse_full_disk(self) -> None:
        """Stop before a unit is denoised that could not be kept.

        Raises:
            DiskFullError: The last write failed, or a unit as large as those before has no room.
        """
        if self.writing is not None and self.writing[1].done():
            self.flush()
        folder = self.run.folder / "images"
        if self.largest > free_bytes(folder):
            raise DiskFullError(folder, self.largest, "too little space for the next batch")

    def _make(self, unit: Unit) -> int:
        rows = unit.rows
        wanted = {
            str(file): group
            for file, group in rows.groupby("vae_file")
            if not self.run.images_path(unit.id, str(file)).exists()
        }
        held = self.run.latents_path(unit.id).exists()
        missing = record.untapped(self.run, unit.id, self.taps)
        if not wanted and held and not missing:
            return 0
        generator = self.use(str(rows["checkpoint"].iloc[0]))
        trajectories = rows.drop_duplicates("trajectory")
        ids = list(trajectories["trajectory"])
        # A tap that was added later can only follow a denoising that is done again.
        if not held or missing:
            latents = generator.denoise(trajectories, missing)
            self.flush()  # a disk that is full by now takes no further file
            for tap in missing:
                record.write(self.run, tap, unit.id, ids)
        if held:
            stored = self.run.read_latents(unit.id)
            latents = torch.stack([stored[i] for i in ids])
        else:
            if generator.family.inside:
                kept = {i: latents[n].clone() for n, i in enumerate(ids)}
                self.run.write_latents(unit.id, kept)
        made = 0
        for file, group in wanted.items():
            group = group.drop_duplicates("cell")
            vae = self.vaes[str(group["vae"].iloc[0])]
            step = int(group["step"].iloc[0]) if "step" in group else -1
            if step < 0:
                chosen = latents[[ids.index(t) for t in group["trajectory"]]]
            else:
                chosen, why = predicted_latents(self.run, self.taps, unit.id, group, step)
                if why:
                    lost = {"png": None, "sha256": None, "reason": why}
                    records = [{"cell": c, **lost} for c in group["cell"]]
                    self.run.write_images(unit.id, file, records)
                    continue
            images = self._decode(generator, vae, chosen)
            sound = torch.isfinite(chosen).flatten(1).all(dim=1).tolist()
            self._write_behind(unit, file, group, images, sound)
            made += len(images)
        return made

    def _decode(self, generator: Generator, vae: ModelMixin, latents: torch.Tensor) -> Any:
        """Decode; where memory is short the VAE is on the device only meanwhile."""
        if not self.spec.runtime.cpu_offload:
            return generator.decode(vae, latents)
        vae.to(self.checkpoints.device)
        try:
            return generator.decode(vae, latents)
        finally:
            vae.to("cpu")

    def _write_behind(
        self,
        unit: Unit,
        file: str,
        rows: pd.DataFrame,
        images: NDArray[np.float32],
        sound: list[bool],
    ) -> None:
        self.flush()
        future = self.writer.submit(write_images, self.run, unit.id, file, rows, images, sound)
        self.writing = (unit, future)

    def flush(self) -> None:
        """Wait for the write under way; where it failed, its unit's failure is noted.

        Raises:
            DiskFullError: It failed for want of space.
        """
        if self.writing is not None:
            unit, future = self.writing
            self.writing = None
            try:
                future.result()
            except OSError as error:
                self._failed(unit, error)

    def _failed(self, unit: Unit, error: Exception) -> Outcome:
        reason = one_line(error)
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower():
            reason = f"out of memory at batch size {self.spec.batch_size}; try a smaller one"
        try:
            self.run.write_failure(unit.id, reason)
        except OSError as second:  # the outcome still carries the reason
            reason += f" (and the failure could not be noted: {second.strerror})"
        return Outcome(unit.id, False, 0, reason)
