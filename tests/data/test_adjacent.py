"""The adjacent set: a part of what is retained, named like any set of examples, and never what is forgotten."""

from pathlib import Path

import numpy as np
import pytest

from unlearn_audit.data import Splits, load_data, make_splits
from unlearn_audit.errors import DataError


def splits_of(adjacent: object = None, forget: str = "class:3", **more: object) -> Splits:
    return make_splits(load_data("digits"), forget, adjacent=adjacent, **more)  # type: ignore[arg-type]


def test_adjacent_and_remote_examples_make_up_what_is_retained() -> None:
    splits = splits_of("class:9,5")
    labels = splits.dataset.train.labels.numpy()
    assert splits.adjacent is not None
    assert (splits.adjacent.spec, set(labels[splits.adjacent.indices])) == ("class:9,5", {5, 9})
    assert set(labels[splits.remote]) == {0, 1, 2, 4, 6, 7, 8}
    assert np.array_equal(np.union1d(splits.adjacent.indices, splits.remote), splits.retain)
    assert splits_of().adjacent is None
    assert np.array_equal(splits_of().remote, splits_of().retain)


def test_it_is_named_like_a_forget_set(tmp_path: Path) -> None:
    rows = splits_of("class:9").adjacent
    assert rows is not None
    np.save(tmp_path / "near.npy", rows.indices)
    for named in (str(tmp_path / "near.npy"), rows.indices, list(rows.indices)):
        again = splits_of(named).adjacent
        assert again is not None
        assert again.sha256 == rows.sha256


@pytest.mark.parametrize(
    ("adjacent", "more", "says"),
    [
        ("class:3", {}, r"adjacent set 'class:3' meets the forget set 'class:3': 14\d examples, first \d+; name "),
        ("range:0-99", {}, r"meets the forget set 'class:3': \d+ examples"),
        ("class:9", {"retain": "class:1,2"}, r"adjacent set 'class:9' is no part of the retain set: 14\d of its "),
        ("class:9", {"retain": "class:9"}, "adjacent set 'class:9' is the whole retain set; nothing remote is left"),
        ("class:77", {}, "adjacent set 'class:77': class 77 is not in 'digits'"),
        ("neighbors", {}, "adjacent set 'neighbors': unknown index word"),
    ],
)
def test_what_is_no_part_of_the_retain_set_is_refused(adjacent: str, more: dict[str, str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        splits_of(adjacent, **more)
