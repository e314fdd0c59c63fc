"""The spare twin: matched held-out examples of which the unseen twin has none."""

import numpy as np
import pytest
import torch

from unlearn_audit.data import load_data, make_spare_twin, make_splits


@pytest.mark.parametrize("seed", [0, 3])
def test_it_is_matched_pair_by_pair_and_shares_nothing_with_the_twin(seed: int) -> None:
    splits = make_splits(load_data("digits?mislabel=0.1"), "mislabelled", seed=seed)
    twin = make_spare_twin(splits, at_most=500, seed=seed)
    assert twin is not None
    train, test = splits.dataset.train, splits.dataset.test
    rows, partners = torch.from_numpy(twin.forget), torch.from_numpy(twin.unseen)
    assert torch.equal(train.true_labels[rows], test.true_labels[partners])
    assert torch.equal(train.labels[rows], twin.examples.labels)
    assert torch.equal(test.images[partners], twin.examples.images)
    assert len(twin) > 100
    assert len(np.unique(twin.unseen)) == len(np.unique(twin.forget)) == len(twin)
    assert not set(twin.unseen) & set(splits.unseen.unseen)
    assert set(twin.forget) <= set(splits.forget.indices)


def test_a_part_of_it_is_drawn_and_the_seed_decides() -> None:
    splits = make_splits(load_data("digits?mislabel=0.1"), "mislabelled")
    whole, part, again, other = (
        make_spare_twin(splits, at_most=most, seed=seed) for most, seed in ((500, 1), (20, 1), (20, 1), (20, 2))
    )
    assert whole
    assert part
    assert again
    assert other
    assert len(part) == len(part.examples) == 20
    assert not part.complete
    held = dict(zip(whole.forget.tolist(), whole.unseen.tolist(), strict=True))
    assert all(held[row] == partner for row, partner in zip(part.forget.tolist(), part.unseen.tolist(), strict=True))
    assert torch.equal(part.examples.images, splits.dataset.test.images[torch.from_numpy(part.unseen)])
    assert part.unseen.tolist() == again.unseen.tolist() != other.unseen.tolist()


def test_where_the_twin_took_every_example_of_the_class_there_is_none() -> None:
    assert make_spare_twin(make_splits(load_data("digits"), "class:3"), at_most=500) is None
