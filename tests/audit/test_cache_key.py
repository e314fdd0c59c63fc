"""What a section's numbers depend on: what is measured, too, so that a new metric is measured in an old folder."""

import pytest
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
