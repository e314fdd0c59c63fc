"""What the forget and the retain side of a step ask for, and whether the step that was taken serves both.

With P_F and P_R the gradients of weight x loss of the terms of either side, a step d = theta_old - theta_new is
feasible where <d, P_F> >= 0 and <d, P_R> >= 0: to first order it makes neither side worse (Dine et al. 2025).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unlearn_audit.engine import TermGradients
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.projection import dot, wide
from unlearn_audit.step_transforms import Extra

INFEASIBLE = -1e-3  # ours: a cosine below it; with 0 the rounding of weights in float32 alone gives false alarms
BOTH = (
    "ieu, neggrad-plus, trw, bad-teacher, reference, rl --order alternate, or, with --with ascent, one that descends "
    "retain in each step (ft, ct, msg)"
)


class Sides(NamedTuple):
    """The gradient of each side, one tensor a trainable parameter."""

    forget: Sequence[Tensor]
    retain: Sequence[Tensor]


def sides_of(parts: TermGradients, asked_by: str) -> Sides:
    """Return the sum of the gradients of each side's terms.

    Args:
        parts: of one step, by term.
        asked_by: the transform, for the message.

    Raises:
        UsageError: the step holds no term of one of the sides.
    """
    found = {side: [part.gradients for part in parts.values() if part.side == side] for side in Sides._fields}
    lacking = [side for side, gradients in found.items() if not gradients]
    if lacking:
        raise UsageError(
            f"--with {asked_by} weighs what the forget side asks for against what the retain side asks for, but a step "
            f"of this method has no term of the {' nor of the '.join(lacking)} side (its terms: {', '.join(parts)}); "
            f"methods whose every step holds both: {BOTH}"
        )
    return Sides(*([_total(each) for each in zip(*gradients, strict=True)] for gradients in found.values()))


def refuse_one_sided(transforms: Sequence[str], sides: Sequence[str], task: str) -> None:
    """Refuse transforms that weigh two sides where no step of a method holds both.

    Args:
        transforms: names of those that do.
        sides: of which side every step has a batch; none where the sets take turns.
        task: the method's name.

    Raises:
        UsageError: there are such transforms, and one side or both are not there.
    """
    lacking = [side for side in Sides._fields if side not in sides]
    if not transforms or not lacking:
        return
    why = (
        "takes batches of the forget and of the retain set in turn"
        if not sides
        else (f"takes no batch of the {lacking[0]} set")
    )
    raise UsageError(
        f"--with {transforms[0]} weighs what the forget side asks for against what the retain side asks for in one "
        f"step, but {task} {why}; methods whose every step holds both: {BOTH}"
    )


def refuse_early(extras: Sequence[Extra], sides: Sequence[str], task: str) -> None:
    """Refuse, before anything costly is prepared, what is going to be refused of a run's transforms.

    Beside any other transform, which may add the side that lacks, it is left to the run.

    Args:
        extras: the transforms.
        sides: of which side every step has a batch; none where the sets take turns.
        task: the method's name.

    Raises:
        UsageError: all of them weigh two sides, and no step holds both.
    """
    if all(each.transform.two_sided for each in extras):
        refuse_one_sided([each.transform.name for each in extras], sides, task)


def _total(gradients: Sequence[Tensor]) -> Tensor:
    return gradients[0] if len(gradients) == 1 else torch.stack(list(gradients)).sum(dim=0)


def cosines(step: Sequence[Tensor], sides: Sides) -> Tensor:
    """Return the cosine of a step with each side [2]; 1 where one of the two vectors is zero, which hinders nobody."""
    length = dot(step, step).sqrt()
    found = []
    for side in sides:
        scale = length * dot(side, side).sqrt()
        found.append(torch.where(scale > 0, dot(step, side) / scale.clamp(min=1e-300), 1.0))
    return torch.stack(found)


class StepWatch:
    """Counts, over a run, the batches whose gradient and the steps that are infeasible; it waits for no device.

    Args:
        memory: of the method, where the counts live, so that a run that goes on after a kill has them all.
        name: of who counts; numbered where it is taken.
        device: of the model.
        counts: what else is counted, by name.
    """

    def __init__(
        self, memory: dict[str, Tensor], name: str, device: torch.device, *, counts: Sequence[str] = ()
    ) -> None:
        number = sum(key.startswith(name) and key.endswith("/steps") for key in memory) + 1
        self.memory, self.key = memory, name if number == 1 else f"{name} {number}"
        kind = torch.float32 if device.type == "mps" else torch.float64
        for count in ("steps", "infeasible batches", "infeasible steps", *counts):
            memory[f"{self.key}/{count}"] = torch.zeros((), dtype=kind, device=device)
        memory[f"{self.key}/worst cosine"] = torch.ones((), dtype=kind, device=device)

    def add(self, count: str, more: Tensor | float) -> None:
        """Add to a count."""
        key = f"{self.key}/{count}"
        self.memory[key] = self.memory[key] + more

    def total(self, count: str) -> float:
        """Return a count; this waits for the device."""
        return float(self.memory[f"{self.key}/{count}"])

    def batch(self, gradient: Sequence[Tensor], sides: Sides) -> None:
        """Count a step's gradient as the transform finds it."""
        self.add("infeasible batches", (cosines(gradient, sides) < INFEASIBLE).any())

    def step(self, before: Sequence[Tensor], after: Sequence[Tensor], sides: Sides) -> None:
        """Count the step that was taken, whatever optimiser took it."""
        found = cosines([wide(old) - wide(new) for old, new in zip(before, after, strict=True)], sides)
        self.add("steps", 1)
        self.add("infeasible steps", (found < INFEASIBLE).any())
        key = f"{self.key}/worst cosine"
        self.memory[key] = torch.minimum(self.memory[key], found.min())

    def figures(self, more: Mapping[str, float]) -> dict[str, float]:
        """Return, under the name of who counts, how much was infeasible; {} where no step was taken.

        Args:
            more: what else was counted, by name.

        Returns:
            Shares of the batches and of the steps taken, the smallest cosine of a step with a side, and `more`.
        """
        steps = self.total("steps")
        if not steps:
            return {}
        found = {
            "infeasible batches": self.total("infeasible batches") / steps,
            "infeasible steps": self.total("infeasible steps") / steps,
            "worst cosine of a step": self.total("worst cosine"),
            **more,
        }
        return {f"{self.key}, {name}": value for name, value in found.items()}
