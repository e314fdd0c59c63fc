"""Made-up subjects for tests: each image carries its number, and a model looks up there what it is to answer."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.config import AuditConfig
from unlearn_audit.data import Dataset, Examples, make_splits
from unlearn_audit.engine import setup_device
from unlearn_audit.inputs import Candidate

CLASSES, TRAIN, TEST = 10, 1000, 500


class Lookup(nn.Module):
    """Answers image number i with row i of a table of logits."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, images: Tensor) -> Tensor:
        """Return [N, C]."""
        return self.table[images[:, 0, 0, 0].round().long()]


def numbered() -> Dataset:
    """A thousand training and five hundred test images of ten classes, numbered through."""
    images = torch.zeros(TRAIN + TEST, 1, 2, 2)
    images[:, 0, 0, 0] = torch.arange(TRAIN + TEST)
    labels = torch.arange(TRAIN + TEST) % CLASSES
    train, test = (Examples(images[part], labels[part], labels[part]) for part in (slice(0, TRAIN), slice(TRAIN, None)))
    return Dataset("numbered", train, test, CLASSES, (0.0,), (1.0,), "0" * 64)


def context_of(
    forget: str, **subjects: tuple[str, NDArray[np.bool_]] | tuple[str, NDArray[np.bool_], dict[str, Any]]
) -> AuditContext:
    """Return a context of made-up subjects: label=(role, which of the numbered images it gets right, other fields)."""
    dataset = numbered()
    labels = torch.cat([dataset.train.labels, dataset.test.labels])
    candidates = []
    for index, (label, (role, right, *fields)) in enumerate(subjects.items()):
        told = torch.where(torch.from_numpy(right), labels, (labels + 1) % CLASSES)
        noise = torch.rand(len(labels), CLASSES, generator=torch.Generator().manual_seed(index)) * 0.1
        model = Lookup(4.0 * nn.functional.one_hot(told, CLASSES) + noise).eval()
        candidates.append(
            Candidate(label, role, f"{label}.safetensors", f"{index:064x}", "lookup", model, dataset.transform,
                      **(fields[0] if fields else {}))
        )  # fmt: skip
    return AuditContext(AuditConfig(), {}, setup_device("cpu"), make_splits(dataset, forget), tuple(candidates))


def right(
    *, retain: float = 1.0, test: float = 0.95, forget: float = 0.95, forgotten: str = "", seed: int = 0
) -> NDArray[np.bool_]:
    """Return which images a model gets right, at random with the given shares; `forgotten` is the forget set."""
    rng = np.random.default_rng(seed)
    found = rng.random(TRAIN + TEST) < np.where(np.arange(TRAIN + TEST) < TRAIN, retain, test)
    if forgotten:
        rows = make_splits(numbered(), forgotten).forget.indices
        found[rows] = rng.random(len(rows)) < forget
    return found
