"""The gate: a policy's rules against a report, without torch. It fails closed.

A rule passes only on a measured, finite number whose required end of the interval holds. A number on the wrong side
fails; a missing or null measurement, too few examples, or an interval that reaches across the limit is inconclusive.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from unlearn_audit import metrics
from unlearn_audit.catalogue import METRICS
from unlearn_audit.errors import ConfigError, unknown_name
from unlearn_audit.report import AuditReport, Interval, Measurement
from unlearn_audit.toml import Flag, Number, VersionOne, explain, key_lines, nearest_line, read_toml

__all__ = ["Decision", "Part", "Policy", "Rule", "Verdict", "apply_policy", "exit_code", "read_policy"]

FEWEST_RETRAINED = 3  # for a test of equivalence: a spread over two seeds says nothing


class Verdict(StrEnum):
    """What became of a rule."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class Part(BaseModel):
    """A part of a policy: frozen, unknown keys refused, no conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Part):
    """One demand on one metric of one subject (a role or a label)."""

    id: Annotated[str, Field(min_length=1)]
    metric: str
    subject: str = "unlearned"
    min: Number | None = None
    max: Number | None = None
    equals: str | None = None
    equivalent_to: Literal["retrained"] | None = None
    margin: Annotated[Number, Field(gt=0)] | None = None
    bound: Literal["lower", "upper", "value"] | None = None
    require_interval: Flag = False
    min_n: Annotated[int, Field(ge=0, strict=True)] = 0
    severity: Literal["fail", "warn"] = "fail"
    reason: str | None = None

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METRICS:
            raise ValueError(unknown_name("metric", name, METRICS))
        return name

    @model_validator(mode="after")
    def _one_demand(self) -> "Rule":
        limits = self.min is not None or self.max is not None
        demands = [limits, self.equals is not None, self.equivalent_to is not None]
        if sum(demands) != 1:
            raise ValueError(f"rule '{self.id}' needs exactly one of min/max, equals, equivalent_to")
        if (self.equivalent_to is None) != (self.margin is None):
            raise ValueError(f"rule '{self.id}': equivalent_to and margin belong together")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"rule '{self.id}': min {self.min} is greater than max {self.max}")
        if self.bound is not None and not limits:
            raise ValueError(f"rule '{self.id}': bound says which end min or max must hold, and there is neither")
        if self.bound == "value" and self.require_interval:
            raise ValueError(f"rule '{self.id}': bound = 'value' tests no interval, so it cannot require one")
        return self


class Policy(Part):
    """A list of rules."""

    schema_version: VersionOne
    rule: Annotated[tuple[Rule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _unique(self) -> "Policy":
        ids = [rule.id for rule in self.rule]
        twice = next((name for name in ids if ids.count(name) > 1), None)
        if twice:
            raise ValueError(f"rule id '{twice}' appears twice")
        return self


class Decision(NamedTuple):
    """A rule's verdict on one subject, and why."""

    rule: Rule
    subject: str
    verdict: Verdict
    why: str


def read_policy(path: Path) -> Policy:
    """Read a policy from TOML.

    Raises:
        ConfigError: missing, not TOML, an unknown key or metric, another schema version; all problems at once.
    """
    values, text = read_toml(path, "policy")
    try:
        return Policy.model_validate(values)
    except ValidationError as problem:
        lines = key_lines(text)
        located = [(nearest_line(wrong.place, lines) or 0, wrong.text) for wrong in explain(problem, values, Policy)]
        texts = [f"line {line}: {text}" if line else text for line, text in sorted(located)]
        raise ConfigError(str(path), texts) from problem


def apply_policy(policy: Policy, report: AuditReport, *, subject: str | None = None) -> tuple[Decision, ...]:
    """Return a decision for every rule and every subject that it speaks of.

    Args:
        policy: the rules.
        report: what was measured.
        subject: a label to gate in the place of the role "unlearned".
    """
    return tuple(decision for rule in policy.rule for decision in _decide(rule, report, subject))


def _decide(rule: Rule, report: AuditReport, subject: str | None) -> Iterator[Decision]:
    wanted = subject if subject is not None and rule.subject == "unlearned" else rule.subject
    labels = [entry.label for entry in report.subjects if wanted in (entry.label, entry.role)]
    if not labels:
        yield Decision(rule, wanted, Verdict.INCONCLUSIVE, f"the report has no subject '{wanted}'")
    for label in labels:
        verdict, why = _judge(rule, report.find(rule.metric, label))
        yield Decision(rule, label, verdict, why)


Judgement = tuple[Verdict, str]


def _judge(rule: Rule, measurement: Measurement | None) -> Judgement:
    """Judge one measurement; everything that is not a plain pass or fail is inconclusive."""
    if measurement is None:
        return Verdict.INCONCLUSIVE, "not measured"
    value, fewest = measurement.value, max(rule.min_n, 1)
    if value is None:
        return Verdict.INCONCLUSIVE, f"no value: {measurement.reason}"
    if measurement.n < fewest:
        return Verdict.INCONCLUSIVE, f"n = {measurement.n} is below min_n = {fewest}"
    if rule.equals is not None:
        return _equal(rule.equals, value)
    if isinstance(value, str):
        return Verdict.INCONCLUSIVE, f"{value!r} is a text; the rule needs a number"
    if rule.equivalent_to is not None:
        return _equivalent(float(rule.margin or 0), measurement, value)
    if measurement.interval is None and rule.require_interval:
        return Verdict.INCONCLUSIVE, f"{value:.4g} has no interval, and the rule requires one"
    found = [_within(rule, value, measurement.interval, side) for side in SIDES if getattr(rule, side) is not None]
    return min(found, key=lambda judgement: SEVEREST_FIRST.index(judgement[0]))


SIDES: tuple[Literal["min", "max"], ...] = ("min", "max")
SEVEREST_FIRST = (Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED)


def _equal(wanted: str, value: float | str) -> Judgement:
    if not isinstance(value, str):
        return Verdict.INCONCLUSIVE, f"{value:.4g} is a number; the rule needs the text {wanted!r}"
    return (Verdict.PASSED if value == wanted else Verdict.FAILED), f"{value!r}, must be {wanted!r}"


def _within(rule: Rule, value: float, interval: Interval | None, side: Literal["min", "max"]) -> Judgement:
    """Hold the value, and the required end of its interval, against one limit."""
    limit, sign = (rule.min, 1) if side == "min" else (rule.max, -1)
    unfavourable = "lower" if side == "min" else "upper"
    end = rule.bound or unfavourable
    ends = {"value": value}
    if interval is not None:
        ends |= {"lower": interval.low, "upper": interval.high}
    # A favourable end is tested alone, since it was asked for; otherwise the value must hold as well.
    tested = [ends.get(end, value)] + ([value] if end in (unfavourable, "value") else [])
    shown = f" [{interval.low:.4g}, {interval.high:.4g}]" if interval else ""
    text = f"{value:.4g}{shown}, {side} {limit:.4g}"
    if all(sign * (number - float(limit or 0)) >= 0 for number in tested):
        return Verdict.PASSED, text
    if sign * (value - float(limit or 0)) >= 0:
        return Verdict.INCONCLUSIVE, f"{text}: the {end} end does not hold; measure more examples"
    return Verdict.FAILED, text


def _equivalent(margin: float, measurement: Measurement, value: float) -> Judgement:
    """Test equivalence with the retrained models: two one-sided tests at 5 %, the 90 % interval within ± margin."""
    reference, difference = measurement.reference, measurement.details.get("difference")
    count = reference.n if reference else 0
    if count < FEWEST_RETRAINED:
        return Verdict.INCONCLUSIVE, f"{count} retrained models; equivalence needs {FEWEST_RETRAINED}"
    ends = _ninety(difference, value) if isinstance(difference, Mapping) else None
    if ends is None:
        return Verdict.INCONCLUSIVE, f"the report compares {measurement.name} with no spread of retrained models"
    text = f"difference to retrained in [{ends.low:+.4g}, {ends.high:+.4g}], margin {margin:.4g}"
    if -margin <= ends.low and ends.high <= margin:
        return Verdict.PASSED, text
    apart = ends.low > margin or ends.high < -margin
    return (Verdict.FAILED if apart else Verdict.INCONCLUSIVE), text


def _ninety(difference: Mapping[str, Any], value: float) -> metrics.Bounds | None:
    """Return the 90 % interval of a difference that the report gives at 95 %; None where it is not whole."""
    low, middle, high = (_finite(difference.get(key)) for key in ("low", "value", "high"))
    freedom = difference.get("degrees_of_freedom")
    degrees = math.inf if freedom is None else _finite(freedom)
    if low is None or middle is None or high is None or degrees is None or degrees < 1 or not low <= middle <= high:
        return None
    error = (high - low) / 2 / metrics.student_interval(0.0, 1.0, degrees).high
    ends = metrics.student_interval(middle, error, degrees, 0.9)
    if difference.get("scale") != "log ratio":
        return ends
    # On the log scale the value is exp(difference) times the retrained models' geometric mean.
    try:
        level = value / math.exp(middle)
        return metrics.Bounds(level * math.expm1(ends.low), level * math.expm1(ends.high))
    except (OverflowError, ZeroDivisionError):
        return None


def _finite(number: object) -> float | None:
    """Return a finite number that is no bool, else None."""
    known = isinstance(number, int | float) and not isinstance(number, bool)
    return float(number) if known and math.isfinite(number) else None  # type: ignore[arg-type]


def exit_code(decisions: Sequence[Decision]) -> int:
    """Return 1 when a rule failed, else 4 when one is inconclusive or nothing was decided, else 0.

    Warnings do not count.
    """
    if not decisions:
        return 4
    binding = {decision.verdict for decision in decisions if decision.rule.severity == "fail"}
    if Verdict.FAILED in binding:
        return 1
    return 4 if Verdict.INCONCLUSIVE in binding else 0
