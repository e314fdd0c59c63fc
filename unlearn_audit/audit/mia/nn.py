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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import reference_of
from unlearn_audit.data import whole_classes
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Interval, Measurement, MeasurementFlag, Reference
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
    """Return an interval of `total_variation`, within [0, 1]: percentiles over resamples, the same for all, reflected.

    A distance of means is the larger the fewer examples there are, and that of resamples once more so. Reflection at
    the value takes this away; the value itself is always held.
    """
    n = len(ours)
    drawn = rng.integers(n, size=(RESAMPLES, n)) + n * np.arange(RESAMPLES)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n) / n
    distances = [0.5 * np.abs(weights @ (ours - other)).sum(axis=1) for other in others]
    value = total_variation(ours, others)
    low, high = 2 * value - np.percentile(np.mean(distances, axis=0), [97.5, 2.5])
    return metrics.Bounds(max(0.0, min(float(low), value)), min(1.0, max(float(high), value)))


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
                f"mia nn reads a model against retrained ones and needs at least two, three for the spread of their "
                f"level; there {'is one' if given else 'are none'}: name each with --retrained FILE"
            )
        for label in np.setdiff1d(self.forgotten, self.labels):
            raise UsageError(f"mia nn: the test set has no example of class {label}, on which it would ask the models")
        self._logits: dict[str, NDArray[np.float32] | str] = {}
        self._numbers: dict[tuple[str, ...], float | None] = {}
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

    def refusal(self, candidate: Candidate) -> str | None:
        """Return why a model has no numbers; None where it has."""
        logits, given = self.logits(candidate), len(self.context.references(candidate))
        if isinstance(logits, str):
            return logits
        if given < FEWEST_RETRAINED:
            return f"it needs two other retrained models to be held against, and there is {('none', 'one')[given]}"
        return TOO_FEW if len(self.others(candidate)) < FEWEST_RETRAINED else None

    def value(self, key: str, candidate: Candidate) -> float | None:
        """Return a number of a model against the retrained ones; None where there is none.

        One among R - 1 is told apart more easily than one among R. A retrained model has only R - 1 beside it, so that
        any other one is told from R - 1 at a time, and the mean is taken.
        """
        others = self.others(candidate)
        if key != "auc" or candidate.role == "retrained":
            return self._number(key, candidate, others)
        return _mean([self._number(key, candidate, _without(others, one)) for one in others])

    def levels(self, key: str, candidate: Candidate) -> list[float]:
        """Return the number of each other retrained model against the rest of them, where the candidate has no part.

        None for the AUC of a retrained model, which is told from one model more than these would be.
        """
        others = self.others(candidate)
        if len(others) < FEWEST_RETRAINED or (key == "auc" and candidate.role == "retrained"):
            return []
        found = [self._number(key, one, _without(others, one)) for one in others]
        return [each for each in found if each is not None]

    def _number(self, key: str, candidate: Candidate, others: Sequence[Candidate]) -> float | None:
        """Return the mean over the classes of a model's number against some retrained models."""
        asked = (key, candidate.label, *(one.label for one in others))
        if asked not in self._numbers:
            self._numbers[asked] = _mean([self._of_class(key, candidate, others, each) for each in self.classes])
        return self._numbers[asked]

    def _of_class(self, key: str, candidate: Candidate, others: Sequence[Candidate], asked: _Class) -> float | None:
        rows = asked.rows
        if key == "tv":
            ours, *theirs = (self.probabilities(one, rows) for one in (candidate, *others))
            return total_variation(ours, theirs)
        features, *told = (self.features(one, rows) for one in (candidate, *others))
        if key == "auc":
            return told_apart(features, told, asked.halves) if len(rows) >= FEWEST else None
        judges = [self._judge(other, asked) for other in others]
        return _mean([None if judge is None else float((judge(features) > 0).mean()) for judge in judges])

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


def _without(models: Sequence[Candidate], left_out: Candidate) -> tuple[Candidate, ...]:
    return tuple(one for one in models if one is not left_out)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where one of them is missing."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


WHOLE = "mia nn needs whole classes: it asks what models answer on test examples of a class that was forgotten"
LEGACY = "the published form, as far as it is known; too noisy to rank methods by, kept for comparison"
METHODS: Mapping[str, str] = {
    "nn.tv": "½Σ_k|p_k - q_k| of mean probabilities on test examples of the forgotten classes, mean over the retrained "
    "models (form C); never negative, so that the level between retrained models is the target, and not 0",
    "nn.auc": "AUC of a support vector machine that tells log-softmax over the retained classes, on test examples of "
    "the forgotten ones, from the retrained models', five random halvings, fitted on one half and tried on the other "
    "(form B), from all of these but one at a time; the retrained models' own is not .5",
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
        if question.refusal(candidate) is None:
            question.value("auc", candidate)  # which takes the time
    context.progress("MIA-NN", len(context.subjects), len(context.subjects))
    for candidate in context.subjects:
        yield from _measurements(question, candidate)


def _flags(name: str) -> tuple[MeasurementFlag, ...]:
    return ("legacy",) if name == "nn.accept" else ()


def _measurements(question: _Question, candidate: Candidate) -> Iterator[Measurement]:
    """Yield the three numbers of one subject."""
    refusal = question.refusal(candidate)
    asked = question.classes if question.retrained else ()
    for name, method in METHODS.items():
        key = name.removeprefix("nn.")
        value = None if refusal else question.value(key, candidate)
        known = question.levels(key, candidate) if value is not None else []
        reference = _reference(key, known)
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
            refusal or NOTHING_TO_ASK,
            n=sum(len(each.rows) for each in asked),
            method=method,
            interval=_interval(question, candidate) if name == "nn.tv" and value is not None else None,
            reference=reference,
            flags=flags,
            details=details | ({"legacy": LEGACY} if flags else {}),
        )


def _reference(key: str, levels: Sequence[float]) -> Reference | None:
    """Return the retrained models' level; two have one pair, and so no spread.

    The total variation of a pair counts for both of its models, which brings their levels together.
    """
    if len(levels) == 2:
        return Reference(role="retrained", value=float(np.mean(levels)), n=2)
    return reference_of(metrics.as_if_apart(np.array(levels)).tolist() if key == "tv" and levels else levels)


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
    return interval(bounds, f"reflected percentiles of {RESAMPLES} resamples of the examples")
