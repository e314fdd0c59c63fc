"""The network of a run with weights drawn anew: a teacher that knows nothing, or where a part begins again."""

import torch
from torch import nn

from unlearn_audit import models
from unlearn_audit.engine import derive_seed
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.training import new_model


def fresh_network(context: UnlearningContext, method: str) -> nn.Module:
    """Return the architecture of the model as it is at the beginning of a training, on the same device.

    It is built by its spec as any new model is; code of the user's is not run again, but copied, and each of its parts
    draws its parameters itself.

    Args:
        context: the model and the seed.
        method: who asks, so that no two methods begin with the same draws.

    Raises:
        UsageError: nobody says how to build it, and a part of it cannot draw its parameters anew.
    """
    seed = derive_seed(context.seed, "initialisation", method)
    if callable(context.spec) or (context.spec and not models.is_code(context.spec)):
        return new_model(context.spec, context.splits.dataset, seed, compute=context.compute)
    part = models.cannot_redraw(context.model)
    if part is not None:
        raise UsageError(
            f"{method} needs the network with fresh weights, and {type(part).__name__} has parameters of its own and "
            "no reset_parameters() that would draw them anew"
        )
    return models.redrawn(context.model, seed)


def take_over(model: nn.Module, fresh: nn.Module, parts: tuple[str, ...]) -> None:
    """Give parts of a model the parameters and buffers that another one has there.

    Args:
        model: changed in place.
        fresh: of the same architecture.
        parts: names of modules.
    """
    theirs, ours = dict(fresh.named_modules()), dict(model.named_modules())
    with torch.no_grad():
        for name in parts:
            ours[name].load_state_dict(theirs[name].state_dict())
