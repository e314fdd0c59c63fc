"""The adjacent set of a method: from its own setting, from the request; a shadow model has what it retains of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unlearn_audit.data import load_data, make_pool, make_splits
from unlearn_audit.errors import DataError
from unlearn_audit.methods.adjacent import with_request, with_retained, with_settings
from unlearn_audit.methods.entanglement import EntanglementSettings
from unlearn_audit.methods.ft import FtSettings


def test_the_request_holds_where_the_settings_name_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plain, own = EntanglementSettings(), EntanglementSettings(adjacent="class:5")
    assert with_request(plain, "class:9").adjacent == "class:9"
    assert with_request(own, "class:9").adjacent == "class:5"
    assert with_request(plain, "near.npy").adjacent == str(tmp_path / "near.npy")
    assert with_request(plain, "neighbours") == with_request(plain, None) == plain
    assert with_request(FtSettings(), "class:9") == FtSettings()


def test_the_settings_name_a_part_of_what_is_retained() -> None:
    splits = make_splits(load_data("digits"), "class:3")
    named = with_settings(splits, EntanglementSettings(adjacent="class:9")).adjacent
    assert named is not None
    assert named.spec == "class:9"
    assert with_settings(splits, EntanglementSettings(adjacent="neighbours")) is splits
    assert with_settings(splits, FtSettings()) is splits
    with pytest.raises(DataError, match="meets the forget set"):
        with_settings(splits, EntanglementSettings(adjacent="class:3"))


def test_a_shadow_model_has_those_of_it_that_it_was_trained_on(tmp_path: Path) -> None:
    dataset = load_data("digits")
    splits = make_splits(dataset, "class:3")
    pool = make_pool(splits)
    inside = np.sort(np.random.default_rng(0).permutation(len(pool.examples))[: len(pool.examples) // 2])
    forget = np.intersect1d(inside, pool.targets)
    pooled = replace(dataset, train=pool.examples)
    of_shadow = replace(
        splits,
        dataset=pooled,
        forget=replace(splits.forget, indices=forget),
        measured=forget,
        retain=np.setdiff1d(inside, pool.targets),
    )
    wanted = make_splits(dataset, "class:3", adjacent="class:9").adjacent
    assert wanted is not None
    np.save(tmp_path / "nines.npy", wanted.indices)
    found = with_retained(of_shadow, str(tmp_path / "nines.npy"), dataset)
    assert found.adjacent is not None
    assert found.adjacent.indices.tolist() == np.intersect1d(wanted.indices, inside).tolist()
    assert np.array_equal(np.union1d(found.adjacent.indices, found.remote), of_shadow.retain)
    assert with_retained(of_shadow, None, dataset) is of_shadow
