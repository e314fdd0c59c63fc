"""The pictures of a report: relearning curves, RCD against utility and against step size, ROC curves."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.render import semilog
from unlearn_audit.render.arrays import Arrays, curve_name, score_names
from unlearn_audit.render.charts import Axis, Chart, Guide
from unlearn_audit.render.details import RcdDetails, details_of
from unlearn_audit.render.looks import Look
from unlearn_audit.render.untrusted import printable
from unlearn_audit.report import AuditReport, Measurement

Floats = NDArray[np.float64]
RATES = (Guide(1e-3, "0.1 %"), Guide(1e-2, "1 %"))
MOST_CORNERS = 300  # of a ROC curve
FAR = 20  # times the smallest value: where a linear axis shows little
SAME = 1e-6  # how far the AUC of the arrays may be from the report's, when they belong together


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
    """Return the loss on the forget set while every model relearns it; the areas below are RCD."""
    look = Look(report)
    series = []
    for measurement in _of(report, "rcd.raw"):
        label = measurement.subject
        loss = details_of(measurement, RcdDetails).loss or arrays.found.get(curve_name(label), np.zeros(0))
        if len(loss):
            series.append(look.series(label, range(len(loss)), [float(value) for value in loss]))
    if not series:
        return ()
    return (
        Chart(
            "Relearning the forget set",
            "The area under a curve, above the floor, is the model's RCD. A model that kept what it was to forget "
            "starts low or falls fast.",
            Axis("relearning steps"),
            Axis(f"loss on the forget set, {_unit(report, 'rcd.raw').removesuffix(' x steps')}"),
            tuple(series),
        ),
    )


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
