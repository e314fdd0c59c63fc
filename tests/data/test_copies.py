"""Images that stand in two sets: counted, kept out of the twin, told, and a doubt where the data is not gone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unlearn_audit.data import Dataset, Examples, make_splits
from unlearn_audit.data.copies import find_copies


def data(train: int = 400, test: int = 300) -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def part(n: int) -> Examples:
        images = torch.randint(0, 256, (n, 1, 4, 4), generator=generator, dtype=torch.uint8)
        labels = torch.arange(n) % 4
        return Examples(images, labels, labels)

    return Dataset("toy", part(train), part(test), 4, (0.0,), (1.0,), "0" * 64)


def with_copies(found: Dataset, *, again: int = 0, in_test: int = 0) -> Dataset:
    """Copy the first training images to the end of the training set, and others from the middle into the test set."""
    train, test = found.train.images.clone(), found.test.images.clone()
    if again:
        train[-again:] = train[:again]
    if in_test:
        test[:in_test] = train[200 : 200 + in_test]
    return replace(found, train=replace(found.train, images=train), test=replace(found.test, images=test))


def test_nothing_is_said_where_nothing_stands_twice() -> None:
    splits = make_splits(data(), "range:0-99")
    assert (splits.limitations, splits.doubts) == ((), ())


@pytest.mark.parametrize(("count", "doubted"), [(100, True), (2, True), (1, False)])
def test_forget_images_that_are_trained_on_all_the_same(count: int, doubted: bool) -> None:
    splits = make_splits(with_copies(data(), again=count), "range:0-99")
    (text,) = splits.limitations
    assert text.startswith(f"forget images stand a second time among the other training images: {count} of 100, first ")
    assert f"train 0 = train {400 - count}" in text
    assert splits.doubts == ((text,) if doubted else ())


def test_a_copy_counts_under_another_label_and_in_another_channel_layout_does_not() -> None:
    found = with_copies(data(), again=100)
    other = replace(found.train, labels=(found.train.labels + 1) % 4)
    assert make_splits(replace(found, train=other), "range:0-99").doubts


def test_the_unseen_twin_holds_nothing_that_was_trained_on() -> None:
    splits = make_splits(with_copies(data(), in_test=60), "range:0-99")
    assert not set(splits.unseen.unseen) & set(range(60))
    assert not set(splits.pool) & set(range(60))
    (text,) = splits.doubts
    assert "60 of 300, first test 0 = train 200" in text
    few = make_splits(with_copies(data(), in_test=3), "range:0-99")
    assert few.doubts == ()
    assert "3 of 300" in few.limitations[0]


def test_copies_are_found_from_each_set_to_the_first_place_in_the_other() -> None:
    found = with_copies(data(), again=2, in_test=1)
    test = found.test.images.clone()
    test[5] = found.train.images[1]
    found = find_copies(replace(found, test=replace(found.test, images=test)), np.arange(100))
    assert found.forget_in_test == {1: 5}
    assert found.forget_in_rest == {0: 398, 1: 399}
    assert found.test_in_rest == {0: 200, 5: 399}


def test_a_twin_that_is_the_whole_test_set_is_told() -> None:
    splits = make_splits(data(train=400, test=40), "range:0-99")
    assert any("the unseen twin is the whole test set" in text for text in splits.limitations)
