"""Whose curve hardly moves is in doubt by name, and so is one that moves alone."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from unlearn_audit.audit.rcd.curves import RcdCurves
from unlearn_audit.audit.rcd.unmoved import relearning_doubts
from unlearn_audit.relearning import Curve


def drawn(first: float, last: float) -> Curve:
    losses, one = np.array([first, last]), np.zeros(1)
    points = np.zeros(2)
    return Curve(losses, losses, points, one, points, one, one, one, None, None, 0, 0)


def curves(
    steps: int = 1, left_behind: tuple[str, ...] = (), floor: Any = None, **ends: tuple[str, float, float]
) -> RcdCurves:
    taken = [
        SimpleNamespace(
            candidate=SimpleNamespace(label=label, role=role),
            forget=drawn(first, last),
            diverged=False,
            phi=np.array([first, last]),
            original=floor,
        )
        for label, (role, first, last) in ends.items()
    ]
    made: Any = SimpleNamespace(
        taken=taken, steps=steps, step_size=1e-7, search=SimpleNamespace(left_behind=left_behind)
    )
    return cast("RcdCurves", made)


MOVES, STILL, FITTED = (1.0, 0.5), (1.0, 0.99), (1e-4, 1e-4)


@pytest.mark.parametrize(
    ("original", "unlearned", "doubted"),
    [
        (MOVES, MOVES, set()),
        (FITTED, MOVES, set()),  # a loss near zero has nothing to fall
        (MOVES, STILL, {"original", "unlearned"}),  # the one that moves does so alone
        (STILL, STILL, {"original", "unlearned"}),
    ],
)
def test_who_is_in_doubt(original: tuple[float, float], unlearned: tuple[float, float], doubted: set[str]) -> None:
    found = relearning_doubts(
        curves(original=("original", *original), unlearned=("unlearned", *unlearned), random=("control", *STILL))
    )
    assert set(found) == doubted


def test_a_subject_that_does_not_move_beside_two_that_do_is_in_doubt_alone() -> None:
    found = relearning_doubts(curves(a=("original", *MOVES), b=("unlearned", *STILL), c=("retrained", *MOVES)))
    assert list(found) == ["b"]
    assert "at step size 1e-07 and K = 1" in found["b"][0]


def test_no_step_is_said_elsewhere_and_one_subject_is_compared_with_nobody() -> None:
    assert relearning_doubts(curves(steps=0, a=("original", *STILL))) == {}
    assert relearning_doubts(curves(a=("subject", *MOVES))) == {}


def test_who_had_no_say_and_whose_loss_rises_is_in_doubt() -> None:
    found = relearning_doubts(
        curves(left_behind=("b",), a=("original", *MOVES), b=("unlearned", 1.0, 9.0), c=("retrained", 1.0, 2.0))
    )
    assert set(found) == {"b", "c"}
    assert "chosen without it" in found["b"][0]
    assert "rises" in found["c"][0]


def test_over_the_original_s_own_curve_who_begins_there_has_nothing_to_relearn() -> None:
    floor = SimpleNamespace(phi=np.array(STILL))
    models = {"a": ("original", *STILL), "near": ("unlearned", 1.04, 1.03), "far": ("unlearned", 2.0, 1.99),
              "r": ("retrained", *MOVES)}  # fmt: skip
    assert set(relearning_doubts(curves(floor=floor, **models))) == {"far"}
    assert set(relearning_doubts(curves(**models))) == {"a", "near", "far", "r"}
