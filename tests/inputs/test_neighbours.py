"""The default adjacent set: what the forget examples' features are nearest to."""

import numpy as np
import pytest
import torch
from small_problems import CPU
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.data import Dataset, Examples, Splits, Transform, make_splits
from unlearn_audit.errors import UsageError
from unlearn_audit.inputs import with_neighbours
from unlearn_audit.inputs.neighbours import most_named

AS_IT_IS = Transform((0.0,), (1.0,))


def made_up(n: int = 60, forget: str = "range:0-4") -> Splits:
    """Images of two pixels, which are the features: ever further from the direction of the first ones."""
    angle = torch.linspace(0.0, 1.5, n)
    lengths = torch.linspace(1, 3, n)
    images = torch.stack([lengths * angle.cos(), lengths * angle.sin()], dim=1).reshape(n, 1, 1, 2)
    labels = torch.arange(n) % 2
    train, test = Examples(images, labels, labels), Examples(-images[:20], labels[:20], labels[:20])
    return make_splits(Dataset("made up", train, test, 2, (0.0,), (1.0,), "0" * 64), forget)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(images.flatten(1))  # type: ignore[no-any-return]


def test_the_tenth_that_is_named_most_often_is_adjacent_whatever_its_length() -> None:
    splits = with_neighbours(made_up(), Linear(), AS_IT_IS, CPU)
    assert splits.adjacent is not None
    assert splits.adjacent.spec == "neighbours"
    assert splits.adjacent.indices.tolist() == [5, 6, 7, 8, 9]  # a tenth of 55, ties by index: all are named by all
    assert len(splits.remote) == 50
    again = with_neighbours(made_up(), Linear(), AS_IT_IS, CPU).adjacent
    assert again is not None
    assert again.sha256 == splits.adjacent.sha256


def test_hits_are_counted_as_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    forget, retain = (functional.normalize(torch.randn(n, 4, generator=generator), dim=1) for n in (7, 40))
    cosines = (forget @ retain.T).numpy()
    hits = np.bincount(np.argsort(-cosines, axis=1)[:, :5].ravel(), minlength=40)
    wanted = np.sort(np.argsort(-hits, kind="stable")[:6])
    assert most_named(forget, retain, count=6, named=5).tolist() == wanted.tolist()


def test_whom_nobody_names_is_not_adjacent() -> None:
    forget, retain = torch.tensor([[1.0, 0.0]]), functional.normalize(torch.rand(50, 2), dim=1)
    assert len(most_named(forget, retain, count=30, named=20)) == 20
    assert len(most_named(forget, retain, count=30, named=100)) == 30


def test_a_model_without_a_last_layer_and_a_set_without_a_tenth_are_refused() -> None:
    with pytest.raises(UsageError, match="neighbours are those of a last layer's inputs; name the adjacent set"):
        with_neighbours(made_up(), nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.Tanh()), AS_IT_IS, CPU)
    with pytest.raises(UsageError, match="a tenth of 7 retain examples is none"):
        with_neighbours(made_up(12), Linear(), AS_IT_IS, CPU)
