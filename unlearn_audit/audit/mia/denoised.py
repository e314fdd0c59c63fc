"""What attacks on generators are shown: a target as functions of images and noise; a pair shares its noise."""

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit.attacks import Denoised
from unlearn_audit.data import Pool
from unlearn_audit.engine import Device, Draws, FullBatch, Task, chunks, encoded, full_float32
from unlearn_audit.errors import MeasurementError
from unlearn_audit.generation.samplers import image_and_noise
from unlearn_audit.inputs import Candidate
from unlearn_audit.models import models_own
from unlearn_audit.models.denoisers import Denoiser, Noised

Floats = NDArray[np.float64]


def denoised(candidate: Candidate, pool: Pool, *, draws: Draws, compute: Device) -> Denoised:
    """Return a generator as attacks see it, on the pairs of forget examples and partners.

    Args:
        candidate: a denoiser, on the device of `compute`.
        pool: whose targets are attacked; a partner has the number of its forget example, and so its noise.
        draws: the measuring grid.
        compute: device and chunk size.
    """
    task, denoiser = candidate.task, cast(Denoiser, candidate.model)
    numbers = torch.from_numpy(np.tile(pool.forget, 2))
    examples = replace(pool.examples.subset(pool.targets), numbers=numbers)
    alphas_bar = np.asarray(denoiser.schedule.alphas_bar, dtype=np.float64)
    if not len(examples):
        return Denoised(np.zeros((0, 1)), lambda x, _: x, alphas_bar, lambda: np.zeros(0))
    images = encoded(examples.images, candidate.transform, task, compute)
    labels = examples.labels.to(compute.device)
    conditions = _conditions(task, images, labels, numbers, draws)

    def noise(x: Floats, t: int) -> Floats:
        asked = torch.from_numpy(np.asarray(x, dtype=np.float32))
        found = _noise(denoiser, asked, t, conditions, compute)
        return _finite(candidate, found)

    def losses() -> Floats:
        batch = FullBatch(examples, candidate.transform, compute=compute, task=task, draws=draws)
        with full_float32():
            return _finite(candidate, batch.forward(denoiser.eval()).losses)

    return Denoised(images.cpu().double().numpy(), noise, alphas_bar, losses)


def _conditions(task: Task, images: Tensor, labels: Tensor, numbers: Tensor, draws: Draws) -> Tensor:
    """Return each example's own condition as the denoiser takes it, [N] or [N, L, D]."""
    if task.rows is None:
        raise MeasurementError("this task puts no noise on its examples")
    found: Tensor = task.rows(images, labels, numbers, replace(draws, count=1, drop=0.0)).inputs.condition
    return found


def _noise(denoiser: Denoiser, x: Tensor, t: int, conditions: Tensor, compute: Device) -> Floats:
    """Return the noise that a denoiser finds in x [N, ...] at one timestep, whatever it is that it predicts."""
    at = float(denoiser.schedule.alphas_bar[t])
    denoiser.eval()
    found = []
    with full_float32(), torch.inference_mode(), models_own("an attack stopped"):
        for part in chunks(len(x), compute.chunk):
            rows = x[part].to(compute.device)
            times = torch.full((len(rows),), t, device=rows.device)
            output = denoiser(Noised(rows, times, conditions[part])).float()
            _, noise = image_and_noise(output, rows, at, denoiser.schedule.prediction)
            found.append(noise.double().cpu())
    return np.asarray(torch.cat(found).numpy())


def _finite(candidate: Candidate, values: Floats) -> Floats:
    if not np.isfinite(values).all():
        raise MeasurementError(f"{candidate.label}: the model's outputs are not finite on some attacked examples")
    return values
