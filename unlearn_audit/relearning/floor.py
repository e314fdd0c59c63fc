"""The floor: the loss that a set can be brought to, by minimising from where the models are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearn_audit.engine import Device, trainable
from unlearn_audit.engine.task import mapped
from unlearn_audit.progress import Progress, silent
from unlearn_audit.relearning.run import Run

Floats = NDArray[np.float64]


class Floor(NamedTuple):
    """The lowest objective found, the gradient's norm there, whether the gradient said stop, and passes taken."""

    value: float
    gradient_norm: float
    converged: bool
    passes: int


def fit_floor(
    run: Run,
    *,
    compute: Device,
    weight_decay: float = 0.0,
    tolerance: float = 1e-7,
    iterations: int = 2000,
    progress: Progress = silent,
    task: str = "fitting the floor",
) -> Floor:
    """Minimise the relearning objective with L-BFGS in float64 from a model's own weights.

    Args:
        run: the model and the set; the model is left as it is.
        compute: where.
        weight_decay: lambda of lambda/2·‖w‖² over the relearned tensors.
        tolerance: largest entry of the gradient at which the minimum counts as found.
        iterations: at most this many.
        progress: callback, called after each iteration.
        task: its name in the progress.

    Returns:
        The floor, with the objective's value in nats.
    """
    from scipy.optimize import minimize  # a fifth of what loads before a shadow model is trained, and only used here

    model, batch = run.prepared(compute)
    model = model.double()
    batch.parts = [part._replace(inputs=mapped(part.inputs, _wide)) for part in batch.parts]
    parameters = list(trainable(model).values())
    count = 0

    def objective(flat: Floats) -> tuple[float, Floats]:
        nonlocal count
        count += 1
        _write(parameters, flat)
        loss = float(batch.forward_backward(model).losses.mean())
        slope = np.concatenate([_flat(p.grad if p.grad is not None else torch.zeros_like(p)) for p in parameters])
        return loss + weight_decay / 2 * float(flat @ flat), slope + weight_decay * flat

    def tell(_: object) -> None:
        progress(task, min(count, iterations - 1), iterations, "")

    start = np.concatenate([_flat(parameter.detach()) for parameter in parameters])
    options = {"maxiter": iterations, "maxfun": 2 * iterations, "gtol": tolerance, "ftol": 0.0, "maxcor": 20}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", callback=tell, options=options)
    progress(task, iterations, iterations, "")
    largest = float(np.abs(found.jac).max()) if len(start) else 0.0
    return Floor(float(found.fun), float(np.linalg.norm(found.jac)), largest <= tolerance, count)


def lowest_floor(floors: Sequence[Floor]) -> Floor:
    """Return the lowest of several, the common floor of models that are compared."""
    return min(floors, key=lambda floor: floor.value)


def _wide(inputs: torch.Tensor) -> torch.Tensor:
    """Return numbers in float64; what counts or names something stays as it is."""
    return inputs.double() if inputs.is_floating_point() else inputs


def _flat(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.reshape(-1).double().cpu().numpy(), dtype=np.float64)


def _write(parameters: Sequence[nn.Parameter], flat: Floats) -> None:
    """Put a flat vector into the parameters."""
    source = torch.from_numpy(np.array(flat))
    with torch.no_grad():
        for parameter, part in zip(parameters, torch.split(source, [p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.reshape(parameter.shape))
