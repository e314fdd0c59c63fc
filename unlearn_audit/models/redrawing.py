"""A copy of a network with its weights drawn anew, where nobody says how to build it."""

import copy

import torch
from torch import nn

from unlearn_audit.streams import derive_seed


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy whose parts have drawn their parameters anew, and forgotten their running statistics.

    Args:
        model: of which `cannot_redraw` has found no part.
        seed: of the draws.
    """
    drawn = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        for part in drawn.cpu().modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
    return drawn.to(next(model.parameters()).device)


def cannot_redraw(model: nn.Module) -> nn.Module | None:
    """Return a part whose own parameters it cannot draw anew; None where there is none."""
    owners = (part for part in model.modules() if next(part.parameters(recurse=False), None) is not None)
    return next((part for part in owners if not hasattr(part, "reset_parameters")), None)
