"""What a policy may say: rules, waivers, and the policies that are shipped."""

import os.path
import re
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from unlearn_audit.catalogue import METRICS, metric_choices
from unlearn_audit.config.toml_source import (
    Flag,
    Number,
    Said,
    VersionOne,
    key_lines,
    nearest_line,
    read_toml,
    says_something,
)
from unlearn_audit.errors import ConfigError, unknown_name
from unlearn_audit.strict_json import explain

SHIPPED = ("default", "strict", "lenient", "without-original", "generation")

LEAST_P = 1 / 1000  # of a p-value, with the fewest swaps that an audit may make
Change = Annotated[Number, Field(ge=0)]


class _PolicyModel(BaseModel):
    """A part of a policy: frozen, unknown keys refused, no conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_PolicyModel):
    """One demand on one metric of one subject (a role or a label)."""

    id: Said
    metric: Annotated[str, WithJsonSchema({"anyOf": metric_choices()})]
    subject: Said = "unlearned"
    min: Number | None = None
    max: Number | None = None
    equals: str | None = None
    equivalent_to: Literal["retrained"] | None = None
    margin: Annotated[Number, Field(gt=0)] | None = None
    max_increase: Change | None = None
    max_decrease: Change | None = None
    bound: Literal["lower", "upper", "value"] | None = None
    require_interval: Flag | None = Field(
        default=None,
        description="true: a number without an interval is inconclusive; false: it is held by its value; not given: "
        "where the metric shows a leak (rcd.*, twosample.auc, mia.*, resurgence.*, generation.forget_rate, "
        "generation.nudity_rate, gap.forget, accuracy.forget, "
        'loss.forget), a number without an interval can fail but not pass, unless bound is "value"',
    )
    holds_for: Literal["retrained"] | None = None
    min_n: Annotated[int, Field(ge=0, strict=True)] = 0
    otherwise: Literal["inconclusive"] | None = Field(
        default=None,
        description="inconclusive: a rule that is not met leaves the verdict open (exit 4) instead of "
        "failing the model (exit 1): for what limits the audit, which is no fault of the model",
    )
    severity: Literal["fail", "warn"] = "fail"
    reason: str | None = None

    @property
    def limits(self) -> bool:
        """Whether it limits the value itself."""
        return self.min is not None or self.max is not None

    @property
    def compares(self) -> bool:
        """Whether it limits the change since a baseline."""
        return self.max_increase is not None or self.max_decrease is not None

    @property
    def needs_interval(self) -> bool:
        """Whether nothing passes without an interval: as the rule says, else where a leak metric is limited."""
        if self.require_interval is not None:
            return self.require_interval
        info = METRICS[self.metric]
        return info.leak and not info.p_value and self.bound != "value" and (self.limits or self.compares)

    @property
    def can_fail(self) -> bool:
        """Whether a model can fail by it: a rule that only warns, or only leaves open, stops none as leaking."""
        return self.severity == "fail" and self.otherwise is None

    @field_validator("metric")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in METRICS:
            raise ValueError(unknown_name("metric", name, METRICS))
        return name

    @model_validator(mode="after")
    def _makes_sense(self) -> "Rule":
        problem = next(self._problems(), None)
        if problem:
            raise ValueError(f"rule '{self.id}'{problem}")
        return self

    def _problems(self) -> Iterator[str]:
        """Yield what the keys say that they cannot say together."""
        info = METRICS[self.metric]
        numbers, text = self.limits or self.equivalent_to is not None or self.compares, self.equals is not None
        if [self.limits, text, self.equivalent_to is not None, self.compares].count(True) != 1:
            yield " needs exactly one of min/max, equals, equivalent_to, max_increase/max_decrease"
        if (self.equivalent_to is None) != (self.margin is None):
            yield ": equivalent_to and margin belong together"
        if self.min is not None and self.max is not None and self.min > self.max:
            yield f": min {self.min} is greater than max {self.max}"
        if numbers and info.is_text:
            yield f": {self.metric} is a text; use equals"
        if text and not info.is_text:
            yield f": {self.metric} is a number; equals is for texts"
        if self.compares and info.within_one_run:
            yield f": {self.metric} compares only within one run; limit the change of rcd.ratio_to_unseen instead"
        if self.bound is not None and not (self.limits or self.compares):
            yield ": bound says which end a limit must hold, and there is no limit"
        if self.holds_for is not None and not self.limits:
            yield ": holds_for says who must keep min or max for it to mean anything, and there is neither"
        if self.bound == "value" and self.require_interval:
            yield ": bound = 'value' tests no interval, so it cannot require one"
        if info.p_value:
            yield from self._problems_of_a_p_value()

    def _problems_of_a_p_value(self) -> Iterator[str]:
        """Yield what cannot be demanded of a p-value: that it is small, that it has an interval, what never fails."""
        if self.min is None or self.max is not None:
            yield f": {self.metric} is a p-value, and only a small one says something: limit it with min alone"
        elif self.min <= LEAST_P:
            yield f": {self.metric} is never below {LEAST_P:g}, so that min {self.min:g} could not fail; take 0.01"
        if self.require_interval:
            yield f": {self.metric} is a p-value, which has no interval that could be required"


class Waiver(_PolicyModel):
    """A person's word that one rule need not hold for one checkpoint, until a day."""

    rule: Said
    sha256: str
    reason: Annotated[str, AfterValidator(says_something)]
    owner: Annotated[str, AfterValidator(says_something)]
    expires: Annotated[date, Field(strict=True)]

    @field_validator("sha256")
    @classmethod
    def _digest(cls, digest: str) -> str:
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(
                f"must be the checkpoint's sha256, 64 of 0-9 and a-f as the report has it (got {digest!r})"
            )
        return digest


class Policy(_PolicyModel):
    """A list of rules, and what is waived for now."""

    schema_version: VersionOne
    advisory: Flag = False
    rule: Annotated[tuple[Rule, ...], Field(min_length=1)]
    waiver: tuple[Waiver, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> "Policy":
        ids = Counter(rule.id for rule in self.rule)
        twice = next((name for name, count in ids.items() if count > 1), None)
        if twice:
            raise ValueError(f"rule id '{twice}' appears twice")
        waived: set[tuple[str, str]] = set()
        for index, waiver in enumerate(self.waiver):
            if waiver.rule not in ids:
                raise ValueError(f"waiver.{index}.rule: {unknown_name('rule', waiver.rule, ids)}")
            if (waiver.rule, waiver.sha256) in waived:
                raise ValueError(f"waiver.{index}: rule '{waiver.rule}' is waived twice for {waiver.sha256[:12]}…")
            waived.add((waiver.rule, waiver.sha256))
        return self

    @model_validator(mode="after")
    def _blocks(self) -> "Policy":
        blocking = [rule.id for rule in self.rule if rule.severity == "fail"]
        if not self.advisory and not any(rule.can_fail for rule in self.rule):
            which = "warns or leaves the verdict open" if blocking else "warns"
            raise ValueError(
                f'every rule only {which}, so that nothing could ever fail; give one severity = "fail"'
                + (" and no `otherwise`" if blocking else ", or say advisory = true at the top of the policy")
            )
        if blocking and self.advisory:
            raise ValueError(
                f"advisory = true says that nothing blocks, but rule '{blocking[0]}' does; give it severity = "
                '"warn", or leave advisory out'
            )
        return self


def policy_file(path: Path) -> Path:
    """Return the file of a policy: a shipped one by its bare name (`./default` is a file here), else the path itself.

    >>> policy_file(Path("default")).parts[-2:]
    ('policies', 'default.toml')
    """
    shipped = Path(__file__).parents[1] / "policies" / f"{path}.toml"
    return shipped if str(path) in SHIPPED else path


def is_policy_name(path: Path) -> bool:
    """Say whether a path is the bare name of a shipped policy, or of none, rather than a file.

    >>> is_policy_name(Path("default")), is_policy_name(Path("defualt")), is_policy_name(Path("policy.toml"))
    (True, True, False)
    """
    return str(path) in SHIPPED or (len(path.parts) == 1 and not path.suffix and not os.path.exists(path))


def shipped_policy(name: str) -> str:
    """Return the text of a shipped policy, one of `SHIPPED`."""
    return policy_file(Path(name)).read_text(encoding="utf-8")


def read_policy(path: Path) -> Policy:
    """Read a policy from TOML.

    Args:
        path: the file, or the bare name of a shipped policy: one of `SHIPPED`.

    Raises:
        ConfigError: missing, not TOML, an unknown key or metric, another schema version, a waiver for a rule that is
            not there; all problems at once.
    """
    if is_policy_name(path) and str(path) not in SHIPPED:
        raise ConfigError(unknown_name("policy", str(path), SHIPPED, hint="A file of your own ends in .toml"))
    values, text = read_toml(policy_file(path), "policy")
    try:
        return Policy.model_validate(values)
    except ValidationError as problem:
        lines = key_lines(text)
        located = [(nearest_line(wrong.place, lines) or 0, wrong.text) for wrong in explain(problem, values, Policy)]
        texts = [f"line {line}: {text}" if line else text for line, text in sorted(located)]
        raise ConfigError(str(path), texts) from problem
