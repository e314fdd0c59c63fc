"""Which metrics a table of results has: those that were named, else the usual ones that were measured."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from unlearn_audit.catalogue import METRICS, MetricInfo, info_or_name
from unlearn_audit.catalogue.metric import DOWN, NONE
from unlearn_audit.errors import UsageError
from unlearn_audit.report import AuditReport

# What tables of the field have, as far as it was measured; attacks that were asked for come after the loss attack.
USUAL = (
    "accuracy.retain", "accuracy.forget", "accuracy.test", "accuracy.adjacent", "accuracy.remote", "gap.average",
    "rcd.ratio_to_unseen", "rcd.ratio_to_retrained", "twosample.p", "mia.loss.auc", "mia.*.auc", "outputs.js",
    "generation.forget_rate", "generation.kept_rate", "generation.kid",
)  # fmt: skip

# What a run cost, by the models' own records; no measurement, and so not in the catalogue.
COSTS: Mapping[str, MetricInfo] = {
    "cost.gradients": MetricInfo(
        "cost.gradients", "gradients / retraining", "", "ratio", DOWN, 3,
        "gradients of single examples over the mean of the retrained models'", sets=(),
    ),
    "cost.seconds": MetricInfo(
        "cost.seconds", "seconds", "", "s", NONE, 0, "recorded time of the steps, on whatever machine that was", sets=()
    ),
}  # fmt: skip
NEAR = 3  # names that a misspelled one is answered with


def info_of(name: str) -> MetricInfo:
    """Return what a metric or a cost is."""
    return COSTS.get(name) or info_or_name(name)


def chosen_metrics(reports: Sequence[AuditReport], asked: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of a table's columns.

    Args:
        reports: what was measured.
        asked: names or patterns with * of metrics and costs; the usual ones and all costs where there are none.

    Raises:
        UsageError: there is no such metric, or none of the reports has it.
    """
    there = dict.fromkeys(one.name for report in reports for one in report.measurements)
    costs = [name for name in COSTS if any(_has_cost(report, name) for report in reports)]
    if not asked:
        usual = [name for pattern in USUAL for name in there if fnmatchcase(name, pattern)]
        return tuple(dict.fromkeys((*usual, *costs)))
    found: dict[str, None] = {}
    for pattern in asked:
        names = [name for name in (*there, *costs) if fnmatchcase(name, pattern)]
        if not names:
            raise UsageError(_no_such(pattern, (*there, *costs)))
        found |= dict.fromkeys(names)
    return tuple(found)


def _has_cost(report: AuditReport, name: str) -> bool:
    key = name.removeprefix("cost.")
    return any(one.made is not None and getattr(one.made, key) is not None for one in report.subjects)


def _no_such(pattern: str, there: Iterable[str]) -> str:
    """Say that nothing goes by a name: it was not measured, or there is no such metric."""
    if pattern in METRICS or pattern in COSTS:
        section = info_of(pattern).section
        how = f"; measure it with [{section}] in the config" if section else ", since no model's record has it"
        return f"none of these reports has {pattern}{how}"
    near = difflib.get_close_matches(pattern, [*there], NEAR, cutoff=0.3) or sorted(there)[:NEAR]
    return f"no measured metric is called '{pattern}'; near it: {', '.join(near)}; * stands for anything"
