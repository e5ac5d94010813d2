"""Reading attributes against a plain open_clip loop: `python -m benchmarks.scoring`.

Both arms read two attributes of the same images with the reference classifier; the loop takes
one image at a time, as most notebooks do, its texts encoded once.
"""

from __future__ import annotations

import argparse

import numpy as np
import open_clip
import torch
from PIL import Image

import reference
from benchmarks.pairs import ratio
from harness.spec.attributes import AttributeSpec, load_attribute
from harness.spec.sections import ClassifierSpec
from probes.contracts import Batch, Context
from probes.instruments.clip import ClipAttribute, ClipLikeness, ClipModel
from reference.world import HERE, ROLES, STYLES, neutral_prompt, picture_grid

BATCH = 32


def batches(count: int) -> list[Batch]:
    """So many of the world's images, as a run hands them over."""
    whole = np.concatenate([picture_grid(style)[: len(ROLES)] for style in STYLES])
    pictures = whole.reshape(-1, *whole.shape[-3:])[:count]
    cells = [str(i) for i in range(len(pictures))]
    return [
        Batch(
            tuple(cells[i : i + BATCH]),
            (neutral_prompt(ROLES[0]),) * len(cells[i : i + BATCH]),
            tuple(pictures[i : i + BATCH]),
        )
        for i in range(0, len(pictures), BATCH)
    ]


def main() -> None:
    """Print the row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=192)
    arguments = parser.parse_args()
    work = batches(arguments.count)
    attributes = [load_attribute(name, HERE) for name in ("world-gender", "world-tone")]
    context = Context("cpu")

    def ours() -> None:
        model = ClipModel("small", ClassifierSpec(model="reference:balanced"))
        readers = [ClipLikeness(model), *(ClipAttribute(model, a) for a in attributes)]
        for batch in work:
            for reader in readers:
                reader.measure(batch, context)

    row = ratio(ours, lambda: plain(work, attributes), arguments.rounds)
    print("time of the other / time of the suite (above 1: the suite is faster)")
    print(f"open_clip, one image at a time, {arguments.count} images: {row}")


@torch.no_grad()
def plain(work: list[Batch], attributes: list[AttributeSpec]) -> None:
    """The loop by hand: likeness to the prompt, and each attribute's classes."""
    source = f"local-dir:{reference.component('classifier', 'balanced')}"
    model, preprocess = open_clip.create_model_from_pretrained(source, return_transform=True)
    tokenizer = open_clip.get_tokenizer(source)
    model.eval()

    def mean(prompts: tuple[str, ...]) -> torch.Tensor:
        said: torch.Tensor = model.encode_text(tokenizer(list(prompts)), normalize=True)
        return said.mean(dim=0)

    texts = [torch.stack([mean(tuple(c.prompts)) for c in a.classes]) for a in attributes]
    for batch in work:
        for picture, prompt in zip(batch.images, batch.prompts, strict=True):
            shown = model.encode_image(preprocess(Image.fromarray(picture))[None], normalize=True)
            said = model.encode_text(tokenizer([prompt]), normalize=True)
            _ = float(shown @ said.T), [(100 * shown @ t.T).softmax(-1) for t in texts]


if __name__ == "__main__":
    main()
