"""SCRUB: its divergence against a hand computation, its passes, its teacher, and rewinding."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import (
    HALF,
    Plain,
    batches_of,
    cross_entropy,
    difference,
    make_context,
    make_net,
    parameters_of,
    rows_in,
    same,
    slopes,
    snapshot,
)
from torch import Tensor, nn

from unlearn_audit.data import Examples, Splits
from unlearn_audit.methods import Unlearned, UnlearningContext, scrub
from unlearn_audit.methods.scrub import ScrubSettings, divergence, run_scrub

SHORT: dict[str, Any] = {
    "batch_size": 30, "forget_batch_size": 5, "momentum": 0.0, "weight_decay": 0.0, "step_size": 0.05,
    "schedule": "constant",
}  # fmt: skip


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of each row, in float64."""
    return (p * (np.log(p) - np.log(q))).sum(axis=1)


def softmax(logits: Tensor, temperature: float) -> np.ndarray:
    scaled = np.exp(logits.numpy().astype(np.float64) / temperature)
    return scaled / scaled.sum(axis=1, keepdims=True)


# ----- the divergence


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_divergence_is_that_of_teacher_from_student_times_the_square_of_the_temperature(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(7, 5, generator=generator) for _ in range(2))
    found = divergence(teacher, student, temperature).item()
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    assert found == pytest.approx(temperature**2 * kl(p, q).mean(), rel=1e-5)
    assert abs(kl(p, q).mean() / kl(q, p).mean() - 1) > 0.05  # so that the other order would have been found out
    assert found != pytest.approx(divergence(student, teacher, temperature).item(), rel=0.05)


def test_at_high_temperature_the_scale_of_the_divergence_stays() -> None:
    """d tends to half the mean squared difference of centred logits over C, whatever T."""
    generator = torch.Generator().manual_seed(1)
    teacher, student = (torch.randn(9, 4, generator=generator) for _ in range(2))
    apart = teacher - student
    limit = ((apart - apart.mean(1, keepdim=True)).square().mean(1) / 2).mean().item()
    assert divergence(teacher, student, 100.0).item() == pytest.approx(limit, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_divergence_of_equals_is_zero_with_no_slope(dtype: torch.dtype) -> None:
    teacher = (4 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))).to(dtype)
    student = teacher.clone().requires_grad_()
    found = divergence(teacher, student, 4.0)
    torch.autograd.backward(found)
    assert student.grad is not None
    assert abs(found.item()) < 1e-5
    assert student.grad.abs().max() < 1e-6


# ----- the steps


def test_steps_are_those_written_by_hand(splits: Splits) -> None:
    model, alpha, gamma, temperature, eta = Plain(), 0.5, 0.7, 2.0, 0.05
    origin = parameters_of(model)
    theta = dict(origin)
    retain, forget = batches_of(splits, "retain", size=30), batches_of(splits, "forget", size=5)

    def apart(weights: dict[str, Tensor], images: Tensor) -> Tensor:
        wanted, given = (torch.func.functional_call(model, each, (images,)) for each in (origin, weights))
        p, q = (torch.softmax(logits / temperature, dim=1) for logits in (wanted, given))
        return temperature**2 * (p * (p.log() - q.log())).sum(1).mean()

    def on_forget(weights: dict[str, Tensor], number: int) -> Tensor:
        return -apart(weights, forget.at(number)[0])

    def on_retain(weights: dict[str, Tensor], number: int) -> Tensor:
        batch = retain.at(number)
        return gamma * cross_entropy(model, weights, batch) + alpha * apart(weights, batch[0])

    passes = [(on_forget, [0, 1]), (on_retain, [0, 1, 2]), (on_forget, [2, 3]), (on_retain, [3, 4, 5]),
              (on_retain, [6, 7, 8])]  # fmt: skip
    for loss, numbers in passes:
        before = theta
        for number in numbers:
            slope = slopes(lambda weights, loss=loss, number=number: loss(weights, number), theta)
            theta = {name: theta[name] - eta * slope[name] for name in theta}
        assert numbers == [0, 1] or difference(before, theta) > 1e-4, numbers
    settings = ScrubSettings(**SHORT, alpha=alpha, gamma=gamma, temperature=temperature, epochs=3, forget_epochs=2)
    done = run_scrub(make_context(model, splits), settings)
    assert difference(theta, parameters_of(model)) < 1e-6  # the divergence is taken in float32
    assert done == Unlearned(13, 2 * 10 + 3 * 90)


def moved_in_the_first_forget_pass(model: nn.Module, splits: Splits, **settings: Any) -> float:
    before = parameters_of(model)
    run_scrub(make_context(model, splits), ScrubSettings(**SHORT | {"steps": 2, "step_size": 1.0} | settings))
    return difference(before, parameters_of(model))


def test_the_first_forget_pass_moves_only_what_batchnorm_or_decay_moves(splits: Splits) -> None:
    """Student and teacher are the same at the start, where the divergence is stationary (METHODS 7.7)."""
    assert moved_in_the_first_forget_pass(Plain(torch.float32), splits) < 1e-6
    assert moved_in_the_first_forget_pass(Plain(torch.float32), splits, weight_decay=0.01) > 1e-3
    assert moved_in_the_first_forget_pass(make_net(), splits) > 1e-3


# ----- passes and teacher


class Watched:
    """Who saw what: every pass of the student and of its teacher, which is a copy of the student, hooks included."""

    def __init__(self, splits: Splits) -> None:
        self.student, self.splits = make_net(), splits
        self.origin = snapshot(self.student)
        self.passes: list[tuple[bool, str, list[int]]] = []
        self.student.register_forward_pre_hook(lambda module, given: self.look(module, given))

    def look(self, module: nn.Module, given: tuple[Tensor]) -> None:
        rows = rows_in(given[0], self.splits.forget_examples)
        which = "r" if -1 in rows else "f"
        if module is not self.student:
            assert not module.training
            assert same(module, self.origin)
        else:
            assert module.training
        self.passes.append((module is self.student, which, rows))

    def order(self) -> str:
        """The passes of the student."""
        assert [student for student, *_ in self.passes] == [False, True] * (len(self.passes) // 2)
        assert [entry[1:] for entry in self.passes[0::2]] == [entry[1:] for entry in self.passes[1::2]]
        return "".join(which for student, which, _ in self.passes if student)


@pytest.mark.parametrize(
    ("forget_epochs", "order"),
    [(2, "ffrrrffrrrrrr"), (0, "rrrrrrrrr"), (1, "ffrrrrrrrrr"), (3, "ffrrr" * 3), (7, "ffrrr" * 3)],
)
def test_passes_over_forget_come_first_and_the_last_epochs_have_none(
    splits: Splits, forget_epochs: int, order: str
) -> None:
    watched = Watched(splits)
    settings = ScrubSettings(**SHORT, epochs=3, forget_epochs=forget_epochs)
    done = run_scrub(make_context(watched.student, splits), settings)
    assert watched.order() == order
    assert done == Unlearned(len(order), 10 * min(forget_epochs, 3) + 270)
    assert not same(watched.student, watched.origin)


# ----- rewinding


def rewound(
    splits: Splits, errors: list[float], twin: float, model: nn.Module, **settings: Any
) -> tuple[Unlearned, UnlearningContext]:
    """Run SCRUB with rewind where the errors of the epochs and of the twin are as given."""
    context = make_context(model, splits)
    told = iter(errors)

    def error(self: Any, examples: Examples) -> float:
        model.eval()
        return twin if examples is splits.unseen.examples else next(told)

    values = SHORT | {"epochs": 4, "forget_epochs": 3, "momentum": 0.9} | settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scrub._Rewind, "_error", error)
        return run_scrub(context, ScrubSettings(**values, rewind=True)), context


@pytest.mark.parametrize(
    ("errors", "twin", "chosen"),
    [
        ([0.1, 0.4, 0.7, 0.6], 0.45, 2),
        ([0.1, 0.4, 0.7, 0.6], 0.9, 3),
        ([0.1, 0.4, 0.7, 0.6], 0.0, 1),
        ([0.5, 0.25, 0.75, 0.0], 0.5, 1),
        ([0.0, 0.25, 0.75, 0.0], 0.5, 3),  # of two equally near the later
    ],
)
def test_rewinding_returns_the_weights_of_the_epoch_whose_error_is_nearest_to_the_twins(
    splits: Splits, errors: list[float], twin: float, chosen: int
) -> None:
    model, stopped = make_net(), make_net()
    done, _ = rewound(splits, errors, twin, model)
    values = SHORT | {"epochs": chosen, "forget_epochs": 3, "momentum": 0.9}
    run_scrub(make_context(stopped, splits), ScrubSettings(**values))
    assert same(model, stopped)
    assert done.steps == 3 * 5 + 3
    assert done.notes == (f"rewound to epoch {chosen} of 4: forget error {errors[chosen - 1]:.3f}, twin {twin:.3f}",)


def test_errors_are_taken_in_evaluation_mode_of_the_forget_set_and_of_the_twin_with_the_final_model(
    splits: Splits,
) -> None:
    model, plain = make_net(), make_net()
    values = SHORT | {"epochs": 5, "forget_epochs": 5, "momentum": 0.9, "step_size": 0.3}
    context = make_context(model, splits)
    done = run_scrub(context, ScrubSettings(**values, rewind=True))
    run_scrub(make_context(plain, splits), ScrubSettings(**values))

    def error(weights: dict[str, Tensor], examples: Examples) -> float:
        net = make_net().eval()
        net.load_state_dict(weights)
        with torch.no_grad():
            return (net(HALF(examples.images)).argmax(1) != examples.labels).float().mean().item()

    states = [
        {
            key.removeprefix(f"{epoch}/weights/"): each
            for key, each in context.memory.items()
            if key.startswith(f"{epoch}/weights/")
        }
        for epoch in range(5)
    ]
    errors = [error(state, splits.forget_examples) for state in states]
    twin = error(states[-1], splits.unseen.examples)
    assert [context.memory[f"{epoch}/error"].item() for epoch in range(5)] == pytest.approx(errors)
    assert len(set(errors)) > 1
    chosen = min(range(5), key=lambda epoch: (abs(errors[epoch] - twin), -epoch))
    assert done.notes == (f"rewound to epoch {chosen + 1} of 5: forget error {errors[chosen]:.3f}, twin {twin:.3f}",)
    assert same(model, states[chosen])
    assert same(plain, states[-1])  # looking at the errors has not changed the course


def test_a_budget_that_ends_no_epoch_leaves_nothing_to_choose_from(splits: Splits) -> None:
    one, two = make_net(), make_net()
    done = run_scrub(make_context(one, splits), ScrubSettings(**SHORT, steps=4, rewind=True))
    run_scrub(make_context(two, splits), ScrubSettings(**SHORT, steps=4))
    assert done.notes == ("rewind: no epoch was finished, so there was nothing to choose from",)
    assert same(one, two)


def test_a_part_of_an_epoch_at_the_end_is_left_out_of_the_choice(splits: Splits) -> None:
    model, stopped = make_net(), make_net()
    done, context = rewound(splits, [0.1, 0.2], 1.0, model, epochs=None, steps=12)
    run_scrub(make_context(stopped, splits), ScrubSettings(**SHORT | {"epochs": 2, "momentum": 0.9}, forget_epochs=3))
    assert done.steps == 12
    assert same(model, stopped)
    assert {key.partition("/")[0] for key in context.memory} == {"0", "1"}


def test_without_rewind_nothing_is_remembered(splits: Splits) -> None:
    context = make_context(make_net(), splits)
    done = run_scrub(replace(context), ScrubSettings(**SHORT, epochs=1))
    assert context.memory == {}
    assert done.notes == ()
