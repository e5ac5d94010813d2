import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import write_spec
from PIL import Image

from audit.commands.main import main
from harness.images.a1111 import write_parameters
from harness.images.png import png_bytes

MONK = ["--attribute", "monk-skin-tone"]
SCORE = ["--attribute", "world-gender", "--classifier", "reference:balanced"]


def audit(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def refused(*arguments) -> str:
    result = audit(*arguments, code=2)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def test_help_answers_without_heavy_imports():
    code = (
        "import sys; from audit.commands.main import main\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'pandas', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "no-such.yaml"),
        ("plan", "no-such.yaml"),
        ("run", "wrong-key.yaml"),
        ("plan", "wrong-key.yaml"),
        ("plan", "unknown-probe.yaml"),
        ("report", "no-such"),
        ("show", "no-such", "cell"),
        ("gate", "no-such", "no-such-either"),
    ],
)
def test_what_is_wrong_is_said_before_anything_heavy_is_imported(tmp_path, arguments):
    (tmp_path / "wrong-key.yaml").write_text("checkpoint: {a: reference:balanced}\n")
    (tmp_path / "unknown-probe.yaml").write_text("probes: [nonsense]\n")
    code = (
        "import sys; from audit.commands.main import main\n"
        f"try: main({list(arguments)!r})\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'streamlit', 'scipy.stats', 'sklearn',\n"
        "         'statsmodels.stats.proportion', 'skimage.color'} & set(sys.modules)\n"
        "sys.exit(str(heavy or 'none'))"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == "none", done.stderr
    assert done.stderr.startswith("error: ") or arguments[0] == "gate"


def test_help_names_each_command_in_a_sentence_that_is_not_cut():
    lines = audit("--help").stdout.partition("Commands:")[2].strip().splitlines()
    assert len(lines) >= 17
    for line in lines:
        assert not line.endswith("..."), line
    assert "main" not in {line.split()[0] for line in lines}


def test_old_names_and_spellings_are_accepted_for_now(tmp_path):
    assert "Attribute the difference" in audit("attribute", "--help").stdout
    assert "no-such" in audit("vae", "no-such", "--vae", "v", "--longest=64", code=2).stderr
    said = audit("vae", tmp_path, "--vae", "reference:pale", "--batch", "0", code=2).stderr
    assert "--batch is now called --batch-size" in said


def test_a_command_of_another_package_that_cannot_be_loaded_costs_no_other(tmp_path):
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[diffusion_audit.commands]\nbroken = no_module:c\n")
    run = [sys.executable, "-m", "audit.commands.main"]
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", ""), str(Path.cwd())])
    done = {
        name: subprocess.run(
            [*run, name], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
        )
        for name in ("--help", "broken", "schema")
    }
    assert "broken" in done["--help"].stdout
    assert done["broken"].returncode == 1
    assert "'broken' of no_module:c: cannot be loaded" in done["broken"].stderr
    assert done["schema"].returncode == 0


def test_a_run_ends_with_a_report_and_resumes_without_work(tmp_path):
    spec = write_spec(tmp_path)
    first = audit("run", spec, "--out", tmp_path / "run")
    page = tmp_path / "run" / "report" / "index.html"
    assert str(page) in first.stdout
    text = page.read_text()
    assert "<script" not in text
    report = json.loads((page.parent / "report.json").read_text())
    assert report["findings"]
    again = audit("run", spec, "--out", tmp_path / "run")
    assert "generate" not in again.stderr
    plan = audit("plan", spec, "--out", tmp_path / "run").stdout
    assert "6 denoisings" in plan
    assert "still to denoise: 0 batches" in plan
    assert str(page) in audit("report", tmp_path / "run", "--grid", "seed,vae").stdout


def test_a_report_comes_in_the_formats_wanted(small_audit, tmp_path):
    run, readme = small_audit.run.folder, tmp_path / "README.md"
    readme.write_bytes(b"# Mine\r\n")
    told = audit("report", run, "--format", "card,csv", "--into", readme).stdout
    assert "card.md" in told
    assert "findings.csv" in told
    assert readme.read_bytes().count(b"# Mine\r\n") == 1
    assert b"model-index:" in readme.read_bytes()
    assert (
        "'xml' is no format; any of html,card,json,csv"
        in audit("report", run, "--format", "html,xml", code=2).stderr
    )
    assert "this run has balanced" in refused("report", run, "--checkpoint", "other")


def test_show_makes_the_same_pixels_again(tmp_path, small_audit):
    cell = small_audit.run.read_plan()["cell"].iloc[4]
    saved = tmp_path / "cell.png"
    shown = audit("show", small_audit.run.folder, cell[:12], "--again", "--save", saved).stdout
    assert "made again: the same pixels, bit for bit" in shown
    with Image.open(saved) as picture:
        assert picture.size == (64, 64)
    assert "no cell" in refused("show", small_audit.run.folder, "zzz")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoints": {"a": "reference:balancd"}}, ["checkpoints.a", "balancd", "'balanced'"]),
        ({"checkpoints": {"a": "no/such/folder"}}, ["checkpoints.a", "no/such/folder"]),
        ({"vaes": {"b": "nowhere"}}, ["vaes.b", "'nowhere'", "config.json"]),
        ({"prompts": {"suite": "dmo"}}, ["dmo", "demo"]),
        ({"prompts": {"template": "a {x}", "slots": {"y": ["1"]}}}, ["x"]),
        ({"classifiers": {"c": "reference:blanced"}}, ["blanced", "'balanced'"]),
        ({"confusion_matrix": "none.csv"}, ["confusion_matrix", "none.csv"]),
    ],
)
def test_bad_specs_exit_2_with_one_line(tmp_path, changes, words):
    line = refused("run", write_spec(tmp_path, **changes), "--out", tmp_path / "run")
    for word in words:
        assert word in line


def test_a_missing_spec_is_named(tmp_path):
    assert "nowhere.yaml" in refused("run", tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("name", ["cut.safetensors", "pickle.safetensors", "model.ckpt"])
def test_bad_weights_are_refused_in_one_line(tmp_path, name):
    content = {"cut": b"\x10\x00\x00", "pickle": b"\x80\x04K\x01.", "model": b"\x80\x04K\x01."}
    (tmp_path / name).write_bytes(content[name.split(".")[0]])
    line = refused("run", write_spec(tmp_path, checkpoints={"mine": name}))
    assert name in line


def test_a_vae_of_another_latent_space_is_refused_before_anything_is_made(tmp_path):
    from diffusers import AutoencoderKL

    AutoencoderKL(norm_num_groups=4, block_out_channels=(4,)).save_pretrained(tmp_path / "other")
    spec = write_spec(tmp_path, vaes={"other": "other"})
    line = refused("run", spec, "--out", tmp_path / "run")
    assert "4 channels" in line
    assert not (tmp_path / "run").exists()


def test_long_prompts_are_warned_of_with_what_is_cut(tmp_path):
    words = "a portrait of a doctor " + "with long hair " * 12 + "and a red hat"
    spec = write_spec(tmp_path, prompts={"list": [words, "a cook"]}, seeds=1)
    warning = audit("run", spec, "--out", tmp_path / "run").stderr
    assert "32 fit" in warning
    assert "red hat" in warning


def test_another_batch_size_needs_another_folder(tmp_path):
    audit("run", write_spec(tmp_path, seeds=1), "--out", tmp_path / "run")
    spec = write_spec(tmp_path, seeds=1, batch_size=2)
    assert "batch size 4 -> 2" in refused("run", spec, "--out", tmp_path / "run")


def test_hostile_prompts_and_names_stay_text(tmp_path):
    hostile = "</script><script>alert(1)</script>"
    spec = write_spec(
        tmp_path,
        name=hostile,
        prompts={"list": [hostile, '"><img src=x onerror=alert(1)>']},
        checkpoints={hostile: "reference:balanced", "b": "reference:balanced"},
        seeds=1,
    )
    audit("run", spec, "--out", tmp_path / "run")
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page


def test_score_reads_prompts_from_the_images(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        text = write_parameters("a portrait of a cook", "", {"Steps": "5", "CFG scale": "7"})
        pixels = rng.integers(0, 256, (80, 60, 3), dtype=np.uint8)
        (folder / f"{i}.png").write_bytes(png_bytes(pixels, text))
    (folder / "broken.png").write_bytes(b"no image")
    audit("score", folder, "--out", tmp_path / "run", *SCORE)
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    lost = [f for f in report["findings"] if f["metric"] == "not counted"]
    assert "no image 1" in lost[0]["note"]
    plan = yaml.safe_load((tmp_path / "run" / "spec.yaml").read_text())
    assert "a portrait of a cook" in plan["prompts"]["list"]


def test_score_measures_the_monk_tone_inside_masks(tmp_path):
    folder = tmp_path / "images"
    (folder / ".masks").mkdir(parents=True)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    Image.fromarray(mask).save(folder / ".masks" / "m.png")
    for i, swatch in enumerate(["#292420", "#292420", "#d7bd96"]):
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[:, :, 2] = 100 + i  # blue all around
        pixels[10:30, 10:30] = list(bytes.fromhex(swatch[1:]))
        Image.fromarray(pixels).save(folder / f"{i}.png")
    table = tmp_path / "labels.csv"
    rows = [f"{i}.png,a cook,.masks/m.png" for i in range(3)]
    table.write_text("\n".join(["file,prompt,mask", *rows]))
    audit("score", folder, "--csv", table, "--out", tmp_path / "run", *MONK)
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    shares = {
        f["subject"]["class"]: f["value"] for f in report["findings"] if f["metric"] == "share"
    }
    assert shares["MST-10"] == pytest.approx(2 / 3)
    assert shares["MST-5"] == pytest.approx(1 / 3)
    assert sum(shares.values()) == pytest.approx(1)


def test_score_counts_an_image_of_100k_by_100k_as_missing(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (64, 64), "red").save(folder / "fine.png")
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(b""), b"IEND": b""}
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks.items():
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    (folder / "huge.png").write_bytes(data)
    audit("score", folder, "--out", tmp_path / "run", *SCORE)
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert report["attrition"][0]["failed"] == 1
    assert report["attrition"][0]["reason"].startswith("huge.png: more than 64 megapixels")


def test_a_full_disk_stops_the_run_which_goes_on_later(tmp_path, monkeypatch):
    spec = write_spec(tmp_path, seeds=1)
    real, full = os.replace, [True]

    def replace(source, target):
        if full and "images" in str(target):
            full.clear()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    said = audit("run", spec, "--out", tmp_path / "run", code=2)
    assert "bytes are needed" in said.stderr
    assert "free some space and run the same command again" in said.stderr
    again = audit("run", spec, "--out", tmp_path / "run")
    assert "failed" not in again.stderr
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert [row["failed"] for row in report["attrition"]] == [0, 0, 0]


def test_score_refuses_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty" in refused("score", tmp_path / "empty", "--out", tmp_path / "run", *SCORE)


def test_doctor_and_schema():
    assert "torchvision match" in audit("doctor").stdout
    assert json.loads(audit("schema").stdout)["title"] == "Spec"


def test_ctrl_c_stops_between_batches_and_says_how_to_go_on(tmp_path):
    spec = write_spec(tmp_path, seeds=40, batch_size=1)
    command = [
        sys.executable,
        "-m",
        "audit.commands.main",
        "run",
        str(spec),
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / "run").glob("images/*/*")):
        time.sleep(0.01)
    process.send_signal(2)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "run the same command to go on" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "RUN", "--format", "html,card,json,csv"),
        ("show", "RUN", "CELL"),
        ("labels", "sample", "RUN", "--attribute", "world-gender", "--n", "2"),
        (*("gate", "RUN", "RUN", "--baseline-arm", "balanced,own"), "--candidate-arm", "balanced"),
        ("baseline", "save", "RUN", "base.json", "--arm", "balanced,own"),
    ],
    ids=lambda a: a[0],
)
def test_what_reads_a_run_imports_neither_torch_nor_diffusers(small_audit, tmp_path, arguments):
    run = Path(shutil.copytree(small_audit.run.folder, tmp_path / "run"))
    cell = small_audit.run.read_plan()["cell"].iloc[0]
    code = (
        "import sys; from audit.commands.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code in (0, 1, 3), end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'open_clip'} & set(sys.modules)\n"
        "sys.exit(str(heavy or 'none'))"
    )
    named = [{"RUN": str(run), "CELL": cell}.get(a, a) for a in arguments]
    done = subprocess.run(
        [sys.executable, "-c", code, *named],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == "none", done.stderr
