"""What is said of a share of the retrained models' excess, of an excess alone, and of steps to the original's loss."""

from typing import Any

import pytest

from unlearn_audit.conclusion import conclude
from unlearn_audit.conclusion.relearning import relearning_sentence
from unlearn_audit.report import Interval, Measurement


def made(name: str, value: float | None, ends: tuple[float, float] | None = None, **more: Any) -> Measurement:
    values = {
        "name": f"rcd.{name}", "subject": "u", "role": "unlearned", "value": value, "unit": "", "n": 37, "method": "m",
        "direction": "compare to retrained", "reason": None if value is not None else "none",
        "interval": ends and Interval(low=ends[0], high=ends[1], method="t"),
    }  # fmt: skip
    return Measurement.model_validate(values | more)


def raw(value: float = 0.084, ends: tuple[float, float] = (0.064, 0.104), floor: str = "original") -> Measurement:
    return made("raw", value, ends, details={"floor": {"kind": floor}})


def said(*measurements: Measurement, role: str = "unlearned") -> str:
    return relearning_sentence(measurements, "u", role) or ""


@pytest.mark.parametrize(
    ("value", "ends", "words"),
    [
        (0.27, (0.2, 0.33), "is 0.27 [0.20, 0.33] of the retrained models': it relearns faster than models that never "
         "saw it: some of it is still there"),
        (0.01, (-0.05, 0.08), "it relearns as the original does"),
        (0.95, (0.8, 1.1), "no difference seen from models that never saw it (could see 0.15)"),
        (2.2, (1.9, 2.5), "it lies further from the set than models that never saw it"),
        (0.4, (-0.01, 0.81), "some of it is still there"),
        (0.5, (-0.4, 1.4), "which tells it neither from them nor from the original"),
        (0.4, None, "of the only retrained model's"),
    ],
)  # fmt: skip
def test_a_share_says_where_a_model_lies(value: float, ends: tuple[float, float] | None, words: str) -> None:
    text = said(raw(), made("ratio_to_retrained", value, ends))
    assert text.startswith("u (unlearned), relearning the forget set: its excess over the original is")
    assert words in text


def compared(low: float, high: float) -> dict[str, Any]:
    ends = {"low": low, "high": high, "method": "t"}
    return {
        "to": "retrained", "scale": "log ratio", "difference": (low + high) / 2, "interval": ends, "df": 3.0,
        "seen": high < 0, "blind_below": (high - low) / 2,
    }  # fmt: skip


def test_an_excess_that_falls_sooner_than_the_retrained_models_is_told_beside_any_share() -> None:
    reference = {"role": "retrained", "value": 0.318, "spread": 0.015, "n": 5}
    share = made("ratio_to_retrained", 0.86, (0.78, 0.94), reference=reference | {"value": 1.0, "spread": 0.08})
    shape = made("normalised", 0.158, (0.14, 0.18), reference=reference, comparison=compared(-0.9, -0.5))
    text = said(raw(), share, shape)
    assert "falls sooner than theirs (normalised 0.16, retrained 0.32), as what is only hidden does" in text
    as_slow = made("normalised", 0.3, (0.28, 0.32), reference=reference, comparison=compared(-0.2, 0.1))
    for other in (as_slow, made("normalised", 0.158, (0.14, 0.18)), made("normalised", None)):
        assert "sooner" not in said(raw(), share, other)


def test_without_retrained_models_nothing_is_called_gone() -> None:
    text = said(raw(), made("ratio_to_retrained", None))
    assert "+0.084 [+0.064, +0.104]: it relearns more slowly than the original" in text
    assert "it cannot be called gone" in text


def test_a_share_that_two_retrained_models_leave_open_is_not_called_no_difference() -> None:
    share = made("ratio_to_retrained", 0.27, (0.21, 0.33), reference={"role": "retrained", "value": 1.0, "spread": 0.07,
                                                                     "n": 2})  # fmt: skip
    text = said(raw(), share)
    assert "could not be told: a difference below 0.89 could be the chance" in text
    assert "of which there are 2: add some" in text
    assert "no difference seen" not in text


@pytest.mark.parametrize(
    ("value", "ends", "words"),
    [
        (0.01, (-0.02, 0.04), "1% of the original's losses at most: it relearns as fast as the original"),
        (0.2, (-0.1, 0.5), "known to ± 0.3, it could not be told whether it relearns as fast as the original"),
        (0.2, None, "without an interval, it could not be told"),
    ],
)
def test_as_fast_as_the_original_is_said_of_a_small_excess_alone(value: float, ends: Any, words: str) -> None:
    """Small against what the original's own losses sum up to, here 6."""
    details = {"floor": {"kind": "original"}, "loss_sum": 6.0 + value}
    assert words in said(made("raw", value, ends, details=details))


def test_where_the_original_s_losses_are_not_known_nothing_is_as_fast_as_it() -> None:
    assert "could not be told" in said(raw(0.01, (-0.02, 0.04)))


def test_where_the_retrained_models_have_no_excess_relearning_tells_nothing() -> None:
    share = made("ratio_to_retrained", None, reason="…: there is nothing to take a share of")
    assert "the retrained models have none either, so that relearning tells nothing" in said(raw(), share)


def test_steps_are_told_with_the_retrained_models_own() -> None:
    reference = {"role": "retrained", "value": 21.0, "n": 2}
    text = said(raw(), made("steps_to_relearn", 6.0, reference=reference))
    assert text.endswith("; its loss is the original's again after 6 steps (retrained: 21).")
    text = said(raw(), made("steps_to_relearn", None, at_least=41.0, reference=reference))
    assert text.endswith("; its loss is not the original's again after 40 steps (retrained: 21).")
    assert "again" not in said(raw(), made("steps_to_relearn", None))


def test_nothing_is_said_of_another_floor_or_of_the_original() -> None:
    share = made("ratio_to_retrained", 0.3, (0.2, 0.4))
    assert said(raw(floor="zero"), share) == ""
    assert said(raw(), share, role="original") == ""
    assert said(share) == ""


def test_the_conclusion_has_it() -> None:
    sentences = conclude([raw(), made("ratio_to_retrained", 0.27, (0.2, 0.33))])
    assert any("some of it is still there" in each for each in sentences)
