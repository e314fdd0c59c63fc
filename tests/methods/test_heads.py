"""A method's last layer: found, refused with the method's words, and other failures told as they are."""

from dataclasses import replace

import pytest
from small_problems import Plain, make_context
from torch import Tensor, nn

from unlearn_audit.data import Splits
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.methods.heads import linear_head


def test_the_layer_that_answers_is_found_and_its_lack_is_refused(splits: Splits) -> None:
    model = Plain()
    assert linear_head(make_context(model, splits), "x") is model.layers[3]
    assert not model.training
    headless = nn.Sequential(nn.Conv2d(1, 4, 4), nn.Flatten())
    with pytest.raises(UsageError, match=r"^x edits it, and the model does not end in one; do y$"):
        linear_head(make_context(headless, splits), "x edits it", "; do y")


def test_a_failure_of_another_kind_keeps_its_cause(splits: Splits) -> None:
    def transform(images: Tensor) -> Tensor:
        raise MeasurementError("these inputs do not fit")

    context = replace(make_context(Plain(), splits), transform=transform)  # type: ignore[arg-type]
    with pytest.raises(MeasurementError, match="^these inputs do not fit$"):
        linear_head(context, "x")
