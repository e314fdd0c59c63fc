"""Forget, retain, test and the unseen twin of one audit, checked against each other."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unlearn_audit.data.copies import Copies, find_copies
from unlearn_audit.data.examples import Dataset, Examples
from unlearn_audit.data.indices import IndexSet, read_indices
from unlearn_audit.data.twin import Twin, make_twin
from unlearn_audit.errors import DataError, UsageError
from unlearn_audit.streams import generator

TOLERATED = 0.01  # share of a set that may stand in another one as well
LASTING = 0.1  # share of a class that is kept, below which it counts as forgotten
NAMED = 3  # classes that a message names before it counts them


@dataclass(frozen=True, eq=False)
class Splits:
    """The sets that an audit compares.

    Attributes:
        dataset: the data.
        forget: the whole forget set.
        measured: [m] training indices, sorted: the forget set, or the seeded sample of it that is measured.
        retain: [r] training indices, sorted; disjoint from `forget`.
        measured_retain: [s] training indices, sorted: the retain set, or the seeded sample of it that is measured.
        unseen: the twin of `measured`; its `forget` are those of `measured` that have a partner.
        pool: [p] test indices, sorted, that the twin was drawn from.
        adjacent: a part of `retain` that has to do with the forget set, see `with_adjacent`; None where none is named.
        limitations: sentences that a report must carry.
        doubts: those of them that leave no model's numbers beyond doubt.
    """

    dataset: Dataset
    forget: IndexSet
    measured: NDArray[np.int64]
    retain: NDArray[np.int64]
    measured_retain: NDArray[np.int64]
    unseen: Twin
    pool: NDArray[np.int64]
    adjacent: IndexSet | None = None
    limitations: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def forget_examples(self) -> Examples:
        """The whole forget set, with observed labels: what a method unlearns."""
        return self.dataset.train.subset(self.forget.indices)

    @property
    def measured_examples(self) -> Examples:
        """The forget examples that are measured."""
        return self.dataset.train.subset(self.measured)

    @property
    def paired_examples(self) -> Examples:
        """The forget examples that have a partner in the twin, in the order of `unseen.examples`."""
        return self.dataset.train.subset(self.unseen.forget)

    @property
    def retain_examples(self) -> Examples:
        """The retain set."""
        return self.dataset.train.subset(self.retain)

    @property
    def measured_retain_examples(self) -> Examples:
        """The examples of the retain set that are measured."""
        return self.dataset.train.subset(self.measured_retain)

    @property
    def remote(self) -> NDArray[np.int64]:
        """[m] training indices, sorted: what is to be retained and is not adjacent to the forget set."""
        return self.retain if self.adjacent is None else np.setdiff1d(self.retain, self.adjacent.indices)

    @property
    def adjacent_examples(self) -> Examples:
        """The adjacent examples; none without an adjacent set."""
        return self.dataset.train.subset(np.zeros(0, np.int64) if self.adjacent is None else self.adjacent.indices)

    @property
    def remote_examples(self) -> Examples:
        """The examples to retain that are not adjacent."""
        return self.dataset.train.subset(self.remote)

    @property
    def lasting_test(self) -> NDArray[np.int64]:
        """Test indices of the classes that outlast forgetting: a tenth of their right training examples is kept.

        A model that is retrained without a class cannot know it, so that its test examples tell nothing of its use.
        """
        train = self.dataset.train
        right = (train.labels == train.true_labels).numpy()
        labels = train.labels.numpy()
        had = np.bincount(labels[right], minlength=self.dataset.classes)
        kept = np.ones(len(train), dtype=bool)
        kept[self.forget.indices] = False
        left = np.bincount(labels[right & kept], minlength=self.dataset.classes)
        lasting = (left > 0) & (left >= LASTING * had)
        return np.flatnonzero(lasting[self.dataset.test.labels.numpy()]).astype(np.int64)

    @property
    def forgotten_classes(self) -> tuple[int, ...]:
        """The classes that the forget set is made of, where it is all training examples so labelled; else none."""
        labels = self.dataset.train.labels.numpy()
        had, gone = (
            np.bincount(part, minlength=self.dataset.classes) for part in (labels, labels[self.forget.indices])
        )
        return tuple(np.flatnonzero(gone).tolist()) if (gone[gone > 0] == had[gone > 0]).all() else ()

    @property
    def test_of_forgotten_classes(self) -> NDArray[np.int64]:
        """Test indices of `forgotten_classes`."""
        return np.flatnonzero(np.isin(self.dataset.test.labels.numpy(), self.forgotten_classes)).astype(np.int64)

    @property
    def test_examples(self) -> Examples:
        """The whole test set, with its own labels."""
        return self.dataset.test


def make_splits(
    dataset: Dataset,
    forget: str | ArrayLike,
    *,
    unseen: str | ArrayLike | None = None,
    retain: str | ArrayLike | None = None,
    adjacent: str | ArrayLike | None = None,
    sample: int | None = None,
    retain_sample: int | None = None,
    seed: int = 0,
    base: Path = Path("."),
) -> Splits:
    """Return the sets of an audit.

    Args:
        dataset: the data.
        forget: index spec into the training set, or the indices themselves, or a boolean mask.
        unseen: likewise into the test set that the twin is drawn from; default: the whole test set.
        retain: likewise into the training set; default: all that is not forgotten.
        adjacent: likewise, a part of the retain set that is looked at apart, see `with_adjacent`.
        sample: measure at most this many forget examples, chosen by `seed`; default: all.
        retain_sample: measure accuracy and loss on at most this many examples of the retain set, of every class its
            share, chosen by `seed`; default: all. Methods and retraining take the whole set all the same.
        seed: decides the samples and the twin.
        base: the folder that relative files start at.

    Raises:
        DataError: a spec is unfit, forget and retain set overlap, more than 1 % of the forget images stand in the test
            set, or no forget example has an unseen partner; and as `with_adjacent`.
    """
    chosen = read_training_indices(forget, dataset, base=base)
    rest = np.setdiff1d(np.arange(len(dataset.train)), chosen.indices)
    if retain is not None:
        rest = _disjoint(read_training_indices(retain, dataset, base=base, role="retain"), chosen)
    copies = find_copies(dataset, chosen.indices)
    found = (_forget_in_test(copies, chosen), *_told_copies(copies, dataset, len(chosen)))
    limitations = tuple(text for text, _ in found if text)
    pool = np.setdiff1d(_pool(dataset, unseen, base), [*copies.forget_in_test.values(), *copies.test_in_rest])
    measured = _sample(chosen.indices, sample, seed)
    if len(measured) < len(chosen):
        limitations += (_sampled(len(measured), len(chosen), "forget examples", seed),)
    looked_at = _retain_sample(dataset, rest, retain_sample, seed)
    if len(looked_at) < len(rest):
        limitations += (_sampled(len(looked_at), len(rest), "examples to retain", seed, ", of each class its share"),)
    twin = make_twin(dataset, measured, pool, generator("twin", seed))
    if not twin.complete:
        limitations += (_incomplete(dataset, measured, twin),)
    if len(twin) == len(dataset.test) > 1:
        limitations += ("the unseen twin is the whole test set: what is said of one is said of the other",)
    doubts = tuple(text for text, doubted in found if doubted)
    splits = Splits(dataset, chosen, measured, rest, looked_at, twin, pool, limitations=limitations, doubts=doubts)
    return splits if adjacent is None else with_adjacent(splits, adjacent, base=base)


def with_adjacent(splits: Splits, adjacent: IndexSet | str | ArrayLike, *, base: Path = Path(".")) -> Splits:
    """Return the sets with some of the examples to retain named as adjacent: those that forgetting may harm first.

    What is retained falls into two parts then, the adjacent and the remote examples (Cheng et al. 2026): a fine class
    of the same superclass, a look-alike, the nearest neighbours in a model's features.

    Args:
        splits: the sets of an audit or of a method.
        adjacent: the training examples, or what names them, as for a forget set.
        base: the folder that a relative file starts at.

    Raises:
        DataError: the spec is unfit, the set meets the forget set, it holds what is not to be retained, or nothing
            remote is left.
    """
    if isinstance(adjacent, IndexSet):
        found = adjacent
    else:
        found = read_training_indices(adjacent, splits.dataset, base=base, role="adjacent")
    forgotten = np.intersect1d(found.indices, splits.forget.indices)
    if len(forgotten):
        raise DataError(
            f"adjacent set '{found.spec}' meets the forget set '{splits.forget.spec}': {len(forgotten)} examples, "
            f"first {forgotten[0]}; name examples that are to be retained"
        )
    beyond = np.setdiff1d(found.indices, splits.retain)
    if len(beyond):
        raise DataError(
            f"adjacent set '{found.spec}' is no part of the retain set: {len(beyond)} of its examples, first "
            f"{beyond[0]}, are not to be retained"
        )
    if len(found) == len(splits.retain):
        raise DataError(f"adjacent set '{found.spec}' is the whole retain set; nothing remote is left")
    drawn = np.isin(splits.measured_retain, found.indices)
    if not drawn.any() or drawn.all():
        raise DataError(
            f"of the {len(drawn)} examples to retain that --retain-sample draws {'all' if drawn.any() else 'none'} are "
            f"in the adjacent set '{found.spec}' ({len(found)} examples): draw more, or measure the whole retain set"
        )
    return replace(splits, adjacent=found)


def whole_classes(splits: Splits, *, wanted_by: str) -> NDArray[np.int64]:
    """Return the classes whose training examples, by observed label, are together the forget set, sorted.

    Args:
        splits: the sets.
        wanted_by: what cannot do with less, and why, for the message.

    Raises:
        UsageError: training examples of a class that is to be forgotten are left.
    """
    labels = splits.dataset.train.labels.numpy()
    classes = np.unique(labels[splits.forget.indices]).astype(np.int64)
    if not splits.forgotten_classes:
        numbers = ", ".join(map(str, classes[:NAMED]))
        which = numbers if len(classes) <= NAMED else f"{numbers}, … ({len(classes)} classes)"
        raise UsageError(
            f"{wanted_by}; the forget set '{splits.forget.spec}' is {len(splits.forget)} of the "
            f"{np.isin(labels, classes).sum()} training examples with label {which}: name whole classes, such as "
            f"--forget class:{classes[0]}"
        )
    return classes


def read_training_indices(
    spec: str | ArrayLike, dataset: Dataset, *, base: Path = Path("."), role: str = "forget"
) -> IndexSet:
    """Return the training examples that a spec names; see `read_indices`.

    Args:
        spec: the file or the words, or the indices themselves.
        dataset: the data whose training split is pointed into.
        base: the folder that a relative file starts at.
        role: what the indices are for, for messages.

    Raises:
        DataError: the spec is unfit.
    """
    found = read_indices(
        spec,
        examples=dataset.train,
        name=dataset.spec,
        base=base,
        changed=dataset.changed,
        origin=dataset.origin,
        role=role,
    )
    return replace(found, dataset=dataset)


def _disjoint(retain: IndexSet, forget: IndexSet) -> NDArray[np.int64]:
    """Return the retain indices, if none of them is to be forgotten."""
    common = np.intersect1d(retain.indices, forget.indices)
    if len(common):
        raise DataError(
            f"retain set '{retain.spec}' overlaps the forget set '{forget.spec}': "
            f"{len(common)} examples, first {common[0]}"
        )
    return retain.indices


def _pool(dataset: Dataset, unseen: str | ArrayLike | None, base: Path) -> NDArray[np.int64]:
    """Return the test indices that the twin may be drawn from."""
    if unseen is None:
        return np.arange(len(dataset.test))
    spec = dataset.spec
    return read_indices(
        unseen, examples=dataset.test, name=spec, base=base, role="unseen", split="test", whole=True
    ).indices


def _forget_in_test(copies: Copies, forget: IndexSet) -> tuple[str, bool]:
    """Say which forget images stand in the test set; refuse more than 1 %."""
    pairs = copies.forget_in_test
    if not pairs:
        return "", False
    first, partner = next(iter(pairs.items()))
    found = f"{len(pairs)} of {len(forget)} images, first train {first} = test {partner}"
    if len(pairs) > TOLERATED * len(forget):
        raise DataError(f"forget set overlaps the test set: {found}; take these images out of one of them")
    return f"forget images stand in the test set as well and are kept out of the unseen twin: {found}", False


def _told_copies(copies: Copies, dataset: Dataset, forgotten: int) -> Iterator[tuple[str, bool]]:
    """Yield what is to be said of other copies, and whether they are so many that nothing is beyond doubt."""
    again, seen = copies.forget_in_rest, copies.test_in_rest
    if again:
        first, partner = next(iter(again.items()))
        yield (
            f"forget images stand a second time among the other training images: {len(again)} of {forgotten}, first "
            f"train {first} = train {partner}: a model that was trained without the forget set has seen them still",
            len(again) > TOLERATED * forgotten,
        )
    if seen:
        first, partner = next(iter(seen.items()))
        yield (
            f"test images stand among the training images that are kept: {len(seen)} of {len(dataset.test)}, first "
            f"test {first} = train {partner}; they are kept out of the unseen twin, but accuracy on test has them",
            len(seen) > TOLERATED * len(dataset.test),
        )


def _sample(forget: NDArray[np.int64], size: int | None, seed: int) -> NDArray[np.int64]:
    """Return a sorted random choice of at most `size` indices."""
    if size is not None and size < 1:
        raise DataError(f"a sample of {size} forget examples cannot be measured; --sample needs at least 1")
    if size is None or size >= len(forget):
        return forget
    return np.sort(generator("sample", seed).choice(forget, size=size, replace=False))


def _retain_sample(dataset: Dataset, retain: NDArray[np.int64], size: int | None, seed: int) -> NDArray[np.int64]:
    """Return a sorted random choice of at most `size` indices, of every class its share (largest remainders)."""
    if size is not None and size < 1:
        raise DataError(f"a sample of {size} examples cannot be measured; --retain-sample needs at least 1")
    if size is None or size >= len(retain):
        return retain
    labels = dataset.train.labels.numpy()[retain]
    shares = np.bincount(labels, minlength=dataset.classes) * (size / len(retain))
    counts = np.floor(shares).astype(np.int64)
    counts[np.argsort(counts - shares, kind="stable")[: size - counts.sum()]] += 1
    draws = generator("retain sample", seed)
    chosen = [
        draws.choice(retain[labels == number], count, replace=False) for number, count in enumerate(counts) if count
    ]
    return np.sort(np.concatenate(chosen))


def _sampled(measured: int, whole: int, what: str, seed: int, how: str = "") -> str:
    """Say that not a whole set is measured."""
    return (
        f"{measured} of the {whole} {what} are measured, a sample drawn with seed {seed}{how}: intervals speak of such "
        "examples on average, and nothing is said of any one that was not drawn"
    )


def _incomplete(dataset: Dataset, measured: NDArray[np.int64], twin: Twin) -> str:
    """Say how many examples have a partner, and which classes are short of them."""
    labels = dataset.train.true_labels.numpy()
    wanted, got = (np.bincount(labels[rows], minlength=dataset.classes) for rows in (measured, twin.forget))
    short = ", ".join(
        f"{dataset.class_text(int(number))}: {got[number]} of {wanted[number]}"
        for number in np.flatnonzero(got < wanted)
    )
    return f"the unseen twin has partners for {len(twin)} of {len(measured)} measured forget examples ({short})"
