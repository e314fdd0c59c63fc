"""Small unlearning problems that several test files share: networks, problems, and ways to look at what was done."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.data import Dataset, Examples, Splits, Transform, make_splits
from unlearn_audit.engine import Batches, Device
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.models.small import small_cnn

__all__ = [
    "CPU",
    "HALF",
    "Plain",
    "batches_of",
    "changed",
    "cross_entropy",
    "difference",
    "make_context",
    "make_net",
    "make_small_splits",
    "parameters_of",
    "rows_in",
    "same",
    "slopes",
    "snapshot",
    "watch_inputs",
]

Noise = Callable[..., Examples]
State = dict[str, Tensor]
HALF = Transform((0.5,), (0.25,))
CPU = Device(torch.device("cpu"))


def make_small_splits(noise: Noise, *, n: int = 100, forget: str = "range:0-9", classes: int = 4) -> Splits:
    """Random images, so many of them to be forgotten."""
    train, test = noise(n, classes=classes), noise(60, classes=classes, seed=1)
    return make_splits(Dataset("noise", train, test, classes, (0.5,), (0.25,), "0" * 64), forget)


def make_net(seed: int = 0, classes: int = 4) -> nn.Module:
    """A small CNN with BatchNorm."""
    torch.manual_seed(seed)
    return CPU.to_device(small_cnn(classes=classes, channels=1))


class Plain(nn.Module):
    """A network without BatchNorm, in double precision unless asked otherwise."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dtype = dtype
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 4)).to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.to(self.dtype))  # type: ignore[no-any-return]


def make_context(model: nn.Module, splits: Splits, seed: int = 0, **more: Any) -> UnlearningContext:
    return replace(UnlearningContext(model, HALF, splits, CPU, seed), **more)


def batches_of(splits: Splits, which: Literal["retain", "forget"], seed: int = 0, size: int = 16) -> Batches:
    """The minibatches that a method sees."""
    examples = splits.forget_examples if which == "forget" else splits.retain_examples
    return Batches(examples, HALF, size, seed, which, CPU)


def snapshot(model: nn.Module) -> State:
    """A copy of all weights and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def parameters_of(model: nn.Module) -> State:
    """A copy of all trainable weights."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: nn.Module | Mapping[str, Tensor], two: nn.Module | Mapping[str, Tensor]) -> bool:
    """Whether two models have the same weights and buffers, bit for bit."""
    first, second = (each.state_dict() if isinstance(each, nn.Module) else each for each in (one, two))
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def changed(before: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Which weights, one by one, are not what they were, bit for bit."""
    return {name: parameter.detach() != before[name] for name, parameter in model.named_parameters()}


def difference(one: nn.Module | Mapping[str, Tensor], two: nn.Module | Mapping[str, Tensor]) -> float:
    """The largest difference of any weight or buffer."""
    first, second = (each.state_dict() if isinstance(each, nn.Module) else each for each in (one, two))
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def cross_entropy(model: nn.Module, weights: Mapping[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean cross-entropy of a batch at other weights."""
    return functional.cross_entropy(torch.func.functional_call(model, dict(weights), (batch[0],)), batch[1])


def slopes(loss: Callable[[State], Tensor], weights: Mapping[str, Tensor]) -> State:
    """The gradient of a function of the weights, at some weights."""
    named = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
    return dict(zip(named, torch.autograd.grad(loss(named), list(named.values())), strict=True))


def watch_inputs(model: nn.Module) -> list[Tensor]:
    """Return a list that every batch is added to that passes through the model from now on."""
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach().clone()))
    return seen


def rows_in(batch: Tensor, examples: Examples) -> list[int]:
    """Which examples of a set a batch holds, in order; -1 for one that is not in it."""
    known = HALF(examples.images).flatten(1)
    equal = (batch.flatten(1)[:, None] == known[None]).all(dim=2)
    return [int(row.nonzero()[0]) if row.any() else -1 for row in equal]
