"""Two sides of a step: their gradients, what is refused, and what counts as infeasible."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unlearn_audit.engine import Part
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.two_sides import Sides, StepWatch, cosines, refuse_one_sided, sides_of


def one(*values: float) -> list[Tensor]:
    return [torch.tensor(values)]


def test_terms_of_a_side_are_added_up_and_those_of_neither_are_left_out() -> None:
    parts = {
        "a": Part(one(1.0, 2.0), "forget"),
        "b": Part(one(10.0, 20.0), "retain"),
        "c": Part(one(0.5, 0.5), "retain"),
        "penalty": Part(one(100.0, 100.0), None),
    }
    found = sides_of(parts, "nash")
    assert [each.tolist() for each in (*found.forget, *found.retain)] == [[1.0, 2.0], [10.5, 20.5]]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"retain": Part([], "retain")}, "no term of the forget side (its terms: retain); methods whose every step"),
        ({"ascent": Part([], "forget")}, "no term of the retain side (its terms: ascent)"),
        ({"x": Part([], None)}, "no term of the forget nor of the retain side (its terms: x)"),
    ],
)
def test_a_step_without_one_of_the_sides_is_refused(parts: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        sides_of(parts, "nash")
    assert says in str(caught.value)
    assert str(caught.value).startswith("--with nash weighs")


def test_methods_are_refused_by_their_batches_with_the_reason() -> None:
    refuse_one_sided([], (), "RL")
    refuse_one_sided(["nash"], ("forget", "retain"), "NegGrad+")
    for sides, why in [
        ((), "RL takes batches of the forget and of the retain set in turn"),
        (("forget",), "RL takes no batch of the retain set"),
        (("retain",), "RL takes no batch of the forget set"),
    ]:
        with pytest.raises(UsageError, match=f"^--with nash weighs .* but {why}; methods whose every step"):
            refuse_one_sided(["nash"], sides, "RL")


def test_cosines_are_those_of_all_tensors_together_and_zero_vectors_hinder_nobody() -> None:
    step = [torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])]
    sides = Sides([torch.tensor([-1.0]), torch.zeros(1, 2)], [torch.zeros(1), torch.zeros(1, 2)])
    assert cosines(step, sides).tolist() == pytest.approx([-0.6, 1.0])
    nothing = [torch.zeros(1), torch.zeros(1, 2)]
    assert cosines(nothing, sides).tolist() == [1.0, 1.0]


def test_a_watch_counts_batches_and_steps_and_keeps_the_worst_cosine() -> None:
    memory: dict[str, Tensor] = {}
    watch = StepWatch(memory, "x", torch.device("cpu"), counts=("more",))
    sides = Sides(one(1.0, 0.0), one(0.0, 1.0))
    for slope, after in [((1.0, 1.0), (0.0, 0.0)), ((1.0, -1.0), (0.0, 0.0)), ((1.0, -1.0), (-1.0, 2.0))]:
        watch.batch(one(*slope), sides)
        watch.step(one(1.0, 1.0), one(*after), sides)
    assert watch.figures({"more": 7.0}) == {
        "x, infeasible batches": pytest.approx(2 / 3),
        "x, infeasible steps": pytest.approx(1 / 3),
        "x, worst cosine of a step": pytest.approx(-1 / 5**0.5),
        "x, more": 7.0,
    }
    again = StepWatch(memory, "x", torch.device("cpu"))
    assert again.figures({}) == {}
    assert again.key == "x 2"
    watch.add("more", 2)
    assert (watch.total("more"), watch.total("steps"), again.total("steps")) == (2.0, 3.0, 0.0)


@pytest.mark.parametrize(("turn", "infeasible"), [(-0.9e-3, 0.0), (-1.1e-3, 1.0)])
def test_a_step_is_infeasible_from_a_cosine_of_a_thousandth_on(turn: float, infeasible: float) -> None:
    watch = StepWatch({}, "x", torch.device("cpu"))
    watch.step(one(turn, 1.0), one(0.0, 0.0), Sides(one(1.0, 0.0), one(0.0, 1.0)))
    assert watch.figures({})["x, infeasible steps"] == infeasible
