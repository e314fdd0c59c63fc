"""Sheets of samples: which are shown, in which order, how large."""

import numpy as np
import torch

from unlearn_audit.audit.generated.sheets import CELL, WHITE, sheet


def images(count: int, size: int = 8, channels: int = 1) -> list[torch.Tensor]:
    return [torch.full((channels, size, size), number, dtype=torch.uint8) for number in range(count)]


def test_one_class_has_two_rows_of_ten_with_white_between() -> None:
    page = sheet(images(100), np.full(100, 3))
    assert page.shape == (2 * 9 + 1, 10 * 9 + 1)
    assert page[1:9, 1:9].tolist() == np.zeros((8, 8)).tolist()
    assert page[10, 1] == 10
    assert (page[0] == WHITE).all()
    assert (page[:, 9] == WHITE).all()


def test_each_class_has_a_row_and_few_samples_leave_white() -> None:
    page = sheet(images(6), np.array([0, 0, 4, 4, 4, 7]))
    assert page.shape == (3 * 9 + 1, 3 * 9 + 1)
    assert [page[1, 1], page[10, 1], page[19, 1]] == [0, 2, 5]
    assert page[1, 19] == WHITE
    assert sheet(images(40), np.arange(40)).shape[0] == 10 * 9 + 1  # at most ten classes


def test_large_images_are_made_smaller_and_colours_stay() -> None:
    page = sheet([*images(1, size=512, channels=3), torch.zeros((1, 256, 512), dtype=torch.uint8)], np.full(2, -1))
    assert page.shape == (CELL + 2, 2 * (CELL + 1) + 1, 3)
