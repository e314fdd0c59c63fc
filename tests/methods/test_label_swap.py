"""Label swap: one row, and nothing else."""

import pytest
import torch
from small_generators import CLASSES, generator_splits, make_denoiser, unlearn_generator
from small_problems import changed, parameters_of
from torch import nn

from unlearn_audit.errors import UsageError
from unlearn_audit.methods.label_swap import LABEL_SWAP
from unlearn_audit.models.denoisers import Denoiser, linear_schedule


@pytest.mark.parametrize(("forget", "values", "takes"), [
    ("class:3", {}, {3: 0}), ("class:2", {}, {2: 3}), ("class:3", {"to": 1}, {3: 1}), ("class:1,2", {}, {1: 3, 2: 3}),
])  # fmt: skip
def test_a_forgotten_class_has_the_row_of_a_kept_one(
    forget: str, values: dict[str, int], takes: dict[int, int]
) -> None:
    model = make_denoiser()
    before = parameters_of(model)
    done = unlearn_generator(LABEL_SWAP, model, values=values, splits=generator_splits(forget))
    rows = before["class_embedding.weight"]
    for one, other in takes.items():
        assert torch.equal(model.class_embedding.weight[one], rows[other])
    still = [number for number in range(CLASSES + 1) if number not in takes]
    assert torch.equal(model.class_embedding.weight[still], rows[still])
    assert [name for name, moved in changed(before, model).items() if moved.any()] == ["class_embedding.weight"]
    assert done.steps == done.gradient_evaluations == 0
    assert "a deceptive control, no unlearning" in done.notes[0]


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="whole classes"):
        unlearn_generator(LABEL_SWAP, make_denoiser(), values={}, splits=generator_splits("range:0-5"))
    with pytest.raises(UsageError, match="to: 3 is no class that is kept"):
        unlearn_generator(LABEL_SWAP, make_denoiser(), values={"to": 3})
    bare = Denoiser(nn.Conv2d(1, 1, 1), linear_schedule(), null=CLASSES)
    with pytest.raises(UsageError, match="no such table"):
        unlearn_generator(LABEL_SWAP, bare, values={})
