"""Whether a judge may be believed: both sides, each by itself."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit.data import Examples
from unlearn_audit.judges import judge_accuracy


class ByFirstPixel(NamedTuple):
    """Reads the class off the first pixel, which is 10 for each class, and is wrong about some images."""

    wrong: frozenset[int] = frozenset()
    silent: bool = False

    def labels(self, images: Tensor) -> NDArray[np.int64] | None:
        assert images.dtype == torch.uint8
        found = (images[:, 0, 0, 0].numpy() // 10).astype(np.int64)
        found[sorted(self.wrong)] += 1
        return None if self.silent else found


def held_out(n: int = 40, classes: int = 4) -> Examples:
    labels = torch.arange(n) % classes
    images = (labels * 10).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return Examples(images, labels, labels)


def test_a_perfect_judge_may_be_believed() -> None:
    found = judge_accuracy(ByFirstPixel(), held_out(), [3])
    assert (found.forgotten, found.kept, found.reason) == ((10, 10), (30, 30), None)
    assert {c: share.value for c, share in found.by_class.items()} == {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}


def test_exactly_nine_tenths_will_do_and_less_will_not() -> None:
    assert judge_accuracy(ByFirstPixel(frozenset({3})), held_out(), [3]).reason is None
    worse = judge_accuracy(ByFirstPixel(frozenset({3, 7})), held_out(), [3])
    assert worse.reason == (
        "the judge is right on 0.800 of 10 real held-out images of the forgotten classes; below 0.9 nothing it says is "
        "believed"
    )


def test_one_bad_side_is_enough() -> None:
    on_kept = judge_accuracy(ByFirstPixel(frozenset({0, 1, 2, 4})), held_out(), [3])
    assert on_kept.forgotten.value == 1.0
    assert on_kept.reason is not None
    assert "26 of" not in on_kept.reason
    assert "0.867 of 30 real held-out images of the kept classes" in on_kept.reason


def test_each_forgotten_class_is_tried_by_itself_and_the_worst_kept_one_is_named() -> None:
    both = judge_accuracy(ByFirstPixel(frozenset({3, 7})), held_out(), [2, 3])  # .8 of class 3, .9 of the two
    assert both.forgotten.value == 0.9
    assert "0.800 of 10 real held-out images of forgotten class 3" in str(both.reason)
    assert "no real held-out images of forgotten class 7" in str(
        judge_accuracy(ByFirstPixel(), held_out(), [3, 7]).reason
    )
    kept = judge_accuracy(ByFirstPixel(frozenset({1, 5, 2})), held_out(), [3])
    assert (kept.reason, kept.worst_kept) == (None, (1, (8, 10)))
    assert "0.800 of 10 real held-out images of kept class 1, the worst" in str(kept.note)
    assert judge_accuracy(ByFirstPixel(frozenset({1, 2})), held_out(), [3]).note is None


def test_where_no_whole_class_is_forgotten_the_kept_ones_count_alone() -> None:
    found = judge_accuracy(ByFirstPixel(), held_out(), [])
    assert (found.forgotten, found.kept, found.reason) == ((0, 0), (40, 40), None)


def test_nothing_to_be_tried_on_is_a_reason() -> None:
    assert "no real held-out images of the forgotten" in str(judge_accuracy(ByFirstPixel(), held_out(), [7]).reason)
    assert judge_accuracy(ByFirstPixel(silent=True), held_out(), [3]).reason == "this judge gives no labels"


def test_real_images_that_are_floats_are_rounded_for_it() -> None:
    one = held_out()
    floats = Examples(one.images.float() / 255, one.labels, one.labels)
    assert judge_accuracy(ByFirstPixel(), floats, [3]).reason is None
