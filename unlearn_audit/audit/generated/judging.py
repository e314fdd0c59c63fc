"""Who judges the samples: a checkpoint, a detector, or a small classifier that is trained for it on the same data."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.generated.drawing import Plan
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.checkpoints import Metadata
from unlearn_audit.config import INCEPTION, NUDENET, OF_THE_JUDGE, TRAIN, GenerationSettings, code_is_allowed
from unlearn_audit.data import Dataset
from unlearn_audit.engine import Device
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import IN_MEMORY, Candidate
from unlearn_audit.judges import ClassifierJudge, Judge, JudgeAccuracy, judge_accuracy, open_judge
from unlearn_audit.progress import Progress
from unlearn_audit.report import Measurement
from unlearn_audit.streams import derive_seed
from unlearn_audit.training import pick_recipe, train_recorded

Floats = NDArray[np.float64]
MODEL = "small-cnn"  # of a judge that is trained here
TRIED = 4  # images on which a judge's last layer is looked for
NUDE = 1  # nudenet's label of an image that is
NOT_OF_TEXTS = (
    "a judge that is trained here knows the classes of the data, and these generators take texts; name one that finds "
    "the concept with --judge: nudenet, or package.module:callable"
)


class Judging(NamedTuple):
    """The judge and what may be believed of it.

    Attributes:
        judge: gives labels.
        features: gives features; the judge itself, or another one.
        accuracy: of the judge on real held-out images; None where there are no labels to try it on.
        raw: whether features are taken as they are, and not standardised.
        of_concept: whether the judge looks for one concept, whatever was asked for.
    """

    judge: Judge
    features: Judge
    accuracy: JudgeAccuracy | None
    raw: bool
    of_concept: bool

    @property
    def reason(self) -> str | None:
        """Why nothing that the judge says is a number; None where it may be believed."""
        return self.accuracy.reason if self.accuracy else None

    @property
    def of_features(self) -> str | None:
        """Likewise of its features; those of another than the judge do not depend on it."""
        return self.reason if self.features is self.judge else None


def open_judging(context: AuditContext, settings: GenerationSettings, plan: Plan) -> Judging:
    """Open or train the judge, and try it on real held-out images.

    Raises:
        UsageError: the judge does not fit the generators or the data.
        MeasurementError: it cannot be read.
    """
    if settings.judge == TRAIN and not plan.of_classes:
        raise UsageError(NOT_OF_TEXTS)
    judge = trained_judge(context) if settings.judge == TRAIN else _opened(context, settings, plan)
    if settings.features == OF_THE_JUDGE:
        features = judge
    elif settings.features.startswith(INCEPTION):
        features = open_judge(settings.features, compute=context.compute, progress=context.progress)
    else:
        raise UsageError(f"features '{settings.features}': they are those of the judge, or of inception:FILE")
    tried = plan.of_classes and settings.judge != NUDENET
    accuracy = judge_accuracy(judge, context.splits.test_examples, context.splits.forgotten_classes) if tried else None
    return Judging(judge, features, accuracy, settings.features != OF_THE_JUDGE, settings.judge == NUDENET)


def _opened(context: AuditContext, settings: GenerationSettings, plan: Plan) -> Judge:
    return open_judge(
        settings.judge,
        compute=context.compute,
        dataset=context.splits.dataset if plan.of_classes else None,
        threshold=settings.nudity_threshold,
        nudity_labels=settings.nudity_labels,
        allow_code=code_is_allowed(context.origins.get("generation.judge", "default")),
        progress=context.progress,
    )


def learn_judge(dataset: Dataset, seed: int, compute: Device, progress: Progress) -> tuple[nn.Module, Metadata]:
    """Return a small classifier of all training examples, the forgotten ones too: a judge has to know them.

    Args:
        dataset: of the generators.
        seed: the person's.
        compute: where it is trained.
        progress: callback, called after each step.

    Returns:
        The classifier, and what its checkpoint would say of itself.

    Raises:
        MeasurementError: training diverged.
    """
    recipe, own = pick_recipe(None, MODEL), derive_seed(seed, "judge")
    return train_recorded(MODEL, dataset, recipe, seed=own, compute=compute, clock=None, progress=progress,
                          task="training the judge")  # fmt: skip


def trained_judge(context: AuditContext) -> Judge:
    """Return a judge that is learned here and now, for an audit without a folder to keep it in."""
    dataset, compute = context.splits.dataset, context.compute
    model, _ = learn_judge(dataset, context.config.seed, compute, context.progress)
    candidate = Candidate("judge", "control", IN_MEMORY, "0" * 64, MODEL, model.eval(), dataset.transform)
    channels, height, width = dataset.train.images.shape[1:]
    sample = dataset.test.subset(np.arange(min(TRIED, len(dataset.test))))
    return ClassifierJudge(candidate, (height, width), channels, compute, sample)


# ----- what it says


def labelled(judge: Judge, samples: Sequence[Tensor], asked: NDArray[np.int64] | None) -> Floats | None:
    """Return 1.0 where a sample is taken for what was asked for, [n]; None where the judge gives no labels.

    Args:
        judge: whose labels are classes, or 1 for a concept.
        samples: uint8 [C, H, W] each.
        asked: [n] the classes; None where the judge looks for one concept.
    """
    found = np.zeros(len(samples))
    for places, images in _alike(samples):
        labels = judge.labels(images)
        if labels is None:
            return None
        found[places] = labels == (NUDE if asked is None else asked[places])
    return found


def featured(judge: Judge, samples: Sequence[Tensor]) -> Floats | None:
    """Return the features of samples, [n, d]; None where the judge has none."""
    parts: list[tuple[list[int], Floats]] = []
    for places, images in _alike(samples):
        found = judge.features(images)
        if found is None:
            return None
        parts.append((places, np.asarray(found, dtype=np.float64)))
    if not parts:
        return None
    everything = np.zeros((len(samples), parts[0][1].shape[1]))
    for places, found in parts:
        everything[places] = found
    return everything


def _alike(samples: Sequence[Tensor]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield samples of one shape together, and their places."""
    shapes: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(samples):
        shapes.setdefault(tuple(image.shape), []).append(place)
    for places in shapes.values():
        yield places, torch.stack([samples[place] for place in places])


def measure_judge(context: AuditContext, judging: Judging) -> Iterator[Measurement]:
    """Yield what the judge gets right of real held-out images: of forgotten or of kept classes, whichever is less."""
    accuracy = judging.accuracy
    if accuracy is None:
        return
    sides = {name: share for name in ("forgotten", "kept") if (share := getattr(accuracy, name)).n}
    worst = min(sides, key=lambda name: sides[name].right / sides[name].n, default=None)
    share = sides[worst] if worst else None
    taken = {candidate.label for candidate in context.subjects}
    label = next(name for name in ("judge", "the judge", *(f"judge-{n}" for n in range(2, 10**6))) if name not in taken)
    bounds = metrics.wilson_interval(share.right, share.n) if share else None
    yield measurement(
        "generation.judge_accuracy",
        as_control(context, label),
        share.right / share.n if share else None,
        accuracy.reason,
        n=share.n if share else 0,
        interval=interval(bounds, "Wilson"),
        method=f"real held-out images of {worst or 'no'} classes; below .9 nothing that the judge says is a number",
        details=_details(judging, accuracy),
    )


def as_control(context: AuditContext, label: str) -> Candidate:
    """Return a candidate that stands for the judge in measurements."""
    model = context.subjects[0].model
    return Candidate(label, "control", IN_MEMORY, "0" * 64, MODEL, model, context.splits.dataset.transform)


def _details(judging: Judging, accuracy: JudgeAccuracy) -> dict[str, Any]:
    return {
        **judging.judge.details,
        "forgotten": [accuracy.forgotten.right, accuracy.forgotten.n],
        "kept": [accuracy.kept.right, accuracy.kept.n],
        "by_class": [[int(c), share.right, share.n] for c, share in sorted(accuracy.by_class.items())],
    }
