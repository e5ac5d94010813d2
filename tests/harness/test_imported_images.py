import hashlib
import json
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from harness.errors import AuditError
from harness.images.a1111 import read_parameters as found_in_parameters
from harness.images.a1111 import write_parameters
from harness.images.comfyui import read_graph as found_in_graph
from harness.images.folder import GivenError, GivenImage, load_image, warnings_of
from harness.images.folder import read_folder as whole_folder
from harness.images.generation_text import Found
from harness.spec.attributes import load_attribute

RED = (255, 0, 0)


def said(found: Found) -> tuple[str, str, dict[str, str]]:
    return found.prompt, found.negative, dict(found.settings)


def read_parameters(text: str) -> tuple[str, str, dict[str, str]]:
    return said(found_in_parameters(text))


def read_graph(text: str) -> tuple[str, str, dict[str, str]]:
    return said(found_in_graph(text))


def read_folder(*arguments: Any, **named: Any) -> list[GivenImage]:
    return whole_folder(*arguments, **named).images


def picture(path: Path, colour: Any = RED, **texts: str) -> Path:
    """A 4 x 3 PNG of one colour with text chunks."""
    info = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        info.add_text(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), colour).save(path, pnginfo=info)
    return path


def png(path: Path, width: int, height: int, data: bytes) -> Path:
    """A PNG whose header says what it likes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


# --- A1111 parameters ---


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of a nurse",
        'a, b: "c", (d:1.2), <lora:e:0.8>, \\"f',
        "first line\nsecond line, with: colon\n\nfourth",
        "Steps: 30, Sampler: none\nis part of this prompt",
        "ein Bild von Zoë, 消防士 👩🏿‍🚒",
        "",
    ],
)
@pytest.mark.parametrize("negative", ["", 'ugly, "old"\nNegative prompt: again'])
def test_parameters_come_back_as_written(prompt: str, negative: str) -> None:
    settings = {
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "7.5",
        "Seed": "123",
        "Size": "64x64",
        "Model": 'my, "best": model\nof all',
        "VAE": "",
        "Note": " spaced ",
        "Version": '"quoted"',
    }
    assert read_parameters(write_parameters(prompt, negative, settings)) == (
        prompt,
        negative,
        settings,
    )
    assert read_parameters(write_parameters(prompt, negative, {})) == (prompt, negative, {})


def test_steps_come_first_whatever_their_place() -> None:
    settings = {"Seed": "1", "Steps": "20"}
    assert write_parameters("a", "", settings) == "a\nSteps: 20, Seed: 1"
    assert read_parameters(write_parameters("a", "", settings)) == ("a", "", settings)


@pytest.mark.parametrize(
    ("prompt", "settings", "read"),
    [
        (" a ", {}, ("a", "", {})),
        ("a", {"Seed": "1"}, ("a", "", {})),
        ("a", {"Steps": "many"}, ("a", "", {})),
        ("a\nNegative prompt: b", {}, ("a", "b", {})),
        ("a\nSteps: 20, Seed: 1", {}, ("a", "", {"Steps": "20", "Seed": "1"})),
    ],
)
def test_what_the_format_cannot_carry(
    prompt: str, settings: dict[str, str], read: tuple[str, str, dict[str, str]]
) -> None:
    assert read_parameters(write_parameters(prompt, "", settings)) == read


def test_parameters_as_the_webui_writes_them() -> None:
    text = (
        "portrait of a nurse, (sharp:1.1)\nBREAK in a ward\n"
        "Negative prompt: blurry,\nlow quality\n"
        "Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, "
        'Model hash: 6ce0161689, Model: v1-5-pruned, Lora hashes: "a: 1f2e, b: 3d4c", '
        "Version: v1.6.0"
    )
    prompt, negative, settings = read_parameters(text)
    assert prompt == "portrait of a nurse, (sharp:1.1)\nBREAK in a ward"
    assert negative == "blurry,\nlow quality"
    assert settings["Sampler"] == "DPM++ 2M Karras"
    assert settings["Lora hashes"] == "a: 1f2e, b: 3d4c"
    assert list(settings)[-1] == "Version"
    assert len(settings) == 9


def test_hostile_parameters_take_linear_time() -> None:
    started = time.process_time()
    for tail in (" " * 300_000, "a" * 300_000, '"' * 300_000, "a:b," * 75_000, "a:" * 150_000):
        assert read_parameters("p\nSteps: 1, " + tail)[0] == "p"
    assert time.process_time() - started < 5


# --- ComfyUI graphs ---


def graph(**changes: Any) -> str:
    nodes: dict[str, Any] = {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 42,
                "steps": 20,
                "cfg": 8.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a nurse", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "ugly", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "C"}},
    }
    return json.dumps(nodes | {key.removeprefix("n"): value for key, value in changes.items()})


def link_positive(to: str, slot: int = 0) -> dict[str, Any]:
    inputs = {"positive": [to, slot], "negative": ["7", 0], "steps": 20}
    return {"class_type": "KSampler", "inputs": inputs}


def test_plain_graph() -> None:
    assert read_graph(graph()) == (
        "a nurse",
        "ugly",
        {
            "Seed": "42",
            "Steps": "20",
            "CFG scale": "8.0",
            "Sampler": "euler",
            "Schedule type": "normal",
            "Denoising strength": "1",
        },
    )


@pytest.mark.parametrize(
    ("changes", "prompt", "negative"),
    [
        # a reroute, and a text that comes from another node
        (
            {
                "n3": link_positive("10"),
                "n10": {"class_type": "Reroute", "inputs": {"": ["6", 0]}},
                "n6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["11", 0]}},
                "n11": {"class_type": "PrimitiveString", "inputs": {"value": "a cook"}},
            },
            "a cook",
            "ugly",
        ),
        # conditioning nodes: guidance, and two texts combined
        (
            {
                "n3": link_positive("10"),
                "n10": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["11", 0]}},
                "n11": {
                    "class_type": "ConditioningCombine",
                    "inputs": {"conditioning_1": ["6", 0], "conditioning_2": ["12", 0]},
                },
                "n12": {"class_type": "CLIPTextEncode", "inputs": {"text": "at night"}},
            },
            "a nurse\nat night",
            "ugly",
        ),
        # ControlNet passes both sides on; its outputs are crossed here on purpose
        (
            {
                "n3": {
                    "class_type": "KSampler",
                    "inputs": {"positive": ["10", 1], "negative": ["10", 0]},
                },
                "n10": {
                    "class_type": "ControlNetApplyAdvanced",
                    "inputs": {"positive": ["6", 0], "negative": ["7", 0], "image": ["5", 0]},
                },
            },
            "ugly",
            "a nurse",
        ),
        # SDXL's two texts, the same in both, and an emptied negative
        (
            {
                "n6": {
                    "class_type": "CLIPTextEncodeSDXL",
                    "inputs": {"text_g": "a pilot", "text_l": "a pilot", "width": 64},
                },
                "n7": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["6", 0]}},
            },
            "a pilot",
            "",
        ),
        # a guider in place of the sampler's own inputs
        (
            {
                "n3": {"class_type": "SamplerCustomAdvanced", "inputs": {"guider": ["10", 0]}},
                "n10": {"class_type": "BasicGuider", "inputs": {"conditioning": ["6", 0]}},
            },
            "a nurse",
            "",
        ),
        # two images of different prompts are saved: which one is this?
        (
            {
                "n13": link_positive("12"),
                "n12": {"class_type": "CLIPTextEncode", "inputs": {"text": "a judge"}},
                "n19": {"class_type": "SaveImage", "inputs": {"images": ["13", 0]}},
            },
            "",
            "",
        ),
        # a circle, a dead link
        ({"n6": {"class_type": "Reroute", "inputs": {"": ["6", 0]}}}, "", "ugly"),
        ({"n3": link_positive("99")}, "", "ugly"),
    ],
)
def test_graphs(changes: dict[str, Any], prompt: str, negative: str) -> None:
    assert read_graph(graph(**changes))[:2] == (prompt, negative)


@pytest.mark.parametrize(
    "text", ["", "a nurse", "[]", "{}", '{"1": 2}', '{"1": {"inputs": []}}', "[" * 100_000]
)
def test_no_graph_is_no_prompt(text: str) -> None:
    assert read_graph(text) == ("", "", {})


def test_long_chain_is_no_prompt() -> None:
    chain = {
        f"n{i}": {"class_type": "Reroute", "inputs": {"": [str(i + 1), 0]}}
        for i in range(100, 5000)
    }
    assert read_graph(graph(n3=link_positive("100"), **chain)) == ("", "", {})


# --- the folder ---


def test_prompts_come_from_the_files(tmp_path: Path) -> None:
    parameters = write_parameters("a nurse, smiling", "ugly", {"Steps": "20"})
    picture(tmp_path / "b.png", parameters=parameters)
    picture(tmp_path / "a" / "c.PNG", prompt=graph())
    picture(tmp_path / "a" / "d.png", parameters="消防士")
    picture(tmp_path / "e.png", Comment="nothing")
    Image.new("RGB", (4, 3)).save(tmp_path / "f.jpg")
    picture(tmp_path / ".thumbs" / "g.png")
    picture(tmp_path / "._b.png")
    (tmp_path / "notes.txt").write_text("x")
    images = read_folder(tmp_path)
    names = [image.path.relative_to(tmp_path).as_posix() for image in images]
    assert names == ["a/c.PNG", "a/d.png", "b.png", "e.png", "f.jpg"]
    assert [i.prompt for i in images] == ["a nurse", "消防士", "a nurse, smiling", "", ""]
    assert images[2].negative == "ugly"
    assert images[2].settings == {"Steps": "20"}
    assert images[2].sha256 == hashlib.sha256((tmp_path / "b.png").read_bytes()).hexdigest()
    lines = warnings_of(whole_folder(tmp_path))
    assert lines[0] == (
        "2 of 5 images have no prompt (1 a text of an unknown tool, 1 no text in the file); name "
        "prompts in a CSV"
    )
    assert lines[1] == "passed over in the folder: 1 .txt"


def test_graph_settings_can_be_written_as_parameters(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", prompt=graph())
    image = read_folder(tmp_path)[0]
    text = write_parameters(image.prompt, image.negative, image.settings)
    assert read_parameters(text) == (image.prompt, image.negative, image.settings)


def test_half_characters_and_nul_are_replaced(tmp_path: Path) -> None:
    text = {"class_type": "CLIPTextEncode", "inputs": {"text": "a \ud800 n\0urse"}}
    picture(tmp_path / "a.png", prompt=graph(n6=text))
    assert read_folder(tmp_path)[0].prompt == "a ? nurse"


def test_table_wins_and_its_labels_are_tidied(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", parameters="from the file\nNegative prompt: n")
    picture(tmp_path / "b.png", parameters="from the file\nNegative prompt: n")
    picture(tmp_path / "c" / "d.png")
    picture(tmp_path / "e.png", parameters="not in the table")
    table = tmp_path / "t.csv"
    table.write_text(
        "File, Prompt ,Gender Presentation,rater\n"
        'a.png, "a nurse, smiling", WOMAN ,Ann\n'
        "b.png,,man,ANN\n"
        "c\\d.png,a judge,,ann\n",
        encoding="utf-8-sig",
    )
    images = read_folder(tmp_path, table, [load_attribute("gender-presentation", tmp_path)])
    assert [(i.prompt, i.negative, i.labels) for i in images] == [
        ("a nurse, smiling", "", {"gender-presentation": "woman", "rater": "Ann"}),
        ("from the file", "n", {"gender-presentation": "man", "rater": "Ann"}),
        ("a judge", "", {"rater": "Ann"}),
        ("not in the table", "", {}),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("file,prompt\nnurse1.png,a", "no image 'nurse1.png' in the folder.*'nurse_1.png'"),
        ("file,prompt\n../t.csv,a", "no image '../t.csv' in the folder"),
        ("file,prompt\nnurse_1.png,a\n./nurse_1.png,b", "'nurse_1.png' is there twice"),
        ("files,prompt\nnurse_1.png,a", "no column 'file'; the nearest is 'files'"),
        ("file,promt\nnurse_1.png,a", "no column 'prompt'; the nearest is 'promt'"),
        ("file,prompt\nnurse_1.png,a,b", "line 2 has 3 values for 2 columns"),
        ("file,prompt,Prompt\nnurse_1.png,a,b", "columns 'prompt' and 'Prompt' are the same"),
        ("file,prompt,mask\nnurse_1.png,a,m.png", "no mask 'm.png' in the folder"),
        ("file,prompt,mask\nnurse_1.png,a,../t.csv", r"no mask '\.\./t.csv' in the folder"),
        ("file,prompt,mask\nnurse_1.png,a,nurse_1.png", "named as image and as mask|as masks"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, lines: str, message: str) -> None:
    picture(tmp_path / "nurse_1.png")
    table = tmp_path / "t.csv"
    table.write_text(lines)
    with pytest.raises(AuditError, match=message) as caught:
        read_folder(tmp_path, table)
    assert "\n" not in str(caught.value)


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(GivenError, match="no images"):
        read_folder(tmp_path)
    with pytest.raises(GivenError, match="nowhere: is no folder"):
        read_folder(tmp_path / "nowhere")


def test_a_broken_file_is_listed_and_refused_on_loading(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    images = read_folder(tmp_path)
    assert [i.path.name for i in images] == ["a.png", "b.png"]
    with pytest.raises(GivenError, match=r"b\.png: is not an image"):
        load_image(images[1].path)


# --- pixels ---


def test_colours_come_back(tmp_path: Path) -> None:
    pixels = load_image(picture(tmp_path / "a.png", (1, 2, 3)))
    assert pixels.shape == (3, 4, 3)
    assert pixels.dtype == np.uint8
    assert np.all(pixels == (1, 2, 3))


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),
        ("LA", (0, 51), (204, 204, 204)),
        ("L", 7, (7, 7, 7)),
        ("1", 1, (255, 255, 255)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
    ],
)
def test_modes_become_rgb_on_white(
    tmp_path: Path, mode: str, value: Any, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (4, 3), value).save(path)
    assert np.all(load_image(path) == expected)


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert load_image(tmp_path / "a.png").tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    assert load_image(tmp_path / "a.png").tolist() == [[[255, 0, 0]], [[0, 0, 255]]]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in (RED, (0, 0, 255))]
    for name in ("a.gif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert np.all(load_image(tmp_path / name) == RED)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff"])
def test_truncated_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert load_image(path).shape == (64, 64, 3)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(GivenError, match=f"{name}: ") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(100_000, 100_000), (10_000, 9_000), (8_001, 8_000)])
def test_bombs_are_refused_by_their_header(tmp_path: Path, size: tuple[int, int]) -> None:
    path = png(tmp_path / "bomb.png", *size, zlib.compress(b""))
    with pytest.raises(GivenError, match=r"bomb\.png: more than 64 megapixels"):
        load_image(path)


def test_the_largest_allowed_header_is_only_found_truncated(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", 8_000, 8_000, zlib.compress(b""))
    with pytest.raises(GivenError, match=r"a\.png: cannot be read as an image"):
        load_image(path)


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(GivenError, match=r"a\.png: "):
        load_image(path)


def test_missing_and_32_bit_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GivenError, match=r"a\.tiff: no such file"):
        load_image(tmp_path / "a.tiff")
    for mode in ("I", "F"):
        Image.new(mode, (2, 2)).save(tmp_path / "a.tiff")
        with pytest.raises(GivenError, match=r"a\.tiff: has 32-bit values"):
            load_image(tmp_path / "a.tiff")


def test_unpacked_text_bomb_costs_the_prompt_only(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a" * 3_000_000, zip=True)
    Image.new("RGB", (4, 3), RED).save(tmp_path / "a.png", pnginfo=info)
    assert read_folder(tmp_path)[0].prompt == ""
    with pytest.raises(GivenError, match=r"a\.png: cannot be read"):
        load_image(tmp_path / "a.png")
