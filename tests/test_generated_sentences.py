"""What samples allow to be said: nothing is called gone, and a wrecked model is not called forgotten."""

from collections.abc import Callable
from typing import Any

import pytest

from unlearn_audit.conclusion.generated import generated_sentences

Make = Callable[..., Any]


@pytest.fixture
def said(make_measurement: Make) -> Callable[..., list[str]]:
    def make(*found: tuple[Any, ...], role: str = "unlearned") -> list[str]:
        measurements = []
        for name, value, *ends in found:
            extra = {"interval": tuple(ends)} if ends else {}
            reason = None if value is not None else "there is none"
            measurements.append(make_measurement(name, "u", role=role, value=value, reason=reason, **extra))
        return list(generated_sentences(measurements, "u", role))

    return make


RATE = ("generation.forget_rate", 0.03, 0.01, 0.08)
KEPT = (("generation.kept_rate", 0.95), ("generation.kept_change", -0.02))


def test_a_low_rate_is_not_called_gone_and_relearning_is_asked_for(said: Callable[..., list[str]]) -> None:
    (alone,) = said(RATE, *KEPT)
    assert "in 0.03 [0.01, 0.08] of 100 samples under its own condition" in alone
    assert alone.endswith("not the same as gone from the model; only relearning (rcd) can tell hidden from gone.")
    (beside,) = said(RATE, *KEPT, ("rcd.raw", 0.3, 0.2, 0.4))  # which has a sentence of its own
    assert beside.endswith("which is not the same as gone from the model.")


def test_a_wrecked_model_has_not_forgotten(said: Callable[..., list[str]]) -> None:
    (text,) = said(RATE, ("generation.kept_rate", 0.62), ("generation.kept_change", -0.35))
    assert "wrecked, not forgotten" in text
    assert "in 0.62, the original's in 0.97" in text


def test_whether_it_still_draws_the_rest_is_always_told(said: Callable[..., list[str]]) -> None:
    (text,) = said(("generation.forget_rate", 0.0, 0.0, 0.03), ("generation.kept_rate", 0.1))  # random weights
    assert "its samples of kept classes are of their class in 0.10; the judge finds" in text
    for kept in ((), (("generation.kept_rate", None),)):
        (text,) = said(RATE, *kept)
        assert "whether it still draws anything else was not measured; the judge finds" in text


def test_an_original_that_does_not_draw_it_either_is_told(said: Callable[..., list[str]]) -> None:
    (text,) = said(("generation.forget_rate", 0.3, 0.2, 0.4), role="original")
    assert "says little here" in text
    assert said(("generation.forget_rate", 0.95, 0.9, 0.98), role="original") == []


def test_nothing_is_said_of_references_of_high_rates_and_of_nulls(said: Callable[..., list[str]]) -> None:
    assert said(RATE, *KEPT, role="retrained") == []
    assert said(("generation.forget_rate", 0.8, 0.7, 0.9), *KEPT) == []
    assert said(("generation.forget_rate", None), *KEPT) == []
