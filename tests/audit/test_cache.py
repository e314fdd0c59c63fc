"""What is kept by its content is found again whole, or not at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lookup_models import context_of, right
from made_up_evidence import made_up

from unlearn_audit.attacks import lira
from unlearn_audit.attacks.lira import LiraSettings
from unlearn_audit.audit.cache import ResultCache, content_key, keep_arrays, kept_arrays
from unlearn_audit.audit.mia.score_cache import KeptScores
from unlearn_audit.audit.section import SectionResult
from unlearn_audit.report import Measurement


def test_a_key_depends_on_values_types_shapes_and_order() -> None:
    numbers = np.arange(4)
    keys = {
        content_key({"a": 1, "b": 2}, numbers),
        content_key({"a": 1, "b": 3}, numbers),
        content_key({"a": 1, "b": 2}, numbers[::-1]),
        content_key({"a": 1, "b": 2}, numbers.astype(np.int32)),
        content_key({"a": 1, "b": 2}, numbers.reshape(2, 2)),
        content_key({"a": 1, "b": 2}),
    }
    assert len(keys) == 6
    assert content_key({"b": 2, "a": 1}, numbers) in keys


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:60], lambda whole: whole[:-8],
                                    lambda whole: b"no archive"])  # fmt: skip
def test_arrays_come_back_whole_or_not_at_all(tmp_path: Path, damage: Any) -> None:
    path, arrays = tmp_path / "a.npz", {"x": np.arange(3.0), "y": np.zeros((2, 2), dtype=np.int64)}
    assert kept_arrays(path) is None
    whole = keep_arrays(path, arrays)
    found = kept_arrays(path)
    assert found is not None
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    path.write_bytes(damage(whole))
    assert kept_arrays(path) is None


def test_a_section_is_measured_once(tmp_path: Path, make_measurement: Any) -> None:
    result = SectionResult((make_measurement("rcd.raw"),), ("a limitation",), {"areas": np.arange(3.0)})
    cache, measured = ResultCache(tmp_path / "parts"), []

    def measure() -> SectionResult:
        measured.append(1)
        return result

    first = cache.section("rcd", {"seed": 0}, measure)
    again = ResultCache(tmp_path / "parts").section("rcd", {"seed": 0}, measure)
    assert (first.measurements, first.limitations) == (again.measurements, again.limitations)
    assert isinstance(again.measurements[0], Measurement)
    np.testing.assert_array_equal(again.arrays["areas"], result.arrays["areas"])
    assert len(measured) == 1
    cache.section("rcd", {"seed": 1}, measure)
    assert len(measured) == 2


def test_scores_are_found_by_attack_settings_and_evidence(tmp_path: Path) -> None:
    evidence, other = made_up(seed=1), made_up(seed=2)
    kept, pooled = KeptScores(tmp_path), lira.online(LiraSettings(variance="pooled"))
    context = context_of("range:0-9", u=("unlearned", right()))
    (target,) = context.subjects
    first = kept.of(target, lira.lira, evidence)
    for attack, asked, count in ((lira.lira, evidence, 1), (pooled, evidence, 2), (lira.lira, other, 3)):
        np.testing.assert_array_equal(kept.of(target, attack, asked), attack.score(asked))
        assert len(list(tmp_path.iterdir())) == count
    marked = next(iter(tmp_path.iterdir()))
    np.testing.assert_array_equal(first, kept.of(target, lira.lira, evidence))
    assert marked.suffix == ".npz"
