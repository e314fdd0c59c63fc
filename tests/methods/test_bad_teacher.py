"""The bad teacher: each example has its own teacher, and without a forget set there is nothing to learn."""

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import HALF, Plain, make_context, make_net, rows_in, snapshot, watch_inputs
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.data import Splits
from unlearn_audit.engine import descend
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.bad_teacher import (
    BadTeacherSettings,
    divergences,
    part_of_retain,
    run_bad_teacher,
    taught,
)
from unlearn_audit.methods.fresh import fresh_network

STEP: dict[str, Any] = {"steps": 1, "optimizer": "sgd", "step_size": 0.3, "batch_size": 32, "retain_share": 1.0}


def other() -> nn.Module:
    model = Plain()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-0.5)
    return model.eval()


def test_the_divergence_is_that_of_the_definition_and_zero_of_a_model_from_itself() -> None:
    teacher, student = (
        torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (0, 1)
    )
    for tau in (1.0, 4.0):
        p, q = (each / tau for each in (teacher, student))
        expected = (p.softmax(1) * (p.softmax(1) / q.softmax(1)).log()).sum(1)
        torch.testing.assert_close(divergences(teacher, student, tau), expected)
        assert (divergences(teacher, teacher, tau) == 0).all()
        released = functional.kl_div(q.log_softmax(1), p.softmax(1), reduction="none").mean()  # over classes, too
        torch.testing.assert_close(released * 3, expected.mean())


def test_a_step_descends_the_mean_divergence_from_each_examples_teacher(splits: Splits) -> None:
    model, random = Plain(), other()
    original = copy.deepcopy(model).eval()
    context = make_context(model, splits, seed=4)
    settings = BadTeacherSettings(**STEP)
    objective = taught(context, settings, random, original)
    seen = watch_inputs(model)
    terms = objective.terms(0)
    assert {name: term.side for name, term in terms.items()} == {
        "divergence on forget": "forget", "divergence on retain": "retain",
    }  # fmt: skip
    images = seen[0]
    forgotten = torch.tensor([row >= 0 for row in rows_in(images, splits.forget_examples)])
    assert 0 < forgotten.sum() < 32
    with torch.no_grad():
        wanted = torch.where(forgotten[:, None], random(images), original(images)).softmax(1)
    loss = (wanted * (wanted.log() - model(images).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(terms["divergence on forget"].loss + terms["divergence on retain"].loss, loss)


def first_gradient(context: Any, objective: Any) -> float:
    loss: Tensor = torch.stack([term.loss for term in objective.terms(0).values()]).sum()
    gradients = torch.autograd.grad(loss, list(context.model.parameters()))
    return max(each.abs().max().item() for each in gradients)


def test_without_a_forget_set_it_is_distillation_whose_first_gradient_is_zero(splits: Splits) -> None:
    nothing = replace(splits, forget=replace(splits.forget, indices=np.arange(0)))
    for chosen, least, most in ((nothing, 0.0, 1e-15), (splits, 1e-3, 1e9)):
        model = Plain()
        context = make_context(model, chosen)
        original = copy.deepcopy(model).eval()
        objective = taught(context, BadTeacherSettings(**STEP), other(), original)
        assert least <= first_gradient(context, objective) <= most
    model = make_net().eval()  # with BatchNorm at rest as well
    context = make_context(model, nothing)
    objective = taught(context, BadTeacherSettings(**STEP), make_net(1).eval(), copy.deepcopy(model))
    assert first_gradient(context, objective) < 1e-6


def test_the_model_comes_to_answer_like_the_random_one_on_forget_alone(splits: Splits) -> None:
    model, random, original = Plain(), other(), Plain().eval()
    objective = taught(make_context(model, splits), BadTeacherSettings(**STEP), random, original)

    def distances() -> tuple[float, float]:
        with torch.no_grad():
            return tuple(  # type: ignore[return-value]
                divergences(teacher(HALF(examples.images)), model(HALF(examples.images)), 1.0).mean().item()
                for examples, teacher in ((splits.forget_examples, random), (splits.retain_examples, original))
            )

    before = distances()
    descend(model, objective.terms, torch.optim.Adam(model.parameters(), lr=0.02), steps=60)
    after = distances()
    assert before[1] == 0
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.25 * before[0]


def test_the_part_of_the_retain_set_is_random_without_repeats_and_the_same_each_time(splits: Splits) -> None:
    context = make_context(Plain(), splits, seed=2)
    one, again = part_of_retain(context, 0.3), part_of_retain(context, 0.3)
    assert len(one) == 27
    assert torch.equal(one.images, again.images)
    rows = rows_in(HALF(one.images), splits.retain_examples)
    assert -1 not in rows
    assert max(Counter(rows).values()) == 1
    assert rows != rows_in(HALF(part_of_retain(replace(context, seed=3), 0.3).images), splits.retain_examples)
    assert len(part_of_retain(context, 1e-9)) == 1
    assert len(part_of_retain(context, 0)) == 0
    empty = replace(context, splits=replace(splits, retain=splits.retain[:0]))
    assert len(part_of_retain(empty, 0)) == 0
    with pytest.raises(UsageError, match=r"^the retain set is empty; "):
        part_of_retain(empty, 0.3)


def test_teachers_stay_and_the_random_one_has_a_seed_of_its_own(splits: Splits) -> None:
    context = make_context(make_net(), splits, spec="small-cnn")
    teacher = fresh_network(context, "bad-teacher")
    before = snapshot(teacher)
    done = run_bad_teacher(context, BadTeacherSettings(epochs=2, batch_size=16))
    assert (done.steps, done.gradient_evaluations) == (2 * 3, 2 * (10 + 27))
    assert all(
        torch.equal(before[name], each) for name, each in fresh_network(context, "bad-teacher").state_dict().items()
    )
