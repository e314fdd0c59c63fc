"""A classifier's checkpoint as a judge: its own labels and features, on images of its own size and channels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unlearn_audit.checkpoints import Metadata, write_checkpoint
from unlearn_audit.data import Dataset, Examples, Transform
from unlearn_audit.engine import Device
from unlearn_audit.errors import CheckpointError, UsageError
from unlearn_audit.judges import open_judge
from unlearn_audit.judges.images import resized
from unlearn_audit.models import build

COMPUTE = Device(torch.device("cpu"))
MEAN, STD = 0.4, 0.3


def data(classes: int = 4, channels: int = 1, side: int = 8) -> Dataset:
    images = torch.rand((12, channels, side, side), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % classes
    some = Examples(images, labels, labels)
    return Dataset("made up", some, some, classes, (0.5,) * channels, (0.5,) * channels, "0" * 64)


def checkpoint(
    folder: Path, *, channels: int = 1, side: int = 8, classes: int = 4, **said: Any
) -> tuple[Path, nn.Module]:
    """Write a small CNN with random weights that says what it takes."""
    torch.manual_seed(3)
    model = build("small-cnn", classes=classes, channels=channels).eval()
    about = {"classes": classes, "channels": channels, "image_size": (side, side), "mean": (MEAN,), "std": (STD,)}
    path = folder / "judge.safetensors"
    write_checkpoint(path, model.state_dict(), Metadata(model="small-cnn", **(about | said)), force=True)
    return path, model


def stored(channels: int = 1, side: int = 8, n: int = 6) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def test_labels_and_features_are_the_models_own(tmp_path: Path) -> None:
    path, model = checkpoint(tmp_path)
    judge = open_judge(str(path), compute=COMPUTE, dataset=data())
    images = stored()
    logits = model(Transform((MEAN,), (STD,))(images))
    labels, features = judge.labels(images), judge.features(images)
    assert labels is not None
    assert features is not None
    assert labels.tolist() == logits.argmax(dim=1).tolist()
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    again = torch.from_numpy(features).float() @ last.weight.T + last.bias
    assert torch.allclose(again, logits, atol=1e-5)
    assert features.dtype == np.float64
    assert features.shape == (6, last.in_features)


def test_the_order_of_classes_is_the_checkpoints(tmp_path: Path) -> None:
    path, model = checkpoint(tmp_path)
    images = stored(n=40)
    before = open_judge(str(path), compute=COMPUTE, dataset=data()).labels(images)
    order = torch.tensor([2, 0, 3, 1])
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[order])
        last.bias.copy_(last.bias[order])
    write_checkpoint(path, model.state_dict(), Metadata(model="small-cnn", classes=4, channels=1, image_size=(8, 8),
                                                        mean=(MEAN,), std=(STD,)), force=True)  # fmt: skip
    after = open_judge(str(path), compute=COMPUTE, dataset=data()).labels(images)
    assert before is not None
    assert after is not None
    assert order[after].tolist() == before.tolist()


def test_images_are_resized_and_coloured_for_it(tmp_path: Path) -> None:
    path, model = checkpoint(tmp_path, channels=3, side=12)
    judge = open_judge(str(path), compute=COMPUTE, dataset=data())
    images = stored()
    fitting = resized(images.expand(-1, 3, -1, -1), (12, 12))
    labels = judge.labels(images)
    assert labels is not None
    assert labels.tolist() == model(Transform((MEAN,), (STD,))(fitting)).argmax(dim=1).tolist()
    assert judge.details["size"] == [12, 12]


def test_without_data_a_checkpoint_that_describes_itself_will_do(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, channels=3)
    labels = open_judge(str(path), compute=COMPUTE).labels(stored(channels=3, side=20))
    assert labels is not None
    assert len(labels) == 6


def test_no_images_have_no_labels(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    labels = open_judge(str(path), compute=COMPUTE, dataset=data()).labels(stored()[:0])
    assert labels is not None
    assert labels.shape == (0,)


def test_floats_are_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    judge = open_judge(str(path), compute=COMPUTE, dataset=data())
    for ask in (judge.labels, judge.features):
        with pytest.raises(UsageError, match="uint8"):
            ask(torch.rand(2, 1, 8, 8) * 2 - 1)


def test_what_cannot_be_a_judge_is_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    with pytest.raises(UsageError, match="tells 4 classes apart, the data have 5"):
        open_judge(str(path), compute=COMPUTE, dataset=data(classes=5))
    with pytest.raises(UsageError, match="grey images"):
        open_judge(str(path), compute=COMPUTE, dataset=data(channels=3))
    with pytest.raises(CheckpointError, match="not found"):
        open_judge(str(tmp_path / "none.safetensors"), compute=COMPUTE, dataset=data())
    silent = tmp_path / "silent.safetensors"
    write_checkpoint(silent, {"w": torch.zeros(2)}, Metadata(model="small-cnn"), force=True)
    with pytest.raises(UsageError, match="does not say how many"):
        open_judge(str(silent), compute=COMPUTE)


def test_a_generator_is_no_judge(tmp_path: Path) -> None:
    path = tmp_path / "generator.safetensors"
    write_checkpoint(path, {"w": torch.zeros(2)}, Metadata(model="small-unet", classes=4, channels=1), force=True)
    with pytest.raises(UsageError, match="is a generator"):
        open_judge(str(path), compute=COMPUTE, dataset=data())
