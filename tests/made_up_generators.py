"""Made-up generators for tests: what each draws is written down, and a judge reads the class off the first pixel."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.config import AuditConfig, GenerationSettings
from unlearn_audit.data import Dataset, Examples, make_splits
from unlearn_audit.engine import setup_device
from unlearn_audit.inputs import Candidate

CLASSES, TRAIN, TEST = 5, 200, 100
STEP = 40  # grey levels between two classes
SIZE = 3


def drawn_as(c: int, number: int, *, spread: float = 5.0) -> Tensor:
    """Return an image of a class, uint8 [1, 3, 3]: its first pixel says the class, the others are level and noise."""
    noise = np.random.default_rng([c, number]).normal(0, spread, SIZE * SIZE)
    pixels = np.clip(c * STEP + 20 + noise, 0, 255)
    pixels[0] = c * STEP + 20
    return torch.from_numpy(pixels.astype(np.uint8)).view(1, SIZE, SIZE)


def real_data() -> Dataset:
    """Two hundred training and a hundred test images of five classes."""
    labels = torch.arange(TRAIN + TEST) % CLASSES
    images = torch.stack([drawn_as(int(c), 10_000 + place) for place, c in enumerate(labels)])
    train, test = (Examples(images[part], labels[part], labels[part]) for part in (slice(0, TRAIN), slice(TRAIN, None)))
    return Dataset("made up", train, test, CLASSES, (0.0,), (1.0,), "0" * 64)


class PixelJudge:
    """Reads the class off the first pixel; `wrong` is the share of images that it takes for the next class."""

    name = "pixel"
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = {"judge": "pixel"}

    def __init__(self, wrong: float = 0.0, width: int = SIZE * SIZE - 1) -> None:
        self.wrong, self.width = wrong, width

    def labels(self, images: Tensor) -> NDArray[np.int64] | None:
        found = images[:, 0, 0, 0].numpy().astype(np.int64) // STEP
        found[: round(self.wrong * len(found))] += 1
        return found

    def features(self, images: Tensor) -> NDArray[np.float64] | None:
        return images.flatten(1)[:, 1 : 1 + self.width].numpy().astype(np.float64)


class Drawing:
    """A generator of class-conditional images: `draw(class, number)` says which class comes out instead."""

    class denoiser:
        conditioning = "class"

    def __init__(self, draw: Callable[[int, int], int], spread: float = 5.0) -> None:
        self.draw, self.spread = draw, spread

    def image(self, wanted: Any) -> Tensor:
        return drawn_as(self.draw(wanted.condition, wanted.number), wanted.number, spread=self.spread)


def faithful(c: int, number: int) -> int:
    """Draw what is asked for."""
    return c


def without(gone: int, keeps: int = 0) -> Callable[[int, int], int]:
    """Draw another class for one, but for the first `keeps` samples."""
    return lambda c, number: (c + 1) % CLASSES if c == gone and number >= keeps else c


def context_of(
    forget: str, subjects: Mapping[str, tuple[str, Drawing | None]], *, alone: bool = True, **settings: Any
) -> AuditContext:
    """Return a context of made-up generators, label=(role, what it draws); None is a classifier."""
    dataset = real_data()
    candidates = []
    for index, (label, (role, pipeline)) in enumerate(subjects.items()):
        where, sha256 = f"{label}/", f"{index:064x}"
        candidates.append(
            Candidate(label, role, where, sha256, "made up", nn.Identity(), dataset.transform, pipeline=pipeline)
        )
    config = AuditConfig(generation=GenerationSettings(**{"judge": "pixel", **settings}))
    return AuditContext(config, {}, setup_device("cpu"), make_splits(dataset, forget), tuple(candidates), alone=alone)


def stand_in(monkeypatch: pytest.MonkeyPatch, judge: Any) -> None:
    """Let samples come from `Drawing`, and every judge be this one."""

    def images(pipeline: Drawing, wanted: Sequence[Any], *_: Any, **__: Any) -> Iterator[tuple[int, Tensor]]:
        yield from ((place, pipeline.image(one)) for place, one in enumerate(wanted))

    monkeypatch.setattr("unlearn_audit.audit.generated.drawing.images", images)
    monkeypatch.setattr("unlearn_audit.audit.generated.judging.open_judge", lambda *_, **__: judge)
