"""What a section's numbers depend on: what is measured, too, so that a new metric is measured in an old folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analytic_denoisers import denoiser, generators, small_splits
from lookup_models import context_of, right

from unlearn_audit import catalogue
from unlearn_audit.audit import cache_key
from unlearn_audit.audit.cache_key import depends_on
from unlearn_audit.data import load_data, with_adjacent


def test_a_section_that_measures_one_more_thing_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of("range:0-9", unlearned=("unlearned", right()))
    before = depends_on(context, "gaps", None)
    assert before is not None
    assert before == depends_on(context, "gaps", None)
    info = catalogue.metric_info("accuracy.test")
    monkeypatch.setitem(catalogue.METRICS, "outputs.new", info._replace(name="outputs.new"))  # type: ignore[arg-type]
    after = depends_on(context, "gaps", None)
    assert after is not None
    assert set(after["metrics"]) - set(before["metrics"]) == {"outputs.new"}


def test_losses_of_generators_depend_on_their_draws_and_a_probe_on_what_it_draws() -> None:
    def key(section: str, **config: Any) -> Any:
        splits = small_splits("class:1")
        return depends_on(generators(splits, config, original=("original", denoiser())), section, None)

    assert key("gaps", rcd={"draws": 4}) != key("gaps", rcd={"draws": 8})
    assert key("gaps", rcd={"draws": 8}) == key("gaps", rcd={"draws": 8, "steps": 7})
    probed = {"rcd": {"probe": [0, 5]}}
    assert key("rcd", **probed, generation={"samples": 10}) != key("rcd", **probed, generation={"samples": 20})
    plain = key("rcd", rcd={"steps": 5}, generation={"samples": 10})
    assert plain == key("rcd", rcd={"steps": 5}, generation={"samples": 20})
    assert key("rcd", **probed, generation={"judge": "own.judges:make"}) is None


def test_what_judges_and_what_is_compared_with_count_by_content(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def key(**generation: Any) -> Any:
        made = generators(small_splits("class:1"), {"generation": generation}, original=("original", denoiser()))
        return depends_on(made, "generation", None)

    monkeypatch.setattr(cache_key, "sha256_of_checkpoint", lambda path: (path / "weights").read_text())
    (tmp_path / "weights").write_text("one")
    before = key(judge=str(tmp_path))
    (tmp_path / "weights").write_text("two")
    assert key(judge=str(tmp_path)) != before
    assert key(real="digits")["files"]["real digits"] == load_data("digits").sha256
    before = key()
    monkeypatch.setattr(cache_key, "_version_of", lambda name: "9.9")
    assert key() != before


def test_losses_of_two_adjacent_sets_are_kept_apart() -> None:
    def losses(rows: slice) -> Any:
        splits = small_splits("class:1")
        splits = with_adjacent(splits, splits.retain[rows])
        made = generators(splits, {"gaps": {}}, original=("original", denoiser()))
        made = replace(made, kept=lambda _candidate, depends, make: known.setdefault(str(depends), make()))
        return made.losses(made.subjects[0], "adjacent")

    known: dict[str, Any] = {}
    first, other = losses(slice(0, 5)), losses(slice(5, 12))
    assert len(known) == 2
    assert not np.array_equal(first, other)
