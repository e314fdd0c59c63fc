"""Do the models that everything is read against deserve it? Retrained ones and the original, held against each other.

A gap to a wrecked model is no gap, and a retrained model that remembers the forget set makes every other one look
clean. So a reference must have learned something, be about as good as the original on what both were trained on and on
held-out data, be trained as the original was, and not tell forget from unseen examples itself. What fails is a doubt
about the reference by name, and no gate passes on what rests on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext, Note
from unlearn_audit.data import Examples
from unlearn_audit.engine import predict
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement
from unlearn_audit.training import by_difference

SAMPLE = 2000  # examples of retain and test set that are looked at, evenly spread
LIFT = 0.1  # of what there is to gain over guessing: a model that gains less has learned nothing
MARGIN = 0.05  # of accuracy that a retrained model may lack; over the share of the training set that it was left with
CLASS_MARGIN = 0.5  # likewise of a single class of the retain set
CLASS_EXAMPLES = 20  # below which a class is not looked at by itself
FORGOTTEN_CLASS = 0.1  # share of a wholly forgotten class that a model without it may put there, by accident
SURE, ABOVE = 0.999, 0.05  # level of an interval that must lie this far above one half for a reference to be doubted
NORMAL = {0.95: 1.959964, SURE: 3.290527}  # two-sided quantiles
# Attacks whose AUC says of a retrained model what it says of any: whether it saw the forget set.
STRONG_ATTACKS = ("lira", "lira-offline", "rmia", "rmia-offline")

Floats = NDArray[np.float64]
NO_ORIGINAL = (
    "no original model was given: whether the retrained models are as good as one trained on everything could not be "
    "checked; add it with --original"
)


class _View(NamedTuple):
    """A sample of a split: its labels, and for each subject 1.0 where it is right."""

    labels: NDArray[np.int64]
    right: Mapping[str, Floats]


def examine_subjects(context: AuditContext) -> Iterator[Note]:
    """Hold all subjects against chance, and the retrained ones against the original.

    Args:
        context: the subjects and the sets.

    Yields:
        Doubts about subjects, and a limitation where there is no original to hold them against.
    """
    splits = context.splits  # of the whole retain set, whatever sample of it is measured
    retain = _view(context, splits.retain_examples, np.arange(len(splits.retain)))
    test = _view(context, splits.test_examples, splits.lasting_test)
    for candidate in context.subjects:
        yield from (Note(text, candidate.label) for text in _at_chance(context, candidate, retain))
    retrained = context.with_role("retrained")
    if retrained and not context.with_role("original"):
        yield Note(NO_ORIGINAL)
    for candidate in retrained:
        found = (
            *_worse(context, candidate, retain, "retain"),
            *_worse(context, candidate, test, "test"),
            *_knows_a_forgotten_class(context, candidate),
            *_tells_apart(context, candidate),
        )
        yield from (Note(text, candidate.label) for text in found)
    for candidate in context.with_role("original"):
        labels = [one.label for one in retrained]
        yield from (Note(text, candidate.label) for text in _original_worse(candidate, labels, retain))
    yield from other_recipes(context.subjects)


def _view(context: AuditContext, whole: Examples, rows: NDArray[np.int64]) -> _View:
    """Return all subjects' answers on an evenly spread sample of some examples of a set."""
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64))]
    examples = whole.subset(chosen)
    labels = examples.labels.numpy()
    right = {
        one.label: (
            predict(one.model, examples.images, one.transform, compute=context.compute).argmax(axis=1) == labels
        ).astype(np.float64)
        for one in (context.subjects if len(labels) else ())
    }
    return _View(labels, right)


def _at_chance(context: AuditContext, candidate: Candidate, retain: _View) -> Iterator[str]:
    """Yield that a model does hardly better than guessing on examples that it was trained on."""
    if not len(retain.labels):
        return
    right = float(retain.right[candidate.label].mean())
    guess = max(1 / context.splits.dataset.classes, float(np.bincount(retain.labels).max()) / len(retain.labels))
    if right > guess + LIFT * (1 - guess):
        return
    why = (
        f"the architecture ({candidate.spec}), stride, pooling or normalisation is probably not the one it was trained "
        "with; name them with --model, --mean and --std"
        if candidate.assumed
        else "its weights are wrecked, or it was trained with another architecture, normalisation or order of classes "
        f"than it is read with ({candidate.spec}; --model, --mean, --std, --data)"
    )
    yield (
        f"{candidate.label}: accuracy on training examples is at chance ({right:.3f}; guessing the most frequent class "
        f"is right in {guess:.3f}): {why}"
    )


# ----- as good as the original


def _worse(context: AuditContext, candidate: Candidate, view: _View, split: str) -> Iterator[str]:
    """Yield that a retrained model is worse than the original by more than its smaller training set explains."""
    anchor = _anchor(context, candidate, view)
    if anchor is None:
        return
    name, level = anchor
    ours, margin = view.right[candidate.label], _margin(context, MARGIN)
    gap = _paired(ours - level)
    if gap is not None and gap.high < -margin:
        yield (
            f"{candidate.label}: accuracy on the {split} set is {ours.mean():.3f}, that of {name} {level.mean():.3f} "
            f"(difference [{gap.low:+.3f}, {gap.high:+.3f}], and {-margin:+.3f} is the most that retraining explains): "
            "its training failed, or its file is not what it is named as"
        )
    elif split == "retain":
        yield from _worse_on_a_class(context, candidate, view=view, name=name, level=level)


def _anchor(context: AuditContext, candidate: Candidate, view: _View) -> tuple[str, Floats] | None:
    """Return what a retrained model is to be as good as: the originals' mean, else the best other retrained one."""
    if not len(view.labels):
        return None
    originals = context.with_role("original")
    if originals:
        return ", ".join(one.label for one in originals), np.mean([view.right[one.label] for one in originals], axis=0)
    others = context.references(candidate)
    if not others:
        return None
    best = max(others, key=lambda one: float(view.right[one.label].mean()))
    return best.label, view.right[best.label]


def _margin(context: AuditContext, margin: float) -> float:
    """Return how much accuracy may be missing, more for a model that was left with a small part of the data."""
    total = len(context.splits.dataset.train)
    kept = 1 - len(context.splits.forget.indices) / total if total else 0.0
    return min(margin / max(kept, margin), 1.0)


def _paired(gaps: Floats) -> metrics.Bounds | None:
    """Return the 95 % interval of a mean difference over the same examples; None below two of them."""
    n = len(gaps)
    if n < 2:
        return None
    variance = max(float(gaps.var(ddof=1)) / n, 1 / n**2)
    return metrics.student_interval(float(gaps.mean()), variance**0.5, n - 1)


def _worse_on_a_class(
    context: AuditContext, candidate: Candidate, *, view: _View, name: str, level: Floats
) -> Iterator[str]:
    """Yield the classes of the retain set that a retrained model does not know: it was trained without other data."""
    margin, lost = _margin(context, CLASS_MARGIN), []
    for number in np.unique(view.labels):
        rows = view.labels == number
        gap = _paired((view.right[candidate.label] - level)[rows]) if rows.sum() >= CLASS_EXAMPLES else None
        if gap is not None and gap.high < -margin:
            lost.append(str(number))
    if lost:
        yield (
            f"{candidate.label} does not know class {', '.join(lost)} of the retain set, which {name} knows: it was "
            "trained without other examples than those to be forgotten here"
        )


def _original_worse(candidate: Candidate, retrained: Sequence[str], retain: _View) -> Iterator[str]:
    """Yield that an original knows its training examples less well than every model that was retrained."""
    gaps = [_paired(retain.right[candidate.label] - retain.right[label]) for label in retrained if len(retain.labels)]
    highest = [gap.high for gap in gaps if gap is not None]
    if highest and max(highest) < -MARGIN:
        yield (
            f"{candidate.label}: accuracy on the retain set is {retain.right[candidate.label].mean():.3f}, below that "
            f"of every retrained model by {-max(highest):.3f} or more: it is no original to hold anything against"
        )


# ----- trained as the original was


def other_recipes(candidates: Sequence[Candidate]) -> Iterator[Note]:
    """Yield which retrained models were not trained as the original was, which is what they are to stand for."""
    known = [candidate for candidate in candidates if candidate.recipe]
    origin = next((each for role in ("original", "unlearned") for each in known if each.role == role), None)
    if origin is None:
        return
    retrained = ((each.label, each.training, origin.training) for each in known if each.role == "retrained")
    for told, labels in by_difference(retrained).items():
        text = (
            f"{', '.join(labels)}: not trained as {origin.label} was ({told}): a difference may come from that, and "
            "not from the forget set"
        )
        yield from (Note(text, label) for label in labels)


# ----- without the forget set


def _knows_a_forgotten_class(context: AuditContext, candidate: Candidate) -> Iterator[str]:
    """Yield that a model answers with a class that it has never seen an example of, if it was trained without it."""
    splits = context.splits
    labels = splits.dataset.train.labels.numpy()
    kept = np.bincount(np.delete(labels, splits.forget.indices), minlength=splits.dataset.classes)
    signals = context.signals(candidate, "forget")
    answers = signals.logits.argmax(axis=1)
    for number in np.unique(signals.labels[kept[signals.labels] == 0]):
        rows = signals.labels == number
        right = int((answers[rows] == number).sum())
        bounds = metrics.wilson_interval(right, int(rows.sum()))
        if bounds is not None and bounds.low > FORGOTTEN_CLASS:
            yield (
                f"{candidate.label} puts {right} of {rows.sum()} forget examples into class {number}, of which nothing "
                "is left to train on: was it trained without them, and from scratch?"
            )


def _tells_apart(context: AuditContext, candidate: Candidate) -> Iterator[str]:
    """Yield that a model's own losses tell forget from unseen examples, which they cannot if it saw neither."""
    forget, unseen = context.paired_forget(candidate), context.signals(candidate, "unseen")
    members, others = (
        -metrics.cross_entropy(found.logits.astype(np.float64), found.labels) for found in (forget, unseen)
    )
    bounds = metrics.auc_interval(members, others, SURE)
    if bounds is not None and bounds.low > 0.5 + ABOVE:
        yield told_apart(candidate.label, f"loss attack AUC {metrics.auc(members, others):.3f}", bounds)


def telling_apart(measurements: Sequence[Measurement]) -> Iterator[Note]:
    """Yield retrained models that relearn the forget set too fast for one that never saw it, or that an attack exposes.

    Args:
        measurements: of one audit.

    Yields:
        Doubts about retrained models.
    """
    for measurement in measurements:
        if measurement.role != "retrained" or measurement.value is None:
            continue
        if measurement.name == "rcd.ratio_to_unseen":
            found = measurement.details.get("quicker_than_unseen")
            bounds = metrics.Bounds(found["low"], found["high"]) if isinstance(found, dict) else None
            said = f"RCD / unseen {float(measurement.value):.3f}, forget examples quicker in {{:.3f}} of all pairs"
            text = said.format(found["value"]) if isinstance(found, dict) else said
        else:
            bounds, text = _widened(measurement), f"{measurement.name} {measurement.value:.3}"
        if bounds is not None and bounds.low > 0.5 + ABOVE:
            yield Note(told_apart(measurement.subject, text, bounds), measurement.subject)


def _widened(measurement: Measurement) -> metrics.Bounds | None:
    """Return the interval of a strong attack's AUC at the level of these checks, on the scale that it was made on."""
    interval = measurement.interval
    if measurement.name not in {f"mia.{attack}.auc" for attack in STRONG_ATTACKS} or interval is None:
        return None
    value = float(measurement.value or 0)
    factor = NORMAL[SURE] / NORMAL[0.95]
    if not 0 < interval.low < value < 1:
        return metrics.Bounds(interval.low, interval.high)
    low = np.log(value / (1 - value)) - factor * (
        np.log(value / (1 - value)) - np.log(interval.low / (1 - interval.low))
    )
    return metrics.Bounds(float(1 / (1 + np.exp(-low))), interval.high)


def told_apart(label: str, figure: str, bounds: metrics.Bounds) -> str:
    """Return in words that a retrained model itself tells forget from unseen examples, by this figure."""
    return (
        f"{label} itself tells forget from unseen examples ({figure}, interval [{bounds.low:.3f}, {bounds.high:.3f}]): "
        "was it trained without them, and from scratch?"
    )
