"""The contract: what an audit found, field by field; unknown fields, non-finite numbers and repetitions are refused."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unlearn_audit.catalogue import Direction, metric_choices
from unlearn_audit.metrics import BLIND_ABOVE

SCHEMA_VERSION = 2

Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=0, le=2**53, strict=True)]  # beyond, a JSON number is no exact count
Scale = Literal["fraction", "AUC", "nats", "log ratio", "MMD²", "share"]
MeasurementFlag = Literal["blind", "legacy", "another question"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FrozenModel(BaseModel):
    """A part of the contract: frozen, unknown fields refused."""

    # NaN in free-form details stays NaN, so that writing fails; by default it would silently become null.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        json_schema_serialization_defaults_required=True,
    )


class Interval(FrozenModel):
    """Where the value may lie: both ends, the level, and how the interval was made."""

    low: Number
    high: Number
    level: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.95
    method: str

    @model_validator(mode="after")
    def _ordered(self) -> "Interval":
        if self.low > self.high:
            raise ValueError(f"interval is upside down: low {self.low} > high {self.high}")
        return self


class Reference(FrozenModel):
    """What a value is to be read against; `spread` is the standard deviation over `n` models, null for fewer than 2."""

    role: str
    value: Number
    spread: Number | None = None
    n: Count = 1


class Comparison(FrozenModel):
    """A value against the models of another role: what chance there is in the difference, and what it could not show.

    Attributes:
        to: the role that it is compared with.
        scale: on which the difference was taken; on "log ratio" it is that of the logarithms.
        difference: the subject's minus the others' mean.
        interval: where the difference may lie.
        df: degrees of freedom of Student's t; null where they are infinite.
        seen: whether the interval leaves zero out.
        blind_below: half of the interval's width; smaller differences are mostly not seen.
    """

    to: str = "retrained"
    scale: Scale
    difference: Number
    interval: Interval
    df: Annotated[float, Field(ge=1, allow_inf_nan=False, strict=True)] | None
    seen: bool
    blind_below: Annotated[Number, Field(ge=0)]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Comparison":
        low, high = self.interval.low, self.interval.high
        if not low <= self.difference <= high:
            raise ValueError(f"the difference {self.difference:.6g} lies outside its interval [{low:.6g}, {high:.6g}]")
        if not math.isclose(self.blind_below, (half := (high - low) / 2), rel_tol=1e-9, abs_tol=1e-12):
            raise ValueError(f"blind_below is {self.blind_below:.6g}, half of the interval's width {half:.6g}")
        if self.seen != (low > 0 or high < 0):
            raise ValueError(f"seen is {self.seen}, which the interval [{low:.6g}, {high:.6g}] contradicts")
        return self

    @property
    def blind(self) -> bool:
        """Whether a difference that matters would not have been seen."""
        return self.blind_below > BLIND_ABOVE[self.scale]


class CouldSee(FrozenModel):
    """How small a leak this number would have shown: parts of the original planted into retrained models, and counted.

    Attributes:
        share: of the forget set, kept as the original has it, from which on the plant is seen; null where none is.
        dose: of the way back to the original on every forget example, likewise.
        power: the part of all plants of a size that has to be seen for the size to count as seen.
        runs: plants of each size: retrained models that carry them, times draws of examples.
        seen_when: what counts as seen, in words.
        reason: why there is no share or no dose.
        auc: at which the fleet's own models, unlearned in the same way, are told apart, each with its pair left out;
            null where no fleet has any. What over-unlearning leaves cannot be planted; this is its measure.
        auc_low: lower end of its 95 % interval; null where it is not known.
        auc_high: upper end.
    """

    share: Annotated[Number, Field(gt=0, le=1)] | None
    dose: Annotated[Number, Field(gt=0, le=1)] | None
    power: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.8
    runs: Count
    seen_when: str
    reason: str | None = None
    auc: Annotated[Number, Field(ge=0, le=1)] | None = None
    auc_low: Annotated[Number, Field(ge=0, le=1)] | None = None
    auc_high: Annotated[Number, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "CouldSee":
        if (self.share is None or self.dose is None) and not self.reason:
            raise ValueError("what could be seen is null without a reason")
        ends = (self.auc_low, self.auc, self.auc_high)
        if (self.auc_low is None) != (self.auc_high is None) or (self.auc_low is not None and self.auc is None):
            raise ValueError("could_see has a part of an interval of auc; it takes auc, auc_low and auc_high")
        if None not in ends and not self.auc_low <= self.auc <= self.auc_high:  # type: ignore[operator]
            raise ValueError("could_see.auc lies outside auc_low and auc_high")
        return self

    @property
    def blind(self) -> bool:
        """Whether not even the original itself would have been seen, nor what the fleet's own models went through."""
        return self.share is None and self.dose is None and (self.auc is None or self.misses_its_own)

    @property
    def misses_its_own(self) -> bool:
        """Whether the fleet's own models are not told apart: the interval of `auc` holds one half."""
        return self.auc_low is not None and self.auc_high is not None and self.auc_low <= 0.5 <= self.auc_high


class Measurement(FrozenModel):
    """One number about one subject with everything needed to read it; `value` null comes with a `reason`.

    Attributes:
        at_least: what is known of a value that is null: it is no smaller than this.
        comparison: with the retrained models, where there are enough of them.
        could_see: how small a leak it would have shown, where that was measured.
        flags: "blind": a difference that matters, or even the original itself, would not have been seen; "legacy": an
            attack that is never a verdict; "another question": its answer is to another one than whether this subject
            forgot.
        details: what only pictures and curious readers use; nothing is decided by it.
        doubts: why this number may not answer the question, where the subject itself is beyond doubt: its relearning
            curve hardly moved, say. No gate passes what rests on it, of this subject or of one that is read against it.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.|-]*$")]
    subject: str
    role: str
    value: Number | Annotated[str, Field(strict=True)] | None
    reason: str | None = None
    unit: str
    direction: Direction
    n: Count
    interval: Interval | None = None
    at_least: Number | None = None
    reference: Reference | None = None
    comparison: Comparison | None = None
    could_see: CouldSee | None = None
    flags: tuple[MeasurementFlag, ...] = ()
    method: str
    details: dict[str, Any] = Field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Measurement":
        if self.value is None and not self.reason:
            raise ValueError(f"{self.name} of {self.subject} is null without a reason")
        flagged = "blind" in self.flags
        if flagged != self.is_blind:
            which = "the" if flagged else "no"
            what = "comparison contradicts" if self.could_see is None else "comparison and could_see contradict"
            raise ValueError(f'{self.name} of {self.subject} has {which} flag "blind", which its {what}')
        return self

    @property
    def is_blind(self) -> bool:
        """Whether its comparison misses what matters, or it misses even the original."""
        return any(part is not None and part.blind for part in (self.comparison, self.could_see))


class Made(FrozenModel):
    """How a model came to be, by its own record; nobody has checked it.

    Attributes:
        method: of unlearning; None of a model that was only trained.
        settings: of the method, resolved.
        transforms: what joined the method or the training, in order.
        seed: of the run.
        parent: SHA-256 of the file that a method started from.
        recipe: of the training; of an unlearned model, of its original's.
        gradients: per-example gradients that it took.
        seconds: that its steps took, on whatever machine that was.
    """

    method: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    transforms: tuple[str, ...] = ()
    seed: int | None = None
    parent: Digest | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    gradients: Count | None = None
    seconds: Annotated[Number, Field(ge=0)] | None = None


class Subject(FrozenModel):
    """One checkpoint under audit; `flop_per_image` counts one forward pass (2 per multiply-add).

    `made` is what its file says of how it came to be, None where that says nothing. `doubts` say why numbers about it
    may not answer the question that was asked: it was retrained without another forget set, say. No gate passes what
    rests on them.
    """

    label: str
    role: str
    path: str
    sha256: Digest
    model: str
    parameters: Count
    flop_per_image: Count
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    made: Made | None = None


class SetSummary(FrozenModel):
    """A set of examples: how it was named, the digest of its resolved indices, how many.

    Of a forget set, and of a retain set and its parts where a sample of these is, `measured` says how many of its n
    examples are measured, and `measured_sha256` which; `class_names` are those of the classes that `spec` names by
    number, where the data have names for them.
    """

    spec: str
    sha256: Digest
    n: Count
    measured: Count | None = None
    measured_sha256: Digest | None = None
    class_names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _measured_is_a_part(self) -> "SetSummary":
        if self.measured is not None and self.measured > self.n:
            raise ValueError(f"{self.measured} examples measured of a set of {self.n}")
        return self

    @property
    def is_sampled(self) -> bool:
        """Whether only a part of the set is measured."""
        return self.measured is not None and self.measured < self.n

    @property
    def how_many(self) -> str:
        """How many examples, and how many of them are measured where that is a part."""
        return f"{self.n} ({self.measured} measured)" if self.is_sampled else str(self.n)

    @property
    def described(self) -> str:
        """How it was named, with the names of the classes."""
        return f"{self.spec} = {', '.join(self.class_names)}" if self.class_names else self.spec


class Data(FrozenModel):
    """The data that everything was measured on; `class_names` number the classes, where they have names.

    `adjacent` and `remote` are the two parts of the retain set, where an adjacent set was named.
    """

    source: str
    sha256: Digest
    class_names: tuple[str, ...] = ()
    forget: SetSummary
    retain: SetSummary
    test: SetSummary
    unseen: SetSummary | None = None
    adjacent: SetSummary | None = None
    remote: SetSummary | None = None


class Tool(FrozenModel):
    """What wrote the report."""

    name: str = "unlearn-audit"
    version: str


def _refuse_repeated(what: str, items: Sequence[Hashable]) -> None:
    twice = [item for item, count in Counter(items).items() if count > 1]
    if twice:
        raise ValueError(f"{what} appears twice: {twice[0]}")


class AuditReport(FrozenModel):
    """One audit. `body_sha256` covers every other field in canonical JSON."""

    schema_version: Literal[2] = 2
    body_sha256: Digest | None = None
    tool: Tool
    created_at: str
    subjects: tuple[Subject, ...]
    data: Data
    measurements: tuple[Measurement, ...]
    conclusion: tuple[str, ...] = ()
    settings: dict[str, Any]
    environment: dict[str, Any]
    limitations: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _unique(self) -> "AuditReport":
        _refuse_repeated("subject", [subject.label for subject in self.subjects])
        _refuse_repeated("measurement", [(entry.name, entry.subject) for entry in self.measurements])
        return self

    def find(self, name: str, subject: str) -> Measurement | None:
        """Return the measurement of that name and subject label, or None."""
        return next((m for m in self.measurements if m.name == name and m.subject == subject), None)

    def with_role(self, role: str) -> tuple[Subject, ...]:
        """Return the subjects of that role in their order."""
        return tuple(subject for subject in self.subjects if subject.role == role)


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a written report: every field is there, the digest is filled in."""
    schema = AuditReport.model_json_schema(mode="serialization")
    schema["properties"]["body_sha256"] = schema["$defs"]["Subject"]["properties"]["sha256"]
    fields = schema["$defs"]["Measurement"]["properties"]
    fields["name"] = {"title": "Name", "anyOf": [*metric_choices(), fields["name"]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema
