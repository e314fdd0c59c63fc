"""Image classifiers of transformers: built from settings alone, read from the folder they come in, never fetched."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from safetensors.torch import load_file, save_file

from unlearn_audit import models
from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.data import Transform, load_data
from unlearn_audit.errors import UsageError
from unlearn_audit.models.hugging_face import spec_of_config

VIT = (
    "transformers:ViTForImageClassification?hidden_size=16&image_size=8&intermediate_size=16&num_attention_heads=2"
    "&num_channels=1&num_hidden_layers=2&patch_size=4"
)
RESNET = (
    "transformers:ResNetForImageClassification?depths=[1,1]&embedding_size=8&hidden_sizes=[8,16]&layer_type=basic"
    "&num_channels=1"
)
CONVNEXT = (
    "transformers:ConvNextForImageClassification?depths=[1,1]&hidden_sizes=[8,16]&num_channels=1&num_stages=2"
    "&patch_size=2"
)
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)


# ----- specs: without the package


def test_a_spec_holds_the_settings_and_leaves_out_what_is_none() -> None:
    config = {
        "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_act": "gelu", "eps": 1e-12,
        "sizes": [1, 2], "nothing": None, "odd": "a&b=c", "id2label": {"0": "cat"}, "_name_or_path": "x",
        "attn_implementation": "owner/kernel", "part": {"attn_implementation": "owner/kernel", "depth": 2},
    }  # fmt: skip
    assert spec_of_config(config, where="c") == (
        'transformers:ViTForImageClassification?eps=1e-12&hidden_act=gelu&model_type=vit&nothing=null&odd="a\\u0026b=c"'
        '&part={"depth":2}&sizes=[1,2]'
    )
    with pytest.raises(UsageError, match="characters"):
        spec_of_config(config | {"long": list(range(3000))}, where="c")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("hidden_size", "not a setting"),
        ("hidden_size=2&hidden_size=3", "is given twice"),
        ("_attn_implementation=owner/kernel", "not a setting"),
        ("attn_implementation=eager", "not a setting"),
        ("auto_map={}", "not a setting"),
        ('vision_config={"_attn_implementation":"owner/kernel"}', "not a setting"),
        ('parts=[{"attn_implementation":"owner/kernel"}]', "not a setting"),
        ("hidden_size=os.system('x')", "neither a word nor JSON"),
        ("hidden_size=NaN1;", "neither a word nor JSON"),
        ("hidden_size=10000000", "at most"),
        ("num_hidden_layers=100000", "at most"),
        ("depths=[600,600]", "at most"),
        ("part={\"num_hidden_layers\":100000}", "at most"),
    ],
)  # fmt: skip
def test_settings_that_are_none_are_refused(setting: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        models.check_name(f"transformers:ViTForImageClassification?{setting}")


def test_the_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'unlearn-audit\[transformers\]'"):
        models.build(VIT, classes=10, channels=1)


def test_a_folder_is_inspected_without_the_package(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text('{"architectures": ["ViTForImageClassification"], "hidden_size": 16}')
    save_file({"classifier.weight": torch.zeros(10, 16)}, tmp_path / "model.safetensors")
    done = run("inspect", tmp_path, "--format", "json")
    assert done.code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["model"] == "transformers:ViTForImageClassification?hidden_size=16 (from config.json)"
    assert any("pip install 'unlearn-audit[transformers]'" in note for note in found["notes"])
    measured = run("gaps", tmp_path, "--data", "digits", "--forget", "range:0-9")
    assert measured.code == 2
    assert "pip install 'unlearn-audit[transformers]'" in measured.stderr


# ----- with the package


@needs_transformers
@pytest.mark.parametrize("spec", [VIT, RESNET, CONVNEXT])
def test_a_classifier_is_built_and_answers_with_logits(spec: str) -> None:
    model = models.build(spec, classes=5, channels=1)
    assert models.adapt(model, torch.randn(3, 1, 8, 8), spec=spec, classes=5) == ()
    assert model.eval()(torch.randn(3, 1, 8, 8)).shape == (3, 5)


@needs_transformers
def test_the_size_comes_from_the_images_where_the_spec_has_none() -> None:
    spec = VIT.replace("image_size=8&", "")
    assert models.build(spec, classes=5, channels=1, image_size=(8, 8)).eval()(torch.randn(2, 1, 8, 8)).shape == (2, 5)


@needs_transformers
@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("transformers:google/vit-base-patch16-224", "nothing is fetched by name"),
        ("transformers:BertForSequenceClassification", "no image classifier"),
        ("transformers:ViTForImageClasification", "did you mean ViTForImageClassification"),
        ("transformers:os", "no image classifier"),
        (f"{VIT}&model_type=resnet", "model_type"),
        ("transformers:TimmWrapperForImageClassification", "timm:NAME"),
        (VIT.replace("patch_size=4", "patch_size=0"), "cannot be built"),
        (VIT.replace("channels=1", "channels=3"), "takes images of 3 channels, the data has 1"),
        (f"{VIT}&hidden_size=16", "twice"),
        (VIT.replace("intermediate_size=16", "intermediate_size=1000000").replace("n_size=16", "n_size=20000"),
         "weights; at most"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused(spec: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        models.build(spec, classes=10, channels=1)


def saved(path: Path, spec: str, **processor: object) -> Any:
    """Write a classifier as the library itself does."""
    torch.manual_seed(0)
    model: Any = models.build(spec, classes=10, channels=1).eval()
    model.save_pretrained(path)
    if processor:
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


@needs_transformers
@pytest.mark.parametrize("spec", [VIT, RESNET, CONVNEXT])
def test_a_folder_is_measured_as_the_library_computes(tmp_path: Path, run: Run, spec: str) -> None:
    """Accuracy is that of the library's own model on images normalised as the folder says."""
    model = saved(tmp_path / "net", spec, do_normalize=True, image_mean=[0.3], image_std=[0.4], do_resize=False)
    data = load_data("digits")
    with torch.no_grad():
        logits = model(Transform((0.3,), (0.4,))(data.test.images))
    accuracy = float((logits.argmax(dim=1) == data.test.labels).double().mean())
    done = run("gaps", tmp_path / "net", "--data", "digits", "--forget", "range:0-19", "--format", "json")
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    (found,) = [m["value"] for m in report["measurements"] if m["name"] == "accuracy.test"]
    assert found == pytest.approx(accuracy, abs=1e-9)
    (subject,) = report["subjects"]
    assert subject["model"].startswith(spec.partition("?")[0])


@needs_transformers
def test_a_child_describes_itself_and_is_read_without_the_folder(tmp_path: Path, run: Run) -> None:
    saved(tmp_path / "net", VIT, image_mean=[0.3], image_std=[0.4])
    child = tmp_path / "child.safetensors"
    done = run("apply", "ft", tmp_path / "net", "--data", "digits", "--forget", "range:0-19", "--steps", 2,
               "--out", child)  # fmt: skip
    assert done.code == 0, done.stderr
    parent = read_checkpoint(tmp_path / "net")
    said = read_checkpoint(child).metadata
    assert said is not None
    assert said.parent_sha256 == parent.sha256
    assert (said.mean, said.std) == ((0.3,), (0.4,))
    (tmp_path / "net").rename(tmp_path / "gone")
    again = run("gaps", child, "--forget", "range:0-19", "--format", "json")
    assert again.code == 0, again.stderr


@needs_transformers
def test_a_folder_that_is_named_as_the_model_is_written_out(tmp_path: Path, run: Run) -> None:
    saved(tmp_path, RESNET)
    done = run("inspect", tmp_path / "model.safetensors", "--model", f"transformers:{tmp_path}", "--format", "json")
    assert done.code == 0, done.stderr
    assert str(tmp_path) not in json.loads(done.stdout)["model"]
    assert "depths=[1,1]" in json.loads(done.stdout)["model"]


@needs_transformers
def test_another_number_of_classes_is_told_with_both(tmp_path: Path, run: Run) -> None:
    saved(tmp_path, RESNET)
    weights = load_file(tmp_path / "model.safetensors")
    cut = {name: tensor[:7].clone() if name.startswith("classifier") else tensor for name, tensor in weights.items()}
    save_file(cut, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["id2label"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run("gaps", tmp_path, "--data", "digits", "--forget", "range:0-19")
    assert done.code == 3
    assert "checkpoint has 7 classes, data has 10" in done.stderr


@needs_transformers
def test_images_of_another_size_are_a_sentence(tmp_path: Path, run: Run) -> None:
    saved(tmp_path, VIT.replace("image_size=8", "image_size=16"))
    done = run("gaps", tmp_path, "--data", "digits", "--forget", "range:0-19")
    assert done.code == 3
    assert "cannot take these images" in done.stderr
    assert "Traceback" not in done.stderr
