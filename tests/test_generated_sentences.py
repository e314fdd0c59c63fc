"""What samples allow to be said: nothing is called gone, and a wrecked model is not called forgotten."""

from collections.abc import Callable
from typing import Any

import pytest

from unlearn_audit.conclusion.generated import generated_sentences

Make = Callable[..., Any]


@pytest.fixture
def said(make_measurement: Make) -> Callable[..., list[str]]:
    def make(*found: tuple[Any, ...], role: str = "unlearned", method: str = "floor original") -> list[str]:
        measurements = []
        for name, value, *ends in found:
            extra = {"interval": tuple(ends)} if ends else {}
            reason = None if value is not None else "there is none"
            measurements.append(
                make_measurement(name, "u", role=role, value=value, reason=reason, method=method, **extra)
            )
        return list(generated_sentences(measurements, "u", role))

    return make


RATE = ("generation.forget_rate", 0.03, 0.01, 0.08)
KEPT = (("generation.kept_rate", 0.95), ("generation.kept_change", -0.02))


def test_a_low_rate_is_not_called_gone_and_relearning_tells_hidden(said: Callable[..., list[str]]) -> None:
    (plain,) = said(RATE, *KEPT, ("rcd.ratio_to_retrained", 0.65, 0.5, 0.8))
    assert plain.endswith("under its own condition, which is not the same as gone from the model.")
    (hidden,) = said(RATE, *KEPT, ("rcd.ratio_to_retrained", 0.27, 0.2, 0.34))
    assert "rcd.ratio_to_retrained 0.27 [0.20, 0.34]): hidden, not gone" in hidden


def test_without_a_retrained_model_nothing_shows_that_it_is_gone(said: Callable[..., list[str]]) -> None:
    share = ("rcd.ratio_to_retrained", None)
    (fast,) = said(RATE, *KEPT, share, ("rcd.raw", 0.01, -0.02, 0.04))
    assert "as fast as the original: hidden" in fast
    (slower,) = said(RATE, *KEPT, share, ("rcd.raw", 0.3, 0.2, 0.4))
    assert slower.endswith("nothing here can show that it is gone.")
    (other,) = said(RATE, *KEPT, share, ("rcd.raw", 0.01, -0.02, 0.04), method="floor zero")
    assert "as fast as the original" not in other


def test_a_wrecked_model_has_not_forgotten(said: Callable[..., list[str]]) -> None:
    (text,) = said(RATE, ("generation.kept_rate", 0.62), ("generation.kept_change", -0.35))
    assert "wrecked, not forgotten" in text
    assert "in 0.62, the original's in 0.97" in text


def test_an_original_that_does_not_draw_it_either_is_told(said: Callable[..., list[str]]) -> None:
    (text,) = said(("generation.forget_rate", 0.3, 0.2, 0.4), role="original")
    assert "says little here" in text
    assert said(("generation.forget_rate", 0.95, 0.9, 0.98), role="original") == []


def test_nothing_is_said_of_references_of_high_rates_and_of_nulls(said: Callable[..., list[str]]) -> None:
    assert said(RATE, *KEPT, role="retrained") == []
    assert said(("generation.forget_rate", 0.8, 0.7, 0.9), *KEPT) == []
    assert said(("generation.forget_rate", None), *KEPT) == []
