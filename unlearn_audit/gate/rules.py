"""One rule against one measurement. It fails closed: what is not a plain pass or a plain failure is neither.

A rule passes only on a measured, finite number whose required end of the interval holds. A number on the wrong side
fails with its whole interval (or is inconclusive, where the rule says so); a missing or null measurement, too few
examples, or an interval that reaches across the limit is inconclusive; a text where a number belongs, or the reverse,
is an error of the report.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from unlearn_audit import metrics
from unlearn_audit.catalogue import info_or_name
from unlearn_audit.gate.policy import Rule
from unlearn_audit.report import Comparison, Interval, Measurement

FEWEST_RETRAINED = 3  # for a test of equivalence: a spread over two seeds says nothing
LEAST_LEVEL = 0.95  # an interval that covers less often has ends that promise less
LEFT_OPEN = "not met, which limits the audit and says nothing against the model"
NO_BASELINE = "there is nothing to compare it with; name the last release's report with --baseline"


class Verdict(StrEnum):
    """What became of a rule."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    WAIVED = "waived"
    ERROR = "error"


WORST_FIRST = (Verdict.ERROR, Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.WAIVED, Verdict.PASSED)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the one that decides where several stand side by side: error, failed, inconclusive, waived, passed."""
    return min(verdicts, key=WORST_FIRST.index)


class Judgement(NamedTuple):
    """A verdict and its reason."""

    verdict: Verdict
    why: str


def judge(rule: Rule, measurement: Measurement | None, earlier: Measurement | str = NO_BASELINE) -> Judgement:
    """Judge one measurement by one rule.

    Args:
        rule: the demand.
        measurement: what the report has, None where it has nothing.
        earlier: the same measurement of the baseline, or why there is none; asked for by rules that limit a change.

    Returns:
        A verdict that is never "waived", and why; never "failed" where the rule says `otherwise = "inconclusive"`.
    """
    found = _judged(rule, measurement, earlier)
    if found.verdict == Verdict.FAILED and rule.otherwise == "inconclusive":
        return Judgement(Verdict.INCONCLUSIVE, f"{found.why}: {LEFT_OPEN}")
    return found


def _judged(rule: Rule, measurement: Measurement | None, earlier: Measurement | str) -> Judgement:
    if measurement is None:
        return Judgement(Verdict.INCONCLUSIVE, "not measured")
    unfit = _unfit(rule, measurement)
    if unfit is not None:
        return unfit
    value = measurement.value
    if rule.equals is not None:
        same = value == rule.equals
        return Judgement(Verdict.PASSED if same else Verdict.FAILED, f"{value!r}, must be {rule.equals!r}")
    if rule.equivalent_to is not None:
        return _equivalent(rule, measurement)
    found = _changed(rule, measurement, earlier) if rule.compares else _limited(rule, measurement)
    known = measurement.interval is not None and (isinstance(earlier, str) or earlier.interval is not None)
    if found.verdict == Verdict.PASSED and rule.needs_interval and not known:
        why = 'it has no interval, and what shows a leak needs one to pass (bound = "value" asks for less)'
        return Judgement(Verdict.INCONCLUSIVE, f"{found.why}; but {why}")
    return found


def _unfit(rule: Rule, measurement: Measurement) -> Judgement | None:
    """Return why a measurement cannot be held against a rule at all; None where it can."""
    value, fewest, interval = measurement.value, max(rule.min_n, 1), measurement.interval
    if value is None:
        return Judgement(Verdict.INCONCLUSIVE, f"no value: {measurement.reason}")
    if isinstance(value, str) != (rule.equals is not None):
        kinds = ("a number", "a text") if rule.equals is None else ("a text", "a number")
        return Judgement(Verdict.ERROR, f"the rule needs {kinds[0]}, the report has {kinds[1]}: {value!r}")
    if not isinstance(value, str) and _finite(value) is None:
        return Judgement(Verdict.ERROR, f"{value!r} is no finite number; this is no valid report")
    if measurement.n < fewest:
        return Judgement(Verdict.INCONCLUSIVE, f"n = {measurement.n} is below min_n = {fewest}")
    if interval is None and rule.require_interval:
        return Judgement(Verdict.INCONCLUSIVE, f"{value:.4g} has no interval, and the rule requires one")
    if interval is not None and not interval.level >= LEAST_LEVEL and rule.bound != "value":
        return Judgement(Verdict.INCONCLUSIVE, f"the interval's level is {interval.level:g}; {LEAST_LEVEL} is needed")
    return None


def _finite(number: object) -> float | None:
    """Return a finite number that is no bool, else None."""
    known = isinstance(number, int | float) and not isinstance(number, bool)
    try:
        return float(number) if known and math.isfinite(number) else None  # type: ignore[arg-type]
    except OverflowError:  # a whole number that no float can hold
        return None


# ----- a limit on the value, or on its change since the baseline


class _Seen(NamedTuple):
    """A number with the ends between which it may lie, where they are known, how it is shown, and what narrows them."""

    value: float
    ends: metrics.Bounds | None
    text: str
    advice: str = "measure more examples"


class _Limit(NamedTuple):
    """A limit that a number must not fall below (sign 1) or exceed (sign -1), and how the policy says it."""

    sign: int
    number: float
    said: str


def _limited(rule: Rule, measurement: Measurement) -> Judgement:
    value, interval = float(measurement.value or 0), measurement.interval
    ends = metrics.Bounds(interval.low, interval.high) if interval else None
    least = [] if rule.min is None else [_Limit(1, rule.min, f"min {rule.min:.4g}")]
    most = [] if rule.max is None else [_Limit(-1, rule.max, f"max {rule.max:.4g}")]
    limits = [*least, *most]
    void = _void(measurement, limits) if rule.holds_for == "retrained" else None
    return void or _hold(rule, _Seen(value, ends, f"{value:.4g}{_shown(ends, '.4g')}", _advice(measurement)), limits)


def _advice(measurement: Measurement) -> str:
    """Return what makes an interval narrower: a gap's comes from the retrained models' spread as well."""
    reference = measurement.reference
    if not measurement.name.startswith("gap.") or reference is None:
        return "measure more examples"
    return f"add retrained models (there are {reference.n}), or measure more examples"


def _void(measurement: Measurement, limits: Sequence[_Limit]) -> Judgement | None:
    """Return that a limit says nothing here, since even models that never saw the data do not keep it; else None."""
    reference = measurement.reference
    if reference is None or reference.role != "retrained" or _finite(reference.value) is None:
        return Judgement(Verdict.INCONCLUSIVE, "no retrained model shows that one can keep this limit here; add some")
    usual = "median" if info_or_name(measurement.name).p_value else "mean"
    for limit in limits:
        if limit.sign * (reference.value - limit.number) < 0:
            return Judgement(
                Verdict.INCONCLUSIVE,
                f"the retrained models' own {usual}, {reference.value:.4g}, does not keep {limit.said}: the limit "
                "tells nobody apart on this forget set; measure more examples, or match the twin on difficulty",
            )
    return None


def _changed(rule: Rule, measurement: Measurement, earlier: Measurement | str) -> Judgement:
    """Hold the change since the baseline against its limits."""
    if isinstance(earlier, str):
        return Judgement(Verdict.INCONCLUSIVE, earlier)
    unfit = _unfit(rule, earlier)
    if unfit is not None:
        return Judgement(unfit.verdict, f"in the baseline: {unfit.why}")
    new, old = float(measurement.value or 0), float(earlier.value or 0)
    ends = _between(new, measurement.interval, old, earlier.interval)
    text = f"{old:.4g} in the baseline, {new:.4g} now: {new - old:+.4g}{_shown(ends, '+.4g')}"
    down, up = rule.max_decrease, rule.max_increase
    least = [] if down is None else [_Limit(1, -down, f"max_decrease {down:.4g}")]
    most = [] if up is None else [_Limit(-1, up, f"max_increase {up:.4g}")]
    return _hold(rule, _Seen(new - old, ends, text), [*least, *most])


def _between(new: float, now: Interval | None, old: float, then: Interval | None) -> metrics.Bounds | None:
    """Return the interval of new - old from those of both, taken as independent; none where neither has one.

    Each end adds the squares of the two distances that push it out (MOVER). Two releases that are measured on the same
    examples go up and down together, so that the interval is rather too wide than too narrow.
    """
    if now is None and then is None:
        return None
    down, up = (new - now.low, now.high - new) if now else (0.0, 0.0)
    old_down, old_up = (old - then.low, then.high - old) if then else (0.0, 0.0)
    return metrics.Bounds(new - old - math.hypot(down, old_up), new - old + math.hypot(up, old_down))


def _shown(ends: metrics.Bounds | None, form: str) -> str:
    return f" [{ends.low:{form}}, {ends.high:{form}}]" if ends else ""


def _hold(rule: Rule, seen: _Seen, limits: Sequence[_Limit]) -> Judgement:
    """Hold a number against the limits that there are; of two the worse verdict counts."""
    found = [_within(seen, limit, rule.bound) for limit in limits]
    verdict = worst([judgement.verdict for judgement in found])
    if verdict == Verdict.PASSED:
        return Judgement(verdict, ", ".join((seen.text, *(limit.said for limit in limits))))
    return next(judgement for judgement in found if judgement.verdict == verdict)


def _within(seen: _Seen, limit: _Limit, bound: str | None) -> Judgement:
    """Hold the value, and the required end of its interval, against one limit."""
    text, unfavourable = f"{seen.text}, {limit.said}", "lower" if limit.sign > 0 else "upper"
    end = bound or unfavourable
    ends = {"value": seen.value} | ({"lower": seen.ends.low, "upper": seen.ends.high} if seen.ends else {})
    # A favourable end is tested alone, since it was asked for; otherwise the value must hold as well.
    tested = [ends.get(end, seen.value)] + ([seen.value] if end in (unfavourable, "value") else [])
    if all(math.isfinite(number) and limit.sign * (number - limit.number) >= 0 for number in tested):
        return Judgement(Verdict.PASSED, text)
    if not math.isfinite(seen.value):
        return Judgement(Verdict.INCONCLUSIVE, f"{text}: beyond what a number can hold")
    if limit.sign * (seen.value - limit.number) >= 0:
        return Judgement(Verdict.INCONCLUSIVE, f"{text}: the {end} end does not hold; {seen.advice}")
    if bound is None and seen.ends is not None and seen.ends.low <= seen.value <= seen.ends.high:
        favourable = seen.ends.high if limit.sign > 0 else seen.ends.low
        if limit.sign * (favourable - limit.number) >= 0:
            return Judgement(Verdict.INCONCLUSIVE, f"{text}: the limit lies inside the interval; {seen.advice}")
    return Judgement(Verdict.FAILED, text)


# ----- equivalence with retrained models


def _equivalent(rule: Rule, measurement: Measurement) -> Judgement:
    """Test equivalence with the retrained models: two one-sided tests at 5 %, the 90 % interval within ± margin."""
    margin, comparison = float(rule.margin or 0), measurement.comparison
    count = measurement.reference.n if measurement.reference else 0
    if count < FEWEST_RETRAINED:
        why = f"{count} retrained models to compare it with; equivalence needs {FEWEST_RETRAINED}"
        return Judgement(Verdict.INCONCLUSIVE, why)
    ends = None
    if comparison is not None and comparison.to == "retrained":
        ends = _ninety(comparison, float(measurement.value or 0))
    if ends is None:
        why = f"the report compares {measurement.name} with no spread of retrained models"
        return Judgement(Verdict.INCONCLUSIVE, why)
    text = f"difference to retrained in [{ends.low:+.4g}, {ends.high:+.4g}], margin {margin:.4g}"
    if -margin <= ends.low and ends.high <= margin:
        return Judgement(Verdict.PASSED, text)
    apart = ends.low > margin or ends.high < -margin
    return Judgement(Verdict.FAILED if apart else Verdict.INCONCLUSIVE, text)


def _ninety(comparison: Comparison, value: float) -> metrics.Bounds | None:
    """Return the 90 % interval of a difference to the retrained models; None where it is beyond all numbers."""
    low, middle, high = comparison.interval.low, comparison.difference, comparison.interval.high
    degrees = math.inf if comparison.df is None else comparison.df
    error = (high - low) / 2 / metrics.student_interval(0.0, 1.0, degrees, comparison.interval.level).high
    ends = metrics.student_interval(middle, error, degrees, 0.9)
    if comparison.scale != "log ratio":
        return ends
    # On the log scale the value is exp(difference) times the retrained models' geometric mean.
    try:
        level = value / math.exp(middle)
        return metrics.Bounds(level * math.expm1(ends.low), level * math.expm1(ends.high))
    except (OverflowError, ZeroDivisionError):
        return None
