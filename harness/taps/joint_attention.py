"""Joint attention (Stable Diffusion 3, Flux) as it happens: what the image gives to each word.

Image and prompt are one sequence there, and every position attends to all of it. The model
computes its images exactly as without the tap. Beside it, the image's queries attend once
more to the same keys, with values that are 1 where a key belongs to a word and 0 elsewhere: the
outputs are the weights, summed over a word's tokens, and no matrix of all weights is ever built
(the augmented-value route). In the precision of the model, since attention kernels sum in fp32.

What is not given to the prompt is given to the image itself, so that words do not sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from harness.json_types import JsonObject
from harness.taps.cross_attention import Attention, Size, basis_of, halves, level_of

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from diffusers.models.attention_processor import Attention as AttentionLayer

Words = Sequence[tuple[str, tuple[int, ...]]]
"""Words with the positions of their tokens among those that the denoiser sees."""
ALIGNED = 8
"""Columns of values are filled up to a multiple of this, which attention kernels want."""


class Joint(Protocol):
    """What the tap must know of a family of pipelines whose transformers attend jointly."""

    text_first: bool
    """Whether the prompt's tokens come before the image's in the joint sequence."""

    @property
    def model(self) -> ModelMixin:
        """The transformer."""
        ...

    def attention(self) -> dict[str, torch.nn.Module]:
        """Its layers of joint attention by name."""
        ...


class JointAttentionTap:
    """Hooks on one transformer; what it holds is named as in `AttentionTap`.

    The third axis of `maps`, `moments` and `by_layer` counts words, not tokens: those of each
    image's own prompt, in their order, with zeros behind.

    Args:
        named: The pipeline's family.
        words: Of each image's prompt, padding of the batch included.
        negatives: Also follow the negative half, with its words.
        size: Rows and columns of the image's tokens.
        layers: Also keep each layer's mass by word.
        stages: As `AttentionTap`.
    """

    def __init__(
        self,
        named: Joint,
        words: Sequence[Words],
        size: Size,
        negatives: Sequence[Words] | None = None,
        layers: bool = False,
        stages: int = 0,
    ) -> None:
        self.named, self.images, self.size = named, len(words), size
        self.text_first = named.text_first
        self.prompt = Attention(stages)
        self.negative = None if negatives is None else Attention(stages)
        self._words = {"prompt": words, "negative": negatives or []}
        self.keep_layers = layers
        self.timesteps: list[object] = []
        self.layers: JsonObject = {}
        self.missing: dict[str, str] = {}
        for name, layer in named.attention().items():
            if getattr(layer, "fused_projections", False):
                self.missing[name] = "its projections are fused"
            else:
                self.layers[name] = layer
        self._seen: dict[str, Tensor] = {}
        self._text = 0
        self._columns: dict[str, Tensor] = {}

    @contextmanager
    def attached(self) -> Iterator[JointAttentionTap]:
        """Hooks are in place inside the block, and gone after it, also after an error."""
        model = self.named.model
        handles = [model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for name, layer in self.layers.items():
            sources = {
                "query": getattr(layer, "norm_q", None) or layer.to_q,
                "key": getattr(layer, "norm_k", None) or layer.to_k,
                "text": getattr(layer, "norm_added_k", None) or getattr(layer, "add_k_proj", None),
            }
            for kind, module in sources.items():
                if module is not None:
                    handles.append(module.register_forward_hook(self._keep(kind)))
            handles.append(layer.register_forward_hook(self._done(name), with_kwargs=True))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self._seen.clear()

    def _begin(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: JsonObject) -> None:
        """A forward begins: its time step, its prompt's length, a new row of numbers."""
        self._text = int(kwargs["encoder_hidden_states"].shape[1])
        time = kwargs["timestep"]
        self.timesteps.append(time)
        # Flux's pipeline counts from 1 to 0.
        level = level_of(time) * (1000 if self.text_first else 1)
        for half in (self.prompt, self.negative):
            if half is not None:
                half.begin(level)

    def _keep(self, kind: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: object, output: Tensor) -> None:
            self._seen[kind] = output

        return hook

    def _done(self, name: str) -> Callable[..., None]:
        def hook(layer: AttentionLayer, args: object, kwargs: JsonObject, output: object) -> None:
            seen = {k: self._by_head(v, layer.heads) for k, v in self._seen.items()}
            self._seen.clear()
            self._add(name, layer, seen, kwargs.get("image_rotary_emb"))

        return hook

    def _by_head(self, projected: Tensor, heads: int) -> Tensor:
        """As (rows, heads, positions, width): from a projection, or from a norm behind one."""
        if projected.ndim == 3:
            return projected.unflatten(-1, (heads, -1)).transpose(1, 2)
        return projected.transpose(1, 2) if self.text_first else projected

    @torch.no_grad()
    def _add(self, name: str, layer: AttentionLayer, seen: dict[str, Tensor], rotary: Any) -> None:
        queries, keys, text = seen["query"], seen["key"], seen.get("text")
        first = 0 if self.text_first else keys.shape[2]
        if text is not None:
            keys = torch.cat([text, keys] if self.text_first else [keys, text], dim=2)
        elif self.text_first:  # a single block: prompt and image came in as one
            queries = queries[:, :, self._text :]
        if rotary is not None:
            keys = apply_rotary_emb(keys, rotary)
            queries = apply_rotary_emb(queries, tuple(part[self._text :] for part in rotary))
        basis = basis_of(self.size, queries.device)
        for kind, part in halves(name, len(queries), self.images).items():
            half = self.prompt if kind == "prompt" else self.negative
            if half is None:
                continue
            chosen = self._values(kind, first, keys[part])
            weights = scaled_dot_product_attention(queries[part], keys[part], chosen)
            summed = weights.float().sum(dim=1)[..., : max(map(len, self._words[kind]))]
            shares = summed / summed.sum(dim=-1, keepdim=True)
            entropy = torch.special.entr(shares).sum(dim=(1, 2)) / summed.shape[1]
            half.add(name, summed, layer.heads, self.size, basis, entropy, self.keep_layers)

    def _values(self, kind: str, first: int, keys: Tensor) -> Tensor:
        """(images, heads, positions, columns): 1 where a position belongs to a word."""
        if kind not in self._columns:
            most = max(map(len, self._words[kind]))
            shape = (self.images, keys.shape[2], -(-most // ALIGNED) * ALIGNED)
            columns = torch.zeros(shape)
            for image, words in enumerate(self._words[kind]):
                for n, (_, positions) in enumerate(words):
                    columns[image, [first + p for p in positions], n] = 1
            self._columns[kind] = columns.to(keys)
        return self._columns[kind][:, None].expand(-1, keys.shape[1], -1, -1)
