"""Stable Diffusion 1.x and 2.x, and the LCM checkpoints of 1.x."""

from __future__ import annotations

from harness.models.families.base import Family


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x, which all of `Family` describes."""

    pipelines = ("StableDiffusionPipeline",)


class LatentConsistency(Family):
    """The pipeline of its own that LCM checkpoints of Stable Diffusion 1.x name."""

    pipelines = ("LatentConsistencyModelPipeline",)
    name = "Latent Consistency Model"

    def reads_negative(self, guidance: float) -> bool:
        """Guidance is an input of the U-Net; there is no negative."""
        return False
