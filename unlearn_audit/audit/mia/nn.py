"""MIA-NN: what a model answers on a forgotten class, held against models that never saw the class.

A test of a model's outputs as a whole, not of the membership of an example, and no verdict: three numbers on the test
examples X_f of each forgotten class f, means over the classes. A reconstruction: of the attack of Ebrahimpour-Boroojeny
et al. 2025 only what reviews say of it is known (form A); forms B and C are ours.

Features are log-softmax over the retained classes alone (so that no accuracy on f leaks), clipped at -50. Classifiers
are support vector machines (RBF kernel, C = 1, gamma "scale") on standardised features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import reference_of
from unlearn_audit.data import whole_classes
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Interval, Measurement, MeasurementFlag
from unlearn_audit.streams import generator

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
CLIP = -50.0  # nats: an answer that is not given at all is as good as one that is hardly ever given
SPLITS = 5  # of the examples in halves
FEWEST_RETRAINED = 2  # models that a model is held against
FEWEST = 4  # examples of a class, two in each half
RESAMPLES = 1000


def retained_log_probabilities(logits: NDArray[np.floating[Any]], forgotten: Rows) -> Floats:
    """Return log-softmax over the classes that are not forgotten, at least -50, [n, C - F].

    Args:
        logits: [n, C].
        forgotten: [F] classes, taken out before the softmax.
    """
    return np.maximum(_log_softmax(np.delete(logits.astype(np.float64), forgotten, axis=1)), CLIP)


def _log_softmax(logits: Floats) -> Floats:
    found: Floats = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
    return found


def total_variation(ours: Floats, others: Sequence[Floats]) -> float:
    """Return the mean over the others of ½Σ_k|p_k - q_k|, p and q mean probabilities over the examples.

    Args:
        ours: [n, C] probabilities.
        others: each [n, C], of other models on the same examples.
    """
    return float(np.mean([0.5 * np.abs(ours.mean(axis=0) - other.mean(axis=0)).sum() for other in others]))


def total_variation_interval(ours: Floats, others: Sequence[Floats], rng: np.random.Generator) -> metrics.Bounds:
    """Return the 2.5th and 97.5th percentile of `total_variation` over resamples of the examples, the same for all."""
    n = len(ours)
    drawn = rng.integers(n, size=(RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n) / n
    distances = [0.5 * np.abs(weights @ (ours - other)).sum(axis=1) for other in others]
    low, high = np.percentile(np.mean(distances, axis=0), [2.5, 97.5])
    return metrics.Bounds(float(low), float(high))


def told_apart(ours: Floats, others: Sequence[Floats], halves: Sequence[tuple[Rows, Rows]]) -> float | None:
    """Return the AUC at which a classifier tells a model's features from other models', mean over the splits.

    Trained on one half of the examples (classes weighted alike), tested on the other; higher scores say "ours". Single
    networks are recognisable, so that .5 is not to be expected even of a retrained model.

    Args:
        ours: [n, d].
        others: each [n, d], on the same examples.
        halves: for each split the rows of the two halves.
    """
    areas = []
    for first, second in halves:
        rows = np.concatenate([ours[first], *(other[first] for other in others)])
        sides = np.repeat([1, 0], [len(first), len(first) * len(others)])
        score = _fitted(rows, sides)
        areas.append(metrics.auc(score(ours[second]), np.concatenate([score(other[second]) for other in others])))
    found = [area for area in areas if area is not None]
    return float(np.mean(found)) if found else None


def _fitted(rows: Floats, sides: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    """Return the decision function of a classifier, above 0 where it says 1."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    machine = SVC(C=1.0, kernel="rbf", gamma="scale", class_weight="balanced")
    model = make_pipeline(StandardScaler(), machine).fit(rows, sides)
    return lambda asked: np.asarray(model.decision_function(asked), dtype=np.float64)


class _Numbers(NamedTuple):
    """What one model has on all forgotten classes; None where there is no such number."""

    tv: float | None
    auc: float | None
    accept: float | None


@dataclass(frozen=True)
class _Class:
    """A forgotten class: its test examples, their splits, and what stands for its nearest class and for the others.

    Attributes:
        label: f.
        rows: [n] test examples of f.
        halves: the rows' positions, for each split.
        near: the class that retrained models take f for most often.
        near_rows: test examples of it.
        other_rows: as many of the other retained classes, or all there are.
    """

    label: int
    rows: Rows
    halves: tuple[tuple[Rows, Rows], ...]
    near: int
    near_rows: Rows
    other_rows: Rows


class _Question:
    """The forgotten classes of an audit, and what each model answers on their test examples."""

    def __init__(self, context: AuditContext) -> None:
        self.context = context
        self.forgotten = whole_classes(context.splits, wanted_by=WHOLE)
        self.labels = context.splits.dataset.test.labels.numpy()
        given = len(context.with_role("retrained"))
        if given < FEWEST_RETRAINED:
            raise UsageError(
                f"mia nn reads a model against retrained ones and needs at least two, three for their own level; there "
                f"{'is one' if given else 'are none'}: name each with --retrained FILE"
            )
        for label in np.setdiff1d(self.forgotten, self.labels):
            raise UsageError(f"mia nn: the test set has no example of class {label}, on which it would ask the models")
        self._logits: dict[str, NDArray[np.float32] | str] = {}
        self._numbers: dict[str, _Numbers | str] = {}
        self._judges: dict[tuple[str, int], Callable[[Floats], Floats]] = {}

    def logits(self, candidate: Candidate) -> NDArray[np.float32] | str:
        """Return a model's logits on the test set, or why it cannot be evaluated."""
        if candidate.label not in self._logits:
            try:
                self._logits[candidate.label] = self.context.signals(candidate, "test").logits
            except MeasurementError as problem:
                self._logits[candidate.label] = f"not evaluated: {problem}"
        return self._logits[candidate.label]

    def _known(self, candidate: Candidate) -> NDArray[np.float32]:
        found = self.logits(candidate)
        if isinstance(found, str):
            raise MeasurementError(found)
        return found

    def features(self, candidate: Candidate, rows: Rows) -> Floats:
        """Return what classifiers see of a model's answers on some test examples."""
        return retained_log_probabilities(self._known(candidate)[rows], self.forgotten)

    def probabilities(self, candidate: Candidate, rows: Rows) -> Floats:
        """Return a model's probabilities of all classes on some test examples."""
        return np.exp(_log_softmax(self._known(candidate)[rows].astype(np.float64)))

    @cached_property
    def retrained(self) -> tuple[Candidate, ...]:
        """The retrained models whose answers are numbers."""
        return tuple(one for one in self.context.with_role("retrained") if not isinstance(self.logits(one), str))

    @cached_property
    def classes(self) -> tuple[_Class, ...]:
        """What is asked of each forgotten class."""
        return tuple(self._class(int(label)) for label in self.forgotten)

    def _class(self, label: int) -> _Class:
        rows = np.flatnonzero(self.labels == label)
        kept = np.delete(np.arange(self.context.splits.dataset.classes), self.forgotten)
        said = [kept[self.features(one, rows).argmax(axis=1)] for one in self.retrained]
        near = int(np.bincount(np.concatenate(said)).argmax())
        draws = generator("nn", self.context.config.seed, label)
        orders = [draws.permutation(len(rows)) for _ in range(SPLITS)]
        near_rows = np.flatnonzero(self.labels == near)
        others = np.flatnonzero(np.isin(self.labels, np.setdiff1d(kept, near)))
        chosen = np.sort(draws.permutation(others)[: len(near_rows)])
        return _Class(
            label,
            rows,
            tuple((order[: len(rows) // 2], order[len(rows) // 2 :]) for order in orders),
            near,
            near_rows,
            chosen,
        )

    def others(self, candidate: Candidate) -> tuple[Candidate, ...]:
        """Return the retrained models that a model is held against: all but itself."""
        return tuple(one for one in self.retrained if one.label != candidate.label)

    def numbers(self, candidate: Candidate) -> _Numbers | str:
        """Return all three numbers of a model, or why there are none."""
        if candidate.label not in self._numbers:
            self._numbers[candidate.label] = self._taken(candidate)
        return self._numbers[candidate.label]

    def _taken(self, candidate: Candidate) -> _Numbers | str:
        logits, others = self.logits(candidate), self.others(candidate)
        if isinstance(logits, str):
            return logits
        if len(others) < FEWEST_RETRAINED:
            return TOO_FEW
        parts = [self._of_class(candidate, others, each) for each in self.classes]
        return _Numbers(*(None if None in each else float(np.mean(each)) for each in zip(*parts, strict=True)))

    def levels(self, candidate: Candidate) -> list[_Numbers]:
        """Return the numbers of each other retrained model against the rest, where these are enough."""
        known = [self.numbers(other) for other in self.others(candidate)]
        return [each for each in known if not isinstance(each, str)]

    def _of_class(self, candidate: Candidate, others: Sequence[Candidate], asked: _Class) -> _Numbers:
        rows, features = asked.rows, self.features(candidate, asked.rows)
        accepted = [self._judge(other, asked) for other in others]
        return _Numbers(
            total_variation(self.probabilities(candidate, rows), [self.probabilities(one, rows) for one in others]),
            told_apart(features, [self.features(one, rows) for one in others], asked.halves)
            if len(rows) >= FEWEST
            else None,
            float(np.mean([(judge(features) > 0).mean() for judge in accepted if judge is not None]))
            if None not in accepted
            else None,
        )

    def _judge(self, retrained: Candidate, asked: _Class) -> Callable[[Floats], Floats] | None:
        """Return what tells, by a retrained model's answers, the nearest class from the others; None without one."""
        if not len(asked.near_rows) or not len(asked.other_rows):
            return None
        key = retrained.label, asked.label
        if key not in self._judges:
            rows = np.concatenate([asked.near_rows, asked.other_rows])
            sides = np.repeat([1, 0], [len(asked.near_rows), len(asked.other_rows)])
            self._judges[key] = _fitted(self.features(retrained, rows), sides)
        return self._judges[key]


WHOLE = "mia nn needs whole classes: it asks what models answer on test examples of a class that was forgotten"
LEGACY = "the published form, as far as it is known; too noisy to rank methods by, kept for comparison"
METHODS: Mapping[str, str] = {
    "nn.tv": "½Σ_k|p_k - q_k| of mean probabilities on test examples of the forgotten classes, mean over the retrained "
    "models (form C); never negative, so that the level between retrained models is the target, and not 0",
    "nn.auc": "AUC of a support vector machine that tells log-softmax over the retained classes, on test examples of "
    "the forgotten ones, from the retrained models', halves in turn (form B); the retrained models' own is not .5",
    "nn.accept": "share of the forgotten classes' test examples that a support vector machine on a retrained model's "
    "outputs takes for the class that they resemble most (form A, Ebrahimpour-Boroojeny et al. 2025, reconstructed)",
}


def measure_nn(context: AuditContext) -> Iterator[Measurement]:
    """Yield `nn.tv`, `nn.auc` and `nn.accept` of every subject, read against each retrained model's against the others.

    Without whole classes to forget, two retrained models or test examples to ask them on, all are null in an audit.

    Raises:
        UsageError: likewise, where nothing but this was asked for.
    """
    try:
        question = _Question(context)
    except UsageError as problem:
        if context.alone:
            raise
        for candidate in context.subjects:
            for name, method in METHODS.items():
                yield measurement(name, candidate, None, str(problem), n=0, method=method, flags=_flags(name))
        return
    for index, candidate in enumerate(context.subjects):
        context.progress("MIA-NN", index, len(context.subjects), candidate.label)
        question.numbers(candidate)
    context.progress("MIA-NN", len(context.subjects), len(context.subjects))
    for candidate in context.subjects:
        yield from _measurements(question, candidate)


def _flags(name: str) -> tuple[MeasurementFlag, ...]:
    return ("legacy",) if name == "nn.accept" else ()


def _measurements(question: _Question, candidate: Candidate) -> Iterator[Measurement]:
    """Yield the three numbers of one subject."""
    numbers, levels = question.numbers(candidate), question.levels(candidate)
    asked = question.classes if question.retrained else ()
    for name, method in METHODS.items():
        key = name.removeprefix("nn.")
        value = None if isinstance(numbers, str) else getattr(numbers, key)
        known = [level for level in (getattr(each, key) for each in levels) if level is not None]
        reference = reference_of(known)
        details: dict[str, Any] = {
            "taken_for": {str(each.label): each.near for each in asked},
            "retrained_models": len(question.others(candidate)),
            "retrained_values": known,
        }
        if value is not None and reference is not None:
            details["difference"] = value - reference.value
        flags = _flags(name)
        yield measurement(
            name,
            candidate,
            value,
            numbers if isinstance(numbers, str) else NOTHING_TO_ASK,
            n=sum(len(each.rows) for each in asked),
            method=method,
            interval=_interval(question, candidate) if name == "nn.tv" and value is not None else None,
            reference=reference,
            flags=flags,
            details=details | ({"legacy": LEGACY} if flags else {}),
        )


TOO_FEW = "fewer than two other retrained models whose outputs are finite"
NOTHING_TO_ASK = f"too few test examples (below {FEWEST} of a forgotten class, or no two retained classes)"


def _interval(question: _Question, candidate: Candidate) -> Interval | None:
    """Return where the total variation may lie, over the examples; of several classes there is none."""
    if len(question.classes) != 1:
        return None
    rows = question.classes[0].rows
    bounds = total_variation_interval(
        question.probabilities(candidate, rows),
        [question.probabilities(one, rows) for one in question.others(candidate)],
        generator("bootstrap", question.context.config.seed, "nn"),
    )
    return interval(bounds, f"percentiles of {RESAMPLES} resamples of the examples")
