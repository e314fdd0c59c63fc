"""Crops and flips: those of a loop, and all of them equally often."""

import math

import pytest
import torch

from unlearn_audit.engine import crop_and_flip


@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (5, 3, 32, 32), (3, 2, 16, 24), (4, 1, 5, 5)])
def test_crops_and_flips_are_those_of_a_loop(shape: tuple[int, int, int, int]) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = crop_and_flip(images, torch.Generator().manual_seed(2))
    count, channels, height, width = shape
    pad = max(1, height // 8)
    generator = torch.Generator().manual_seed(2)
    down, right = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)[..., 0].tolist()
    mirrored = (torch.rand(count, 1, generator=generator) < 0.5)[:, 0].tolist()
    expected = torch.zeros(shape)
    for index in range(count):
        for row in range(height):
            for column in range(width):
                from_row = row + down[index] - pad
                from_column = (width - 1 - column if mirrored[index] else column) + right[index] - pad
                if 0 <= from_row < height and 0 <= from_column < width:
                    expected[index, :, row, column] = images[index, :, from_row, from_column]
    assert torch.equal(found, expected)
    assert channels == found.shape[1]


def test_every_shift_and_both_directions_occur_evenly() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 3], image[0, 0, 3, 4] = 1.0, 2.0  # the pair tells a mirror image apart
    found = crop_and_flip(image.expand(9000, -1, -1, -1), torch.Generator().manual_seed(0))
    one, two = ((found == value).flatten(1).int().argmax(1) for value in (1.0, 2.0))
    flipped = two < one
    assert flipped.double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(9000))
    places, counts = torch.unique(torch.stack([one // 8, one % 8, flipped.long()]), dim=1, return_counts=True)
    assert places.shape[1] == 3 * 3 * 2
    assert counts.min() > 500 - 4 * math.sqrt(500)
