"""From an open audit to its plan: what is audited, by digest, and every cell."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import yaml

from audit.pipeline.session import Audit
from audit.pipeline.spec_tables import read_errors, read_labels
from harness.errors import AuditError, SpecError, reason
from harness.generate.sampling import Generator
from harness.json_types import JsonObject
from harness.models.digests import digest_of, scheduler_digest
from harness.models.gguf_files import kept_as
from harness.models.lora import digest_of_lora
from harness.models.prompt_syntax import warnings_of
from harness.models.schedulers import ignored_settings
from harness.models.textual_inversion import digest_of_embedding
from harness.plan.cells import Arm, make_plan, text_of
from harness.progress import Say
from harness.spec.sections import CheckpointSpec

ON_LAYERS = ("attention", "activations", "guidance")
"""Taps that hook into the denoiser; `steps` follows the sampler."""
LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow")


def plan_audit(audit: Audit, say: Say) -> tuple[pd.DataFrame, JsonObject]:
    """Look at every checkpoint, name what it is, and lay out all cells.

    Returns:
        The plan, and the provenance. Nothing is written.
    """
    for line in audit.spec.notices:
        say(f"warning: {line}")
    read_errors(audit)
    labels = read_labels(audit)
    for instrument in audit.instruments:
        instrument.cache_key()  # a classifier that cannot be loaded is found out now
    _refuse_hidden_layers(audit)
    files, added = _added_files(audit)
    # The first checkpoint comes last: generation begins with what is loaded.
    seen = {name: _examined(audit, name, files, say) for name in reversed(audit.spec.checkpoints)}
    arms = {name: seen[name][0] for name in audit.spec.checkpoints}
    audited = [one for name in audit.spec.checkpoints for one in seen[name][1]]
    audited += added
    loras = any(one["kind"] == "LoRA" for one in added)
    libraries = (*LIBRARIES, "peft") if loras else LIBRARIES
    wishes = [partial(probe.extra_cells, options) for probe, options in audit.probes]
    previous = audit.run.read_cells()
    held = audit.run.units_by_cell() if previous is None else {}
    plan = make_plan(audit.spec, audit.prompts, arms, previous, wishes, held)
    _warn_of_unused_labels(audit, labels, plan, say)
    provenance = {
        "spec": audit.spec.digest(),
        "base": str(audit.base),
        "audited": audited,
        "made with": {
            "batch size": audit.spec.batch_size,
            "device": audit.device,
            "dtype": str(audit.dtype).removeprefix("torch."),
            "libraries": {name: version(name) for name in libraries},
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    return plan, provenance


def _examined(
    audit: Audit, name: str, files: Mapping[str, str], say: Say
) -> tuple[Arm, list[dict[str, str | None]]]:
    """What the plan must know of a checkpoint, and how provenance names its components."""
    spec = audit.spec.checkpoints[name]
    loaded = audit.checkpoints.load(name)
    generator, digests = loaded.generator, loaded.checkpoint.digests
    vaes = {vae: digest_of(model) for vae, model in loaded.vaes.items()}
    try:
        side = generator.family.side() if not audit.spec.sizes else 0
        for level in audit.spec.adapters:
            generator.adapt(level)  # one that does not fit is found out now
        names = {spec.sampler} if spec.sampler else set(audit.spec.samplers)
        schedulers = {s: scheduler_digest(generator.sampler(s)) for s in names}
    except AuditError as error:
        raise SpecError(f"checkpoints.{name}: {error}") from None
    for sentence in generator.family.not_measured:
        say(f"{name}: not measured: {sentence}")
    _warn_of_prompts(audit, name, generator, say)
    ignored = ignored_settings(generator.own_scheduler)
    if ignored and "own" in names:
        say(
            f"warning: {name}: its {type(generator.own_scheduler).__name__} does not know "
            f"{', '.join(ignored)} of its own settings, which have no effect; name another "
            "sampler"
        )
    levels = audit.spec.guidance if spec.guidance is None else [spec.guidance]
    arm = Arm(
        digests=digests,
        schedulers=schedulers,
        vaes=vaes,
        size=(side, side),
        files=files,
        reads_negative={g: generator.family.reads_negative(g) for g in levels},
        inside=generator.family.inside,
        skipped_layers=generator.family.skipped or 0,
        chunks=generator.reader.count,
    )
    audited: list[dict[str, str | None]] = [
        {"kind": "VAE", "name": vae, "of": name, "source": source, "digest": vaes[vae]}
        for vae, source in audit.spec.vaes.items()
    ]
    audited += [
        {
            "kind": kind.replace("_", " "),
            "name": name,
            "source": spec.source,
            "digest": digest,
            "revision": loaded.checkpoint.revision,
            **_kept(kind, spec, audit.base),
        }
        for kind, digest in digests.items()
        if kind in ("text_encoder", "denoiser")
    ]
    return arm, audited


def _kept(kind: str, spec: CheckpointSpec, base: Path) -> dict[str, str | None]:
    """Where a component is from, if not from the source, and how its file keeps the weights."""
    own = {"text_encoder": spec.text_encoder, "denoiser": spec.denoiser}[kind]
    kept = kept_as(base / Path(own or spec.source).expanduser())
    name = kind.replace("_", " ")
    facts: dict[str, str | None] = {f"{name} from": own, f"{name} kept as": kept}
    return {key: value for key, value in facts.items() if value}


def begin(audit: Audit, plan: pd.DataFrame, provenance: JsonObject) -> None:
    """Write spec, plan and provenance; refuse to mix pixels of two set-ups in one run.

    Raises:
        SpecError: The run was made with another batch size, device, precision or library.
        DamagedError: What the run was made with is lost.
    """
    before = audit.run.made_with()
    if before is not None and before != provenance["made with"]:
        changed = [
            f"{key} {before.get(key)} -> {value}"
            for key, value in provenance["made with"].items()
            if before.get(key) != value
        ]
        raise SpecError(
            f"{audit.run.folder}: made with another set-up ({'; '.join(changed)}), which changes "
            "pixels; use another run folder, or the old set-up"
        )
    audit.run.write_provenance(provenance)
    dumped = yaml.safe_dump(audit.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    audit.run.write_text("spec.yaml", dumped)
    audit.run.write_plan(plan)


def _warn_of_unused_labels(
    audit: Audit, labels: pd.DataFrame, plan: pd.DataFrame, say: Say
) -> None:
    source = audit.spec.labels.file if audit.spec.labels else ""
    elsewhere = int((~labels["cell"].isin(plan["cell"])).sum())
    if elsewhere:
        say(f"warning: labels: {source}: {elsewhere} of {len(labels)} name no image of this run")
    others = labels.loc[~labels["attribute"].isin([a.name for a in audit.spec.attributes])]
    if len(others):
        names = ", ".join(sorted(others["attribute"].unique()))[:200]
        say(f"warning: labels: {source}: {len(others)} are of attributes not in this spec: {names}")


def _refuse_hidden_layers(audit: Audit) -> None:
    """PyTorch does not promise to run hooks that are put on a compiled model later."""
    hidden = [t.name for t in audit.taps if t.name in ON_LAYERS]
    if audit.spec.runtime.compile and hidden:
        raise SpecError(
            f"runtime.compile: true hides the layers that {' and '.join(hidden)} are read from; "
            "leave out compile, or the probes attention, latents and memory"
        )


def _added_files(audit: Audit) -> tuple[dict[str, str], list[dict[str, str | None]]]:
    """Digest of every LoRA and embedding by its source, and how provenance names them.

    Raises:
        SpecError: One line naming the key, the file, what was found and what would be right.
    """
    spec = audit.spec
    loras = [(f"checkpoints.{n}.loras", s) for n, c in spec.checkpoints.items() for s in c.loras]
    loras += [(f"adapters.{n}.loras", s) for n, a in spec.adapters.items() for s in a.loras]
    words = [(f"embeddings.{name}", source) for name, source in spec.embeddings.items()]
    digests: dict[str, str] = {}
    named: list[dict[str, str | None]] = []
    for kind, digest_of_file, sources in (
        ("LoRA", digest_of_lora, loras),
        ("embedding", digest_of_embedding, words),
    ):
        for key, source in sources:
            try:
                digest = digests.get(source) or digest_of_file(
                    audit.base / Path(source).expanduser()
                )
            except (AuditError, OSError) as error:
                raise SpecError(f"{key}: {reason(error)}") from None
            digests[source] = digest
            name = key.split(".")[1]
            named.append({"kind": kind, "name": name, "source": source, "digest": digest})
    return digests, named


def _warn_of_prompts(audit: Audit, name: str, generator: Generator, say: Say) -> None:
    readers = generator.family.readers()
    if not readers:
        return
    tokenizer, limit = readers[-1].tokenizer, readers[-1].length
    texts = [
        text_of(audit.spec, name, a, p.text) for a in audit.spec.adapters for p in audit.prompts
    ]
    texts += audit.spec.negatives.values()
    for line in warnings_of(texts, audit.spec.prompt_syntax, audit.spec.embeddings):
        say(f"warning: {line}")
    for text in dict.fromkeys(texts if not audit.spec.in_chunks else ()):
        ids = tokenizer(generator.reader.plain(text), truncation=False, verbose=False).input_ids
        if len(ids) > limit:
            cut = tokenizer.decode(ids[limit - 1 : -1])
            say(f"warning: {text[:60]!r} has {len(ids)} tokens, {limit} fit; not seen: {cut!r}")
