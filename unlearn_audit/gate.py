"""The gate: a policy's rules against a report, without torch. It fails closed.

A rule passes only on a measured, finite number whose required end of the interval holds. A number on the wrong side
fails; a missing or null measurement, too few examples, or an interval that reaches across the limit is inconclusive.
"""

import tomllib
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from unlearn_audit import metrics
from unlearn_audit.catalogue import METRICS
from unlearn_audit.errors import ConfigError, unknown_name
from unlearn_audit.files import check_input
from unlearn_audit.report import AuditReport, Interval, Measurement

__all__ = ["Decision", "Policy", "Rule", "Verdict", "apply_policy", "exit_code", "read_policy"]

FEWEST_RETRAINED = 3  # for a test of equivalence: a spread over two seeds says nothing


class Verdict(StrEnum):
    """What became of a rule."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class Part(BaseModel):
    """A part of a policy: frozen, unknown keys refused, no conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


Limit = Annotated[float, Field(allow_inf_nan=False)]


class Rule(Part):
    """One demand on one metric of one subject (a role or a label)."""

    id: Annotated[str, Field(min_length=1)]
    metric: str
    subject: str = "unlearned"
    min: Limit | None = None
    max: Limit | None = None
    equals: str | None = None
    equivalent_to: Literal["retrained"] | None = None
    margin: Annotated[float, Field(gt=0)] | None = None
    bound: Literal["lower", "upper", "value"] | None = None
    require_interval: bool = False
    min_n: Annotated[int, Field(ge=0)] = 0
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
        return self


class Policy(Part):
    """A list of rules."""

    schema_version: Literal[1]
    rule: Annotated[tuple[Rule, ...], Field(min_length=1, strict=False)]

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
    try:
        check_input(path, "policy", _Missing)
        return Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(str(path), [f"not readable TOML: {problem}"]) from problem
    except ValidationError as problem:
        raise ConfigError(str(path), [_explain(error) for error in problem.errors()]) from problem


class _Missing(ConfigError):
    """A policy that cannot be opened."""

    def __init__(self, message: str) -> None:
        super().__init__("policy", [message])


def _explain(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    message = error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


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
    value = measurement.value
    if value is None:
        return Verdict.INCONCLUSIVE, f"no value: {measurement.reason}"
    if measurement.n < rule.min_n:
        return Verdict.INCONCLUSIVE, f"n = {measurement.n} is below min_n = {rule.min_n}"
    if rule.equals is not None:
        equal = isinstance(value, str) and value == rule.equals
        return (Verdict.PASSED if equal else Verdict.FAILED), f"{value!r}, must be {rule.equals!r}"
    if isinstance(value, str):
        return Verdict.INCONCLUSIVE, f"{value!r} is a text; the rule needs a number"
    if rule.equivalent_to is not None:
        return _equivalent(rule, measurement, value)
    if measurement.interval is None and rule.require_interval:
        return Verdict.INCONCLUSIVE, f"{value:.4g} has no interval, and the rule requires one"
    found = [_within(rule, value, measurement.interval, side) for side in ("min", "max") if getattr(rule, side) is not None]
    return min(found, key=lambda judgement: [Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED].index(judgement[0]))


def _within(rule: Rule, value: float, interval: Interval | None, side: str) -> Judgement:
    """Hold the value, and the required end of its interval, against one limit."""
    limit: float = getattr(rule, side)
    end = rule.bound or ("lower" if side == "min" else "upper")
    tested = value if interval is None or end == "value" else interval.low if end == "lower" else interval.high
    sign = 1 if side == "min" else -1
    text = f"{value:.4g}" + (f" [{interval.low:.4g}, {interval.high:.4g}]" if interval else "") + f", {side} {limit:.4g}"
    if sign * (tested - limit) >= 0:
        return Verdict.PASSED, text
    if sign * (value - limit) >= 0:
        return Verdict.INCONCLUSIVE, f"{text}: the {end} end does not hold; measure more examples"
    return Verdict.FAILED, text


def _equivalent(rule: Rule, measurement: Measurement, value: float) -> Judgement:
    """Test equivalence with the retrained models: two one-sided tests at 5 %, i.e. the 90 % interval within ± margin."""
    reference, margin = measurement.reference, float(rule.margin or 0)
    if reference is None or reference.spread is None or reference.n < FEWEST_RETRAINED:
        count = reference.n if reference else 0
        return Verdict.INCONCLUSIVE, f"{count} retrained models; equivalence needs {FEWEST_RETRAINED}"
    interval = measurement.interval
    error = (interval.high - interval.low) / (2 * 1.96) if interval else 0.0
    difference = metrics.difference_from_references(
        value, reference.value, reference.spread, reference.n, error**2, level=0.9
    )
    text = f"{difference.value:+.4g} [{difference.low:+.4g}, {difference.high:+.4g}] to retrained, margin {margin:.4g}"
    if -margin <= difference.low and difference.high <= margin:
        return Verdict.PASSED, text
    apart = difference.low > margin or difference.high < -margin
    return (Verdict.FAILED if apart else Verdict.INCONCLUSIVE), text


def exit_code(decisions: Sequence[Decision]) -> int:
    """Return 1 when a rule failed, else 4 when one is inconclusive, else 0; warnings do not count."""
    binding = {decision.verdict for decision in decisions if decision.rule.severity == "fail"}
    if Verdict.FAILED in binding:
        return 1
    return 4 if Verdict.INCONCLUSIVE in binding else 0
