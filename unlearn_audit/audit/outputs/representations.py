"""What the features still know: alignment with the original's and retrained models', and a linear probe of classes.

Features are what the last linear layer is given. A step that changes this layer alone leaves them: the answers look
forgotten, and a linear classifier finds the class at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.outputs.divergences import FEWEST_FOR_SPREAD, NOT_WHOLE_CLASSES
from unlearn_audit.audit.reference import comparison_of, difference_of_means, no_reference, reference_of
from unlearn_audit.errors import MeasurementError
from unlearn_audit.inputs import Candidate
from unlearn_audit.relearning import Run, features_of
from unlearn_audit.report import Measurement, Reference

Floats = NDArray[np.float64]
MOST_ALIGNED = 5000  # forget examples whose features are compared, evenly spaced
NO_HEAD = "the model does not end in a linear layer, so that nothing says what its features are"
FEW = "the features of these examples do not vary, or there are fewer than four examples"
ALIGNED = "linear kernel, unbiased estimator, inputs of the last linear layer; without interval, nothing is concluded"
ITERATIONS = 2000  # of the probe's solver, at most


def _features(context: AuditContext, candidate: Candidate, images: Tensor) -> Floats | None:
    """Return what the head is given, [n, d]; None where there is no linear head."""
    run = Run(candidate.model, context.examples("forget"), candidate.transform)
    try:
        found = features_of(run, images, context.compute)
    except MeasurementError:
        return None
    return found.cpu().numpy().reshape(len(images), -1)


# ----- alignment


def measure_alignment(context: AuditContext) -> Iterator[Measurement]:
    """Yield `cka.original` and `cka.retrained` of every subject."""
    images = context.examples("forget").images
    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), MOST_ALIGNED)).round().astype(np.int64))
    chosen = images[rows]
    found: dict[str, Floats | None] = {}
    for index, one in enumerate(context.subjects):
        found[one.label] = _features(context, one, chosen)
        context.progress("features", index + 1, len(context.subjects), one.label)
    for candidate in context.subjects:
        yield _to_original(context, candidate, found)
        yield _to_retrained(context, candidate, found)


def _aligned(found: Mapping[str, Floats | None], one: str, others: Sequence[str]) -> list[float] | str:
    """Return a model's alignment with each of the others; else why there is none."""
    ours, theirs = found[one], [found[other] for other in others]
    if ours is None or any(each is None for each in theirs):
        return NO_HEAD
    values = [metrics.unbiased_cka(ours, each) for each in theirs if each is not None]
    told = [value for value in values if value is not None]
    return told if len(told) == len(values) else FEW


def _to_original(context: AuditContext, candidate: Candidate, found: Mapping[str, Floats | None]) -> Measurement:
    originals = [one.label for one in context.with_role("original")]
    reason = "no original model to compare with was given"
    values: list[float] = []
    if candidate.role == "original":
        reason = "this is the original"
    elif originals:
        told = _aligned(found, candidate.label, originals)
        values, reason = ([], told) if isinstance(told, str) else (told, reason)
    levels = [_aligned(found, one.label, originals) for one in context.references(candidate)] if originals else []
    return measurement(
        "cka.original",
        candidate,
        float(np.mean(values)) if values else None,
        reason,
        n=_rows(found, candidate),
        reference=reference_of([float(np.mean(one)) for one in levels if not isinstance(one, str)]) if values else None,
        method=ALIGNED,
        details=_biased(found, candidate.label, originals) if values else {},
    )


def _to_retrained(context: AuditContext, candidate: Candidate, found: Mapping[str, Floats | None]) -> Measurement:
    others = [one.label for one in context.references(candidate)]
    told = _aligned(found, candidate.label, others) if others else no_reference(candidate.role)
    values = [] if isinstance(told, str) else told
    return measurement(
        "cka.retrained",
        candidate,
        float(np.mean(values)) if values else None,
        told if isinstance(told, str) else None,
        n=_rows(found, candidate),
        reference=_between(found, others) if values else None,
        method=f"{ALIGNED}; mean over retrained models; reference: the same between pairs of these",
        details=_biased(found, candidate.label, others) if values else {},
    )


def _rows(found: Mapping[str, Floats | None], candidate: Candidate) -> int:
    features = found[candidate.label]
    return 1 if features is None else len(features)


def _biased(found: Mapping[str, Floats | None], one: str, others: Sequence[str]) -> dict[str, Any]:
    """Return the estimator that most papers have, and how many features there are: it needs ten examples for each."""
    ours = found[one]
    values = [
        metrics.linear_cka(ours, each) for other in others if ours is not None and (each := found[other]) is not None
    ]
    known = [value for value in values if value is not None]
    width = 0 if ours is None else ours.shape[1]
    return {"biased": float(np.mean(known)) if known else None, "width": width}


def _between(found: Mapping[str, Floats | None], others: Sequence[str]) -> Reference | None:
    if len(others) < 2:
        return None
    each = [_aligned(found, one, [other for other in others if other != one]) for one in others]
    levels = np.array([np.mean(one) for one in each if not isinstance(one, str)])
    if len(levels) >= FEWEST_FOR_SPREAD:
        return reference_of(metrics.as_if_apart(levels).tolist())
    return Reference(role="retrained", value=float(levels.mean()), n=len(levels)) if len(levels) else None


# ----- the linear probe


class _Probed(NamedTuple):
    """What a linear classifier of one model's features gets right on the second half: of forgotten classes, of all."""

    forgotten: Floats
    every: Floats


def measure_probe(context: AuditContext) -> Iterator[Measurement]:
    """Yield `probe.recall_f` and `probe.accuracy` of every subject, where whole classes are forgotten."""
    classes = context.splits.forgotten_classes
    found: dict[str, _Probed | str] = {}
    for index, one in enumerate(context.subjects):
        found[one.label] = _probed(context, one, classes) if classes else NOT_WHOLE_CLASSES
        context.progress("linear probe", index + 1, len(context.subjects), one.label)
    for candidate in context.subjects:
        for name, part in (("probe.recall_f", "forgotten"), ("probe.accuracy", "every")):
            yield _probe(context, candidate, found, name, part)


def _probed(context: AuditContext, candidate: Candidate, classes: Sequence[int]) -> _Probed | str:
    """Fit on the first half of the held-out examples of each class, try on the second."""
    test = context.examples("test")
    labels = test.labels.numpy()
    first, second = _halves(labels)
    if not np.isin(labels[first], classes).any() or not np.isin(labels[second], classes).any():
        return "fewer than two test examples are of the forgotten classes"
    if len(np.unique(labels[first])) < 2:
        return "the test set has a single class"
    features = _features(context, candidate, test.images)
    if features is None:
        return NO_HEAD
    right = (_predicted(features[first], labels[first], features[second]) == labels[second]).astype(np.float64)
    return _Probed(right[np.isin(labels[second], classes)], right)


def _halves(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return every other example of each class, and the rest."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order], "left")
    even = (np.arange(len(labels)) - starts) % 2 == 0
    return np.sort(order[even]), np.sort(order[~even])


def _predicted(fitted: Floats, labels: NDArray[np.int64], asked: Floats) -> NDArray[np.int64]:
    """Return what multinomial logistic regression, C = 1, on standardised features says."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = fitted.mean(axis=0), fitted.std(axis=0)
    scaled = [(side - mean) / np.where(spread > 0, spread, 1.0) for side in (fitted, asked)]
    model = LogisticRegression(C=1.0, max_iter=ITERATIONS).fit(scaled[0], labels)
    return np.asarray(model.predict(scaled[1]), dtype=np.int64)


def _probe(
    context: AuditContext, candidate: Candidate, found: Mapping[str, _Probed | str], name: str, part: str
) -> Measurement:
    own = found[candidate.label]
    right = None if isinstance(own, str) else getattr(own, part)
    told = (found[one.label] for one in context.references(candidate))
    others = [getattr(one, part) for one in told if not isinstance(one, str)]
    comparable = right is not None and bool(others)
    # Two retrained models that agree by chance would call one more of them different for an image or two.
    judged = candidate.role != "retrained" or len(others) >= FEWEST_FOR_SPREAD
    return measurement(
        name,
        candidate,
        None if right is None else float(right.mean()),
        own if isinstance(own, str) else None,
        n=len(context.splits.dataset.test) if right is None else len(right),
        interval=None if right is None else interval(metrics.wilson_interval(int(right.sum()), len(right)), "Wilson"),
        reference=reference_of([float(one.mean()) for one in others]) if comparable else None,
        comparison=comparison_of(difference_of_means(right, others, "fraction"), "fraction")
        if right is not None and comparable and judged
        else None,
        method="multinomial logistic regression (C = 1, standardised) of the inputs of the last linear layer, on every "
        "other test example of each class; tried on the rest",
    )
