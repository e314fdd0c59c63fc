"""What may honestly be said of the curvature of the loss on the forget set, for every subject and a control.

A deep network's Hessian has eigenvalues near and below zero, so that lambda_max / lambda_min is no condition number
there; ratios that need no smallest eigenvalue take its place, and a condition number is only given where the objective
is convex. Nor is lambda_max one number per function: weights that BatchNorm makes equivalent differ in it by any
factor (scaled by s, curvature falls by s²), and decay of such weights alone raises it. The relative one has no such
freedom, which is why it stands beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.controls import with_control
from unlearn_audit.audit.measurement import measurement
from unlearn_audit.audit.null_rows import told_of_null_rows, with_null_row
from unlearn_audit.audit.reference import reference_of
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.config import SpectrumSettings
from unlearn_audit.curvature import Eigenpair, Spectrum, spectrum
from unlearn_audit.engine import derive_seed
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.relearning import Run, scoped
from unlearn_audit.report import Interval, Measurement

TENTH = 10
RESIDUAL = "the value and its residual: some eigenvalue lies there; not a sampling interval"


class Value(NamedTuple):
    """A number or the reason why there is none, with its interval."""

    value: float | None
    reason: str | None
    interval: Interval | None = None


def measure_spectrum(context: AuditContext, settings: SpectrumSettings, _search: SearchState) -> SectionResult:
    """Return `spectrum.*` of every subject and of a random initialisation."""
    candidates, lacks = with_control(context, wanted=settings.controls)
    told = told_of_null_rows(context.subjects, context.splits)
    return SectionResult(tuple(_measurements(context, settings, candidates)), (*lacks, *told))


def _measurements(
    context: AuditContext, settings: SpectrumSettings, candidates: Sequence[Candidate]
) -> Iterator[Measurement]:
    found = {candidate.label: _spectrum(context, settings, candidate) for candidate in candidates}
    generators = context.of_generators
    values = {label: _values(one, settings, generators=generators) for label, one in found.items()}
    for candidate in candidates:
        for name, value in values[candidate.label].items():
            others = [values[other.label][name].value for other in context.references(candidate)]
            yield measurement(
                f"spectrum.{name}",
                candidate,
                value.value,
                value.reason,
                n=len(context.examples("forget")),
                interval=value.interval,
                reference=reference_of([level for level in others if level is not None]),
                method=_method(settings, context.draws("forget").count if context.of_generators else None),
                details=_details(name, found[candidate.label], settings),
            )


def _spectrum(context: AuditContext, settings: SpectrumSettings, candidate: Candidate) -> Spectrum:
    """Measure one candidate."""
    if context.of_generators and settings.scope == "head":
        raise UsageError("--scope head is of classifiers: a generator ends in no linear layer; name parameters")
    model = with_null_row(candidate, context.splits)
    run = Run(model, context.examples("forget"), candidate.transform, candidate.task, draws=context.draws("forget"))
    run = scoped(run, settings.scope, compute=context.compute, weight_decay=settings.weight_decay)
    model, batch = run.prepared(context.compute)
    # One vector added to the weights of every class changes no softmax: a convex head's lowest curvature lies there.
    size = sum(parameter.numel() for parameter in model.parameters())
    flat = torch.ones(size, dtype=torch.float64, device=context.compute.device) if settings.scope == "head" else None
    return spectrum(
        model,
        batch,
        k=settings.eigenvalues,
        probes=settings.probes,
        tolerance=settings.tolerance,
        weight_decay=settings.weight_decay,
        flat=flat,
        seed=derive_seed(context.config.seed, "spectrum"),
        progress=context.progress,
        task=f"curvature of {candidate.label}",
    )


def _method(settings: SpectrumSettings, draws: int | None) -> str:
    decay = f" + {settings.weight_decay:g}/2·‖w‖²" if settings.weight_decay else ""
    loss = "cross-entropy" if draws is None else f"denoising error on {draws} fixed draws of noise an example"
    where = {"all": "all parameters", "head": "the classifier on fixed features, float64"}
    return (
        f"Hessian of the mean {loss}{decay} in {where.get(settings.scope, settings.scope)}, evaluation mode; "
        f"Lanczos with full reorthogonalisation to {settings.tolerance:g} of the largest eigenvalue, trace from "
        f"{settings.probes} random probes beside the {settings.eigenvalues} largest"
    )


def _values(found: Spectrum, settings: SpectrumSettings, *, generators: bool) -> dict[str, Value]:
    """Return every measurement's value, by name."""
    top, trace = found.ends.largest[0], found.trace.value
    bounds = metrics.student_interval(trace, found.trace.standard_error, found.trace.probes - 1)
    interval = Interval(low=bounds.low, high=bounds.high, method="Student t over random probes")
    why = _unresolved(top, "the largest eigenvalue") or _no_ratio_to(trace, bounds.low, top)
    size, ends = found.size, (bounds.low, bounds.high)
    return {
        "lambda_max": _eigenvalue(top, "the largest eigenvalue"),
        "relative_lambda_max": _eigenvalue(found.relative, "the largest relative one"),
        "lambda_min": _smallest(found, settings),
        "lambda_ratio_10": _tenth(found.ends.largest),
        "trace": Value(trace, None, interval),
        "concentration": _ratio(why, lambda t: top.value * size / t, trace, ends),
        "effective_rank": _ratio(why, lambda t: t / top.value, trace, ends),
        "condition_number": _condition_number(found, settings, generators=generators),
    }


def _eigenvalue(pair: Eigenpair, name: str) -> Value:
    """Return a converged eigenvalue of the upper end, which may be larger by its residual."""
    reason = _unresolved(pair, name)
    interval = Interval(low=pair.value, high=pair.value + pair.residual, method=RESIDUAL)
    return Value(None if reason else pair.value, reason, None if reason else interval)


def _smallest(found: Spectrum, settings: SpectrumSettings) -> Value:
    """Return the smallest eigenvalue, which may be lower by its residual, where that is small beside the largest."""
    pair, top = found.ends.smallest, abs(found.ends.largest[0].value)
    if not pair.converged and pair.residual > settings.tolerance * max(top, abs(pair.value)):
        return Value(None, _unresolved(pair, "the smallest eigenvalue"))
    interval = Interval(low=pair.value - pair.residual, high=pair.value, method=RESIDUAL)
    return Value(pair.value, None, interval)


def _unresolved(pair: Eigenpair, name: str) -> str | None:
    if pair.converged:
        return None
    return f"{name} did not converge: {pair.value:.4g} with a residual of {pair.residual:.2g}; raise --tolerance"


def _no_ratio_to(trace: float, low: float, top: Eigenpair) -> str | None:
    """Say why lambda_max and the trace have no ratio that means anything, or None where they have one."""
    if top.value <= 0:
        return f"the largest eigenvalue, {top.value:.4g}, is not positive"
    if low <= 0:
        return f"the trace, {trace:.4g}, is not positive beyond the error of its estimate; --probes takes more of them"
    return None


def _ratio(why: str | None, of_trace: Callable[[float], float], trace: float, ends: tuple[float, float]) -> Value:
    """Return a function of the trace with the ends of its interval, or why there is none."""
    if why:
        return Value(None, why)
    low, high = sorted(of_trace(end) for end in ends)
    return Value(of_trace(trace), None, Interval(low=low, high=high, method="of the trace, Student t"))


def _tenth(largest: Sequence[Eigenpair]) -> Value:
    """Return lambda_max / lambda_10."""
    if len(largest) < TENTH:
        return Value(None, f"only {len(largest)} eigenvalues are there; --eigenvalues {TENTH} asks for more")
    first, tenth = largest[0], largest[TENTH - 1]
    why = _unresolved(first, "the largest eigenvalue") or _unresolved(tenth, "the tenth eigenvalue")
    if not why and tenth.value <= tenth.residual:
        why = f"the tenth eigenvalue, {tenth.value:.4g}, is not positive beyond its residual, {tenth.residual:.2g}"
    if why:
        return Value(None, why)
    low, high = first.value / (tenth.value + tenth.residual), (first.value + first.residual) / tenth.value
    return Value(first.value / tenth.value, None, Interval(low=low, high=high, method=RESIDUAL))


def _condition_number(found: Spectrum, settings: SpectrumSettings, *, generators: bool) -> Value:
    """Return lambda_max / lambda_min where the objective is convex, else why there is none."""
    top, low = found.ends.largest[0], found.ends.smallest
    why = _unresolved(top, "the largest eigenvalue")
    if settings.scope != "head":
        why = "the objective is not convex in these parameters"
        why += "" if generators else "; give --scope head with a --weight-decay"
    elif not settings.weight_decay:
        why = "infinite: one vector added to the weights of every class changes no softmax; give a --weight-decay"
    return Value(None if why else top.value / low.value, why)


def _details(name: str, found: Spectrum, settings: SpectrumSettings) -> dict[str, Any]:
    """Return what stands behind a measurement."""
    largest, trace = found.ends.largest, found.trace
    top = largest[0].value
    return {
        "lambda_max": {
            "eigenvalues": [pair._asdict() for pair in largest],
            "products": found.products,
            "times_squared_norm": top * found.squared_norm,
            "squared_norm": found.squared_norm,
            "scale": "weights before a BatchNorm can be scaled by s with its statistics: the function stays, their "
            "curvature falls by s²; relative_lambda_max stays",
        },
        "relative_lambda_max": found.relative._asdict(),
        "lambda_min": found.ends.smallest._asdict() | {"exact_for_softmax": settings.scope == "head"},
        "lambda_ratio_10": {"ratios": [top / pair.value if pair.value > pair.residual else None for pair in largest]},
        "trace": {
            "standard_error": trace.standard_error,
            "probes": trace.probes,
            "in_largest": sum(pair.value for pair in largest),
        },
        "concentration": {"parameters": found.size},
        "effective_rank": {"parameters": found.size},
        "condition_number": {"weight_decay": settings.weight_decay},
    }[name]
