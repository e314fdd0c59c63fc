"""The folder of a Hugging Face model: what is read of it, what it asks of images, its classes, its digest."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from safetensors.torch import save_file

from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.errors import CheckpointError, MeasurementError, UsageError
from unlearn_audit.gate.binding import measured_as
from unlearn_audit.model_folder import (
    check_images,
    check_labels,
    looks_like_hub_name,
    moments_of,
    read_model_folder,
    sha256_of_checkpoint,
)
from unlearn_audit.report import AuditReport, Subject

CONFIG: dict[str, Any] = {"architectures": ["ViTForImageClassification"], "model_type": "vit", "num_channels": 1}
WEIGHTS = {"classifier.weight": torch.arange(6.0).reshape(2, 3), "classifier.bias": torch.zeros(2)}


def folder(path: Path, processor: Mapping[str, Any] | None = None, **config: object) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG | config))
    if processor is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    save_file(WEIGHTS, path / "model.safetensors")
    return path


# ----- reading


def test_weights_and_config_are_read_and_the_digest_covers_both(tmp_path: Path) -> None:
    read = read_checkpoint(folder(tmp_path))
    assert read.state.keys() == WEIGHTS.keys()
    assert torch.equal(read.state["classifier.weight"], WEIGHTS["classifier.weight"])
    parts = [
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("config.json", "model.safetensors")
    ]
    assert read.sha256 == hashlib.sha256("".join(parts).encode()).hexdigest() == sha256_of_checkpoint(tmp_path)
    assert read.folder is not None
    assert read.folder.channels == 1
    folder(tmp_path, {"do_normalize": False})
    with_images = sha256_of_checkpoint(tmp_path)
    folder(tmp_path, {"do_normalize": False}, image_size=8)
    assert len({read.sha256, with_images, sha256_of_checkpoint(tmp_path)}) == 3


def test_pytorch_weights_and_shards_are_read_safetensors_first(tmp_path: Path) -> None:
    folder(tmp_path)
    torch.save({name: tensor + 1 for name, tensor in WEIGHTS.items()}, tmp_path / "pytorch_model.bin")
    read = read_checkpoint(tmp_path)
    assert float(read.state["classifier.bias"][0]) == 0
    assert any("not read" in note and "pytorch_model.bin" in note for note in read.notes)
    (tmp_path / "model.safetensors").unlink()
    assert float(read_checkpoint(tmp_path).state["classifier.bias"][0]) == 1
    (tmp_path / "pytorch_model.bin").unlink()
    for number, name in enumerate(WEIGHTS):
        save_file({name: WEIGHTS[name]}, tmp_path / f"{number}.safetensors")
    index = {"weight_map": {name: f"{number}.safetensors" for number, name in enumerate(WEIGHTS)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    read = read_checkpoint(tmp_path)
    assert read.state.keys() == WEIGHTS.keys()
    assert read.sha256 == sha256_of_checkpoint(tmp_path)
    alone = read_checkpoint(tmp_path / "model.safetensors.index.json")
    assert alone.sha256 == sha256_of_checkpoint(tmp_path / "model.safetensors.index.json")


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = folder(tmp_path) / "model.safetensors"
    assert sha256_of_checkpoint(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text('{"weight_map": 3}')
    assert sha256_of_checkpoint(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text('{"weight_map": {"a": "../b"}}')
    with pytest.raises(CheckpointError, match="outside its folder"):
        sha256_of_checkpoint(path)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"auto_map": {"AutoModel": "evil.Net"}}, "code from a folder is not run"),
        ({"architectures": ["ViTModel"]}, "not of an image classifier"),
        ({"architectures": []}, "not of an image classifier"),
        ({"architectures": "ViTForImageClassification"}, "not of an image classifier"),
        ({"architectures": ["ViTForImageClassification", "BeitForImageClassification"]}, "not of an image classifier"),
        ({"architectures": None}, "not of an image classifier"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"problem_type": "multi_label_classification"}, "one class of several"),
    ],
)
def test_configs_of_something_else_are_refused(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(folder(tmp_path, **changed))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000])
def test_what_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    folder(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json|is empty"):
        read_checkpoint(tmp_path)


def test_a_config_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    folder(tmp_path)
    with (tmp_path / "config.json").open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="larger than"):
        read_checkpoint(tmp_path)


def test_folders_that_hold_no_model_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a directory without config\.json; name a checkpoint file"):
        read_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="merge_and_unload"):
        read_checkpoint(tmp_path)
    (folder(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights; model\.safetensors or pytorch_model\.bin"):
        read_checkpoint(tmp_path)


def test_weights_that_are_a_folder_or_a_pipe_are_refused(tmp_path: Path) -> None:
    (folder(tmp_path) / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to(tmp_path, target_is_directory=True)
    for read in (read_checkpoint, sha256_of_checkpoint):
        with pytest.raises(CheckpointError, match="is a directory"):
            read(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    for read in (read_checkpoint, sha256_of_checkpoint):
        with pytest.raises(CheckpointError, match="device or a pipe"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["google/vit-base-patch16-224", "microsoft/resnet-50"])
def test_the_name_of_a_model_on_a_hub_is_answered_without_a_request(name: str) -> None:
    with pytest.raises(CheckpointError, match="nothing is fetched here, download it first"):
        read_checkpoint(Path(name))
    assert not looks_like_hub_name("runs/model.safetensors")
    assert not looks_like_hub_name("/runs/model")


def test_weights_that_are_named_without_their_config_say_that_it_lies_beside_them(tmp_path: Path, run: Run) -> None:
    done = run("inspect", folder(tmp_path) / "model.safetensors")
    assert done.code == 0
    assert "as the checkpoint, or say --model SPEC" in " ".join(done.stdout.split())


def test_a_gate_knows_a_folder_by_what_is_in_it(tmp_path: Path, make_report: Callable[..., AuditReport]) -> None:
    digest = sha256_of_checkpoint(folder(tmp_path))
    subject = Subject(
        label="net", role="unlearned", path="net", model="transformers:X", sha256=digest, parameters=1, flop_per_image=2
    )
    known = make_report(subjects=(subject,))
    assert measured_as(known, tmp_path).sha256 == digest
    folder(tmp_path, image_size=8)
    with pytest.raises(UsageError, match="none of the checkpoints that the report measured"):
        measured_as(known, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UsageError, match=r"a directory without config\.json"):
        measured_as(known, tmp_path)


# ----- images


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        ({"do_normalize": True, "image_mean": [0.5], "image_std": [0.25]}, (0.5,), (0.25,)),
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 2]}, (0.1, 0.2, 0.3), (1.0, 1.0, 2.0)),
        ({"do_normalize": False, "image_mean": [0.5], "image_std": [0.5]}, (0.0,), (1.0,)),
        (
            {"do_rescale": True, "rescale_factor": 0.00392156862745098, "image_mean": 0.5, "image_std": 0.5},
            (0.5,),
            (0.5,),
        ),
        ({"do_rescale": True, "rescale_factor": 1 / 127.5, "image_mean": [1], "image_std": [1]}, (0.5,), (0.5,)),
        ({"do_rescale": False, "image_mean": [127.5], "image_std": [51]}, (0.5,), (0.2,)),
    ],
)
def test_mean_and_std_are_those_of_inputs_between_0_and_1(
    tmp_path: Path, processor: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """An image of bytes, scaled and normalised as the file says, is (x - mean) / std of x = bytes / 255."""
    found = moments_of(read_model_folder(folder(tmp_path, processor)))
    assert found is not None
    assert found[0] == pytest.approx(mean)
    assert found[1] == pytest.approx(std)
    pixels = torch.tensor([0.0, 51.0, 255.0])
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    normalised = processor.get("do_normalize", True)
    m, s = (torch.as_tensor(processor[key]).flatten()[0] for key in ("image_mean", "image_std"))
    in_use = (pixels * factor - m) / s if normalised else pixels * factor
    torch.testing.assert_close((pixels / 255 - found[0][0]) / found[1][0], in_use)


def test_a_folder_that_says_nothing_of_images_has_no_mean(tmp_path: Path) -> None:
    assert moments_of(read_model_folder(folder(tmp_path))) is None
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"image_mean": [0.3], "image_std": [0.4]}}')
    assert moments_of(read_model_folder(tmp_path)) == ((0.3,), (0.4,))


@pytest.mark.parametrize(
    ("processor", "told"),
    [
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"do_rescale": True, "rescale_offset": True}, "rescale_offset"),
        ({"include_top": True}, "include_top"),
        ({"do_normalize": True}, "image_mean"),
        ({"image_mean": [0.5], "image_std": [0]}, "positive"),
        ({"image_mean": [0.5, 0.5], "image_std": [1]}, "as many"),
        ({"image_mean": ["a"], "image_std": [1]}, "image_mean"),
        ({"image_mean": [0.5], "image_std": [1], "rescale_factor": 0}, "rescale_factor"),
        ({"image_mean": [0.5], "image_std": [1], "rescale_factor": "1/255"}, "rescale_factor"),
    ],
)
def test_preparations_that_are_not_done_here_are_refused(tmp_path: Path, processor: dict[str, Any], told: str) -> None:
    with pytest.raises(MeasurementError, match=told):
        moments_of(read_model_folder(folder(tmp_path, processor)))


@pytest.mark.parametrize(
    ("processor", "fits"),
    [
        ({"do_resize": True, "size": {"height": 32, "width": 32}}, True),
        ({"do_resize": True, "size": 32}, True),
        ({"do_resize": True, "size": {"shortest_edge": 32}}, True),
        ({"size": {"height": 224, "width": 224}}, False),
        ({"do_resize": True, "size": 224}, False),
        ({"do_resize": False, "size": 224}, True),
        ({"do_resize": True, "size": {"shortest_edge": 224}, "crop_pct": 0.875}, False),
        ({"do_resize": True, "size": 40, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}, True),
        ({"do_resize": True, "size": 32, "do_center_crop": True, "crop_size": 28}, False),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 28}, False),
        ({}, True),
    ],
)
def test_images_of_another_size_than_in_use_are_refused(tmp_path: Path, processor: dict[str, Any], fits: bool) -> None:
    found = read_model_folder(folder(tmp_path, processor))
    if fits:
        check_images(found, (32, 32))
    else:
        with pytest.raises(MeasurementError, match="the data has 32 x 32, and images are not resized here"):
            check_images(found, (32, 32))


def test_the_size_in_a_config_alone_is_told(tmp_path: Path) -> None:
    found = read_model_folder(folder(tmp_path, image_size=224))
    assert "224 x 224, the data has 32 x 32" in check_images(found, (32, 32))[0]
    assert check_images(found, (224, 224)) == ()


# ----- classes


def labels(*names: str) -> dict[str, str]:
    return {str(index): name for index, name in enumerate(names)}


@pytest.mark.parametrize(
    ("theirs", "ours", "notes"),
    [
        (labels("cat", "dog", "frog"), ("cat", "dog", "frog"), 0),
        (labels("Cat", "sea_lion", "frog, toad"), ("cat", "sea lion", "Frog"), 0),
        (labels("LABEL_0", "LABEL_1", "LABEL_2"), ("cat", "dog", "frog"), 0),
        (labels("n01", "n02", "n03"), ("cat", "dog", "frog"), 1),
        (labels("cat", "dog", "frog"), (), 0),
        (labels("0", "1", "2"), (), 0),
    ],
)
def test_classes_in_the_same_order_pass_others_are_told(
    tmp_path: Path, theirs: dict[str, str], ours: tuple[str, ...], notes: int
) -> None:
    assert len(check_labels(read_model_folder(folder(tmp_path, id2label=theirs)), ours, 3)) == notes


@pytest.mark.parametrize(
    ("theirs", "ours", "told"),
    [
        (labels("dog", "cat", "frog"), ("cat", "dog", "frog"), "class 0 of the model is 'dog'.*'cat'.*class 1"),
        (labels("cat", "frog", "bird"), ("cat", "dog", "frog"), "classes mixed up"),
        (labels("1", "2", "0"), (), "classes mixed up"),
        (labels("cat", "dog"), ("cat", "dog", "frog"), "names 2 classes, the data has 3"),
        ({"0": "cat", "2": "dog"}, ("cat", "dog"), "id2label"),
        (["cat"], ("cat",), "id2label"),
    ],
)
def test_classes_that_are_mixed_up_are_refused(
    tmp_path: Path, theirs: object, ours: tuple[str, ...], told: str
) -> None:
    with pytest.raises(MeasurementError, match=told):
        check_labels(read_model_folder(folder(tmp_path, id2label=theirs)), ours, len(ours) or 3)
