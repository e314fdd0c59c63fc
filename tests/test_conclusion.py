"""What may be said in words: no more than the numbers allow, and no less than the table calls seen."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from conftest import comparison, could_see
from hypothesis import given
from hypothesis import strategies as st

from unlearn_audit.catalogue import METRICS
from unlearn_audit.conclusion import conclude
from unlearn_audit.metrics import BLIND_ABOVE, wilson_interval
from unlearn_audit.report import Comparison, Measurement, MeasurementFlag, Reference

Make = Callable[..., Any]
Say = Callable[..., Measurement]
AGAIN = Reference(role="retrained", value=1.0, spread=0.01, n=3)
RATIO, AUC = "rcd.ratio_to_unseen", "mia.loss.auc"
SCALES = {"rcd": "log ratio", "mia": "AUC", "loss": "nats"}
SMALL = {"fraction": 0.01, "AUC": 0.02, "log ratio": 0.1, "nats": 0.1}


def difference(name: str, *, seen: bool, half: float | None = None) -> Comparison:
    """A comparison as a measurement carries it."""
    scale = SCALES.get(name.partition(".")[0], "fraction")
    width = SMALL[scale] if half is None else half
    value = 2 * width if seen else 0.0
    return comparison(value, value - width, value + width, scale)


@pytest.fixture
def say(make_measurement: Make) -> Say:
    """Make up what a metric says: say("rcd.raw", "unlearned", seen=True, value=0.5)."""

    def make(name: str, subject: str, *, seen: bool | None, half: float | None = None, **values: Any) -> Measurement:
        found_difference = None if seen is None else difference(name, seen=seen, half=half)
        reference = None if seen is None else AGAIN
        found: Measurement = make_measurement(
            name, subject, **{"comparison": found_difference, "reference": reference, "unit": "ratio"} | values
        )
        return found

    return make


def test_a_difference_is_told_with_its_numbers_in_each_of_its_forms(say: Say) -> None:
    found = conclude([
        say(RATIO, "original", seen=True, value=0.006),
        say("rcd.ratio_to_retrained", "original", seen=True, value=0.012),
        say(AUC, "original", seen=True, value=1.0, unit="probability"),
        say(RATIO, "unlearned", seen=True, value=0.5),
        say(AUC, "unlearned", seen=False, value=0.55),
        say("gap.test", "unlearned", seen=True, value=-0.032),
    ])
    assert found == (
        "original: differs from the retrained models on relearning (rcd.ratio_to_unseen 0.006, retrained 1; "
        "rcd.ratio_to_retrained 0.012, retrained 1) and the loss attack (mia.loss.auc 1.000, retrained 1.000).",
        "unlearned: differs from the retrained models on relearning (rcd.ratio_to_unseen 0.5, retrained 1) and test "
        "accuracy (gap.test -0.032); no difference seen on the loss attack (mia.loss.auc, could see 0.020).",
    )


def test_where_nothing_differs_no_difference_is_seen_and_never_said_to_be_the_same(say: Say) -> None:
    found = conclude([
        say(RATIO, "original", seen=True, value=0.006),
        say(RATIO, "unlearned", seen=False),
        say("gap.retain", "unlearned", seen=False),
    ])
    assert found[1] == (
        "unlearned: no difference seen from the retrained models on relearning (rcd.ratio_to_unseen, could see a "
        "factor of 1.11) and retain accuracy (gap.retain, could see 0.010)."
    )
    assert not any(word in " ".join(found) for word in ("same", "equal", "gone", "forgotten", "success"))


def test_an_instrument_that_sees_the_original_in_one_form_has_power(say: Say) -> None:
    found = conclude([
        say(RATIO, "original", seen=False),
        say("rcd.ratio_to_retrained", "original", seen=True, value=0.052),
        say(RATIO, "unlearned", seen=False),
    ])
    assert found[0].startswith("original: differs from the retrained models on relearning (rcd.ratio_to_retrained 0.05")
    assert "no difference seen from the retrained models on relearning" in found[1]
    assert not any("cannot show" in sentence for sentence in found)


def test_an_instrument_that_cannot_tell_the_original_in_any_form_has_no_power(say: Say) -> None:
    found = conclude([
        say(RATIO, "original", seen=False),
        say("rcd.ratio_to_retrained", "original", seen=False),
        say(RATIO, "unlearned", seen=False),
        say(AUC, "original", seen=True, value=0.9),
        say(AUC, "unlearned", seen=False),
    ])
    assert found[1] == (
        "unlearned: no difference seen from the retrained models on the loss attack (mia.loss.auc, could see "
        "0.020); could not tell, since the original is not seen either, on relearning."
    )
    assert len(found) == 3
    assert found[2].startswith("With relearning no difference is seen even between the original and the retrained")
    assert "cannot show that it is gone" in found[2]


def test_a_probe_of_the_forgotten_classes_that_misses_the_original_is_not_made_good_by_that_of_all(say: Say) -> None:
    found = conclude([
        *(say("probe.recall_f", subject, seen=False, half=0.4) for subject in ("original", "unlearned")),
        *(say("probe.accuracy", subject, seen=False, half=0.02) for subject in ("original", "unlearned")),
    ])
    assert found[1] == (
        "unlearned: no difference seen from the retrained models on the linear probe of all classes (probe.accuracy, "
        "could see 0.020); could not tell, since the original is not seen either, on the linear probe."
    )


def test_one_original_that_is_told_apart_gives_the_instrument_its_power(say: Say) -> None:
    found = conclude([
        say(RATIO, "o1", role="original", seen=False),
        say(RATIO, "o2", role="original", seen=True, value=0.1),
        say(RATIO, "unlearned", seen=False),
    ])
    assert not any("cannot show" in sentence for sentence in found)


def test_accuracy_and_loss_are_no_instruments_that_could_lack_power(say: Say) -> None:
    names = ("gap.test", "loss.forget")
    found = conclude([say(name, subject, seen=False) for subject in ("original", "unlearned") for name in names])
    assert not any("cannot show" in sentence for sentence in found)


@pytest.mark.parametrize(("name", "scale"), [("gap.retain", "fraction"), (AUC, "AUC"), (RATIO, "log ratio"),
                                             ("loss.forget", "nats")])  # fmt: skip
def test_where_nothing_could_have_been_seen_nothing_is_said_not_to_be_there(say: Say, name: str, scale: str) -> None:
    size = BLIND_ABOVE[scale]
    (blind, *_) = conclude([say(name, "unlearned", seen=False, half=size * 1.01)])
    assert re.match(r"unlearned: could not tell, being blind, on .* could see .*\)\.", blind)
    assert "no difference" not in blind
    (sharp, *_) = conclude([say(name, "unlearned", seen=False, half=size * 0.99)])
    assert "no difference seen" in sharp
    assert "blind" not in sharp
    (large, *_) = conclude([say(name, "unlearned", seen=True, half=size * 5, value=0.3)])
    assert large.startswith("unlearned: differs from the retrained models on ")


def test_a_retain_gap_of_two_references_is_not_called_no_difference(make_measurement: Make) -> None:
    kept = comparison(-0.065, -0.248, 0.118)
    found = conclude([make_measurement("gap.retain", value=-0.065, comparison=kept, reference=AGAIN)])
    assert "could not tell, being blind, on retain accuracy (gap.retain, could see 0.183)" in found[0]


def test_of_several_forms_the_sharpest_says_what_could_have_been_seen(say: Say) -> None:
    (told, *_) = conclude([
        say(RATIO, "unlearned", seen=False, half=1.0),
        say("rcd.ratio_to_retrained", "unlearned", seen=False, half=0.2),
    ])
    assert "no difference seen from the retrained models on relearning (rcd.ratio_to_retrained, could see" in told


# ----- nothing that the report calls seen is left out

OF_ATTACKS = [name for name in METRICS if name.startswith("mia.") and not name.endswith("base_rate")]
COMPARED = ["gap.forget", "accuracy.forget", "accuracy.unseen", "gap.retain", "loss.test", RATIO,
            "rcd.ratio_to_retrained", *OF_ATTACKS]  # fmt: skip


@given(
    said=st.dictionaries(
        st.tuples(st.sampled_from(COMPARED), st.sampled_from(["original", "unlearned", "other"])),
        st.tuples(st.booleans(), st.floats(1e-4, 2.0), st.sampled_from([(), (), ("legacy",), ("another question",)])),
        max_size=12,
    )
)
def test_the_conclusion_names_all_that_the_report_calls_seen_and_nothing_else(
    make_measurement: Make, said: dict[tuple[str, str], tuple[bool, float, tuple[MeasurementFlag, ...]]]
) -> None:
    measurements = [
        make_measurement(
            name, subject, value=0.5, unit="ratio", reference=AGAIN,
            flags=flags, comparison=difference(name, seen=seen, half=half),
        )
        for (name, subject), (seen, half, flags) in said.items()
    ]  # fmt: skip
    told = conclude(measurements)
    for subject in ("original", "unlearned", "other"):
        (sentence,) = [text for text in told if text.startswith(subject)] or [""]
        differing = re.split(r"no difference seen|could not tell", sentence)[0]
        seen = {m.name for m in measurements if m.subject == subject and m.comparison and m.comparison.seen}
        seen -= {m.name for m in measurements if m.subject == subject and "legacy" in m.flags}
        seen -= {m.name for m in measurements if subject == m.role == "original" and "another question" in m.flags}
        assert set(re.findall(r"[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)+", differing)) == seen
        assert ("differs from" in sentence) == bool(seen)
    originals = [m for m in measurements if m.subject == "original" and set(m.flags) <= {"blind"}]
    if any(m.name.startswith("rcd.") and m.comparison and m.comparison.seen for m in originals):
        assert not any(text.startswith("With relearning") for text in told)


def test_a_legacy_attack_and_one_that_asks_another_question_are_no_verdict(say: Say) -> None:
    found = conclude([
        say("mia.svc.auc", "unlearned", seen=True, value=0.7, flags=("legacy",)),
        say("mia.lira.auc", "unlearned", seen=True, value=0.8, flags=("another question",)),
        say("mia.rmia.auc", "unlearned", seen=False, flags=("another question",)),
    ])
    assert found[0] == (
        "unlearned: differs from the retrained models on the lira attack (mia.lira.auc 0.8, retrained 1 to another "
        "question)."
    )  # svc is never a verdict, and rmia, which has no answer to the question, says nothing by finding nothing


def test_retrained_models_and_controls_are_told_where_they_differ(say: Say) -> None:
    found = conclude([
        say(RATIO, "unlearned", seen=True, value=0.5),
        say(RATIO, "r1", role="retrained", seen=True, value=0.7),
        say(RATIO, "r2", role="retrained", seen=False),
        say("rcd.ratio_to_retrained", "random initialisation", role="control", seen=True, value=0.58),
    ])
    assert found[1].startswith("r1 (retrained): differs from the other retrained models on relearning (rcd.ratio_to_un")
    assert found[2].startswith("random initialisation (control): differs from the retrained models on relearning")
    assert not any("r2" in sentence for sentence in found)


def test_many_comparisons_are_counted(say: Say) -> None:
    found = conclude([say(f"mia.{name}.auc", "unlearned", seen=name == "loss") for name in
                      ("loss", "entropy", "lira", "rmia", "quantile", "shokri")])  # fmt: skip
    assert any(text.startswith("6 comparisons, each at 95 %") and "1 differ here" in text for text in found)


def test_the_same_comparison_in_two_forms_counts_once(say: Say) -> None:
    names = [f"{kind}.{split}" for kind in ("accuracy", "gap") for split in ("retain", "forget", "test")]
    found = conclude([say(name, "unlearned", seen=True, value=0.5) for name in (*names, RATIO, AUC, "loss.forget")])
    assert any(text.startswith("6 comparisons, each at 95 %") and "6 differ here" in text for text in found)


def test_what_rests_on_retrained_models_in_doubt_says_so_first(say: Say) -> None:
    said = [say(RATIO, "unlearned", seen=False)]
    assert conclude(said, doubted=["r1"])[0].startswith(
        "r1 is in doubt as retrained (see the limitations): what differ"
    )
    assert conclude(said, doubted=["r1", "r2"])[0].startswith("r1 and r2 are in doubt")
    assert conclude([], doubted=["r1"]) == ()


def test_without_an_original_the_power_is_not_known(say: Say) -> None:
    found = conclude([say(RATIO, "unlearned", seen=False)])
    assert len(found) == 2
    assert found[1].startswith("No original model was given")
    assert len(conclude([say(RATIO, "unlearned", seen=True, value=0.3)])) == 1


# ----- what can be read without retrained models, and with a single one


def share(make: Make, split: str, subject: str, right: int, n: int, **more: Any) -> Measurement:
    ends = wilson_interval(right, n)
    found: Measurement = make(f"accuracy.{split}", subject, value=right / n, n=n, interval=tuple(ends or ()), **more)
    return found


def test_rcd_is_read_against_the_level_of_what_was_never_seen(make_measurement: Make) -> None:
    def read(value: float, low: float, high: float, control: float = 1.0) -> str:
        return conclude([
            make_measurement(RATIO, value=value, interval=(low, high), unit="ratio"),
            make_measurement(RATIO, "random initialisation", role="control", value=control, interval=(0.9, 1.4)),
        ])[0]

    assert read(0.068, 0.05, 0.09) == (
        "unlearned, by itself: the forget set stands out from its unseen twin on relearning (rcd.ratio_to_unseen 0.068 "
        "[0.05, 0.09], 1 where a model saw neither, random initialisation 1)."
    )
    assert "does not stand out on relearning" in read(0.97, 0.9, 1.05)
    assert "stands out" in read(1.6, 1.3, 2.0)
    assert "does not stand out" in read(1.25, 1.1, 1.4, control=1.3)  # between the two levels
    assert "does not stand out" in read(0.9, 0.85, 0.96, control=0.9)
    assert "could not tell, being blind, on relearning" in read(1.0, 0.6, 1.7)


def test_accuracy_on_forget_is_read_against_the_unseen_twins(make_measurement: Make) -> None:
    (told, *_) = conclude([
        share(make_measurement, "forget", "original", 144, 144),
        share(make_measurement, "unseen", "original", 3, 144),
    ])
    assert told.startswith(
        "original, by itself: the forget set stands out from its unseen twin on forget accuracy (acc"
    )
    assert "accuracy.forget 1.000 over 144 examples, accuracy.unseen 0.021 over 144: +0.979 [+0.9" in told
    (told, *_) = conclude([
        share(make_measurement, "forget", "unlearned", 3, 144),
        share(make_measurement, "unseen", "unlearned", 3, 144),
    ])
    assert "does not stand out on forget accuracy" in told


def test_an_attack_is_read_against_one_half(make_measurement: Make) -> None:
    def read(low: float, high: float, flags: tuple[MeasurementFlag, ...] = ()) -> tuple[str, ...]:
        middle = (low + high) / 2
        return conclude([make_measurement(AUC, value=middle, interval=(low, high), flags=flags, unit="ratio")])

    assert (
        "stands out from its unseen twin on the loss attack (mia.loss.auc 0.93 [0.91, 0.95], 0.5" in read(0.91, 0.95)[0]
    )
    assert "does not stand out on the loss attack" in read(0.45, 0.55)[0]
    assert "could not tell, being blind, on the loss attack" in read(0.3, 0.7)[0]
    assert read(0.91, 0.95)[1].startswith("What a model says by itself assumes that forget set and unseen twin are equ")
    assert read(0.91, 0.95, ("legacy",))[0].startswith("No retrained model")


def test_ulira_is_read_against_retrained_models_alone_and_both_ends_count(make_measurement: Make, say: Say) -> None:
    """A model that never saw the data was never unlearned: it is like neither side, and need not lie at one half."""
    (told,) = conclude([make_measurement("mia.ulira.auc", value=0.75, interval=(0.7, 0.8), unit="probability")])
    assert told.startswith("No retrained model was given")
    for ends in ((-0.3, -0.1), (0.1, 0.3)):
        apart = {"comparison": comparison(sum(ends) / 2, *ends, "AUC"), "value": 0.5}
        assert (
            "differs from the retrained models on the ulira attack"
            in conclude([say("mia.ulira.auc", "unlearned", seen=True, **apart)])[0]
        )


def test_a_fall_from_the_originals_accuracy_is_told_with_its_interval(make_measurement: Make) -> None:
    found = conclude([
        share(make_measurement, "forget", "original", 1006, 1012),
        share(make_measurement, "forget", "unlearned", 0, 1012),
    ])
    assert found[0].startswith(
        "unlearned: forget accuracy went from 99.4% (original) to 0.0% over 1,012 examples (-0.994 [-0.997, -0.98"
    )
    assert found[-1].startswith("No retrained model was given")


def test_where_it_is_plain_one_retrained_model_is_enough_to_say_so(make_measurement: Make) -> None:
    one = {"reference": Reference(role="retrained", value=0.0, n=1)}
    found = conclude([
        share(make_measurement, "forget", "original", 1006, 1012, **one),
        share(make_measurement, "test", "original", 930, 1000, **one),
        share(make_measurement, "forget", "r", 0, 1012, role="retrained"),
        share(make_measurement, "test", "r", 970, 1000, role="retrained"),
        make_measurement(RATIO, "original", value=0.068, interval=(0.05, 0.09), unit="ratio", **one),
        make_measurement(RATIO, "r", role="retrained", value=1.2, interval=(1.0, 1.4), unit="ratio"),
    ])
    assert found[0].startswith(
        "original: far from the only retrained model on forget accuracy (accuracy.forget 0.994 ["
    )
    assert (
        "and relearning (rcd.ratio_to_unseen 0.068 [0.05, 0.09], r 1.2), counting the chance of the examples"
        in found[0]
    )
    assert "test accuracy" not in found[0]  # a gap of .04 may be the chance of a training run
    assert found[-1].startswith("Only one retrained model was given")


def test_without_anything_to_read_the_retrained_models_are_missed(say: Say) -> None:
    (sentence,) = conclude([say(RATIO, "original", seen=None), say(RATIO, "unlearned", seen=None)])
    assert sentence.startswith("No retrained model was given")


def test_one_retrained_model_is_too_few_to_tell_a_difference(make_measurement: Make) -> None:
    one = Reference(role="retrained", value=1.0, n=1)
    (sentence,) = conclude([make_measurement(RATIO, reference=one)])
    assert sentence.startswith("Only one retrained model was given")


def test_retrained_models_without_a_value_were_given_all_the_same(make_measurement: Make) -> None:
    found = [
        make_measurement("truncation.rate", label, value=None, reason="not converged", role=role)
        for label, role in (("u", "unlearned"), ("r1", "retrained"), ("r2", "retrained"))
    ]
    assert conclude(found) == ()
    assert conclude(found[:2])[0].startswith("Only one retrained model was given")


def test_of_nothing_nothing_is_said(say: Say) -> None:
    assert conclude([]) == ()
    assert conclude([say(RATIO, "retrained", seen=False)]) == ()


def test_a_comparison_with_others_is_none_with_the_retrained(make_measurement: Make) -> None:
    other = comparison(0.5, 0.4, 0.6, "log ratio").model_copy(update={"to": "original"})
    (sentence,) = conclude([make_measurement(RATIO, comparison=other)])
    assert sentence.startswith("No retrained model")


@pytest.mark.parametrize("label", ["[bold]x[/bold]", "a b", "{0}", "%s", "é✓", "a: b; c.", "\x1b[31m", "a\nb", ""])
def test_a_label_is_taken_as_it_is(say: Say, label: str) -> None:
    (first, _) = conclude([say(RATIO, label, role="unlearned", seen=False)])
    assert first.startswith(f"{label} (unlearned): no difference seen from the retrained models on relearning (")


def test_subjects_stand_in_their_order(say: Say) -> None:
    labels = ["z", "a", "m"]
    found = conclude([say(RATIO, label, role="unlearned", seen=True, value=0.1) for label in labels])
    assert [sentence.partition(" ")[0] for sentence in found] == labels


def test_a_report_without_instruments_says_nothing_of_retrained_models_that_are_there(make_measurement: Make) -> None:
    assert conclude([make_measurement("spectrum.lambda_max", "unlearned", reference=AGAIN)]) == ()


def test_an_interval_without_end_is_blind_and_breaks_nothing(say: Say) -> None:
    (told, *_) = conclude([say(RATIO, "unlearned", seen=False, half=1e300)])
    assert "could not tell, being blind, on relearning (rcd.ratio_to_unseen, could see no factor)" in told
    assert math.isfinite(BLIND_ABOVE["nats"])


# ----- how small a leak could have been seen


def test_every_instrument_says_what_it_could_have_seen_the_sharpest_first(say: Say) -> None:
    found = [
        say(AUC, "unlearned", seen=None, could_see=could_see(0.128, 0.057)),
        say("mia.entropy.auc", "unlearned", seen=None, could_see=could_see(None, 0.4)),
        say("gap.forget", "unlearned", seen=None, could_see=could_see(0.0465, 0.57)),
        say("gap.forget", "retrained", seen=None, could_see=could_see(0.0465, 0.57)),
        say("mia.ulira.auc", "unlearned", seen=None, could_see=could_see(None, None, auc=0.77)),
    ]
    assert conclude(found)[0] == (
        "This audit could have seen 4.7 % of the forget set kept as the original has it (forget accuracy), 13 % (the "
        "loss attack); 5.7 % of the way back to the original on every example (the loss attack)."
    )


def test_an_instrument_that_misses_even_the_original_is_called_blind(say: Say) -> None:
    found = [
        say(AUC, "unlearned", seen=None, could_see=could_see(None, None)),
        say("gap.forget", "unlearned", seen=None, could_see=could_see(None, None)),
    ]
    assert conclude(found)[0] == (
        "Not even the original's own answers in the place of a retrained model's would have been seen by the loss "
        "attack and forget accuracy: blind on this forget set with these retrained models."
    )


def test_an_attack_that_misses_its_own_fleet_is_called_blind(say: Say) -> None:
    nothing = could_see(None, None, auc=0.5, auc_low=0.47, auc_high=0.53)
    assert conclude([say("mia.ulira.auc", "unlearned", seen=None, could_see=nothing)])[0] == (
        "Not even the shadow models' own unlearning is told by the ulira attack: blind to what this kind of unlearning "
        "leaves."
    )


def test_where_nothing_was_planted_nothing_is_said_of_it(say: Say) -> None:
    assert not any("could have seen" in text for text in conclude([say(AUC, "unlearned", seen=True)]))


# ----- a p-value says by itself whether there is a difference

P, SPLIT = "twosample.p", "twosample.auc"


def test_a_small_p_is_a_difference_and_a_large_one_is_none_seen(make_measurement: Make) -> None:
    words = {"differs": ["lie closer together", "depend less on how hard an example is"]}
    found = conclude([
        make_measurement(P, "original", value=0.001, details={"differs": ["lie higher"]}),
        make_measurement(P, "unlearned", value=0.003, details=words),
        make_measurement(SPLIT, "unlearned", value=0.7),
        make_measurement(P, "other", value=0.3, details={"differs": []}),
        make_measurement(SPLIT, "other", value=0.51),
        *(make_measurement(P, f"r{k}", role="retrained", value=0.2 * k) for k in (1, 2)),
    ])
    assert found == (
        "original: differs from the retrained models on the two-sample test (twosample.p 0.001).",
        "unlearned: differs from the retrained models on the two-sample test (twosample.p 0.003, told apart with AUC "
        "0.700).",
        "unlearned: given the retrained models, its log-odds on forget examples lie closer together and depend less on "
        "how hard an example is than those on their unseen twin.",
        "other (subject): no difference seen from the retrained models on the two-sample test (twosample.p 0.300).",
    )


def test_a_test_that_does_not_see_the_original_has_no_power(make_measurement: Make) -> None:
    found = conclude([
        make_measurement(P, "original", value=0.4),
        make_measurement(P, "unlearned", value=0.6),
        *(make_measurement(P, f"r{k}", role="retrained", value=0.5) for k in (1, 2)),
    ])
    assert "unlearned: could not tell, since the original is not seen either, on the two-sample test." in found
    assert [text for text in found if text.startswith("With the two-sample test no difference is seen even between")]


def test_a_retrained_model_that_the_test_tells_apart_is_named(make_measurement: Make) -> None:
    found = conclude([
        make_measurement(P, "unlearned", value=0.6),
        *(make_measurement(P, f"r{k}", role="retrained", value=p) for k, p in enumerate((0.5, 0.02))),
    ])
    assert (
        "r1 (retrained): differs from the other retrained models on the two-sample test (twosample.p 0.020)." in found
    )


def test_one_retrained_model_is_enough_for_the_test_and_for_nothing_else(make_measurement: Make) -> None:
    found = conclude([
        make_measurement(P, "unlearned", value=0.6),
        make_measurement(P, "r0", role="retrained", value=None, reason="no other retrained model"),
    ])
    assert found[0] == (
        "unlearned: no difference seen from the retrained models on the two-sample test (twosample.p 0.600)."
    )
    assert found[-1].startswith("Only one retrained model was given: the two-sample test needs no more, but")
