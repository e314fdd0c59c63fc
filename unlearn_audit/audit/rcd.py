"""The relearning convergence delay of every subject and control, raw and against the unseen twin."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics, relearning
from unlearn_audit.audit.bench import Bench
from unlearn_audit.audit.compare import compared, difference_details, reference_of
from unlearn_audit.config import RcdSettings
from unlearn_audit.data import Examples
from unlearn_audit.engine import derive_seed
from unlearn_audit.recipes import new_model
from unlearn_audit.relearning import Curve, Relearned, Run
from unlearn_audit.report import Interval, Measurement
from unlearn_audit.subjects import Candidate

__all__ = ["measure_rcd"]

RANDOM = "random init"
LONGEST_CURVE = 2000  # points kept in the details of a measurement
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Relearnt:
    """One candidate's curves: on the measured forget set, on its paired part, and on the unseen twin."""

    candidate: Candidate
    forget: Curve
    paired: Curve
    unseen: Curve

    @property
    def ratio(self) -> float | None:
        """RCD on the paired forget examples / RCD on their twin, floor zero; None when a curve diverged."""
        above, below = relearning.rcd(self.paired), relearning.rcd(self.unseen)
        return above / below if above is not None and below is not None and below > 0 else None


@dataclass(frozen=True)
class Field:
    """All candidates' curves together: what one is compared with."""

    bench: Bench
    taken: tuple[Relearnt, ...]
    relearned: Relearned
    floor: float
    method: str
    log_ratios: dict[str, Floats]

    def references(self, one: Relearnt) -> list[Relearnt]:
        """Return the retrained models' curves, without the candidate's own."""
        labels = {candidate.label for candidate in self.bench.references(one.candidate)}
        return [other for other in self.taken if other.candidate.label in labels]


def measure_rcd(bench: Bench, settings: RcdSettings) -> Iterator[Measurement]:
    """Yield `rcd.raw` and `rcd.ratio_to_unseen` of every subject and of a random initialisation."""
    candidates = list(bench.subjects)
    if settings.controls:
        candidates.append(_random_control(bench))
    taken, relearned = _relearn(bench, settings, candidates)
    floor, floor_name = _floor(settings.floor, [curve for one in taken for curve in (one.forget, one.unseen)])
    method = _method(settings, relearned, floor_name)
    field = Field(bench, taken, relearned, floor, method, _resampled(bench, settings, taken))
    for one in taken:
        bench.limitations += _not_descents(one)
        yield _raw(field, one)
        yield _ratio(field, one)


def _random_control(bench: Bench) -> Candidate:
    """Return the first subject's architecture with a fresh initialisation: what a model knows that knows nothing."""
    first = bench.subjects[0]
    seed = derive_seed(bench.config.seed, "random control")
    model = bench.compute.place(new_model(first.spec, bench.splits.dataset, seed, allow_code=True)).eval()
    taken = {candidate.label for candidate in bench.subjects}
    label = next(name for name in (RANDOM, *(f"{RANDOM}-{n}" for n in range(2, len(taken) + 2))) if name not in taken)
    return replace(first, label=label, role="control", path="", sha256="0" * 64, model=model, notes=())


def _relearn(
    bench: Bench, settings: RcdSettings, candidates: Sequence[Candidate]
) -> tuple[tuple[Relearnt, ...], Relearned]:
    """Take all trajectories at one step size; a forget set that has its whole twin is relearned once."""
    splits = bench.splits
    sets: list[Examples] = [bench.examples("forget"), bench.examples("unseen")]
    if not splits.unseen.complete:
        sets.append(splits.paired_examples)
    runs = [Run(candidate.model, examples, candidate.transform) for candidate in candidates for examples in sets]
    relearned = relearning.relearn_all(
        runs,
        steps=settings.steps,
        step_size=settings.step_size,
        algorithm=relearning.Algorithm(settings.optimizer),
        compute=bench.compute,
        progress=bench.progress,
    )
    width = len(sets)
    rows = [relearned.curves[width * index : width * (index + 1)] for index in range(len(candidates))]
    taken = tuple(
        Relearnt(candidate, row[0], row[-1] if width == 3 else row[0], row[1])
        for candidate, row in zip(candidates, rows, strict=True)
    )
    return taken, relearned


def _floor(asked: str | float, curves: Sequence[Curve]) -> tuple[float, str]:
    """Return the floor, common to all curves, and its name."""
    if asked == "best":
        lowest = min((float(curve.loss.min()) for curve in curves if len(curve.loss)), default=0.0)
        return lowest, f"best ({lowest:.4g})"
    return (0.0, "zero") if asked == "zero" else (float(asked), f"{float(asked):.4g}")


def _method(settings: RcdSettings, relearned: Relearned, floor: str) -> str:
    kind = {"gd": "full-batch GD", "adam": "full-batch Adam"}[settings.optimizer]
    return f"{kind}, step {relearned.step_size:.4g}, K = {settings.steps}, floor {floor}, frozen BatchNorm"


def _resampled(bench: Bench, settings: RcdSettings, taken: Sequence[Relearnt]) -> dict[str, Floats]:
    """Return log ratios for resampled examples of both sets, the same ones for every candidate, by label."""
    whole = [one for one in taken if one.ratio is not None and one.ratio > 0]
    if not whole or len(whole[0].unseen.areas) < 2:
        return {}
    found = metrics.bootstrap_ratio(
        np.stack([one.paired.areas for one in whole]),
        np.stack([one.unseen.areas for one in whole]),
        seed=derive_seed(bench.config.seed, "bootstrap"),
        resamples=settings.resamples,
    )
    if found is None or (found <= 0).any():
        return {}
    return {one.candidate.label: np.log(found[:, index]) for index, one in enumerate(whole)}


def _not_descents(one: Relearnt) -> list[str]:
    """Say which curves are no descents, since their sums are not areas under a relearning curve."""
    return [
        f"{one.candidate.label} relearning its {name}: {relearning.status(curve)}"
        for name, curve in (("forget set", one.forget), ("unseen twin", one.unseen))
        if curve.diverged_at is not None or curve.rises_from is not None
    ]


def _raw(field: Field, one: Relearnt) -> Measurement:
    """Return RCD_K on the measured forget set (Eq. 4)."""
    curve = one.forget
    value = relearning.rcd(curve, floor=field.floor)
    levels = [relearning.rcd(other.forget, floor=field.floor) for other in field.references(one)]
    return Measurement(
        name="rcd.raw",
        subject=one.candidate.label,
        role=one.candidate.role,
        value=value,
        reason=None if value is not None else relearning.status(curve),
        unit="nats x steps",
        direction="compare to retrained",
        n=len(curve.areas),
        interval=_area_interval(curve, field.floor) if value is not None else None,
        reference=reference_of([level for level in levels if level is not None]),
        method=field.method,
        details={
            "status": relearning.status(curve),
            "step_size": field.relearned.step_size,
            "loss": curve.loss.tolist() if len(curve.loss) <= LONGEST_CURVE else None,
            "error": curve.error.tolist() if len(curve.error) <= LONGEST_CURVE else None,
            "error_sum": float(curve.error.sum()) if value is not None else None,
            "on_unseen": relearning.rcd(one.unseen, floor=field.floor),
            "passes": {"forward": curve.forwards, "backward": curve.backwards},
            "step_size_search": field.relearned.search._asdict(),
        },
    )


def _area_interval(curve: Curve, floor: float) -> Interval | None:
    """Return the interval of a sum over examples drawn from the same source as the forget set."""
    n = len(curve.areas)
    if n < 2:
        return None
    error = float(curve.areas.std(ddof=1) / np.sqrt(n))
    ends = metrics.student_interval(float(curve.areas.mean()) - len(curve.loss) * floor, error, n - 1)
    return Interval(low=ends.low, high=ends.high, method="Student t over the examples' own areas")


def _ratio(field: Field, one: Relearnt) -> Measurement:
    """Return RCD_K(forget) / RCD_K(unseen twin), same model, same step, floor zero."""
    label, value = one.candidate.label, one.ratio
    levels = {other.candidate.label: other.ratio for other in field.references(one) if other.ratio}
    reason = None if value is not None else _why_no_ratio(one)
    return Measurement(
        name="rcd.ratio_to_unseen",
        subject=label,
        role=one.candidate.role,
        value=value,
        reason=reason,
        unit="ratio",
        direction="compare to retrained",
        n=len(one.paired.areas),
        interval=_ratio_interval(field.log_ratios.get(label)),
        reference=reference_of(list(levels.values())),
        method=field.method.replace(f"floor {field.method.split('floor ')[1].split(',')[0]}", "floor zero"),
        details={
            "tail_share_forget": metrics.tail_share(one.paired.areas) if value is not None else None,
            "tail_share_unseen": metrics.tail_share(one.unseen.areas) if value is not None else None,
            "ratio_of_medians": metrics.ratio_of_medians(one.paired.areas, one.unseen.areas)
            if value is not None
            else None,
            "difference": _ratio_difference(field, one, levels),
            "status_unseen": relearning.status(one.unseen),
        },
    )


def _why_no_ratio(one: Relearnt) -> str:
    for name, curve in (("forget set", one.paired), ("unseen twin", one.unseen)):
        if curve.diverged_at is not None:
            return f"relearning the {name} {relearning.status(curve)}"
    return "the area under the unseen twin's curve is zero"


def _ratio_interval(log_ratios: Floats | None) -> Interval | None:
    if log_ratios is None:
        return None
    low, high = np.exp(np.quantile(log_ratios, [0.025, 0.975]))
    return Interval(low=float(low), high=float(high), method="percentile bootstrap over examples of both sets")


def _ratio_difference(field: Field, one: Relearnt, levels: Mapping[str, float]) -> dict[str, object] | None:
    """Compare log ratios with the retrained models': paired over examples, plus the spread of their seeds."""
    known = [label for label in levels if label in field.log_ratios]
    if one.ratio is None or one.candidate.label not in field.log_ratios or len(known) < 2:
        return None
    ours = field.log_ratios[one.candidate.label]
    theirs = np.mean([field.log_ratios[label] for label in known], axis=0)
    difference = compared(
        float(np.log(one.ratio)), [float(np.log(levels[label])) for label in known], float((ours - theirs).var(ddof=1))
    )
    return difference_details(difference, "log ratio")
