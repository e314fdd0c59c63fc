"""Denoisers whose losses and gradients are known in closed form, and audits of them: no U-Net, no training."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlearn_audit.audit.context import AuditContext, context_of
from unlearn_audit.checkpoints import Metadata
from unlearn_audit.config import AuditConfig
from unlearn_audit.data import Dataset, Examples, Splits, Transform, make_splits
from unlearn_audit.engine import setup_device
from unlearn_audit.generation import denoising_task
from unlearn_audit.inputs import Candidate
from unlearn_audit.models.denoisers import Denoiser, Noised, linear_schedule

__all__ = ["CLASSES", "AsIs", "Linear", "gaussian_images", "generators", "images_of", "small_splits"]

CLASSES = 2
AsIs = Transform((0.0,), (1.0,))


class Linear(nn.Module):
    """f(x_t) = w·x_t, with a row for each class that is added to every element: the last one is that of none."""

    def __init__(self, weight: float = 0.0, *, rows: Tensor | None = None, classes: int = CLASSES) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.class_embedding = nn.Embedding(classes + 1, 1, _weight=torch.zeros(classes + 1, 1, dtype=torch.float64))
        if rows is not None:
            self.class_embedding.weight.data = rows.double().reshape(-1, 1).clone()

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        """Return the prediction [R, C, H, W]."""
        return self.weight * x.double() + self.class_embedding(class_labels)[:, :, None, None]


def denoiser(weight: float = 0.0, rows: Tensor | None = None) -> Denoiser:
    """A linear denoiser as audits know them."""
    return Denoiser(Linear(weight, rows=rows), linear_schedule(), null=CLASSES)


def gaussian_images(n: int, *, size: int = 2, scale: float = 1.0, seed: int = 0) -> Tensor:
    """[n, 1, size, size], normal with this standard deviation."""
    return scale * torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


def images_of(n: int, *, size: int = 2, seed: int = 0) -> Examples:
    """Normal images; every other one is of class 1."""
    labels = torch.arange(n) % CLASSES
    return Examples(gaussian_images(n, size=size, seed=seed), labels, labels)


def small_splits(forget: str = "class:1", *, n: int = 40) -> Splits:
    """Twice as many training as test images of two classes."""
    data = Dataset("gaussian", images_of(n), images_of(n // 2, seed=1), CLASSES, (0.0,), (1.0,), "0" * 64)
    return make_splits(data, forget)


def generators(
    splits: Splits, config: dict[str, Any] | None = None, *, recorded: bool = True, **subjects: tuple[str, Denoiser]
) -> AuditContext:
    """The context of an audit of these: label=(role, model); retrained ones have a record that says so."""
    said = Metadata(model="small-unet", role="retrained", forget_sha256=splits.forget.sha256)
    candidates = [
        Candidate(label, role, f"{label}/", f"{index:064x}", "small-unet", model.eval(), AsIs,
                  task=denoising_task(model), metadata=said if recorded and role == "retrained" else None)
        for index, (label, (role, model)) in enumerate(subjects.items())
    ]  # fmt: skip
    asked = AuditConfig.model_validate({"seed": 3} | (config or {}))
    return context_of(candidates, splits, asked, origins={}, compute=setup_device("cpu"))


def drawn(examples: Examples, model: nn.Module, draws: Any) -> tuple[Noised, Tensor]:
    """What a model is called with on a set, and what its answers are held against."""
    rows = denoising_task(model).rows
    assert rows is not None
    found = rows(examples.images, examples.labels, examples.numbered, draws)
    return found.inputs, found.target


def closed_form(noised: Noised, target: Tensor) -> tuple[np.float64, np.float64, np.float64]:
    """Return the mean squares E[x²], E[x·τ], E[τ²] of which the loss of f = w·x is w²·E[x²] - 2w·E[xτ] + E[τ²]."""
    x, tau = noised.x.double().numpy(), target.double().numpy()
    return (x * x).mean(), (x * tau).mean(), (tau * tau).mean()
