"""The unseen twin and the splits: same process on both sides, nothing shared, everything seeded."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_audit.data import Dataset, Examples, Splits, load_data, make_splits
from unlearn_audit.errors import DataError


def pairs(examples: Examples) -> list[tuple[int, int]]:
    return list(zip(examples.true_labels.tolist(), examples.labels.tolist(), strict=True))


def check(splits: Splits) -> None:
    """What holds for every twin."""
    twin, data = splits.unseen, splits.dataset
    assert pairs(splits.paired_examples) == pairs(twin.examples)
    assert len(set(twin.unseen.tolist())) == len(twin.unseen) == len(twin.forget) == len(twin.examples) == len(twin)
    assert set(twin.forget) <= set(splits.measured) <= set(splits.forget.indices)
    assert torch.equal(twin.examples.images, data.test.images[torch.from_numpy(twin.unseen)])
    assert torch.equal(twin.examples.true_labels, data.test.true_labels[torch.from_numpy(twin.unseen)])
    assert twin.complete == (len(twin) == len(splits.measured))
    assert (np.diff(twin.forget) > 0).all()
    assert not set(splits.retain) & set(splits.forget.indices)


def synthetic(train: list[int], test: list[int], *, observed: list[int] | None = None) -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def part(true: list[int], labels: list[int]) -> Examples:
        images = torch.rand(len(true), 1, 4, 4, generator=generator)
        return Examples(images, torch.tensor(labels), torch.tensor(true))

    return Dataset("toy", part(train, observed or train), part(test, test), 4, (0.0,), (1.0,), "0" * 64)


@pytest.mark.parametrize("forget", ["mislabelled", "random:0.1", "range:0-99"])
def test_a_twin_of_digits_is_complete(forget: str) -> None:
    splits = make_splits(load_data("digits?mislabel=0.1"), forget)
    check(splits)
    assert splits.unseen.complete
    assert splits.limitations == ()
    assert len(splits.retain) + len(splits.forget) == 1437
    twin, mine = splits.unseen.examples, splits.measured_examples
    assert Counter(twin.labels.tolist()) == Counter(mine.labels.tolist())


def test_the_twin_of_mislabelled_examples_is_mislabelled() -> None:
    twin = make_splits(load_data("digits?mislabel=0.1"), "mislabelled").unseen
    assert len(twin) == 144
    assert (twin.examples.labels != twin.examples.true_labels).all()


def test_a_class_with_too_few_held_out_examples_is_subsampled_on_both_sides() -> None:
    data = load_data("digits")
    splits = make_splits(data, "class:3")
    check(splits)
    available = int((data.test.labels == 3).sum())
    assert len(splits.unseen) == available < len(splits.measured) == len(splits.forget)
    assert not splits.unseen.complete
    assert splits.unseen.examples.labels.unique().tolist() == [3]
    (said,) = splits.limitations
    assert f"{available} of {len(splits.measured)}" in said


def test_the_seed_decides_the_twin() -> None:
    data = load_data("digits")
    first, again, other = (make_splits(data, "random:50", seed=seed).unseen for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.unseen, again.unseen)
    assert not np.array_equal(first.unseen, other.unseen)


def test_a_sample_is_measured_and_the_forget_set_stays_whole() -> None:
    data = load_data("digits")
    splits = make_splits(data, "random:0.1", sample=30)
    check(splits)
    assert (len(splits.forget), len(splits.measured), len(splits.unseen)) == (144, 30, 30)
    assert (len(splits.forget_examples), len(splits.measured_examples)) == (144, 30)
    np.testing.assert_array_equal(splits.measured, make_splits(data, "random:0.1", sample=30).measured)
    assert len(make_splits(data, "random:0.1", sample=1000).measured) == 144
    with pytest.raises(DataError, match="at least 1"):
        make_splits(data, "random:0.1", sample=0)


def test_unseen_names_the_pool(tmp_path: Path) -> None:
    data = load_data("digits")
    pool = np.arange(0, 360, 2)
    np.save(tmp_path / "pool.npy", pool)
    splits = make_splits(data, "random:20", unseen="pool.npy", base=tmp_path)
    check(splits)
    assert set(splits.unseen.unseen) <= set(pool)
    whole = make_splits(data, "random:20", unseen="range:0-359").unseen
    np.testing.assert_array_equal(whole.unseen, make_splits(data, "random:20").unseen.unseen)
    with pytest.raises(DataError, match=r"unseen index 360 is out of range for 'digits' \(360 test examples\)"):
        make_splits(data, "random:20", unseen="range:0-360")


def test_no_partner_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no unseen twin"):
        make_splits(load_data("digits"), "class:3", unseen="class:4")


def test_a_given_retain_set_may_not_overlap() -> None:
    data = load_data("digits")
    splits = make_splits(data, "range:0-9", retain="range:10-99")
    assert splits.retain.tolist() == list(range(10, 100))
    assert len(splits.retain_examples) == 90
    assert len(splits.test_examples) == 360
    with pytest.raises(DataError, match=r"overlaps the forget set 'range:0-9': 2 examples, first 8"):
        make_splits(data, "range:0-9", retain="range:8-99")
    with pytest.raises(DataError, match="retain index 5000 is out of range"):
        make_splits(data, "range:0-9", retain="range:10-5000")


def with_copies(count: int) -> Dataset:
    """1,000 training examples, the first `count` of which are copied to test rows 7, 8, ..."""
    data = synthetic([0, 1] * 500, [0, 1] * 500)
    images = data.test.images.clone()
    images[7 : 7 + count] = data.train.images[:count]
    return replace(data, test=replace(data.test, images=images))


def test_a_few_copies_in_the_test_set_are_kept_out_of_the_twin_and_said() -> None:
    splits = make_splits(with_copies(4), "range:0-399")
    check(splits)
    assert not set(splits.unseen.unseen) & {7, 8, 9, 10}
    (said,) = splits.limitations
    assert said.endswith("4 of 400 images, first train 0 = test 7")


def test_more_than_one_percent_of_copies_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        make_splits(with_copies(5), "range:0-399")
    found = "forget set overlaps the test set: 5 of 400 images, first train 0 = test 7"
    assert str(caught.value) == f"{found}; take these images out of one of them"


def test_copies_of_retained_images_are_told_and_kept_out_of_the_twin() -> None:
    (told,) = make_splits(with_copies(5), "range:5-404").limitations
    assert told.startswith("test images stand among the training images that are kept: 5 of 1000")


def test_digits_have_no_copies_between_the_splits() -> None:
    data = load_data("digits")
    held_out = {image.tobytes() for image in data.test.images.numpy()}
    assert not any(image.tobytes() in held_out for image in data.train.images.numpy())


label_lists = st.lists(st.integers(0, 3), min_size=6, max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    train=label_lists,
    test=label_lists,
    shift=st.lists(st.integers(0, 3), min_size=40, max_size=40),
    seed=st.integers(0, 99),
)
def test_any_mix_of_labels_has_a_fair_twin(train: list[int], test: list[int], shift: list[int], seed: int) -> None:
    observed = [(label + step) % 4 for label, step in zip(train, shift, strict=False)]
    data = synthetic(train, test, observed=observed)
    forget = "range:0-4"
    if not set(train[:5]) & set(test):
        with pytest.raises(DataError):
            make_splits(data, forget, seed=seed)
        return
    splits = make_splits(data, forget, seed=seed)
    check(splits)
    mine, theirs = Counter(train[:5]), Counter(test)
    assert len(splits.unseen) == sum(min(mine[label], theirs[label]) for label in mine)
