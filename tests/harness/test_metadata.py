"""What generators write into their images, written here with Pillow: prompt, negative, settings."""

import io
import json
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from harness.images.a1111 import read_parameters, write_parameters
from harness.images.comfyui import read_graph
from harness.images.folder import Folder, read_folder, warnings_of
from harness.images.metadata import read_texts, user_comment

pytestmark = pytest.mark.faults

SETTINGS = (
    "Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7, Seed: 965400086, "
    "Size: 512x768, Model hash: 6ce0161689, Model: v1-5-pruned, Version: v1.10.1"
)
A1111 = f"a photo of a nurse, (smiling:1.1)\nNegative prompt: blurry, ugly\n{SETTINGS}"


def save(path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(path, **options)
    return path


def png(path: Path, **texts: str) -> Path:
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_itxt(key.replace("__", "-"), value)
    return save(path, pnginfo=info)


def comment(text: str, encoding: str = "utf-16-be") -> Image.Exif:
    exif = Image.Exif()
    exif[0x0131] = "a generator"  # Pillow drops a directory that holds another one alone
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + text.encode(encoding)
    return exif


def only(folder: Path):
    (image,) = read_folder(folder).images
    return image


def said(image) -> tuple[str, str]:
    return image.prompt, image.negative


# --- the parameters text ---


@pytest.mark.parametrize(
    "added",
    [
        "Template: a photo of a {nurse|cook}, __mood__\nNegative Template: blurry",
        "Template: first line\nsecond line of the template\n\nNegative Template: blurry",
        'Lora hashes: "a: 1f2e, b: 3d4c"',
        "Wildcard prompt: a photo of a __job__",
        "(something that an extension left here)",
    ],
)
def test_lines_after_the_settings_are_neither_prompt_nor_negative(added):
    found = read_parameters(f"{A1111}\n{added}")
    assert (found.prompt, found.negative) == ("a photo of a nurse, (smiling:1.1)", "blurry, ugly")
    assert found.settings["Seed"] == "965400086"
    assert len(found.settings) > 9


def test_eight_images_of_one_dynamic_prompt_are_one_prompt():
    texts = [f"{A1111.replace('965400086', str(i))}\nTemplate: a {{nurse|n}}" for i in range(8)]
    assert {read_parameters(t).prompt for t in texts} == {"a photo of a nurse, (smiling:1.1)"}
    assert [read_parameters(t).settings["Seed"] for t in texts] == [str(i) for i in range(8)]


@pytest.mark.parametrize(
    "line",
    [
        # Forge, SD.Next, Fooocus in its A1111 scheme, stable-diffusion.cpp, Civitai's generator
        "Steps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, "
        "Seed: 1, Size: 896x1152, Model: flux1-dev, Version: f2.0.1v1.10.1",
        "Steps: 20, Size: 1024x1024, Sampler: UniPC, Seed: 1, CFG scale: 6, App: SD.Next, "
        "Version: 4b4d4b4, Backend: Diffusers, Pipeline: StableDiffusionXLPipeline",
        "Steps: 30, Sampler: DPM++ 2M SDE, Seed: 1, Size: 896x1152, CFG scale: 4, "
        "Sharpness: 2, Model: juggernautXL, Version: Fooocus v2.5.5",
        "Steps: 20, CFG scale: 7.000000, Guidance: 3.500000, Eta: 0.000000, Seed: 1, "
        "Size: 512x512, Model: sd.gguf, RNG: cuda, Sampler: euler_a, Version: stable-diffusion.cpp",
        'Steps: 25, CFG scale: 7, Sampler: Euler a, Seed: 1, Civitai resources: [{"type":'
        '"checkpoint","modelVersionId":1},{"type":"lora","weight":0.8}], Civitai metadata: {}',
        "Seed: 1, Sampler: Euler, CFG scale: 7, Steps: 20",
    ],
)
@pytest.mark.parametrize("more", ["", "\nTemplate: x"])
def test_the_webuis_relatives(line, more):
    found = read_parameters(f"a nurse,\nin a ward\nNegative prompt: ugly\n{line}{more}")
    assert (found.prompt, found.negative) == ("a nurse,\nin a ward", "ugly")
    assert found.settings["Seed"] == "1"


def test_nested_json_in_the_settings_stays_one_setting():
    found = read_parameters('a\nSteps: 2, Hashes: {"vae": "12", "model": "34"}, Seed: 5')
    assert found.settings == {
        "Steps": "2",
        "Hashes": '{"vae": "12", "model": "34"}',
        "Seed": "5",
    }
    again = write_parameters("a", "", found.settings)
    assert read_parameters(again).settings == found.settings


@pytest.mark.parametrize(
    "text",
    [
        "prompt: a nurse\nnegative_prompt: ugly\nsteps: 20\nseed: 5",
        '{"prompt": "a nurse", "seed": 5',  # cut off
        '{"text": "a nurse", "count": 5}',
        "[]",
        '[{"a": 1}]',
    ],
)
def test_what_cannot_be_parsed_is_no_prompt(tmp_path, text):
    png(tmp_path / "a.png", parameters=text)
    folder = read_folder(tmp_path)
    assert folder.images[0].prompt == ""
    assert "1 of 1 images have no prompt (1 " in warnings_of(folder)[0]


def test_a_dynamic_prompt_in_braces_is_a_prompt(tmp_path):
    png(tmp_path / "a.png", parameters=f"{{red|blue}} hair\n{SETTINGS}")
    assert only(tmp_path).prompt == "{red|blue} hair"


# --- where the text lies ---


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-16"])
@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif", "a.png"])
def test_a1111_in_the_exif_comment(tmp_path, name, encoding):
    save(tmp_path / name, exif=comment(A1111.replace("nurse", "Krankenschwester 看護師"), encoding))
    image = only(tmp_path)
    assert said(image) == ("a photo of a Krankenschwester 看護師, (smiling:1.1)", "blurry, ugly")
    assert image.settings["Sampler"] == "Euler a"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"ASCII\0\0\0a nurse", "a nurse"),
        (bytes(8) + "Zoë".encode(), "Zoë"),
        (b"a nurse\0", "a nurse"),
        ("a nurse", "a nurse"),
        (b"UNICODE\0", ""),
        (b"", ""),
        (7, ""),
    ],
)
def test_user_comments_of_all_encodings(value, text):
    assert user_comment(value) == text


def after_pixels(path: Path, key: str, text: str, packed: bool = False) -> Path:
    """A PNG whose text chunk follows its pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(buffer, "PNG")
    data = buffer.getvalue()
    body = key.encode() + b"\0"
    body += b"\0" + zlib.compress(text.encode("latin-1")) if packed else text.encode("latin-1")
    kind = b"zTXt" if packed else b"tEXt"
    chunk = struct.pack(">I", len(body)) + kind + body
    chunk += struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data[:-12] + chunk + data[-12:])
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_text_after_the_pixels_is_found(tmp_path, packed):
    after_pixels(tmp_path / "a.png", "parameters", A1111, packed)
    assert said(only(tmp_path)) == ("a photo of a nurse, (smiling:1.1)", "blurry, ugly")


# --- other tools ---

SWARM = {
    "sui_image_params": {"prompt": "a nurse", "negativeprompt": "ugly", "seed": 5, "steps": 20},
    "sui_extra_data": {"date": "2025-01-25"},
    "sui_models": [{"name": "x.safetensors", "param": "model"}],
}
FOOOCUS = {
    "prompt": "a nurse",
    "negative_prompt": "ugly",
    "steps": 30,
    "seed": "5",
    "sampler": "dpmpp_2m_sde_gpu",
    "base_model": "juggernaut",
    "base_model_hash": "aeb7",
    "full_prompt": ["a nurse", "photograph a nurse, 50mm"],
    "version": "Fooocus v2.5.5",
}
EASY = {
    "prompt": "a nurse",
    "negative_prompt": "ugly",
    "seed": "5",
    "num_inference_steps": "25",
    "guidance_scale": "7.5",
    "use_stable_diffusion_model": "sd-v1-4",
}
EASY_OLD = {"Prompt": "a nurse", "Negative Prompt": "ugly", "Seed": "5", "Steps": "25"} | {
    "Guidance Scale": "7.5"
}
INVOKE = {
    "app_version": "4.2.0",
    "generation_mode": "sdxl_txt2img",
    "positive_prompt": "a nurse",
    "negative_prompt": "ugly",
    "seed": 5,
    "cfg_scale": 7.5,
    "steps": 30,
    "scheduler": "euler",
    "model": {"key": "1", "name": "juggernaut"},
}
INVOKE_2 = {
    "model": "stable diffusion",
    "app_id": "invoke-ai/InvokeAI",
    "app_version": "v2.3.0",
    "image": {"prompt": [{"prompt": "a nurse [ugly]", "weight": 1}], "seed": 5, "steps": 30},
}
NOVEL = {"uc": "ugly", "steps": 28, "sampler": "k_euler", "seed": 5, "scale": 11.0}
NOVEL_4 = NOVEL | {
    "prompt": "a nurse",
    "v4_prompt": {"caption": {"base_caption": "a nurse", "char_captions": []}},
    "v4_negative_prompt": {"caption": {"base_caption": "ugly", "char_captions": []}},
}
DRAW_THINGS = {"c": "a nurse", "uc": "ugly", "seed": 5, "steps": 20, "scale": 7, "sampler": "Euler"}
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description><xmp:CreatorTool>Draw Things'
    "</xmp:CreatorTool><exif:UserComment><rdf:Alt><rdf:li xml:lang='x-default'>{}</rdf:li>"
    "</rdf:Alt></exif:UserComment></rdf:Description></rdf:RDF></x:xmpmeta>"
)
ESCAPED = XMP.format(json.dumps(DRAW_THINGS).replace('"', "&quot;"))


@pytest.mark.parametrize(
    ("texts", "tool"),
    [
        ({"parameters": json.dumps(SWARM)}, "SwarmUI"),
        ({"parameters": json.dumps(FOOOCUS), "fooocus_scheme": "fooocus"}, "Fooocus"),
        (EASY, "Easy Diffusion"),
        (EASY_OLD, "Easy Diffusion"),
        ({"invokeai_metadata": json.dumps(INVOKE), "invokeai_graph": "{}"}, "InvokeAI"),
        ({"sd__metadata": json.dumps(INVOKE_2), "Dream": '"x" -s1'}, "InvokeAI"),
        ({"Dream": '"a nurse [ugly]" -s 50 -S 5 -W512 -H512 -C7.5 -A k_lms'}, "InvokeAI"),
        (
            {"Software": "NovelAI", "Description": "a nurse", "Comment": json.dumps(NOVEL)},
            "NovelAI",
        ),
        (
            {"Software": "NovelAI", "Description": "a nurse", "Comment": json.dumps(NOVEL_4)},
            "NovelAI",
        ),
        ({"XML:com.adobe.xmp": ESCAPED}, "Draw Things"),
    ],
)
def test_other_tools_png(tmp_path, texts, tool):
    png(tmp_path / "a.png", **texts)
    image = only(tmp_path)
    assert said(image) == ("a nurse", "ugly")
    assert image.settings["Seed"] == "5"
    assert tool
    assert not any("nurse" in value for value in image.settings.values())


@pytest.mark.parametrize("value", [SWARM, FOOOCUS, EASY, {"Comment": json.dumps(NOVEL_4)}])
@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_other_tools_exif(tmp_path, value, name):
    save(tmp_path / name, exif=comment(json.dumps(value)))
    assert said(only(tmp_path)) == ("a nurse", "ugly")


def test_fooocus_writes_its_comment_without_a_code_into_the_first_directory(tmp_path):
    exif = Image.Exif()
    exif[0x9286] = json.dumps(FOOOCUS)
    exif[0x0131] = "Fooocus v2.5.5"
    save(tmp_path / "a.jpg", exif=exif)
    assert said(only(tmp_path)) == ("a nurse", "ugly")


def test_several_prompts_of_invoke_are_no_prompt():
    two = INVOKE_2 | {"image": {"prompt": [{"prompt": "a"}, {"prompt": "b"}]}}
    found = read_texts({"sd-metadata": json.dumps(two)})
    assert found.prompt == ""
    assert "several prompts" in found.note


# --- ComfyUI ---


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def graph(**nodes) -> str:
    base = {
        "base": node(
            "KSampler",
            seed=42,
            steps=20,
            denoise=1,
            positive=["text", 0],
            negative=["not", 0],
            latent_image=["empty", 0],
        ),
        "text": node("CLIPTextEncode", text="a nurse", clip=["model", 1]),
        "not": node("CLIPTextEncode", text="ugly", clip=["model", 1]),
        "model": node("CheckpointLoaderSimple", ckpt_name="x.safetensors"),
        "empty": node("EmptyLatentImage", width=64, height=64),
        "decode": node("VAEDecode", samples=["base", 0], vae=["model", 2]),
        "face": node("CLIPTextEncode", text="detailed face, smiling"),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="C"),
    }
    return json.dumps({k: v for k, v in (base | nodes).items() if v is not None})


def detailer(image: str, kind: str = "FaceDetailer", **more) -> dict:
    inputs = {"positive": ["face", 0], "negative": ["not", 0], "denoise": 0.4} | more
    return node(kind, image=[image, 0], model=["model", 0], vae=["model", 2], **inputs)


SAVE_DETAILED = {"save": node("SaveImage", images=["detail", 0])}
REFINED = {
    "up": node("LatentUpscale", samples=["base", 0]),
    "decode": node("VAEDecode", samples=["second", 0]),
}


def second(**inputs) -> dict:
    inputs = {"positive": ["face", 0], "negative": ["not", 0], "latent_image": ["up", 0]} | inputs
    return node(inputs.pop("kind", "KSampler"), **inputs)


@pytest.mark.parametrize(
    "nodes",
    [
        {"detail": detailer("decode"), **SAVE_DETAILED},
        {"detail": detailer("first"), "first": detailer("decode"), **SAVE_DETAILED},
        {"detail": detailer("decode", "UltimateSDUpscale", upscale_by=2), **SAVE_DETAILED},
        {"detail": node("FaceDetailerPipe", image=["decode", 0], detailer_pipe=["p", 0])}
        | SAVE_DETAILED,
        {"second": second(denoise=0.5), **REFINED},
        {
            "second": second(kind="KSamplerAdvanced", start_at_step=15),
            **REFINED,
        },
        {
            "second": second(denoise=0.3, latent_image=["encode", 0]),
            "encode": node("VAEEncode", pixels=["grown", 0], vae=["model", 2]),
            "grown": node("ImageUpscaleWithModel", image=["seen", 0], upscale_model=["u", 0]),
            "seen": node("VAEDecode", samples=["base", 0]),
            "decode": node("VAEDecode", samples=["second", 0]),
        },
    ],
)
def test_the_text_is_that_of_the_sampler_that_made_the_image(nodes):
    found = read_graph(graph(**nodes))
    assert (found.prompt, found.negative) == ("a nurse", "ugly")
    assert found.settings["Seed"] == "42"


def test_a_sampler_that_paints_all_anew_counts():
    found = read_graph(graph(second=second(denoise=1), **REFINED))
    assert found.prompt == "detailed face, smiling"


def test_the_control_is_the_same_detailer_without_a_sampler_below():
    loaded = {"detail": detailer("file"), "file": node("LoadImage", image="x.png")}
    found = read_graph(graph(base=None, decode=None, **loaded, **SAVE_DETAILED))
    assert found.prompt == ""
    assert found.note


def test_an_unknown_node_on_the_way_is_said(tmp_path):
    texts = graph(
        strange=node("Mystery Filter", picture=["decode", 0]),
        save=node("SaveImage", images=["strange", 0]),
    )
    png(tmp_path / "a.png", prompt=texts, workflow="{}")
    folder = read_folder(tmp_path)
    assert folder.images[0].prompt == "a nurse"
    assert "past unknown ComfyUI nodes: Mystery Filter" in "\n".join(warnings_of(folder))


@pytest.mark.parametrize(
    ("nodes", "prompt", "note"),
    [
        ({"source": node("AskAModel", seed=1)}, "", "AskAModel"),
        ({"source": node("DPRandomGenerator", text="a {b|c}")}, "", "DPRandomGenerator"),
        ({"source": node("ImpactWildcardProcessor", populated_text="a nurse")}, "a nurse", ""),
        ({"source": node("StringConcatenate", string_a="a ", string_b="nurse")}, "a nurse", ""),
        (
            {
                "source": node("Text Find and Replace", text=["own", 0], find="a", replace="b"),
                "own": node("PrimitiveString", value="a nurse"),
            },
            "a nurse",
            "Text Find and Replace",
        ),
        (
            {
                "save": node("SaveImage", images=["mix", 0]),
                "mix": node("ImageBatch", image1=["decode", 0], image2=["other", 0]),
                "other": node("VAEDecode", samples=["second", 0]),
                "second": second(latent_image=["empty", 0]),
            },
            "",
            "several prompts",
        ),
    ],
)
def test_texts_that_cannot_be_told_are_no_prompt(nodes, prompt, note):
    if "source" in nodes:
        nodes = nodes | {"text": node("CLIPTextEncode", text=["source", 0])}
    found = read_graph(graph(**nodes))
    assert found.prompt == prompt
    assert note in found.note


@pytest.mark.parametrize("name", ["a.webp", "a.jpg"])
def test_comfyui_in_exif(tmp_path, name):
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{graph()}"
    exif[0x010F] = 'workflow:{"nodes": []}'
    save(tmp_path / name, exif=exif)
    assert said(only(tmp_path)) == ("a nurse", "ugly")


def test_a_ladder_of_samplers_takes_no_exponential_time():
    nodes = {}
    for i in range(300):
        for side in "ab":
            nodes[f"{side}{i}"] = second(denoise=0.5, latent_image=[f"join{i}", 0])
        nodes[f"join{i}"] = node(
            "LatentComposite", samples1=[f"a{i + 1}", 0], samples2=[f"b{i + 1}", 0]
        )
    read_graph(graph(decode=node("VAEDecode", samples=["a0", 0]), **nodes))


# --- strangers ---


def mutated(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        at = rng.randrange(len(out))
        kind = rng.randrange(4)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            del out[at : at + rng.randint(1, 40)]
        elif kind == 2:
            out[at:at] = rng.choice([b"\0", b"{", b'"', b"\n", b"[[", b": ", b"\xff", b"-1"])
        else:
            out[at:at] = out[at : at + rng.randint(1, 60)]
        out = out or bytearray(b"x")
    return bytes(out)


def test_mutated_texts_never_raise():
    rng = random.Random(0)
    texts = [A1111, graph(), ESCAPED, *map(json.dumps, (SWARM, FOOOCUS, INVOKE, INVOKE_2, NOVEL_4))]
    keys = ("parameters", "prompt", "UserComment", "sd-metadata", "invokeai_metadata", "Dream")
    for i in range(4000):
        text = mutated(rng.choice(texts).encode(), rng).decode("utf-8", "replace")
        found = read_texts({keys[i % len(keys)]: text})
        assert isinstance(found.prompt, str)
        assert found.prompt or found.note


def test_mutated_files_never_raise(tmp_path):
    rng = random.Random(1)
    (tmp_path / "s").mkdir()
    sources = [
        png(tmp_path / "s" / "a.png", parameters=A1111),
        png(tmp_path / "s" / "b.png", prompt=graph(), **{"XML:com.adobe.xmp": ESCAPED}),
        after_pixels(tmp_path / "s" / "c.png", "parameters", A1111, packed=True),
        save(tmp_path / "s" / "d.jpg", exif=comment(A1111)),
        save(tmp_path / "s" / "e.webp", exif=comment(json.dumps(SWARM))),
        save(tmp_path / "s" / "f.avif", exif=comment(A1111)),
    ]
    out = tmp_path / "m"
    out.mkdir()
    for i in range(300):
        source = rng.choice(sources)
        (out / f"{i}{source.suffix}").write_bytes(mutated(source.read_bytes(), rng))
    folder = read_folder(out)
    assert isinstance(folder, Folder)
    assert len(folder.images) == 300


def test_texts_that_unpack_without_end_are_left_out(tmp_path):
    after_pixels(tmp_path / "a.png", "parameters", "a" * 5_000_000, packed=True)
    assert only(tmp_path).prompt == ""
