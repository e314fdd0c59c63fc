"""The Nash bargain of two sides: the step's gradient becomes the bisector of theirs (Wu & Harandi 2025, MUNBa).

(g_F + g_R) / sqrt(1 + cos) with g the unit vectors of either side's gradient and cos their cosine: the solution of
G^T G alpha = 1 / alpha for two gradients. It makes neither side worse unless they are opposite, whatever their lengths.
Its own length is sqrt(2) always, so that a clipped step of SGD is as long as the step size. MUNBa's forget loss is that
of random labels: `rl --order alternate`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from unlearn_audit.engine import Hooks, TermGradients, trainable
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Course, Settings, StepTransform, UnlearningContext
from unlearn_audit.methods.loop import Step
from unlearn_audit.methods.projection import dot
from unlearn_audit.methods.two_sides import Sides, StepWatch, sides_of

OPPOSITE = 1e-6  # ours: of 1 + cos; below it there is nothing to bargain for


class NashSettings(Settings):
    """Settings of the bargain: those of the published code."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}

    clip: Step | Literal["none"] = Field(default=1.0, description="largest norm of the gradient, or none")
    fallback: Annotated[float, Field(ge=0)] = Field(
        default=0.1, description="weight of the forget side beside retain's where no bargain is to be had"
    )


def bargain(sides: Sides, *, fallback: float) -> tuple[list[Tensor], Tensor]:
    """Return the bisector of two gradients, and whether it is to be had.

    Args:
        sides: one tensor a parameter.
        fallback: where the two are opposite or one is zero, retain + fallback·forget is returned.

    Returns:
        One tensor a parameter, and a boolean scalar; no device is waited for.
    """
    squares = [dot(side, side) for side in sides]
    scale = (squares[0] * squares[1]).sqrt()
    with_each_other = 1 + dot(*sides) / scale  # not a number where one is zero, and then no bargain
    met = with_each_other > OPPOSITE
    weights = [
        torch.where(met, 1 / (square * with_each_other).sqrt(), other)
        for square, other in zip(squares, (fallback, 1.0), strict=True)
    ]
    found = [
        weights[0].to(forget.dtype) * forget + weights[1].to(retain.dtype) * retain
        for forget, retain in zip(*sides, strict=True)
    ]
    return found, met


def clipped(gradient: Sequence[Tensor], largest: float) -> list[Tensor]:
    """Return a gradient scaled down to a norm where it is longer."""
    factor = (largest / dot(gradient, gradient).sqrt()).clamp(max=1.0)
    return [each * factor.to(each.dtype) for each in gradient]


def _make(context: UnlearningContext, settings: NashSettings, course: Course) -> Hooks:
    """Put the bargain in the place of the sum of both sides; what terms of neither side ask for is added to it."""
    parameters = list(trainable(context.model).values())
    watch = StepWatch(context.memory, "nash", context.compute.device, counts=("failed",))
    sides: list[Sides] = []
    held: list[Tensor] = []

    def gradient(step: int, parts: TermGradients) -> None:
        sides[:] = [sides_of(parts, "nash")]
        others = [part.gradients for part in parts.values() if part.side is None]
        if step == 0:
            _refuse_edited(parameters, parts)
        watch.batch([torch.zeros_like(each) if each.grad is None else each.grad for each in parameters], sides[0])
        found, met = bargain(sides[0], fallback=settings.fallback)
        watch.add("failed", ~met)
        found = [torch.stack(each).sum(dim=0) for each in zip(found, *others, strict=True)]
        found = found if settings.clip == "none" else clipped(found, settings.clip)
        for parameter, each in zip(parameters, found, strict=True):
            parameter.grad = each

    def hold(step: int) -> None:
        held[:] = [parameter.detach().clone() for parameter in parameters]

    def after(step: int) -> None:
        watch.step(held, [parameter.detach() for parameter in parameters], sides[0])

    def figures() -> Mapping[str, float]:
        steps = watch.total("steps")
        return watch.figures({"failed bargains": watch.total("failed") / max(steps, 1)})

    return Hooks(gradient=gradient, hold=hold, after=after, parts=True, figures=figures)


def _refuse_edited(parameters: Sequence[Tensor], parts: TermGradients) -> None:
    """Refuse to throw away what a transform named before this one did to the gradient.

    Raises:
        UsageError: the gradient is not the sum of its terms any more.
    """
    for parameter, *gradients in zip(parameters, *(part.gradients for part in parts.values()), strict=True):
        total = torch.stack(gradients).sum(dim=0)
        if parameter.grad is None or not torch.allclose(parameter.grad, total, rtol=0, atol=0, equal_nan=True):
            raise UsageError(
                "--with nash puts a gradient of its own in the place of the sum of all terms, so that what a transform "
                "before it did to that sum would be lost; name nash before the others (a method whose own transform "
                "edits the gradient cannot take it)"
            )


NASH = StepTransform(
    "nash",
    "Wu & Harandi 2025 (MUNBa), in closed form",
    NashSettings,
    _make,
    deviations=(
        "orthogonal gradients are bargained for, too; the published code divides 0 by 0 there and falls back to fixed "
        "weights",
        "every step holds both sides; in the published code, once an epoch's forget batches are through, only retain",
    ),
    two_sided=True,
)
