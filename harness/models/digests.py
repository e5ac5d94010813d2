"""Exact digests of what is loaded: components, samplers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from harness.hashing import canonical_digest
from harness.models.families import family

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, SchedulerMixin


def digest_of(module: torch.nn.Module, extra: Mapping[str, object] | None = None) -> str:
    """sha256 over a component's configuration and every tensor's name, dtype, shape, bytes."""
    config = getattr(module, "config", {})
    plain = dict(config) if isinstance(config, Mapping) else config.to_diff_dict()
    kept = {
        k: v
        for k, v in plain.items()
        if not k.startswith("_") and k not in {"dtype", "torch_dtype", "transformers_version"}
    }
    header = json.dumps({"config": kept, "extra": extra or {}}, sort_keys=True, default=str)
    total = hashlib.sha256(header.encode())
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total.update(raw.numpy().data)
    return total.hexdigest()


def pipeline_digests(pipe: DiffusionPipeline) -> dict[str, str]:
    """Exact digests by component."""
    parts = {name: part for name, part in sorted(pipe.components.items()) if part is not None}
    encoders = [p for name, p in parts.items() if name.startswith("text_encoder")]
    tokenizers = [p for name, p in parts.items() if name.startswith("tokenizer")]
    words = [{"vocab": t.get_vocab(), "length": t.model_max_length} for t in tokenizers]
    named = family(pipe)
    own = {kind: [digest_of(m) for m in held] for kind, held in named.parts().items()}
    denoiser = own["denoiser"][0] if named.inside else canonical_digest(own["denoiser"])
    (vae,) = own["vae"]
    return {
        "text_encoder": canonical_digest([digest_of(e) for e in encoders] + words),
        "denoiser": denoiser,
        "vae": vae,
        "scheduler": scheduler_digest(parts.get("scheduler")),
    }


def scheduler_digest(scheduler: SchedulerMixin) -> str:
    """Digest of a sampler's class and configuration; of a pipeline without one, None."""
    if scheduler is None:
        return canonical_digest(None)
    kept = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    return canonical_digest([type(scheduler).__name__, json.loads(json.dumps(kept, default=str))])
