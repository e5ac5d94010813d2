"""What a spec may ask of the probes that look inside a model. All of it is optional."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from harness.spec.json_schema import Described


class Part(Described, BaseModel):
    """Base of these parts: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AttentionSpec(Part):
    """Of the probe `attention`.

    Attributes:
        maps: keep the maps of the first so many seeds of every prompt; numbers are kept of all.
        negative: also follow the negative prompt's half, where guidance has one.
        layers: also keep each layer's share of attention by word.
        stages: also keep the kept maps of so many equal parts of the noise levels; 0: of none.
    """

    maps: Annotated[int, Field(ge=0)] = 1
    negative: bool = False
    layers: bool = False
    stages: Annotated[int, Field(ge=0, le=10)] = 0


class AssociationSpec(Part):
    """A test of association: do texts x lie nearer to a, and texts y nearer to b?

    Attributes:
        name: What the report calls it.
        x, y: Two sets of texts, such as prompts with occupations of two kinds.
        a, b: Two sets of attribute texts, such as 'a man' and 'a woman'.
    """

    name: str
    x: tuple[str, ...] = Field(min_length=2)
    y: tuple[str, ...] = Field(min_length=2)
    a: tuple[str, ...] = Field(min_length=1)
    b: tuple[str, ...] = Field(min_length=1)


class TextSpec(Part):
    """Of the probe `text`.

    Attributes:
        associations: Tests beside those of every prompt with every attribute of two classes.
    """

    associations: tuple[AssociationSpec, ...] = ()


class SwitchSpec(Part):
    """The causal test of when something is decided: exchange the prompt while it is drawn.

    Attributes:
        first: A prompt of the suite; its pictures are made anew.
        second: What the denoiser reads from step s on.
        at: The steps s; 0 is the second prompt throughout, on the noise of the first.
    """

    first: str
    second: str
    at: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)


class TrajectorySpec(Part):
    """Of the probe `steps`.

    Attributes:
        watch: At how many steps, the last among them, the predicted picture is drawn.
        switches: Tests of when something is decided.
    """

    watch: Annotated[int, Field(ge=1, le=50)] = 5
    switches: tuple[SwitchSpec, ...] = ()


class LatentsSpec(Part):
    """Of the probe `latents`.

    Attributes:
        watch: At how many steps, the last among them, the blocks' activations are kept.
        umap: Also draw UMAP planes.
    """

    watch: Annotated[int, Field(ge=1, le=50)] = 3
    umap: bool = True


class DosesSpec(Part):
    """Of the probe `negatives`.

    Attributes:
        negatives: An ordered list; dose k is the first k of them, joined by commas.
        at: Which doses; empty: all, from none to the whole list. Dose 0 is always made.
    """

    negatives: tuple[str, ...] = ()
    at: tuple[Annotated[int, Field(ge=0)], ...] = ()

    def doses(self) -> list[int]:
        """The doses, rising, each once."""
        most = len(self.negatives)
        return sorted({0, *(min(k, most) for k in self.at or range(most + 1))})
