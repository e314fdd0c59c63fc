"""What may be said in words: no more than the numbers allow."""

from collections.abc import Callable
from typing import Any

import pytest

from unlearn_audit.catalogue import METRICS
from unlearn_audit.conclusion import INSTRUMENTS, UTILITY, conclude
from unlearn_audit.report import Measurement, Reference

Make = Callable[..., Any]
Say = Callable[..., Measurement]
AGAIN = Reference(role="retrained", value=1.0, spread=0.01, n=3)


@pytest.fixture
def say(make_measurement: Make) -> Say:
    """Make up what an instrument says: say("relearning", "unlearned", seen=True, value=0.5)."""
    names = {words: name for name, words in (INSTRUMENTS | UTILITY).items()}

    def make(instrument: str, subject: str, *, seen: bool | None, **values: Any) -> Measurement:
        name = names[instrument]
        kept = {"seen": seen} if name in UTILITY else {"difference": None if seen is None else {"seen": seen}}
        found: Measurement = make_measurement(
            name, subject, details=kept, reference=None if seen is None else AGAIN, **values
        )
        return found

    return make


def test_instruments_are_in_the_catalogue() -> None:
    assert set(INSTRUMENTS) | set(UTILITY) <= set(METRICS)


def test_a_difference_is_told_with_its_numbers(say: Say) -> None:
    found = conclude([
        say("relearning", "original", seen=True, value=0.006),
        say("relearning", "unlearned", seen=True, value=0.5),
        say("the loss attack", "original", seen=True, value=1.0),
        say("the loss attack", "unlearned", seen=False, value=0.55),
        say("test accuracy", "unlearned", seen=True, value=-0.032),
    ])
    assert found == (
        "original: differs from the retrained models on relearning (0.006, retrained 1) and the loss attack "
        "(1, retrained 1).",
        "unlearned: differs from the retrained models on relearning (0.5, retrained 1) and test accuracy (gap -0.032); "
        "no difference seen on the loss attack.",
    )


def test_where_nothing_differs_no_difference_is_seen_and_never_said_to_be_the_same(say: Say) -> None:
    found = conclude([
        say("relearning", "original", seen=True, value=0.006),
        say("relearning", "unlearned", seen=False),
        say("retain accuracy", "unlearned", seen=False),
    ])
    assert found[1] == "unlearned: no difference seen from the retrained models on relearning and retain accuracy."
    assert not any(word in " ".join(found) for word in ("same", "equal", "gone", "forgotten", "success"))


def test_an_instrument_that_cannot_tell_the_original_has_no_power(say: Say) -> None:
    found = conclude([
        say("relearning", "original", seen=False),
        say("relearning", "unlearned", seen=False),
        say("the loss attack", "original", seen=True, value=0.9),
        say("the loss attack", "unlearned", seen=False),
    ])
    assert found[1] == (
        "unlearned: no difference seen from the retrained models on the loss attack; "
        "no difference seen either on relearning, which has no power here."
    )
    assert len(found) == 3
    assert found[2].startswith("With relearning no difference is seen even between the original and the retrained")
    assert "cannot show that it is gone" in found[2]


def test_several_instruments_without_power(say: Say) -> None:
    both = ("relearning", "the loss attack")
    found = conclude(
        [say(name, subject, seen=False) for subject in ("original", "unlearned") for name in both]
        + [say("test accuracy", "unlearned", seen=True, value=0.1)]
    )
    assert found[0] == "original: no difference seen from the retrained models on relearning and the loss attack."
    assert found[1].endswith("no difference seen either on relearning and the loss attack, which have no power here.")
    assert [sentence.partition(" no difference")[0] for sentence in found[2:]] == [f"With {name}" for name in both]


def test_one_original_that_is_told_apart_gives_the_instrument_its_power(say: Say) -> None:
    found = conclude([
        say("relearning", "o1", role="original", seen=False),
        say("relearning", "o2", role="original", seen=True, value=0.1),
        say("relearning", "unlearned", seen=False),
    ])
    assert not any("power" in sentence for sentence in found)


def test_accuracy_is_no_instrument_that_could_lack_power(say: Say) -> None:
    found = conclude([say("test accuracy", "original", seen=False), say("test accuracy", "unlearned", seen=False)])
    assert not any("power" in sentence for sentence in found)


def test_without_an_original_the_power_is_not_known(say: Say) -> None:
    found = conclude([say("relearning", "unlearned", seen=False)])
    assert len(found) == 2
    assert found[1].startswith("No original model was given")
    assert len(conclude([say("relearning", "unlearned", seen=True, value=0.3)])) == 1


def test_without_a_retrained_model_nothing_is_compared(say: Say) -> None:
    (sentence,) = conclude([say("relearning", "original", seen=None), say("relearning", "unlearned", seen=None)])
    assert sentence.startswith("No retrained model was given")


def test_one_retrained_model_is_too_few_to_tell_a_difference(make_measurement: Make) -> None:
    one = Reference(role="retrained", value=1.0, n=1)
    (sentence,) = conclude([make_measurement("rcd.ratio_to_unseen", reference=one, details={"difference": None})])
    assert sentence.startswith("Only one retrained model was given")


def test_retrained_models_without_a_value_were_given_all_the_same(make_measurement: Make) -> None:
    found = [
        make_measurement("truncation.rate", label, value=None, reason="not converged", role=role)
        for label, role in (("u", "unlearned"), ("r1", "retrained"), ("r2", "retrained"))
    ]
    assert conclude(found) == ()
    assert conclude(found[:2])[0].startswith("Only one retrained model was given")


def test_nothing_is_said_of_retrained_models_controls_or_nothing(say: Say) -> None:
    assert conclude([]) == ()
    assert conclude([say("relearning", "retrained", seen=True)]) == ()
    assert conclude([say("relearning", "random initialisation", role="control", seen=True)]) == ()


@pytest.mark.parametrize("details", [{}, {"difference": None}, {"difference": "seen"}, {"difference": []}])
def test_details_of_another_kind_are_no_comparison(make_measurement: Make, details: dict[str, Any]) -> None:
    (sentence,) = conclude([make_measurement("rcd.ratio_to_unseen", details=details)])
    assert sentence.startswith("No retrained model")


@pytest.mark.parametrize("label", ["[bold]x[/bold]", "a b", "{0}", "%s", "é✓", "a: b; c.", "\x1b[31m", "a\nb", ""])
def test_a_label_is_taken_as_it_is(say: Say, label: str) -> None:
    (first, _) = conclude([say("relearning", label, role="unlearned", seen=False)])
    assert first == f"{label} (unlearned): no difference seen from the retrained models on relearning."


def test_subjects_stand_in_their_order(say: Say) -> None:
    labels = ["z", "a", "m"]
    found = conclude([say("relearning", label, role="unlearned", seen=True, value=0.1) for label in labels])
    assert [sentence.partition(" ")[0] for sentence in found] == labels


def test_a_report_without_instruments_says_nothing_of_retrained_models_that_are_there(make_measurement: Make) -> None:
    assert conclude([make_measurement("spectrum.lambda_max", "unlearned", reference=AGAIN)]) == ()
