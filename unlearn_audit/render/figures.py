"""The pictures of a report: relearning curves, RCD against utility, step size and K, ROC curves, spectra."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.render import semilog
from unlearn_audit.render.arrays import Arrays, curve_name, score_names
from unlearn_audit.render.charts import Axis, Chart, Guide
from unlearn_audit.render.details import RatioDetails, RcdDetails, SpectrumDetails, details_of
from unlearn_audit.render.looks import Look
from unlearn_audit.render.untrusted import printable
from unlearn_audit.report import AuditReport, Measurement

Floats = NDArray[np.float64]
RATES = (Guide(1e-3, "0.1 %"), Guide(1e-2, "1 %"))
MOST_CORNERS = 300  # of a ROC curve
FAR = 20  # times the smallest value: where a linear axis shows little
SAME = 1e-6  # how far what pictures are made of may be from the report's number, when they belong together


def _of(report: AuditReport, name: str) -> list[Measurement]:
    return [measurement for measurement in report.measurements if measurement.name == name]


def _number(measurement: Measurement | None) -> float | None:
    value = measurement.value if measurement else None
    return float(value) if isinstance(value, int | float) else None


def _unit(report: AuditReport, name: str) -> str:
    """Return the unit of a metric in this report."""
    return next((measurement.unit for measurement in _of(report, name)), "")


# ----- relearning


def relearning_curves(report: AuditReport, arrays: Arrays) -> tuple[Chart, ...]:
    """Return the loss while every model relearns the forget set, and its unseen twin, on the same axes."""
    look = Look(report)
    forget, twin = (
        [look.series(label, range(len(loss)), loss) for label, loss in curves.items() if loss]
        for curves in (_forget_losses(report, arrays), _twin_losses(report, arrays))
    )
    highest = max((y for one in (*forget, *twin) for y in one.ys if np.isfinite(y)), default=None)
    steps, unit = Axis("relearning steps"), _unit(report, "rcd.raw").removesuffix(" x steps")
    found = []
    for name, said, series in (
        ("forget set", "The area under a curve, above the floor, is the model's RCD. A model that kept what it was to "
         "forget starts low or falls fast.", forget),
        ("unseen twin", "Held-out examples like the forget set's, learned by the same models: one that remembers the "
         "forget set learns it faster than these.", twin),
    ):  # fmt: skip
        if series:
            loss = Axis(f"loss on the {name}, {unit}", high=highest if forget and twin else None)
            found.append(Chart(f"Relearning the {name}", said, steps, loss, tuple(series)))
    return tuple(found)


def _forget_losses(report: AuditReport, arrays: Arrays) -> dict[str, Sequence[float]]:
    """Return the curves on the forget set by subject."""
    return {
        one.subject: details_of(one, RcdDetails).loss or _long(arrays, curve_name(one.subject))
        for one in _of(report, "rcd.raw")
    }


def _twin_losses(report: AuditReport, arrays: Arrays) -> dict[str, Sequence[float]]:
    """Return the curves on the unseen twin by subject."""
    return {
        one.subject: details_of(one, RatioDetails).loss_unseen or _long(arrays, curve_name(one.subject, "unseen"))
        for one in _of(report, "rcd.ratio_to_unseen")
    }


def _long(arrays: Arrays, name: str) -> list[float]:
    found: list[float] = arrays.found.get(name, np.zeros(0)).tolist()
    return found


def rcd_by_steps(report: AuditReport, arrays: Arrays) -> tuple[Chart, ...]:
    """Return RCD_K over K, where the curves and floors that a report tells give the RCD that it has."""
    look, losses = Look(report), _forget_losses(report, arrays)
    floors = [losses[label] for label, role in look.roles.items() if role == "original" and losses.get(label)]
    series = []
    for measurement in _of(report, "rcd.raw"):
        details, label, value = details_of(measurement, RcdDetails), measurement.subject, _number(measurement)
        curve = details.objective or _long(arrays, curve_name(label, "forget", "objective")) or losses[label]
        floor = details.floor.value if details.floor else None
        candidates = [np.full(len(curve), floor)] if floor is not None else []
        candidates += [np.array(each[: len(curve)]) for each in floors if len(each) >= len(curve)]
        sums = (np.cumsum(np.array(curve) - each) for each in candidates)
        found = next((each for each in sums if len(each) and value is not None and _same(each[-1], value)), None)
        if found is not None and len(found) > 1 and found.any():  # an original that is the floor has no area
            series.append(look.series(label, range(1, len(found)), found[1:].tolist()))
    if not series:
        return ()
    return (
        Chart(
            "RCD against the number of steps",
            "The area under each relearning curve up to step K. Where lines cross, the ranking of the models depends "
            "on K.",
            Axis("relearning steps K", log=True),
            Axis(f"RCD up to K, {_unit(report, 'rcd.raw')}", log=all(min(one.ys) > 0 for one in series)),
            tuple(series),
        ),
    )


def _same(found: float, told: float) -> bool:
    return abs(found - told) <= SAME * max(1.0, abs(told))


def gap_against_rcd(report: AuditReport) -> tuple[Chart, ...]:
    """Return RCD, raw and against the unseen twin, over the average gap: privacy over utility."""
    names = {"rcd.raw": f"RCD, {_unit(report, 'rcd.raw')}", "rcd.ratio_to_unseen": "RCD / RCD of the unseen twin"}
    found = (_over_gap(report, name, title) for name, title in names.items())
    return tuple(chart for chart in found if chart is not None)


def _over_gap(report: AuditReport, name: str, title: str) -> Chart | None:
    look = Look(report)
    series = []
    for measurement in _of(report, name):
        gap, value = _number(report.find("gap.average", measurement.subject)), _number(measurement)
        if gap is not None and value is not None:
            interval = measurement.interval
            ends = (interval.low, interval.high) if interval else None
            series.append(look.series(measurement.subject, [gap], [value])._replace(joined=False, ends=(ends,)))
    if not series:
        return None
    return Chart(
        f"Average gap against {title.partition(',')[0]}",
        "To the left: accuracies like the retrained models'. Up and down: to be read against the retrained models, "
        "higher is not simply better. Bars are intervals over examples.",
        Axis("average gap to the retrained models", log=_spread_out([one.xs[0] for one in series])),
        Axis(title),
        tuple(series),
    )


def _spread_out(values: Sequence[float]) -> bool:
    """Return whether values need a logarithmic axis, since the original's would press all others together."""
    return min(values) > 0 and max(values) > FAR * min(values)


def step_sizes(report: AuditReport) -> tuple[Chart, ...]:
    """Return RCD over the step size, where several were asked for."""
    look = Look(report)
    series = []
    for measurement in _of(report, "rcd.raw"):
        pairs = [
            (entry.step_size, entry.value)
            for entry in details_of(measurement, RcdDetails).step_sizes or ()
            if entry.value is not None
        ]
        if len(pairs) > 1:
            xs, ys = zip(*sorted(pairs), strict=True)
            series.append(look.series(measurement.subject, xs, ys))
    if not series:
        return ()
    return (
        Chart(
            "RCD against the step size",
            "Where lines cross, the ranking of the models depends on the step size; at very small steps RCD is "
            "(K + 1) x the initial loss.",
            Axis("step size", log=True),
            Axis(f"RCD, {_unit(report, 'rcd.raw')}"),
            tuple(series),
        ),
    )


def spectrum(report: AuditReport) -> tuple[Chart, ...]:
    """Return the largest eigenvalues of the Hessian on the forget set by their rank, those that converged."""
    look = Look(report)
    series = []
    for measurement in _of(report, "spectrum.lambda_max"):
        eigenvalues = details_of(measurement, SpectrumDetails).eigenvalues
        pairs = [(float(rank), one.value) for rank, one in enumerate(eigenvalues, start=1) if one.converged]
        if len(pairs) > 1:
            xs, ys = zip(*pairs, strict=True)
            series.append(look.series(measurement.subject, xs, ys))
    if not series:
        return ()
    values = [value for one in series for value in one.ys]
    return (
        Chart(
            "Largest eigenvalues of the Hessian",
            "Curvature of the loss on the forget set where each model stands. Weights that BatchNorm makes equivalent "
            "differ in it.",
            Axis("rank", low=0.5),
            Axis(f"eigenvalue, {_unit(report, 'spectrum.lambda_max')}", log=_spread_out(values)),
            tuple(series),
        ),
    )


def truncation(report: AuditReport) -> tuple[Chart, ...]:
    """Return the excess over the floor on a logarithmic axis, with the verdict on its decay."""
    look = Look(report)
    curves = semilog.series_of(report)
    # A curve's label is what is fit to print of its subject's.
    subjects = {printable(label): label for label in look.labels}
    drawn = [look.series(subjects[one.label], one.steps, one.values)._replace(note=one.note) for one in curves]
    return (semilog.chart(drawn, title=semilog.TITLE, described=semilog.alternative(curves)),) if drawn else ()


# ----- membership inference


def roc_curves(report: AuditReport, arrays: Arrays) -> tuple[Chart, ...]:
    """Return one picture per attack whose scores lie beside the report and give the AUC that the report has."""
    look = Look(report)
    found: dict[str, list[tuple[str, Floats, Floats]]] = {}
    for attack, measurement, members, non_members in _scores(report, arrays):
        if _belongs(measurement, members, non_members):
            found.setdefault(attack, []).append((measurement.subject, members, non_members))
    return tuple(_roc_chart(attack, curves, look) for attack, curves in found.items())


def foreign_scores(report: AuditReport, arrays: Arrays) -> tuple[str, ...]:
    """Say which scores beside the report are not those that it was made of."""
    return tuple(
        f"the scores of {measurement.name} of {measurement.subject} beside the report do not give its value: "
        "they are of another run, and their ROC curve is left out"
        for _, measurement, members, non_members in _scores(report, arrays)
        if not _belongs(measurement, members, non_members)
    )


def _scores(report: AuditReport, arrays: Arrays) -> Iterator[tuple[str, Measurement, Floats, Floats]]:
    """Yield attack, AUC and scores of both sides, where the AUC has a value."""
    for measurement in report.measurements:
        attack = measurement.name.removeprefix("mia.").removesuffix(".auc")
        sides = [arrays.found.get(name) for name in score_names(attack, measurement.subject)]
        if measurement.name == f"mia.{attack}.auc" and _number(measurement) is not None:
            members, non_members = sides
            if members is not None and non_members is not None:
                yield attack, measurement, members, non_members


def _belongs(measurement: Measurement, members: Floats, non_members: Floats) -> bool:
    found, told = metrics.auc(members, non_members), _number(measurement)
    return found is not None and told is not None and abs(found - told) <= SAME


def _roc_chart(attack: str, curves: Sequence[tuple[str, Floats, Floats]], look: Look) -> Chart:
    fewest = min(len(non_members) for _, _, non_members in curves)
    low = 0.6 * min(1e-3, *(1 / max(len(members), len(others)) for _, members, others in curves))
    return Chart(
        f"ROC of the {attack} attack",
        f"Both axes are logarithmic; the dashed diagonal is guessing. {fewest} non-members resolve no false positive "
        f"rate below {1 / fewest:.2g}, where the curves begin.",
        Axis("false positive rate", log=True, low=low, high=1.0),
        Axis("true positive rate", log=True, low=low, high=1.0),
        tuple(look.series(label, *roc_steps(members, others)) for label, members, others in curves),
        guides=RATES,
        diagonal=True,
    )


def roc_steps(members: Floats, non_members: Floats) -> tuple[list[float], list[float]]:
    """Return the steps of the highest true positive rate at no more than each false positive rate, from 1 / n on."""
    others, ordered = np.unique(non_members)[::-1], np.sort(members)
    # Between two values of non-members a threshold is best just above the lower one; below the last all are caught.
    caught = len(members) - np.append(np.searchsorted(ordered, others, side="right"), 0)
    alarms = len(non_members) - np.searchsorted(np.sort(non_members), others)
    false, true = np.append(0, alarms) / len(non_members), caught / len(members)
    first = int(alarms[0] == 1)
    corners = np.unique(np.geomspace(first + 1, len(false), MOST_CORNERS).astype(int)) - 1
    xs, ys = [1 / len(non_members)], [float(true[first])]
    for corner in corners[1:].tolist():
        xs += [float(false[corner])] * 2
        ys += [ys[-1], float(true[corner])]
    return xs, ys
