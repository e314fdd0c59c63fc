"""What an attack finds of the fleet's own unlearned models: how large a trace this kind of unlearning leaves for it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.attacks import Attack, Shadows
from unlearn_audit.attacks.leave_pair_out import OwnTarget, own_targets
from unlearn_audit.errors import MeasurementError
from unlearn_audit.metrics import Bounds
from unlearn_audit.report import CouldSee


class OwnModels(NamedTuple):
    """The mean AUC on the fleet's own models, each compared with the fleet without its pair.

    Attributes:
        auc: of what a model forgot against what it never saw.
        bounds: 95 % interval, Student's t over pairs.
        targets: how many models.
        compared_with: how many models each of them was compared with.
    """

    auc: float
    bounds: Bounds
    targets: int
    compared_with: int

    @property
    def details(self) -> dict[str, Any]:
        """The numbers by name."""
        low, high = self.bounds
        return {
            "auc": self.auc, "low": low, "high": high, "targets": self.targets, "compared_with": self.compared_with
        }  # fmt: skip

    @property
    def could_see(self) -> CouldSee:
        """The same as a report's measurements have it."""
        return CouldSee(
            share=None,
            dose=None,
            runs=self.targets,
            seen_when="a model of the fleet that was unlearned in the same way, its pair left out",
            reason="nothing of the original was planted: what too much unlearning leaves is not of the original's kind",
            auc=self.auc,
            auc_low=self.bounds.low,
            auc_high=self.bounds.high,
        )

    def told(self, attack: str, method: str) -> str:
        """Say it in a sentence."""
        low, high = self.bounds
        return (
            f"{attack}: of the fleet's own models that went through {method}, it tells what they forgot from what they "
            f"never saw with an AUC of {self.auc:.3f} [{low:.3f}, {high:.3f}] ({self.targets} models, each compared "
            f"with {self.compared_with} others): this is what it sees of that kind of unlearning; 0.5 is nothing"
        )


def own_models(attack: Attack, shadows: Shadows, labels: NDArray[np.int64]) -> OwnModels | None:
    """Return what an attack finds of the fleet's own models; None where there are too few, or it cannot score them.

    Args:
        attack: which one; it has to need models that were unlearned, and nothing else.
        shadows: the models that were unlearned.
        labels: [N] of the attacked examples.
    """
    if set(attack.needs) != {"unlearned"}:
        return None
    try:
        areas = [_area(one) for one in own_targets(attack.score, shadows, labels)]
    except MeasurementError:
        return None
    known = [area for area in areas if area is not None]
    if len(known) < len(areas):
        return None
    return _summary(known, len(shadows.inside) - 2)


def _area(target: OwnTarget) -> float | None:
    return metrics.auc(target.members, target.non_members)


def _summary(areas: Sequence[float], compared_with: int) -> OwnModels:
    """Return mean and interval; the two models of a pair share all examples, and count as one."""
    pairs = np.array(areas).reshape(-1, 2).mean(axis=1)
    error = float(pairs.std(ddof=1) / np.sqrt(len(pairs)))
    bounds = metrics.student_interval(float(pairs.mean()), error, len(pairs) - 1)
    return OwnModels(
        float(pairs.mean()), Bounds(max(0.0, bounds.low), min(1.0, bounds.high)), len(areas), compared_with
    )
