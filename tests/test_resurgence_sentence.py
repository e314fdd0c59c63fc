"""What is said of what came back: above the retrained models, up to them, not at all, and not where it is open."""

import pytest

from unlearn_audit.conclusion import conclude
from unlearn_audit.report import Comparison, Interval, Measurement


def compared(name: str, difference: float, half: float, **more: object) -> Measurement:
    low, high = difference - half, difference + half
    comparison = Comparison(
        scale="fraction",
        difference=difference,
        interval=Interval(low=low, high=high, method="t"),
        df=None,
        seen=low > 0 or high < 0,
        blind_below=half,
    )
    values = {
        "name": name,
        "subject": "u",
        "role": "unlearned",
        "value": difference,
        "unit": "fraction",
        "direction": "zero is best",
        "n": 100,
        "method": "m",
        "comparison": comparison,
        "flags": ("blind",) if half > 0.1 else (),
    }
    return Measurement.model_validate(values | more)


def said(*pairs: tuple[str, float, float, float], **more: object) -> str:
    measurements = []
    for name, change, gap, half in pairs:
        measurements += [compared(f"resurgence.{name}", change, half, **more)]
        measurements += [compared(f"resurgence.{name}.gap", gap, half, **more)]
    return " ".join(conclude(measurements))


def test_what_comes_back_above_the_retrained_models_was_masked() -> None:
    text = said(("int8", 0.0, 0.0, 0.01), ("int4", 0.31, 0.3, 0.09))
    assert (
        "u (unlearned), altered without the forget set: forget accuracy comes back by more than the retrained models' "
        "after rounding of the weights to 4 bits (+0.310 [+0.220, +0.400]), and above theirs: some of the forgetting "
        "was only masked; it does not come back after int8 (could see 0.010)."
    ) in text
    assert "u (unlearned): " not in text, "it is told once, in a sentence of its own"


def test_what_only_rises_to_the_retrained_models_was_forgotten_too_much() -> None:
    text = said(("fine-tune", 0.2, 0.01, 0.05))
    assert "it rises to the retrained models' level, and not above it, after fine-tuning on the retain set" in text
    assert "masked" not in text


def test_where_nothing_comes_back_it_says_what_could_have_been_seen() -> None:
    text = said(("int4", -0.01, 0.0, 0.03), ("prune-70", 0.02, 0.0, 0.2))
    assert (
        "no forget accuracy comes back after int4 (could see 0.030); "
        "blind to what comes back after prune-70 (could see 0.200)."
    ) in text


def test_where_nothing_could_be_seen_it_does_not_say_that_nothing_came_back() -> None:
    text = said(("int4", 0.0, 0.0, 0.4), ("int8", 0.0, 0.0, 0.3))
    assert "without the forget set: blind to what comes back after int8 and int4 (could see 0.400)." in text
    assert "comes back after int4 (" not in text.replace("blind to what comes back after int8 and int4", "")


@pytest.mark.parametrize(
    ("role", "change", "told"), [("original", 0.3, False), ("retrained", 0.0, False), ("retrained", 0.3, True)]
)
def test_of_whom_it_is_said(role: str, change: float, told: bool) -> None:
    assert ("altered without" in said(("int4", change, change, 0.05), role=role)) == told


def test_a_wreck_tells_nothing() -> None:
    assert "altered" not in said(("prune-70", 0.3, 0.3, 0.05), doubts=("wrecked",))
