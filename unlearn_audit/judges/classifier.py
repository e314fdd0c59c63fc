"""A classifier's checkpoint as a judge: classes by argmax, features as the last linear layer is given them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit.checkpoints import Checkpoint, check_finite, read_checkpoint
from unlearn_audit.config import AuditConfig, CheckpointEntry
from unlearn_audit.data import Dataset, Examples
from unlearn_audit.engine import Device, chunks, predict
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.inputs.candidates import build_candidate
from unlearn_audit.judges.images import RESIZER, as_stored, check_stored, in_colour, resized
from unlearn_audit.relearning import NoHeadError, Run, features_of

TRIED = 4  # images that the model is tried on when it is built
AT_ONCE = 256  # images that are resized at once


@dataclass(frozen=True, eq=False)
class ClassifierJudge:
    """Judges by a classifier, on images of its own size and channels.

    Attributes:
        candidate: the classifier, on the device and in evaluation mode.
        size: height and width that it takes.
        channels: likewise.
        compute: where.
        sample: a few real images, on which its last layer is looked for.
    """

    candidate: Candidate
    size: tuple[int, int]
    channels: int
    compute: Device
    sample: Examples
    name: str = field(init=False, default="classifier")

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said beside its numbers."""
        return self.candidate.notes

    @property
    def details(self) -> Mapping[str, Any]:
        """What it is, and how images reach it."""
        return {
            "judge": self.name,
            "path": self.candidate.path,
            "sha256": self.candidate.sha256,
            "model": self.candidate.spec,
            "size": list(self.size),
            "resizer": RESIZER,
            "layer": "input of the last linear layer",
        }

    def labels(self, images: Tensor) -> NDArray[np.int64] | None:
        """Return the class of each image, [N].

        Args:
            images: uint8 [N, C, H, W].
        """
        found = [
            predict(self.candidate.model, part, self.candidate.transform, compute=self.compute).argmax(axis=1)
            for part in self._fitting(images)
        ]
        return np.concatenate(found).astype(np.int64) if found else np.zeros(0, dtype=np.int64)

    def features(self, images: Tensor) -> NDArray[np.float64] | None:
        """Return what its last linear layer is given for each image, [N, d]; None where it does not end in one.

        Args:
            images: uint8 [N, C, H, W].
        """
        run = Run(self.candidate.model, self.sample, self.candidate.transform)
        try:
            found = [features_of(run, part, self.compute).cpu().numpy() for part in self._fitting(images)]
        except NoHeadError:
            return None
        return np.concatenate(found) if found else np.zeros((0, 0))

    def _fitting(self, images: Tensor) -> list[Tensor]:
        """Return the images as this classifier takes them, in parts."""
        check_stored(images)
        parts = [images[part] for part in chunks(len(images), AT_ONCE)]
        return [resized(fitting_channels(part, self.channels), self.size) for part in parts]


def fitting_channels(images: Tensor, channels: int) -> Tensor:
    """Return images with as many channels as a judge takes; grey ones become colours.

    Raises:
        UsageError: images in colour for a judge of grey ones.
    """
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return in_colour(images)
    raise UsageError("the judge takes grey images, and these are in colour; train one on images in colour")


def open_classifier(path: Path, dataset: Dataset | None, *, compute: Device) -> ClassifierJudge:
    """Read a classifier's checkpoint as a judge.

    Args:
        path: the checkpoint, which says itself how its inputs are normalised and how large they are, or is read as
            `dataset` has them.
        dataset: of the generators that are judged; None where there is none, as with prompts.
        compute: where the classifier goes.

    Raises:
        CheckpointError: the file cannot be read, or its weights are not finite.
        UsageError: it is a generator, tells fewer classes apart than the data have, or nobody says what it takes.
    """
    checkpoint = read_checkpoint(path)
    check_finite(checkpoint)
    model = checkpoint.metadata.model if checkpoint.metadata else ""
    if checkpoint.pipeline is not None or model.partition("?")[0].endswith("-unet"):
        raise UsageError(f"judge {path} is a generator, which tells no classes apart; name a classifier's checkpoint")
    own = _data_of(checkpoint, dataset)
    if dataset is not None and own.classes < dataset.classes:
        raise UsageError(f"judge {path} tells {own.classes} classes apart, the data have {dataset.classes}")
    candidate = build_candidate(
        AuditConfig(),
        {},
        entry=CheckpointEntry(path=str(path)),
        checkpoint=checkpoint,
        label=path.name,
        dataset=own,
        compute=compute,
    )
    channels, height, width = own.train.images.shape[1:]
    return ClassifierJudge(candidate, (height, width), channels, compute, own.test)


def _data_of(checkpoint: Checkpoint, dataset: Dataset | None) -> Dataset:
    """Return data of the kind that a classifier takes, with a few images to try it on: real ones where there are any.

    Raises:
        UsageError: neither the checkpoint nor the data say it.
    """
    said = checkpoint.metadata
    classes = said.classes if said and said.classes else dataset.classes if dataset else None
    real = as_stored(dataset.test.images[:TRIED]) if dataset else torch.zeros((TRIED, 3, 8, 8), dtype=torch.uint8)
    channels = said.channels if said and said.channels else real.shape[1] if dataset else None
    size = said.image_size if said and said.image_size else tuple(real.shape[2:]) if dataset else None
    if classes is None or channels is None or size is None:
        raise UsageError(
            f"judge {checkpoint.path} does not say how many classes, channels and pixels it has; a checkpoint that "
            "`unlearn-audit train` wrote does"
        )
    height, width = size
    images = resized(fitting_channels(real, channels), (height, width))
    if len(images) < TRIED:
        images = torch.cat([images, torch.zeros((TRIED, channels, height, width), dtype=torch.uint8)])[:TRIED]
    labels = torch.zeros(len(images), dtype=torch.int64)
    some = Examples(images, labels, labels)
    if dataset is not None:
        return replace(dataset, train=some, test=some, classes=classes, class_names=())
    if said is None or said.mean is None or said.std is None:
        raise UsageError(f"judge {checkpoint.path} does not say how its inputs are normalised")
    return Dataset("", some, some, classes, said.mean, said.std, "0" * 64)
