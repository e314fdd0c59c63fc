"""Small pictures of exposed examples: the very pixels of the data, in order, and of floats what can be seen of them."""

import numpy as np
import pytest
import torch

from unlearn_audit.audit.mia.thumbnails import thumbnails


def entries(*indices: int) -> list[dict[str, int]]:
    return [{"index": index} for index in indices]


def test_they_stand_in_their_order_with_the_pixels_of_the_data() -> None:
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2)
    page = thumbnails(images, entries(3, 0))
    assert page.shape == (4, 7, 3)
    assert np.array_equal(page[1:3, 1:3], images[3].permute(1, 2, 0).numpy())
    assert np.array_equal(page[1:3, 4:6], images[0].permute(1, 2, 0).numpy())


def test_twenty_are_shown_at_most() -> None:
    beyond = entries(*range(20), *[99] * 10)  # which are not even looked at
    page = thumbnails(torch.zeros(30, 1, 2, 2, dtype=torch.uint8), beyond)
    assert page.shape == (1 + 2 * 3, 1 + 10 * 3)


@pytest.mark.parametrize(
    ("values", "shown"),
    [([0.0, 0.5, 1.0, 0.25], [0, 128, 255, 64]), ([-1.0, 0.0, 1.0, 0.5], [0, 128, 255, 191]),
     ([0.5, float("nan"), float("nan"), 0.5], [128, 0, 0, 128]), ([3.0, 3.0, 3.0, 3.0], [0, 0, 0, 0])],
)  # fmt: skip
def test_floats_are_stretched_only_where_they_need_it(values: list[float], shown: list[int]) -> None:
    page = thumbnails(torch.tensor(values).reshape(1, 1, 2, 2), entries(0))
    assert page[1:3, 1:3].flatten().tolist() == shown


def test_of_other_channels_the_mean_is_shown() -> None:
    images = torch.tensor([10, 30], dtype=torch.uint8).reshape(1, 2, 1, 1)
    assert thumbnails(images, entries(0))[1, 1] == 20
