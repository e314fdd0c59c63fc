"""Feasible updates: of each step only what makes neither side worse (Dine et al. 2025, "focus" and its OPT form).

The step's gradient D is feasible where <D, P_F> >= 0 and <D, P_R> >= 0, with P_F and P_R the parts of either side; the
weights of the two drop out of that. `opt` zeroes as few coordinates as it finds so that both hold; `focus` scales each
coordinate by an estimate of the probability that the two sides' true gradients have the same sign; `prob` drops those
where it is below q; `focus-opt` does `opt` on what `focus` has scaled; `watch` only counts.

A feasible gradient makes a feasible step under plain SGD alone: momentum, Adam and weight decay turn it. So the step
that was taken is measured whatever is asked for, and `on=step` edits that step instead of the gradient. Where weights
are mixed (reinit), the optimiser's step is meant, from the mixed weights on; what transforms named after this one do to
the weights is not measured. `opt` waits for the device in each step.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from unlearn_audit.engine import Hooks, TermGradients, trainable
from unlearn_audit.methods import Course, Settings, StepTransform, UnlearningContext
from unlearn_audit.methods.loop import Share
from unlearn_audit.methods.projection import dot, wide
from unlearn_audit.methods.two_sides import Sides, StepWatch, sides_of


class FeasibleSettings(Settings):
    """Settings of feasible updates: those of the published code, but for the margin."""

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {"margin": 0.0}

    variant: Literal["focus", "prob", "opt", "focus-opt", "watch"] = Field(
        default="opt", description="scale, drop what is unlikely, zero the fewest, both, or only count"
    )
    on: Literal["gradient", "step"] = Field(default="gradient", description="what is edited: gradient or taken step")
    scope: Literal["tensor", "model"] = Field(default="tensor", description="opt: feasible in each tensor, or in all")
    ema: Literal["code", "intended"] = Field(
        default="code", description="focus: average of squares with the code's swapped weights, or the paper's"
    )
    q: Share = Field(default=0.5, description="prob: coordinates of a focus below it are dropped")
    margin: Share = Field(default=1e-3, description="opt: the cosine that either side is to have at least")
    guard: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="opt: retain is no constraint where its norm is at most this share of forget's; 0 off"
    )

    def without_effect(self) -> tuple[str, ...]:
        """Return what does nothing beside the variant."""
        idle = {"focus": "q scope margin guard", "prob": "scope margin guard", "opt": "q ema", "focus-opt": "q"}
        return tuple(idle.get(self.variant, "on scope ema q margin guard").split())


# ----- focus


def focus_of(forget: Tensor, retain: Tensor) -> Tensor:
    """Return f = phi_F·phi_R + (1 - phi_F)·(1 - phi_R), phi = Phi(s), of standardised gradients s of either side.

    The probability that the true gradients have one sign, under a flat prior and independent normal noises.

    >>> focus_of(torch.tensor([0.0, 9.0, 9.0]), torch.tensor([5.0, 9.0, -9.0])).tolist()
    [0.5, 1.0, 0.0]
    """
    return 0.5 * (1 + torch.erf(forget / math.sqrt(2)) * torch.erf(retain / math.sqrt(2)))


def second_moment(before: Tensor | None, gradient: Tensor, ema: str) -> Tensor:
    """Return the running mean of squared gradients.

    Args:
        before: its value of the step before; None in the first, which gives .1·g².
        gradient: of this step.
        ema: "code", .9·g² + .1·V, the weights of the published code; "intended", .9·V + .1·g².
    """
    square = gradient * gradient
    if before is None:
        return 0.1 * square
    return 0.9 * square + 0.1 * before if ema == "code" else 0.9 * before + 0.1 * square


class Focus:
    """The focus of each coordinate, from running second moments of either side that live in the method's memory."""

    def __init__(self, memory: dict[str, Tensor], key: str, ema: str) -> None:
        self.memory, self.key, self.ema = memory, key, ema

    def __call__(self, sides: Sides) -> list[Tensor]:
        """Take in a step's gradients and return the focus, one tensor a parameter."""
        standardised: list[list[Tensor]] = []
        for name, gradients in zip(Sides._fields, sides, strict=True):
            found = []
            for index, gradient in enumerate(gradients):
                key = f"{self.key}/{name}/{index}"
                self.memory[key] = second_moment(self.memory.get(key), gradient, self.ema)
                found.append(gradient / (self.memory[key] + 1e-8).sqrt())
            standardised.append(found)
        return [focus_of(forget, retain) for forget, retain in zip(*standardised, strict=True)]


# ----- opt


def feasible_mask(step: Tensor, sides: Sequence[Tensor], *, margin: float) -> Tensor:
    """Return which coordinates stay, so that what is left has a cosine of at least `margin` with each side.

    Greedy: of the side that is short by most, those that hinder it go, worst first, as many as it takes; then the other
    one. Where the sides take turns, more may go than is needed.

    Args:
        step: [n], the gradient or the step.
        sides: [n] each; a side of norm 0 is served by anything.
        margin: relative to the norms of what is left and of the side, in [0, 1].

    Returns:
        [n] boolean; False everywhere where nothing is left that serves both.
    """
    vector = wide(step)
    scores = [vector * wide(side) for side in sides]
    norms = [float(torch.linalg.vector_norm(wide(side))) for side in sides]
    squares = vector * vector
    keep = torch.ones_like(vector, dtype=torch.bool)
    while True:
        total = (squares * keep).sum()
        sums = [float((score * keep).sum()) for score in scores]
        wanted = [margin * math.sqrt(float(total)) * norm for norm in norms]
        short = [index for index in range(len(sums)) if sums[index] < wanted[index]]
        if not short:
            return keep
        worst = min(short, key=lambda index: sums[index] / norms[index])
        hindering = (keep & (scores[worst] < 0)).nonzero()[:, 0]
        if not len(hindering):
            return torch.zeros_like(keep)
        order = hindering[torch.sort(scores[worst][hindering], stable=True).indices]
        left = (total - squares[order].cumsum(0)).clamp(min=0).sqrt()
        served = sums[worst] - scores[worst][order].cumsum(0) >= margin * norms[worst] * left
        count = int(served.nonzero()[0]) + 1 if bool(served.any()) else len(order)
        keep = keep.clone()
        keep[order[:count]] = False


def feasible_masks(
    step: Sequence[Tensor], sides: Sequence[Sequence[Tensor]], *, margin: float, scope: str
) -> list[Tensor]:
    """Return masks of the shapes of a step's tensors, found in each tensor or over all of them together.

    Args:
        step: one tensor a parameter.
        sides: of the same shapes, one sequence a side.
        margin: as in `feasible_mask`.
        scope: "tensor", where each tensor is feasible by itself and so the whole is, or "model".
    """
    if scope == "model":
        flat = feasible_mask(_flat(step), [_flat(side) for side in sides], margin=margin)
        parts = torch.split(flat, [each.numel() for each in step])
        return [part.reshape(each.shape) for part, each in zip(parts, step, strict=True)]
    served = _served(step, sides, margin)
    return [
        torch.ones_like(each, dtype=torch.bool)
        if good
        else feasible_mask(each.flatten(), [part.flatten() for part in parts], margin=margin).reshape(each.shape)
        for good, each, *parts in zip(served, step, *sides, strict=True)
    ]


def _served(step: Sequence[Tensor], sides: Sequence[Sequence[Tensor]], margin: float) -> list[bool]:
    """Return of each tensor whether all of it serves every side; the device is waited for once."""
    good = [
        torch.stack([
            dot([each], [part]) >= margin * (dot([each], [each]) * dot([part], [part])).sqrt() for part in parts
        ]).all()
        for each, *parts in zip(step, *sides, strict=True)
    ]
    return [bool(each) for each in torch.stack(good).tolist()]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.flatten() for each in tensors])


# ----- the transform


class Edit(NamedTuple):
    """What a step's coordinates are multiplied by, and which of them stay; None where that is all."""

    factors: Sequence[Tensor] | None
    masks: Sequence[Tensor] | None


class _Editing:
    """Finds the edit of a gradient or of a step from the two sides of that step, and counts what it takes away."""

    def __init__(self, settings: FeasibleSettings, watch: StepWatch) -> None:
        self.settings, self.watch = settings, watch
        self.focus = Focus(watch.memory, watch.key, settings.ema)

    def __call__(self, step: Sequence[Tensor], sides: Sides) -> Edit:
        """Return the edit; with a focus the running moments take in the sides."""
        variant = self.settings.variant
        if variant == "watch":
            return Edit(None, None)
        if variant == "opt":
            return Edit(None, self._opt(step, sides))
        factors = self.focus(sides)
        if variant == "prob":
            return Edit(None, self._counted([each >= self.settings.q for each in factors], step))
        if variant == "focus":
            return Edit(factors, None)
        scaled = Sides(*(_times(side, factors) for side in sides))
        return Edit(factors, self._opt(_times(step, factors), scaled))

    def _opt(self, step: Sequence[Tensor], sides: Sides) -> Sequence[Tensor]:
        binding = [sides.forget] if self._vacuous(sides) else [sides.forget, sides.retain]
        masks = feasible_masks(step, binding, margin=self.settings.margin, scope=self.settings.scope)
        return self._counted(masks, step)

    def _vacuous(self, sides: Sides) -> bool:
        """Tell whether the retain side asks for so little that it is no constraint, and count it."""
        guard = self.settings.guard
        found = guard > 0 and bool(dot(sides.retain, sides.retain) <= guard**2 * dot(sides.forget, sides.forget))
        self.watch.add("unconstrained", float(found))
        return found

    def _counted(self, masks: Sequence[Tensor], step: Sequence[Tensor]) -> Sequence[Tensor]:
        """Count the coordinates that are masked, and the scopes of which nothing is left."""
        there = torch.stack([(each != 0).any() for each in step])
        left = torch.stack([(mask & (each != 0)).any() for mask, each in zip(masks, step, strict=True)])
        whole = self.settings.scope == "model"
        self.watch.add("masked", torch.stack([(~mask).sum() for mask in masks]).sum())
        self.watch.add("skips", there.any() & ~left.any() if whole else (there & ~left).sum())
        return masks

    def figures(self, size: int) -> dict[str, float]:
        """Return what was counted; `size` is the number of coordinates of a step."""
        more: dict[str, float] = {}
        steps = self.watch.total("steps")
        if steps and self.settings.variant in ("prob", "opt", "focus-opt"):
            more["masked share"] = self.watch.total("masked") / (steps * size)
            more["skips"] = self.watch.total("skips")
        if steps and self.settings.guard and self.settings.variant in ("opt", "focus-opt"):
            more["steps without a retain constraint"] = self.watch.total("unconstrained") / steps
        return self.watch.figures(more)


def _times(step: Sequence[Tensor], factors: Sequence[Tensor]) -> list[Tensor]:
    return [each * factor for each, factor in zip(step, factors, strict=True)]


def _make(context: UnlearningContext, settings: FeasibleSettings, course: Course) -> Hooks:
    """Edit each gradient, or each step that the optimiser has taken, and measure the step that comes of it."""
    parameters = list(trainable(context.model).values())
    watch = StepWatch(context.memory, "feasible", context.compute.device, counts=("masked", "skips", "unconstrained"))
    editing = _Editing(settings, watch)
    sides: list[Sides] = []
    held: list[Tensor] = []

    def gradient(step: int, parts: TermGradients) -> None:
        sides[:] = [sides_of(parts, "feasible")]
        found = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        watch.batch(found, sides[0])
        if settings.on == "gradient":
            for many in editing(found, sides[0]):
                for parameter, each in zip(parameters, many or (), strict=bool(many)):
                    parameter.grad = None if parameter.grad is None else parameter.grad * each

    def hold(step: int) -> None:
        held[:] = [parameter.detach().clone() for parameter in parameters]

    def after(step: int) -> None:
        if settings.on == "step":
            taken = [old - new.detach() for old, new in zip(held, parameters, strict=True)]
            factors, masks = editing(taken, sides[0])
            for index, (parameter, old) in enumerate(zip(parameters, held, strict=True)):
                if factors:
                    parameter.copy_(old - taken[index] * factors[index])
                if masks:  # what is masked is the old weight bit for bit, what is not the new one
                    parameter.copy_(torch.where(masks[index], parameter, old))
        watch.step(held, [parameter.detach() for parameter in parameters], sides[0])

    size = sum(parameter.numel() for parameter in parameters)
    return Hooks(gradient=gradient, hold=hold, after=after, parts=True, figures=lambda: editing.figures(size))


FEASIBLE = StepTransform(
    "feasible",
    "Dine et al. 2025; values of the published code",
    FeasibleSettings,
    _make,
    deviations=(
        "opt takes away what hinders the side that is short until it is served, the worst coordinates first; the "
        "published code sorts by the product of both sides' gradients and takes away more",
        "focus adds 1e-8 to the second moment of the gradient of weight x loss, the published code to the loss's own",
    ),
    two_sided=True,
)
