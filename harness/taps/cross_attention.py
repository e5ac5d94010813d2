"""Cross-attention as it happens: forward hooks on every attn2's to_q and to_k.

The model computes its images exactly as without the tap. Beside it, each layer's weights are
computed again from its own q and k: softmax(q k^T · scale) in fp32 over all text positions,
summed over heads, and added to one buffer a resolution. The state does not grow with the steps:
1.7 MB an image for Stable Diffusion 1.5 at 512 pixels, where one sum a layer and head would take
66 MB. Hooks on the projections work under any processor: SDPA, eager, sliced, with LoRA.

Numbers over the steps need no maps: attention is also summed against 1, y, x and y² + x², so
that mass, centre and spread of every token at every step come out of four numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from harness.json_types import JsonObject

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from diffusers.models.attention_processor import Attention as AttentionLayer

Size = tuple[int, int]


class Sums:
    """Weights summed over layers, heads and forwards.

    Attributes:
        maps: by (rows, columns) of the feature map: (images, pixels, tokens), fp32. `weight` says
            how many terms that sum has.
        weight: by size, the number of terms.
    """

    def __init__(self) -> None:
        self.maps: dict[Size, Tensor] = {}
        self.weight: dict[Size, int] = {}

    def put(self, summed: Tensor, heads: int, size: Size) -> None:
        """Add one layer's weights, (images, pixels, tokens), summed over its heads."""
        if size in self.maps:
            self.maps[size] += summed
            self.weight[size] += heads
        else:
            self.maps[size], self.weight[size] = summed.clone(), heads


class Attention(Sums):
    """What was seen of one half of a batch of images, all forwards together.

    Args:
        stages: Also keep the sums of so many equal parts of the noise levels.

    Attributes:
        stages: sums by part, much noise first.
        moments: one tensor a forward, (images, tokens, 4): attention times 1, y, x, y² + x²,
            mean over pixels and heads, summed over layers; y and x run from 0 to 1.
        entropy: one tensor a forward, (images,): entropy over tokens of the head-mean weights in
            nats, mean over pixels, summed over layers.
        by_layer: mass by layer's name, (images, tokens), summed over forwards; where asked for.
        heads: by layer's name, (images, heads, pixels, tokens), summed over forwards: only for
            `compat="daam"`.
    """

    def __init__(self, stages: int = 0) -> None:
        super().__init__()
        self.stages = [Sums() for _ in range(stages)]
        self._stage = 0
        self.moments: list[Tensor] = []
        self.entropy: list[Tensor] = []
        self.by_layer: dict[str, Tensor] = {}
        self.heads: dict[str, tuple[Size, Tensor]] = {}

    def begin(self, time: float) -> None:
        """A forward begins at a noise level, 1000 (noise alone) to 0: a new row of numbers."""
        self.moments.append(torch.zeros(0))
        self.entropy.append(torch.zeros(0))
        if self.stages:
            self._stage = min(int((1 - time / 1000) * len(self.stages)), len(self.stages) - 1)

    def add(
        self,
        name: str,
        summed: Tensor,
        heads: int,
        size: Size,
        basis: Tensor,
        entropy: Tensor,
        by_layer: bool,
    ) -> None:
        """Add one layer's weights.

        Args:
            name: Of the layer.
            summed: (images, pixels, tokens), over heads.
            heads: How many.
            size: Rows and columns that the pixels make.
            basis: As `basis_of` gives it.
            entropy: (images,), over tokens, mean over pixels.
            by_layer: Also keep this layer's mass.
        """
        self.put(summed, heads, size)
        if self.stages:
            self.stages[self._stage].put(summed, heads, size)
        moments = (basis @ summed).transpose(1, 2) / (heads * summed.shape[1])
        first = not len(self.moments[-1])
        self.moments[-1] = moments if first else self.moments[-1] + moments
        self.entropy[-1] = entropy if first else self.entropy[-1] + entropy
        if by_layer:
            before = self.by_layer.get(name)
            self.by_layer[name] = moments[..., 0] + (0 if before is None else before)

    def nbytes(self) -> int:
        """Bytes held, all images together."""
        held = [*self.maps.values(), *self.moments, *self.entropy, *self.by_layer.values()]
        held += [t for _, t in self.heads.values()]
        held += [t for stage in self.stages for t in stage.maps.values()]
        return sum(t.nbytes for t in held)


class AttentionTap:
    """Hooks on one U-Net.

    Args:
        unet: A `UNet2DConditionModel` or what has the same attn2 modules.
        images: Images in every forward, padding included: half of a guided batch.
        negative: Also follow the negative half.
        layers: Also keep each layer's mass by token.
        stages: Also keep the maps of so many equal parts of the noise levels.
        daam: Also keep what DAAM's own order of operations needs (66 MB an image at SD 1.5).

    Attributes:
        prompt, negative: what was seen of each half.
        layers: number of layers followed.
        timesteps: of every forward, as the scheduler named it.
        missing: cross-attention layers that cannot be followed, and why.
    """

    def __init__(
        self,
        unet: ModelMixin,
        images: int,
        negative: bool = False,
        layers: bool = False,
        stages: int = 0,
        daam: bool = False,
    ) -> None:
        self.unet, self.images = unet, images
        self.prompt = Attention(stages)
        self.negative: Attention | None = Attention(stages) if negative else None
        self.keep_layers, self.keep_heads = layers, daam
        self.layers: JsonObject = {}
        self.missing: dict[str, str] = {}
        self.timesteps: list[object] = []
        self._size: Size = (0, 0)
        self._queries: dict[str, Tensor] = {}
        self._bases: dict[Size, Tensor] = {}
        for name, module in unet.named_modules():
            if name.rpartition(".")[2] == "attn2":
                reason = _unfit(module)
                if reason:
                    self.missing[name] = reason
                else:
                    self.layers[name] = module

    @contextmanager
    def attached(self) -> Iterator[AttentionTap]:
        """Hooks are in place inside the block, and gone after it, also after an error."""
        handles = [self.unet.register_forward_pre_hook(self._begin, with_kwargs=True)]
        for name, layer in self.layers.items():
            fused = getattr(layer, "fused_projections", False)
            keys = layer.to_kv if fused else layer.to_k
            handles.append(layer.to_q.register_forward_hook(self._on_queries(name)))
            handles.append(keys.register_forward_hook(self._on_keys(name, layer, fused)))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self._queries.clear()

    def _begin(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: JsonObject) -> None:
        """A forward begins: its latent size, its time step, a new row of numbers."""
        sample = args[0] if args else kwargs["sample"]
        time = args[1] if len(args) > 1 else kwargs["timestep"]
        self._size = (int(sample.shape[-2]), int(sample.shape[-1]))
        self.timesteps.append(time)
        for half in (self.prompt, self.negative):
            if half is not None:
                half.begin(level_of(time))

    def _on_queries(self, name: str) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: object, output: Tensor) -> None:
            self._queries[name] = output

        return hook

    def _on_keys(self, name: str, layer: AttentionLayer, fused: bool) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: object, output: Tensor) -> None:
            keys = output.chunk(2, dim=-1)[0] if fused else output
            self._add(name, layer, self._queries.pop(name), keys)

        return hook

    @torch.no_grad()
    def _add(self, name: str, layer: AttentionLayer, queries: Tensor, keys: Tensor) -> None:
        size = feature_size(self._size, queries.shape[1])
        if size not in self._bases:
            self._bases[size] = basis_of(size, queries.device)
        for kind, part in halves(name, len(queries), self.images).items():
            half = self.prompt if kind == "prompt" else self.negative
            if half is None:
                continue
            q = queries[part].float().unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            k = keys[part].float().unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            weights = (q @ k.transpose(-1, -2)).mul_(layer.scale).softmax(dim=-1)
            summed = weights.sum(dim=1)
            # Of the heads' mean: for m = s / h, sum of −m log m is sum of −s log s / h + log h.
            terms = layer.heads * summed.shape[1]
            entropy = torch.special.entr(summed).sum(dim=(1, 2)) / terms + math.log(layer.heads)
            basis = self._bases[size]
            half.add(name, summed, layer.heads, size, basis, entropy, self.keep_layers)
            if self.keep_heads:
                known = half.heads.get(name)
                half.heads[name] = (size, weights if known is None else known[1] + weights)


def halves(name: str, rows: int, images: int) -> dict[str, slice]:
    """Which rows of a layer's batch belong to the prompt and, with guidance, to the negative.

    Raises:
        RuntimeError: The rows are neither as many as the images nor twice as many.
    """
    if rows not in (images, 2 * images):
        raise RuntimeError(
            f"attention tap: {name} saw {rows} rows for {images} images; "
            "the prompt's half cannot be told"
        )
    both = {"prompt": slice(rows - images, rows), "negative": slice(0, images)}
    return both if rows > images else {"prompt": both["prompt"]}


def level_of(time: object) -> float:
    """A forward's time step as one number: the batch has the same throughout."""
    return float(torch.as_tensor(time).flatten()[0])


def basis_of(size: Size, device: torch.device) -> Tensor:
    """1, y, x, y² + x² of every pixel's centre, (4, pixels); each side runs from 0 to 1."""
    y, x = ((torch.arange(n, device=device) + 0.5) / n for n in size)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    planes = [torch.ones_like(rows), rows, columns, rows**2 + columns**2]
    return torch.stack(planes).flatten(1)


def feature_size(latent: Size, pixels: int) -> Size:
    """Rows and columns of a feature map with so many pixels, halved (rounding up) from a latent.

    Raises:
        RuntimeError: No number of halvings gives so many pixels.
    """
    height, width = latent
    while height * width > pixels:
        if (height, width) == (1, 1):
            break
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    if height * width != pixels:
        raise RuntimeError(
            f"attention tap: {pixels} positions fit no halving of {latent[0]} x {latent[1]}"
        )
    return height, width


def combined(attention: Sums, image: int) -> Tensor:
    """One map a token: mean over layers, heads and forwards at the largest resolution.

    Smaller maps are enlarged by bicubic interpolation, which is linear, so that summing first
    costs one enlargement a resolution. Negative overshoot is cut to 0.

    Returns:
        (rows, columns, tokens), fp32.
    """
    size = max(attention.maps, key=lambda s: s[0] * s[1])
    total = torch.zeros(0)
    for own, maps in attention.maps.items():
        plane = maps[image].T.unflatten(-1, own)[None]
        if own != size:
            plane = interpolate(plane, size=size, mode="bicubic", align_corners=False)
        total = plane[0] if not len(total) else total + plane[0]
    return (total / sum(attention.weight.values())).clamp(min=0).permute(1, 2, 0)


def daam_maps(attention: Attention, image: int, size: Size) -> Tensor:
    """Maps as DAAM 0.2 makes them: each head's sum over steps enlarged, cut at 0, then averaged.

    Source: Tang et al., 'What the DAAM', ACL 2023; castorini/daam `trace.py`. As there, the
    mid block is left out. Cutting before averaging is not linear, so these differ a little from
    `combined` wherever maps are peaked.

    Args:
        attention: Of a tap made with `daam=True`.
        image: Which.
        size: Rows and columns of the maps wanted: the latent's.

    Returns:
        (rows, columns, tokens), fp32, a sum over forwards.
    """
    planes = []
    for name, (own, weights) in attention.heads.items():
        if not name.startswith("mid_block"):
            each = weights[image].transpose(-1, -2).unflatten(-1, own)
            grown = interpolate(each, size=size, mode="bicubic", align_corners=False)
            planes.append(grown.clamp(min=0))
    return torch.cat(planes).mean(dim=0).permute(1, 2, 0)


def _unfit(layer: AttentionLayer) -> str:
    """Why a layer's weights cannot be had from q and k; '' where they can."""
    if not getattr(layer, "is_cross_attention", True):
        return "looks at the image, not at the text"
    names = ["to_q", "to_kv" if getattr(layer, "fused_projections", False) else "to_k"]
    gone = [n for n in names if getattr(layer, n, None) is None]
    if gone:
        return f"no {' or '.join(gone)}"
    if getattr(layer, "norm_q", None) is not None or getattr(layer, "norm_k", None) is not None:
        return "q and k are normalised after their projections"
    if not isinstance(getattr(layer, "heads", None), int):
        return "its number of heads is not known"
    return ""


def moments_to_numbers(moments: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mass, centre (y, x) and spread from sums of moments over any steps, layers and tokens.

    Args:
        moments: Tensors (…, 4) of one shape; they are added.

    Returns:
        Mass (…), centre (…, 2) and spread (…): the root mean square distance from the centre,
        in sides of the image. Nothing attended to: centre and spread are NaN.
    """
    total = torch.stack(list(moments)).double().sum(dim=0)
    mass = total[..., 0]
    centre = total[..., 1:3] / mass[..., None]
    variance = total[..., 3] / mass - (centre**2).sum(dim=-1)
    return mass, centre, variance.clamp(min=0).sqrt()
