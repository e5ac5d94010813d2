"""Malformed files of every kind that a user can give, made from good ones by a seeded draw."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from conftest import SPEC
from safetensors.torch import load_file, save

import reference

Draw = random.Random
NOWHERE = "no/such/folder"
"""What a spec names last, so that a file that turned out fine ends in an error all the same."""
ODD: list[Any] = [
    *(None, True, False, -1, 0, 1, 3.5, 1e300, float("inf"), float("nan"), 10**12, 10**400),
    *("", " ", "x", "../../x", "/etc/passwd", "\x1b]0;t\x07", "a\u202eb", "a\nb", "é" * 300, "nul"),
    *([], {}, [[]], [None], [["x"]], [1, "a", None], {"": 1}, {"a": {"b": [{}]}}, {"1": 2}),
    *(
        "reference:",
        "hf-hub:",
        "local-dir:",
        "reference:nobody",
        "~/x",
        "-x",
        "{",
        "${x}",
        "2024-13-45",
    ),
]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def paths_of(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here]
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        found += paths_of(inner, (*here, key))
    return found


def change(value: Any, draw: Draw) -> Any:
    """Plain data with one or two of its values replaced, removed, wrapped or renamed."""
    whole = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2))):
        path = draw.choice(paths_of(whole))
        odd = copy.deepcopy(draw.choice(ODD)) if draw.random() < 0.95 else nested(40)
        if not path:
            if draw.random() < 0.2:
                return odd
            continue
        inside = whole
        for key in path[:-1]:
            inside = inside[key]
        how = draw.random()
        if how < 0.6:
            inside[path[-1]] = odd
        elif how < 0.75:
            del inside[path[-1]]
        elif how < 0.85:
            inside[path[-1]] = [inside[path[-1]]]
        elif isinstance(inside, dict):
            inside[draw.choice(("x", "", "../x", "Name", "\x1b"))] = inside.pop(path[-1])
    return whole


def damage(data: bytes, draw: Draw) -> bytes:
    """Bytes cut off, flipped, doubled, or others altogether."""
    how = draw.randrange(7)
    at = draw.randrange(len(data) + 1)
    if how == 0:
        return data[:at]
    if how == 1:
        return b""
    if how == 2:
        return data[:at] + bytes(draw.randrange(256) for _ in range(4)) + data[at + 4 :]
    if how == 3:
        return data[:at] + data[: draw.randrange(200)] + data[at:]
    if how == 4:
        return draw.choice((b"\xff\xfe\x00", b"\x00" * 64, b"PK\x03\x04zip", b"<!doctype html>"))
    if how == 5:
        return b"[" * draw.choice((100, 100_000))
    return data.replace(data[at : at + 3] or b"a", b"\x1b\x9b", 1)


def yaml_text(value: Any, draw: Draw) -> bytes:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode("utf-8", "replace")
    return damage(text, draw) if draw.random() < 0.3 else text


def json_text(value: Any, draw: Draw) -> bytes:
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode("utf-8", "replace")
    return damage(text, draw) if draw.random() < 0.3 else text


def tensors(named: dict[str, torch.Tensor], draw: Draw) -> bytes:
    """A safetensors file with tensors removed, renamed, reshaped or cast, or damaged bytes."""
    held = dict(named)
    for _ in range(draw.choice((1, 2, 4))):
        if not held:
            break
        name = draw.choice(sorted(held))
        how = draw.randrange(6)
        if how == 0:
            del held[name]
        elif how == 1:
            held[draw.choice(("x", f"model.{name}", f"{name}.alpha", "\x1b[2J", "a" * 200))] = (
                held.pop(name)
            )
        elif how == 2:
            held[name] = torch.zeros(draw.choice(((), (0,), (1,), (2, 0), (3, 3), (1, 1, 1, 1))))
        elif how == 3:
            held[name] = held[name].to(draw.choice((torch.int8, torch.bool, torch.float64)))
        elif how == 4:
            held[name] = torch.full_like(held[name].float(), draw.choice((float("nan"), 1e38)))
        else:
            held[name] = held[name].reshape(-1).clone()
    data = save(held, {"lora_adapter_metadata": "{"} if draw.random() < 0.1 else None)
    return damage(data, draw) if draw.random() < 0.3 else data


# --- one function a kind: writes its files, and says which command reads them ---


def spec_of(folder: Path, **changes: Any) -> list[str]:
    path = folder / "audit.yaml"
    path.write_text(yaml.safe_dump(SPEC | changes))
    return ["plan", str(path), "--out", str(folder / "run")]


def a_spec(folder: Path, draw: Draw) -> list[str]:
    attribute = {
        "name": "hat",
        "classes": [{"name": "hat", "prompts": ["a hat"]}, {"name": "bare", "prompts": "a head"}],
        "target": {"hat": 0.4, "bare": 0.6},
        "target_source": "us",
    }
    spec = SPEC | {
        "checkpoints": {"a": {"source": NOWHERE, "trigger": "t", "steps": 2}},
        "attributes": draw.choice(([], ["world-tone", attribute])),
        "prompts": draw.choice(
            (
                {"list": ["a", "b"], "groups": {"g": ["a"]}},
                {"template": "a {a:x} in {y}", "slots": {"x": ["p", "q"], "y": ["r"]}},
                {"suite": "demo"},
            )
        ),
        "gate": {"margins": {"share": 0.1}},
        "negatives": {"none": "", "n": "bad"},
        "adapters": {"none": {"loras": {}}},
        "sizes": [[64, 64]],
        "probes": ["attributes"],
    }
    path = folder / "audit.yaml"
    path.write_bytes(yaml_text(change(spec, draw), draw))
    return ["plan", str(path), "--out", str(folder / "run")]


def an_attribute(folder: Path, draw: Draw) -> list[str]:
    attribute = {
        "name": "hat",
        "classes": [{"name": "hat", "prompts": ["a hat"]}, {"name": "bare", "prompts": "a head"}],
        "nobody": ["a room"],
        "target": "equal",
    }
    (folder / "hat.yaml").write_bytes(yaml_text(change(attribute, draw), draw))
    return spec_of(folder, checkpoints={"a": NOWHERE}, attributes=["hat.yaml"])


def a_prompt_table(folder: Path, draw: Draw) -> list[str]:
    good = "prompt,group,target:world-gender:woman\na nurse,care,0.5\n'a judge',law,0.2\n"
    odd = draw.choice(("target:world-gender:woman", "0.5", "care", "a nurse", ","))
    text = good.replace(odd, draw.choice(("", "nan", "-1", '"', "x" * 300, "\x1b[1m", "\r", "a,b")))
    data = damage(text.encode(), draw) if draw.random() < 0.5 else text.encode()
    (folder / "prompts.csv").write_bytes(data)
    return spec_of(folder, checkpoints={"a": NOWHERE}, prompts={"csv": "prompts.csv"})


def a_table(folder: Path, draw: Draw) -> list[str]:
    """Measured errors or labels of a spec."""
    key = draw.choice(("confusion_matrix", "labels"))
    good = {
        "confusion_matrix": "attribute,instrument,true,outcome,count\n"
        "world-gender,small,woman,man,3\n",
        "labels": "cell,attribute,class,rater\nabc,world-gender,woman,r\n",
    }[key]
    data = damage(good.encode(), draw)
    (folder / "table.csv").write_bytes(data)
    return spec_of(folder, checkpoints={"a": NOWHERE}, **{key: "table.csv"})


def a_classifier(folder: Path, draw: Draw) -> list[str]:
    source = reference.MODELS / "classifier" / "flawed"
    shutil.copytree(source, folder / "classifier")
    name = draw.choice(sorted(p.name for p in source.iterdir()) + ["open_clip_config.json"] * 4)
    path = folder / "classifier" / name
    if name.endswith(".json") and draw.random() < 0.8:
        path.write_bytes(json_text(change(json.loads(path.read_text()), draw), draw))
    elif name.endswith(".safetensors"):
        path.write_bytes(tensors(load_file(path), draw))
    else:
        path.write_bytes(damage(path.read_bytes(), draw))
    classifier = f"local-dir:{folder / 'classifier'}"
    return spec_of(folder, checkpoints={"a": NOWHERE}, classifiers={"c": classifier})


def a_pipeline(folder: Path, draw: Draw, whole: Path) -> list[str]:
    link(whole, folder / "pipeline")
    names = sorted(p.relative_to(whole) for p in whole.rglob("*.json") if p.stat().st_size < 10**5)
    name = draw.choice([*names, Path("model_index.json"), Path("unet/config.json")])
    path = folder / "pipeline" / name
    held = path.read_bytes()
    path.unlink()
    if draw.random() < 0.9:
        path.write_bytes(json_text(change(json.loads(held), draw), draw))
    return spec_of(folder, checkpoints={"a": str(folder / "pipeline")}, vaes={"v": NOWHERE})


def weights_of_a_pipeline(folder: Path, draw: Draw, whole: Path) -> list[str]:
    link(whole, folder / "pipeline")
    path = draw.choice(sorted((folder / "pipeline").rglob("*.safetensors")))
    named = load_file(path)
    path.unlink()
    path.write_bytes(tensors(named, draw))
    return spec_of(folder, checkpoints={"a": str(folder / "pipeline")}, vaes={"v": NOWHERE})


def a_vae(folder: Path, draw: Draw, whole: Path) -> list[str]:
    link(whole / "vae", folder / "vae")
    path = draw.choice(sorted((folder / "vae").iterdir()))
    held = path.read_bytes()
    named = load_file(path) if path.suffix == ".safetensors" else {}
    path.unlink()
    if named:
        path.write_bytes(tensors(named, draw))
    else:
        path.write_bytes(json_text(change(json.loads(held), draw), draw))
    source = folder / "vae"
    if named and draw.random() < 0.5:
        source = path
    return spec_of(
        folder, checkpoints={"a": str(whole)}, vaes={"v": str(source), "w": NOWHERE}, attributes=[]
    )


def a_lora(folder: Path, draw: Draw, whole: Path) -> list[str]:
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    if draw.random() < 0.5:
        base = f"lora_unet_{layer.replace('.', '_')}"
        named = {
            f"{base}.lora_down.weight": torch.ones(2, 32),
            f"{base}.lora_up.weight": torch.ones(16, 2),
            f"{base}.alpha": torch.tensor(1.0),
        }
    else:
        named = {
            f"unet.{layer}.lora_A.weight": torch.ones(2, 32),
            f"unet.{layer}.lora_B.weight": torch.ones(16, 2),
        }
    (folder / "l.safetensors").write_bytes(tensors(named, draw))
    checkpoint = {"source": str(whole), "loras": {"l.safetensors": 1}}
    return spec_of(folder, checkpoints={"a": checkpoint, "b": NOWHERE}, vaes={"o": "own"})


def an_embedding(folder: Path, draw: Draw, whole: Path) -> list[str]:
    named = {"emb_params": torch.ones(2, 32)}
    if draw.random() < 0.3:
        named = {"clip_l": torch.ones(1, 32), "clip_g": torch.ones(1, 64)}
    (folder / "e.safetensors").write_bytes(tensors(named, draw))
    return spec_of(
        folder,
        checkpoints={"a": str(whole), "b": NOWHERE},
        embeddings={"word": "e.safetensors"},
        vaes={"o": "own"},
    )


def a_single_file(folder: Path, draw: Draw) -> list[str]:
    named = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 1, 1),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (
            torch.zeros(4, draw.choice((768, 1024, 2048, 5)))
        ),
        "first_stage_model.decoder.conv_in.weight": torch.zeros(4, 4, 1, 1),
        "cond_stage_model.transformer.text_model.x": torch.zeros(2),
    }
    (folder / "m.safetensors").write_bytes(tensors(named, draw))
    return spec_of(folder, checkpoints={"a": "m.safetensors"}, vaes={"v": NOWHERE})


def a_pickle(folder: Path, draw: Draw) -> list[str]:
    path = folder / "m.ckpt"
    torch.save({"state_dict": {"a": torch.ones(3)}, "epoch": 1}, path)
    path.write_bytes(damage(path.read_bytes(), draw))
    return ["convert", str(path)]


def a_baseline(folder: Path, draw: Draw) -> list[str]:
    content = {"format": "diffusion-audit baseline 1", "cells": {"prompt": ["a"]}, "spec": SPEC}
    value = {"digest": "0" * 64, "content": content}
    (folder / "b.json").write_bytes(json_text(change(value, draw), draw))
    return ["gate", str(folder / "b.json"), str(folder / "b.json"), "--out", str(folder / "gate")]


def a_run(folder: Path, draw: Draw, run: Path) -> list[str]:
    """A run folder one of whose own small files was edited."""
    shutil.copytree(run, folder / "run")
    name = draw.choice(("spec.yaml", "provenance.json"))
    path = folder / "run" / name
    if name == "spec.yaml":
        path.write_bytes(yaml_text(change(yaml.safe_load(path.read_text()), draw), draw))
    else:
        path.write_bytes(json_text(change(json.loads(path.read_text()), draw), draw))
    return ["show", str(folder / "run"), "0"]


def labels(folder: Path, draw: Draw, run: Path) -> list[str]:
    shutil.copytree(run, folder / "run")
    good = "cell,attribute,class,rater\nabc,world-gender,woman,r\n"
    (folder / "l.csv").write_bytes(damage(good.encode(), draw))
    return ["labels", "add", str(folder / "run"), str(folder / "l.csv")]


def link(whole: Path, to: Path) -> None:
    """A copy of a folder whose files are links, which a caller replaces one by one."""
    shutil.copytree(whole, to, copy_function=lambda a, b: Path(b).symlink_to(a))


SMALL: list[Callable[..., list[str]]] = [
    *(a_spec, a_spec, an_attribute, a_prompt_table, a_table, a_classifier, a_single_file),
    *(a_pickle, a_baseline),
]
OF_A_PIPELINE: list[Callable[..., list[str]]] = [
    *(a_pipeline, a_pipeline, weights_of_a_pipeline, a_vae, a_lora, an_embedding)
]
OF_A_RUN: list[Callable[..., list[str]]] = [a_run, labels]
