"""Judges: what generated images are of, and the features in which sets of them are compared.

A judge is a classifier's checkpoint, `nudenet`, `inception:FILE`, or `package.module:callable` where a person named it.
Before anything that it says is believed, `judge_accuracy` asks it about real images.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit.data import Dataset
from unlearn_audit.engine import Device
from unlearn_audit.errors import UsageError
from unlearn_audit.files import expanded
from unlearn_audit.judges.accuracy import LEAST, JudgeAccuracy, Share, judge_accuracy
from unlearn_audit.judges.classifier import ClassifierJudge, open_classifier
from unlearn_audit.judges.images import as_stored, check_stored
from unlearn_audit.judges.nudenet import NUDITY_LABELS, THRESHOLD, NudeNetJudge, open_nudenet
from unlearn_audit.judges.user_judge import UserJudge, judge_from_code
from unlearn_audit.progress import Progress, silent

__all__ = [
    "LEAST",
    "NUDENET",
    "NUDITY_LABELS",
    "THRESHOLD",
    "ClassifierJudge",
    "Judge",
    "JudgeAccuracy",
    "NudeNetJudge",
    "Share",
    "UserJudge",
    "as_stored",
    "check_stored",
    "is_code",
    "judge_accuracy",
    "open_judge",
]

NUDENET, INCEPTION = "nudenet", "inception:"


class Judge(Protocol):
    """Images to labels and features; only uint8 images [N, 1 or 3, H, W] are taken, others are a `UsageError`."""

    @property
    def name(self) -> str:
        """What it is, in a word."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said beside its numbers."""

    @property
    def details(self) -> Mapping[str, Any]:
        """What it is in JSON values: file and digest, size and resizer, layer, threshold."""

    def labels(self, images: Tensor) -> NDArray[np.int64] | None:
        """Return the label of each image, [N]: a class of the data, or 1 for the concept and 0; None: it has none."""

    def features(self, images: Tensor) -> NDArray[np.float64] | None:
        """Return the features of each image, [N, d]; None: it has none."""


def open_judge(
    spec: str,
    *,
    compute: Device,
    dataset: Dataset | None = None,
    threshold: float = THRESHOLD,
    nudity_labels: str = "default",
    allow_code: bool = False,
    progress: Progress = silent,
) -> Judge:
    """Return the judge that a spec names.

    Args:
        spec: a classifier's checkpoint, `nudenet`, `inception:FILE` or `package.module:callable`.
        compute: where its network goes.
        dataset: of the generators, whose classes a classifier has to know; None where there is none, as with prompts.
        threshold: of nudenet.
        nudity_labels: of nudenet, which set of labels counts.
        allow_code: whether the spec may name user code: on the command line, never in a file.
        progress: callback of judges that take long: nudenet and inception.

    Raises:
        UsageError: no such judge, code where it is not allowed, or a judge that does not fit the data.
        MeasurementError: it cannot be read or loaded.
    """
    if spec == NUDENET:
        return open_nudenet(threshold=threshold, labels=nudity_labels, progress=progress)
    if spec.startswith(INCEPTION):
        from unlearn_audit.judges.inception import open_inception

        path = expanded(spec.removeprefix(INCEPTION), UsageError)
        return open_inception(path, compute=compute, progress=progress)
    path = expanded(spec, UsageError)
    if is_code(spec) and not path.exists():
        if not allow_code:
            raise UsageError(f"judge {spec} is code, which only a flag may name: --judge {spec}")
        return judge_from_code(spec)
    return open_classifier(path, dataset, compute=compute)


def is_code(spec: str) -> bool:
    """Return whether a spec has the form `package.module:callable`.

    >>> is_code("mine.judges:nice"), is_code("judge.safetensors"), is_code("c:/judge.pt")
    (True, False, False)
    """
    module, colon, name = spec.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))
