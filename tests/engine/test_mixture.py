"""Minibatches of several sets: one permutation over all, each row with its set, augmentation set by set."""

from collections.abc import Callable

import torch
from small_problems import CPU, HALF
from torch import Tensor

from unlearn_audit.data import Examples
from unlearn_audit.engine import Batches, MixedSet, Mixture, crop_and_flip

Noise = Callable[..., Examples]


def numbered(noise: Noise, n: int, start: int) -> Examples:
    """Examples whose label is their place, counted from `start`."""
    place = torch.arange(start, start + n)
    return Examples(noise(n, seed=start).images, place, place.clone())


def mixture(sets: list[MixedSet], size: int = 5, **more: object) -> Mixture:
    return Mixture(sets, HALF, size, 3, "mixture", CPU, **more)  # type: ignore[arg-type]


def test_an_epoch_is_one_pass_over_all_sets_and_rows_know_their_set(noise: Noise) -> None:
    sets = [MixedSet(numbered(noise, n, start)) for n, start in ((12, 0), (0, 12), (7, 12), (4, 19))]
    mixed = mixture(sets)
    assert (len(mixed), mixed.per_epoch, mixed.taken(12)) == (23, 5, 2 * 23 + 10)
    orders = []
    for epoch in range(2):
        batches = [mixed.at(step) for step in range(5 * epoch, 5 * epoch + 5)]
        assert [len(batch.labels) for batch in batches] == [5, 5, 5, 5, 3]
        for batch in batches:
            for image, label, number, row in zip(*batch, strict=True):
                examples = sets[int(number)].examples
                assert examples.labels[row] == label
                assert torch.equal(image, HALF(examples.images[row][None])[0])
        orders.append(torch.cat([batch.labels for batch in batches]).tolist())
        assert sorted(orders[-1]) == list(range(23))
    assert orders[0] != orders[1]
    assert len({tuple(batch.sets.tolist()) for batch in batches}) > 1  # the sets are shuffled, not one after the other


def test_one_set_has_the_batches_that_it_has_alone_bit_for_bit(noise: Noise) -> None:
    examples = noise(23)
    alone = Batches(examples, HALF, 5, 3, "mixture", CPU, crop_and_flip)
    mixed = mixture([MixedSet(examples)], augment=crop_and_flip)
    for step in (0, 4, 7):
        images, labels = alone.at(step)
        batch = mixed.at(step)
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.labels, labels)
        assert torch.equal(batch.rows, alone.rows(step))


def test_only_sets_that_say_so_are_augmented(noise: Noise) -> None:
    def shake(images: Tensor, generator: torch.Generator) -> Tensor:
        return images + 1 + torch.rand(len(images), 1, 1, 1, generator=generator)

    sets = [MixedSet(noise(9), True), MixedSet(noise(9, seed=1), False)]
    plain, shaken = mixture(sets, 18).at(0), mixture(sets, 18, augment=shake).at(0)
    moved = (shaken.images - plain.images).flatten(1)
    assert torch.equal(plain.sets, shaken.sets)
    assert (moved[plain.sets == 0] >= 1).all()
    assert (moved[plain.sets == 1] == 0).all()
    assert torch.equal(shaken.images, mixture(sets, 18, augment=shake).at(0).images)


def test_stored_bytes_and_floats_are_mixed_as_they_stand(noise: Noise) -> None:
    examples = noise(6)
    floats = Examples(examples.images.float() / 255, examples.labels, examples.true_labels)
    batch = mixture([MixedSet(examples), MixedSet(floats)], 12).at(0)
    first, second = (
        batch.images[batch.sets == number][batch.rows[batch.sets == number].argsort()] for number in (0, 1)
    )
    assert torch.equal(first, second)
