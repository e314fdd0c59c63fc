"""What a recipe descends with: its optimiser, and the largest gradient of a step."""

import torch
from torch import nn

from unlearn_audit.engine import Hooks, TermGradients, all_at_once, trainable
from unlearn_audit.training.recipes import Recipe


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return a recipe's optimiser with fresh state; weight decay is on parameters of two or more dimensions.

    Args:
        model: whose parameters it moves.
        recipe: says which, and how fast.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.step_size, foreach=all_at_once(model.parameters()))
    return torch.optim.SGD(
        groups,
        lr=recipe.step_size,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,  # torch refuses Nesterov's method without momentum
        foreach=all_at_once(model.parameters()),
    )


def clipped(model: nn.Module, largest: float) -> Hooks:
    """Return what scales a step's gradient down to a norm, last of all.

    Args:
        model: whose gradient it is.
        largest: the norm.
    """
    parameters = list(trainable(model).values())

    def scale(step: int, parts: TermGradients) -> None:
        nn.utils.clip_grad_norm_(parameters, largest)

    return Hooks(gradient=scale)
