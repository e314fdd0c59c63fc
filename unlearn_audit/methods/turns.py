"""Passes over the forget and the retain set in turn: which step belongs to which, and what they come to."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from unlearn_audit.engine import Batches, Terms
from unlearn_audit.methods.loop import Objective


class Turn(NamedTuple):
    """Where a step stands when passes take turns: its epoch, whether on the forget set, which batch of that set."""

    epoch: int
    on_forget: bool
    batch: int


@dataclass(frozen=True)
class Turns:
    """A pass over the forget set, then one over the retain set, in each epoch; later epochs may leave out the former.

    Attributes:
        forget: its minibatches.
        retain: its minibatches.
        until: how many epochs, from the first, have a pass over the forget set; None for all.
    """

    forget: Batches
    retain: Batches
    until: int | None = None

    def at(self, step: int) -> Turn:
        """Return where a step stands."""
        first, second = self.forget.per_epoch, self.retain.per_epoch
        epoch, inside = divmod(step, first + second)
        if self.until is not None and epoch >= self.until:
            more, inside = divmod(step - self.until * (first + second), second)
            epoch = self.until + more
        elif inside < first:
            return Turn(epoch, True, epoch * first + inside)
        else:
            inside -= first
        return Turn(epoch, False, epoch * second + inside)

    def length(self, epochs: float) -> int:
        """Return the steps of so many epochs."""
        both = epochs if self.until is None else min(epochs, self.until)
        return math.ceil(both * self.forget.per_epoch + epochs * self.retain.per_epoch - 1e-9)

    def gradients(self, steps: int) -> int:
        """Return the gradients of single examples in the first so many steps."""
        turn = self.at(steps)
        passes = turn.epoch + (not turn.on_forget)
        made = passes if self.until is None else min(passes, self.until)
        on_forget = turn.batch if turn.on_forget else self.forget.per_epoch * made
        return self.forget.taken(on_forget) + self.retain.taken(steps - on_forget)

    def objective(self, on_forget: Callable[[int], Terms], on_retain: Callable[[int], Terms]) -> Objective:
        """Return the objective; both functions are given the number of the batch of their set."""

        def terms(step: int) -> Terms:
            turn = self.at(step)
            return on_forget(turn.batch) if turn.on_forget else on_retain(turn.batch)

        return Objective(terms, self.length, lambda step: self.at(step).epoch, self.gradients, ("retain",), sides=())
