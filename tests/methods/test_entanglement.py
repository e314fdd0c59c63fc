"""Entanglement: the multiplier, the distance and the projection against closed forms; the two stages as a whole."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import CPU, Plain, make_context, same, snapshot, watch_inputs
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.data import Splits, load_data, make_splits, with_adjacent
from unlearn_audit.engine import Batches, predict
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.inputs import with_neighbours
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.methods.apply import joining, parse_settings
from unlearn_audit.methods.entanglement import (
    ENTANGLEMENT,
    EntanglementSettings,
    Projection,
    _Constraint,
    run_entanglement,
    squared_wasserstein,
)
from unlearn_audit.methods.projection import dot, length
from unlearn_audit.step_transforms import parse_extras

Chosen = dict[str, Any]
QUICK: Chosen = {"step_size_1": 1e-3, "step_size": 1e-2, "steps": 3, "batch_size_1": 16, "batch_size": 8}


@pytest.fixture
def parts(splits: Splits) -> Splits:
    """A hundred images of noise: ten to forget, twenty adjacent, seventy remote."""
    return with_adjacent(splits, "range:10-29")


# ----- the multiplier


class Quadratic:
    """x'Hx/2 - b'x under a'x = c: its minimum and its multiplier in closed form."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        root = 0.5 * torch.randn(5, 5, generator=generator, dtype=torch.float64)
        self.h = root @ root.T + torch.eye(5, dtype=torch.float64)
        self.a, self.b = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        self.c = 0.7
        self.across = float(self.a @ torch.linalg.solve(self.h, self.a))
        self.multiplier = float((self.a @ torch.linalg.solve(self.h, self.b)) - self.c) / self.across
        self.minimum = torch.linalg.solve(self.h, self.b - self.multiplier * self.a)

    def inner(self, multiplier: float, mu: float) -> Tensor:
        """The minimum of the augmented Lagrangian for a multiplier."""
        matrix = self.h + mu * torch.outer(self.a, self.a)
        return torch.linalg.solve(matrix, self.b - (multiplier - mu * self.c) * self.a)


def constraint(splits: Splits, mu: float) -> _Constraint:
    return _Constraint(make_context(Plain(), splits), EntanglementSettings(mu=mu), level=0.0)


@pytest.mark.parametrize("mu", [1.0, 10.0])
def test_updated_at_every_step_it_comes_to_the_kkt_point(parts: Splits, mu: float) -> None:
    problem, held = Quadratic(), constraint(parts, mu)
    x = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    rate = 1 / float(torch.linalg.eigvalsh(problem.h + 2 * mu * torch.outer(problem.a, problem.a)).max())
    for step in range(1200):
        h = problem.a @ x - problem.c
        loss = x @ problem.h @ x / 2 - problem.b @ x + held.penalty(h)
        (slope,) = torch.autograd.grad(loss, x)
        with torch.no_grad():
            x -= rate * slope
        held.after(step)
    assert float((x.detach() - problem.minimum).norm()) < 1e-10
    assert abs(float(held.multiplier) - problem.multiplier) < 1e-9


@pytest.mark.parametrize("mu", [1.0, 10.0])
def test_exact_inner_solutions_shrink_its_error_by_a_known_factor(parts: Splits, mu: float) -> None:
    problem, held = Quadratic(), constraint(parts, mu)
    for step in range(3):
        error = float(held.multiplier) - problem.multiplier
        held.penalty(problem.a @ problem.inner(float(held.multiplier), mu) - problem.c)
        held.after(step)
        assert (float(held.multiplier) - problem.multiplier) / error == pytest.approx(1 / (1 + mu * problem.across))


def test_it_grows_by_what_h_was_before_the_step_and_may_be_negative(parts: Splits) -> None:
    """Two steps of stage 1 written by hand, with plain numbers for lambda."""
    model, other = Plain(), Plain()
    full = {"batch_size_1": "full", "forget_batch_size_1": "full", "loss_clip": 1.3, "gamma": 0.8}
    settings = EntanglementSettings(**QUICK | full | {"steps_1": 2, "steps": 0, "mu": 3.0, "relax": 0.5})
    context = make_context(model, parts)
    done = run_entanglement(context, settings)
    remote, forget = (parts.dataset.train.subset(rows) for rows in (parts.remote, parts.forget.indices))
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3)

    def losses(examples: Any) -> Tensor:
        return functional.cross_entropy(other(context.transform(examples.images)), examples.labels, reduction="none")

    level, multiplier = losses(remote).mean().item(), 0.0
    for _ in range(2):
        optimizer.zero_grad()
        h = losses(remote).mean() - level
        (multiplier * h + 3.0 / 2 * h**2 - 0.8 * losses(forget).clamp(max=1.3).mean()).backward()
        multiplier += 0.5 * 3.0 * h.item()
        optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)
    assert done.figures["lambda"] == pytest.approx(multiplier)
    assert float(_Constraint(context, settings, level=0.0).multiplier) == done.figures["lambda"]
    held = constraint(parts, 10.0)
    held.penalty(torch.tensor(-0.25))
    held.after(0)
    assert float(held.multiplier) == -2.5


@pytest.mark.parametrize("augment", ["yes", "no"])
def test_over_a_pass_of_the_original_it_comes_back_to_zero(parts: Splits, augment: str) -> None:
    """With augmented batches as well, whose loss is not that of plain images."""
    still = {"step_size_1": 1e-30, "batch_size_1": 14, "steps_1": 5, "steps": 0, "augment": augment}
    done = run_entanglement(make_context(Plain(), parts), EntanglementSettings(**QUICK | still))
    assert done.figures["lambda"] == pytest.approx(0, abs=1e-9)


def test_what_is_above_the_clip_gives_no_gradient(parts: Splits) -> None:
    model = Plain()
    before = snapshot(model)
    run_entanglement(
        make_context(model, parts),
        EntanglementSettings(**QUICK | {"loss_clip": 1e-3, "mu": 0, "steps": 0, "steps_1": 3}),
    )
    assert same(model, before)


# ----- the distance


def test_the_distance_of_a_shift_is_its_square_and_that_of_two_normal_laws_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(512, generator=generator, dtype=torch.float64)
    shuffled = one[torch.randperm(512, generator=generator)] + 0.3
    assert float(squared_wasserstein(one, shuffled)) == pytest.approx(0.09)
    wide = 1.5 + 2 * torch.randn(200_000, generator=generator, dtype=torch.float64)
    law = torch.randn(200_000, generator=generator, dtype=torch.float64)
    assert float(squared_wasserstein(law, wide)) == pytest.approx(1.5**2 + 1.0, abs=0.05)


def test_the_gradient_of_the_distance_is_that_of_equal_ranks() -> None:
    losses = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    squared_wasserstein(losses, torch.tensor([0.5, 4.0, 1.5])).backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([2 / 3 * (3 - 4), 2 / 3 * (1 - 0.5), 2 / 3 * (2 - 1.5)])


def test_two_draws_of_one_law_are_apart_the_more_the_fewer_they_are() -> None:
    """So that both sides have to come from the same batch."""
    generator = torch.Generator().manual_seed(1)
    found = [
        np.mean([float(squared_wasserstein(*torch.randn(2, n, generator=generator))) for _ in range(400)])
        for n in (16, 128)
    ]
    assert found == pytest.approx([0.298, 0.042], rel=0.2)


# ----- stage 2


def projection(parts: Splits, model: nn.Module, **settings: Any) -> Projection:
    context = make_context(model, parts)
    sets = ((parts.forget_examples, "forget"), (parts.dataset.train.subset(parts.remote), "remote"))
    batches = [Batches(examples, context.transform, 4, 0, name, CPU) for examples, name in sets]
    return Projection(context, EntanglementSettings(**settings), *batches, lambda step, gradients: gradients)


def test_signs_of_code_and_paper_differ_once_the_losses_have_fallen(parts: Splits) -> None:
    model = Plain()
    code, paper = (projection(parts, model, sign=sign, alpha=0.0) for sign in ("code", "paper"))
    for one, two in zip(code.of_forget(0), paper.of_forget(0), strict=True):
        assert torch.equal(one, -two)
    code, paper = (projection(parts, model, sign=sign, alpha=1.0) for sign in ("code", "paper"))
    assert all(not each.any() for each in code.of_forget(0))  # at the anchor the distance is stationary
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert all(torch.equal(one, two) for one, two in zip(code.of_forget(0), paper.of_forget(0), strict=True))
    assert any(each.any() for each in code.of_forget(0))


def test_gradients_of_so_many_batches_are_added_up(parts: Splits) -> None:
    model = Plain()
    few, all_of_them = projection(parts, model, limit=2), projection(parts, model, limit=50)
    one, two = few.of_remote(0), few.of_remote(1)
    whole = all_of_them.of_remote(0)
    assert few.remote.per_epoch == 18
    for first, second, every in zip(one, two, whole, strict=True):
        assert not torch.allclose(first, second)
        assert every.shape == first.shape
    assert (few._taken(3), all_of_them._taken(1)) == (20 + 24, 10 + 70)


def test_what_is_kept_is_the_projected_velocity_and_the_step_follows_it(parts: Splits) -> None:
    model = Plain()
    held = projection(parts, model, momentum=0.5)
    memory = held.context.memory
    before = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for step in range(3):
        slopes = [torch.randn_like(parameter) for parameter in model.parameters()]
        for parameter, slope in zip(model.parameters(), slopes, strict=True):
            parameter.grad = slope.clone()
        held.gradient(step, {})
        velocity = [memory[f"entanglement/velocity/{index}"] for index in range(4)]
        moved = [0.5 * old + slope for old, slope in zip(before, slopes, strict=True)]
        for spanning in (held.of_forget(step), held.of_remote(step)):
            assert abs(float(dot(velocity, spanning) / (length(velocity) * length(spanning)))) < 1e-7
            assert abs(float(dot(moved, spanning) / (length(moved) * length(spanning)))) > 1e-3
        for parameter, kept in zip(model.parameters(), velocity, strict=True):
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, kept)
        before = velocity
    assert 0 < float(memory["entanglement/cosine"]) < 1e-7


def test_with_a_mask_the_step_is_within_it_and_still_orthogonal(parts: Splits) -> None:
    model = Plain()
    start = snapshot(model)
    context = make_context(model, parts, extras=parse_extras(["mask:random,density=0.5"]))
    done = run_entanglement(context, EntanglementSettings(**QUICK))
    moved = sum(int((each != start[name]).sum()) for name, each in model.state_dict().items())
    assert moved == sum(each.numel() for each in start.values()) // 2
    assert done.figures["largest cosine"] < 1e-7


# ----- both


class Restless(nn.Module):
    """A network whose BatchNorm and dropout would be seen to be at work."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)  # type: ignore[no-any-return]


def test_batchnorm_and_dropout_are_at_rest(parts: Splits) -> None:
    model = Restless()
    before = snapshot(model)
    modes: list[bool] = []
    model.layers[2].register_forward_pre_hook(lambda module, given: modes.append(module.training))
    run_entanglement(make_context(model, parts), EntanglementSettings(**QUICK))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert not same(model, before)
    assert set(modes) == {False}


def test_without_a_projection_stage_2_is_plain_momentum(parts: Splits) -> None:
    model, other = Plain(), Plain()
    chosen = EntanglementSettings(**QUICK | {"steps_1": 0, "steps": 4, "project": False, "batch_size": "full"})
    run_entanglement(make_context(model, parts), chosen)
    assert parts.adjacent is not None
    examples = parts.dataset.train.subset(parts.adjacent.indices)
    optimizer = torch.optim.SGD(other.parameters(), lr=1e-2, momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        functional.cross_entropy(
            other(make_context(other, parts).transform(examples.images)), examples.labels
        ).backward()
        optimizer.step()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_budgets_of_both_stages() -> None:
    def stages(**values: Any) -> tuple[Any, ...]:
        found = EntanglementSettings(**values)
        return found.steps_1, found.epochs_1, found.steps, found.epochs

    assert stages() == (None, 1, None, 6)
    assert stages(steps=7) == (7, None, 7, None)
    assert stages(steps=7, steps_1=2) == (2, None, 7, None)
    assert stages(steps=7, epochs_1=2) == (None, 2, 7, None)
    assert stages(steps_1=3) == (3, None, None, 6)
    with pytest.raises(ConfigError, match="steps_1 and epochs_1 exclude each other"):
        parse_settings(ENTANGLEMENT, {"steps_1": 3, "epochs_1": 1})
    for stop in ({"stop_forget_loss": 1.0}, {"stop_at": "unseen"}):
        with pytest.raises(ConfigError, match="both stages run to the end of their budgets"):
            parse_settings(ENTANGLEMENT, stop)


def test_what_it_takes_is_told_without_a_look_at_the_model(splits: Splits) -> None:
    model = Plain()
    seen = watch_inputs(model)
    told = run_entanglement(make_context(model, splits, count_only=True), EntanglementSettings(**QUICK))
    assert not seen
    done = run_entanglement(make_context(model, splits), EntanglementSettings(**QUICK))
    assert (told.steps, told.gradient_evaluations) == (done.steps, done.gradient_evaluations)


def test_transforms_of_the_gradient_are_refused_with_the_reason() -> None:
    for text in ("ascent", "l1"):
        with pytest.raises(UsageError, match=f"^entanglement takes no --with {text}: its velocity is projected"):
            joining(ENTANGLEMENT, [text])
    assert [extra.transform.name for extra in joining(ENTANGLEMENT, ["mask:random", "reinit"])] == ["mask", "reinit"]


# ----- digits, as measured for the reference


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Splits]:
    """A network of 64-128-64-10 that knows all training digits, and the sets: forget 3, adjacent 9."""
    splits = make_splits(load_data("digits"), "class:3", adjacent="class:9")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    images, labels = splits.dataset.transform(splits.dataset.train.images), splits.dataset.train.labels
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(16):
        for rows in torch.randperm(len(labels), generator=generator).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model, splits


def accuracies(model: nn.Module, splits: Splits) -> tuple[float, ...]:
    """Accuracy on forget, adjacent and remote examples, in per cent."""
    assert splits.adjacent is not None
    found = []
    for rows in (splits.forget.indices, splits.adjacent.indices, splits.remote):
        examples = splits.dataset.train.subset(rows)
        logits = predict(model, examples.images, splits.dataset.transform, compute=CPU)
        found.append(100 * float((logits.argmax(1) == examples.labels.numpy()).mean()))
    return tuple(found)


SMALL: Chosen = {"step_size_1": 1e-3, "epochs_1": 3, "batch_size_1": 32, "step_size": 1e-2, "batch_size": 16,
                 "epochs": 4, "limit": 4, "remote_batch_size": 128, "forget_batch_size": 64}  # fmt: skip


def suppressed(digits: tuple[nn.Module, Splits], splits: Splits, **more: Any) -> tuple[float, ...]:
    model = copy.deepcopy(digits[0])
    chosen = EntanglementSettings(**SMALL | more)
    run_entanglement(UnlearningContext(model, splits.dataset.transform, splits, CPU, 0), chosen)
    return accuracies(model, splits)


def test_the_forget_class_goes_and_all_else_stays_and_without_a_projection_it_does_not(
    digits: tuple[nn.Module, Splits],
) -> None:
    model, splits = digits
    assert min(accuracies(model, splits)) > 99
    forget, adjacent, remote = suppressed(digits, splits)
    assert (forget <= 5, adjacent >= 97, remote >= 93) == (True, True, True), (forget, adjacent, remote)
    _, first, _ = suppressed(digits, splits, epochs=None, steps=0)
    assert first < 97
    forget, adjacent, plain = suppressed(digits, splits, project=False)
    assert adjacent >= 97
    assert plain < remote - 20


def test_neighbours_are_other_digits_and_serve_as_well(digits: tuple[nn.Module, Splits]) -> None:
    model, splits = digits
    near = with_neighbours(splits, model, splits.dataset.transform, CPU)
    assert near.adjacent is not None
    assert len(near.adjacent) == len(splits.retain) // 10
    labels = splits.dataset.train.labels.numpy()[near.adjacent.indices]
    assert 3 not in labels
    assert len(set(labels)) > 2
    forget, adjacent, remote = suppressed(digits, near)
    assert (forget <= 5, adjacent >= 97, remote >= 93) == (True, True, True), (forget, adjacent, remote)
