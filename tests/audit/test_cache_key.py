"""What a section's numbers depend on: what is measured, too, so that a new metric is measured in an old folder."""

from typing import Any

import pytest
from analytic_denoisers import denoiser, generators, small_splits
from lookup_models import context_of, right

from unlearn_audit import catalogue
from unlearn_audit.audit.cache_key import depends_on


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
