"""What pictures take from a measurement's details, which are free in form: checked before they are used."""

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unlearn_audit.catalogue import ALTERATIONS, DIVERGENCES
from unlearn_audit.report import AuditReport, Measurement

Real = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Whole = Annotated[int, Field(strict=True)]


class _DetailsModel(BaseModel):
    """A part of some details; fields that no picture needs are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StepSize(_DetailsModel):
    """One model's RCD under one step size."""

    step_size: Annotated[Real, Field(gt=0)]
    value: Real | None
    moved: Real | None = None
    essentially_initial_loss: bool = False
    kendall_tau_to_first: Real | None = None
    kendall_tau_reason: str | None = None


class OrderChangeDetails(_DetailsModel):
    """From which K on a model is above, or below, another one."""

    other: str = Field(alias="with")
    at: Whole
    larger_from_there: bool


class FloorDetails(_DetailsModel):
    """What is subtracted from a curve; another one's curve where there is no such number."""

    value: Real | None = None


class RcdDetails(_DetailsModel):
    """Of `rcd.raw`; a curve that is null stands in the arrays, and an objective that is missing is the loss."""

    loss: tuple[Real, ...] | None = None
    objective: tuple[Real, ...] | None = None
    floor: FloorDetails | None = None
    step_sizes: tuple[StepSize, ...] | None = None
    rank_by_k: dict[str, Whole] | None = None
    order_changes: tuple[OrderChangeDetails, ...] | None = None


class RatioDetails(_DetailsModel):
    """Of `rcd.ratio_to_unseen`: the curve of the twin; one that is null stands in the arrays."""

    loss_unseen: tuple[Real, ...] | None = None


class Eigenvalue(_DetailsModel):
    """One of a Hessian."""

    value: Real
    converged: bool = True


class SpectrumDetails(_DetailsModel):
    """Of `spectrum.lambda_max`: the largest ones, in their order."""

    eigenvalues: tuple[Eigenvalue, ...] = ()


class _Excess(_DetailsModel):
    steps: tuple[Annotated[Whole, Field(ge=0)], ...]
    values: tuple[Real, ...]

    @model_validator(mode="after")
    def _paired(self) -> "_Excess":
        if len(self.steps) != len(self.values) or list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps increase, and each has a value")
        return self


class TruncationDetails(_DetailsModel):
    """Of `truncation.verdict`."""

    excess: _Excess | None = None


class Exposed(_DetailsModel):
    """One example that an attack calls a member, and the share of the unseen twin that scores as high."""

    index: Whole
    label: Whole
    score: Real | None
    share_of_twin_above: Real


class MiaDetails(_DetailsModel):
    """Of `mia.<attack>.auc`."""

    worst: tuple[Exposed, ...] | None = None


class GapDetails(_DetailsModel):
    """A gap to the retrained models with its interval."""

    value: Real | None = None
    low: Real | None = None
    high: Real | None = None


class ResurgenceDetails(_DetailsModel):
    """Of `resurgence.<alteration>`: before and after."""

    gap_before: GapDetails | None = None
    gap_after: GapDetails | None = None
    test_accuracy: tuple[Real | None, Real | None] | None = None
    twosample_p_before: Real | None = None


class TraceDetails(_DetailsModel):
    """Of `twosample.p`."""

    ratio_of_spreads: Real | None = None


class OutputDetails(_DetailsModel):
    """Of `outputs.js` and its like: the floor, and the difference with its interval over examples."""

    floor: Real | None = None
    difference: Real | None = None
    difference_low: Real | None = None
    difference_high: Real | None = None


class LayerDetails(_DetailsModel):
    """One layer of a model."""

    name: str
    shape: tuple[Whole, ...]
    values: tuple[Real, ...]
    stable_rank: Real | None = None
    converged: bool = True


class LayersDetails(_DetailsModel):
    """Of `layers.sigma_max`."""

    layers: tuple[LayerDetails, ...] = ()


class RateDetails(_DetailsModel):
    """Of `generation.kept_rate` and its like: class, samples that are right, samples."""

    by_class: tuple[tuple[Whole, Whole, Whole], ...] = ()


class JudgeDetails(_DetailsModel):
    """Of `generation.judge_accuracy`: of each side images that the judge gets right, and images."""

    forgotten: tuple[Whole, Whole] = (0, 0)
    kept: tuple[Whole, Whole] = (0, 0)


AnyDetails = TypeVar(
    "AnyDetails",
    RateDetails,
    JudgeDetails,
    RcdDetails,
    RatioDetails,
    SpectrumDetails,
    TruncationDetails,
    LayersDetails,
    TraceDetails,
    MiaDetails,
    ResurgenceDetails,
    OutputDetails,
)


def details_of(measurement: Measurement, kind: type[AnyDetails]) -> AnyDetails:
    """Return a measurement's details as a kind; empty ones where they are of no known form (`unreadable` says so)."""
    try:
        return kind.model_validate(measurement.details)
    except ValidationError:
        return kind()


def unreadable(report: AuditReport) -> tuple[str, ...]:
    """Say whose details are of no known form, so that a picture lacks them."""
    return tuple(dict.fromkeys(_problems(report)))


def _problems(report: AuditReport) -> Iterator[str]:
    for measurement in report.measurements:
        kind = _kind_of(measurement.name)
        try:
            if kind is not None:
                kind.model_validate(measurement.details)
        except ValidationError as problem:
            place = ".".join(str(part) for part in problem.errors()[0]["loc"])
            yield (
                f"{measurement.name} of {measurement.subject}: its details are of no known form (first: {place}); "
                "what they would show is left out"
            )


def _kind_of(name: str) -> type[Any] | None:
    kinds: dict[str, type[Any]] = {
        "rcd.raw": RcdDetails,
        "rcd.ratio_to_unseen": RatioDetails,
        "spectrum.lambda_max": SpectrumDetails,
        "truncation.verdict": TruncationDetails,
        "twosample.p": TraceDetails,
        "layers.sigma_max": LayersDetails,
        "generation.judge_accuracy": JudgeDetails,
        "generation.kept_rate": RateDetails,
    }
    kinds |= {f"resurgence.{name}": ResurgenceDetails for name in ALTERATIONS}
    kinds |= {f"outputs.{kind}{suffix}": OutputDetails for kind in DIVERGENCES for suffix in ("", ".class_test")}
    return MiaDetails if name.startswith("mia.") and name.endswith(".auc") else kinds.get(name)
