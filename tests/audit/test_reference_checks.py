"""References: a true one is never in doubt; a wrecked one, one that remembers, and one of other data are, by name."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from lookup_models import CLASSES, TEST, TRAIN, context_of, right

from unlearn_audit.audit.context import doubts_of, limitations_of
from unlearn_audit.audit.reference_checks import examine_subjects, telling_apart
from unlearn_audit.checkpoints import Metadata

Make = Callable[..., Any]
RANDOM = "range:0-99"
NUMBERS = np.arange(TRAIN + TEST)


class Examined(NamedTuple):
    doubts: dict[str, tuple[str, ...]]
    limitations: tuple[str, ...]


def examined(forget: str, **subjects: Any) -> Examined:
    notes = list(examine_subjects(context_of(forget, **subjects)))
    return Examined(doubts_of(notes), limitations_of(notes))


def fair(seed: int, **shares: Any) -> tuple[str, Any]:
    return "retrained", right(**{"forgotten": RANDOM, "seed": seed} | shares)


ORIGINAL = ("original", right())
WRECK = right(retain=0.12, test=0.11, forget=0.1, forgotten=RANDOM, seed=9)


@pytest.mark.parametrize("seed", range(5))
def test_a_true_retrained_model_is_not_in_doubt(seed: int) -> None:
    context = examined(RANDOM, original=ORIGINAL, r1=fair(seed + 1), r2=fair(seed + 20), u=fair(seed + 40))
    assert context.doubts == {}
    assert context.limitations == ()


def test_a_retrained_model_may_be_better_than_the_original() -> None:
    # Wrong labels spoil the original: .939 on test against .988 of the models retrained without them.
    original = right(retain=1.0, test=0.90, seed=3)
    assert examined(RANDOM, original=("original", original), r1=fair(1, test=0.99)).doubts == {}


def test_a_little_worse_is_what_retraining_on_less_data_explains() -> None:
    assert examined(RANDOM, original=ORIGINAL, r1=fair(1, test=0.93, retain=0.98)).doubts == {}
    # Left with a fifth of the data, a model may lose far more.
    most = "range:0-799"
    worse = ("retrained", right(test=0.80, forget=0.8, forgotten=most, seed=1))
    assert examined(most, original=ORIGINAL, r1=worse).doubts == {}


@pytest.mark.parametrize("shares", [{"retain": 0.8}, {"test": 0.7}, {"retain": 0.5, "test": 0.4}])
def test_a_reference_that_is_worse_than_the_original_is_in_doubt(shares: dict[str, float]) -> None:
    context = examined(RANDOM, original=ORIGINAL, r1=fair(1), r2=fair(2, **shares))
    assert list(context.doubts) == ["r2"]
    for split in shares:
        assert any(f"r2: accuracy on the {split} set is" in text for text in context.doubts["r2"])
    assert set(context.doubts["r2"]) <= set(context.limitations)


def test_without_an_original_the_references_are_held_against_each_other_and_it_is_said() -> None:
    fine = examined(RANDOM, r1=fair(1), r2=fair(2))
    assert fine.doubts == {}
    assert len(fine.limitations) == 1
    assert fine.limitations[0].startswith("no original model was given")
    assert list(examined(RANDOM, r1=fair(1), r2=fair(2, retain=0.7)).doubts) == ["r2"]
    assert examined(RANDOM, r1=fair(1)).doubts == {}


def test_what_does_no_better_than_guessing_is_in_doubt_whoever_it_is() -> None:
    wrecks = {name: (role, WRECK) for name, role in
              (("original", "original"), ("r1", "retrained"), ("u", "unlearned"))}  # fmt: skip
    context = examined(RANDOM, **wrecks)
    assert set(context.doubts) == {"original", "r1", "u"}
    assert all("at chance (0.1" in found[0] and "0.100" in found[0] for found in context.doubts.values())
    assert "--model" in context.doubts["u"][0]


def test_without_an_original_wrecked_references_are_in_doubt_all_the_same() -> None:
    assert set(examined(RANDOM, r1=("retrained", WRECK), r2=("retrained", WRECK), u=fair(1)).doubts) == {"r1", "r2"}


def test_an_original_that_knows_less_than_every_retrained_model_is_in_doubt() -> None:
    context = examined(RANDOM, original=("original", right(retain=0.6)), r1=fair(1), r2=fair(2))
    assert list(context.doubts) == ["original"]
    assert "no original to hold anything against" in context.doubts["original"][0]


# ----- whole classes


def without_class(seed: int, **shares: float) -> Any:
    found = right(seed=seed, **shares)
    found[NUMBERS % CLASSES == 3] = False
    return found


def test_a_class_that_is_forgotten_does_not_count() -> None:
    r1, r2 = (("retrained", without_class(seed)) for seed in (1, 2))
    assert examined("class:3", original=ORIGINAL, r1=r1, r2=r2).doubts == {}


def test_who_answers_with_a_forgotten_class_has_seen_it() -> None:
    context = examined("class:3", original=ORIGINAL, r1=("retrained", right(seed=1)))
    assert list(context.doubts) == ["r1"]
    assert "forget examples into class 3" in context.doubts["r1"][0]


def test_a_model_retrained_without_another_class_is_found_out() -> None:
    other = without_class(1)
    other[NUMBERS % CLASSES == 3] = right(seed=1)[NUMBERS % CLASSES == 3]
    other[(NUMBERS % CLASSES == 3) & (NUMBERS < TRAIN)] = False  # the forget set, which it does not know
    other[(NUMBERS % CLASSES == 5)] = False
    context = examined("class:3", original=ORIGINAL, r1=("retrained", other))
    assert any("set is" in text or "does not know class 5" in text for text in context.doubts["r1"])


# ----- what a reference itself remembers


def test_a_reference_that_tells_forget_from_unseen_examples_is_in_doubt() -> None:
    leaks = right(forget=1.0, test=0.3, forgotten=RANDOM, seed=1)
    context = examined(RANDOM, original=("original", right(test=0.3)), r1=("retrained", leaks))
    assert list(context.doubts) == ["r1"]
    assert "r1 itself tells forget from unseen examples (loss attack AUC" in context.doubts["r1"][0]


def ratio(make: Make, label: str, role: str, low: float) -> Any:
    found = {"value": low + 0.1, "low": low, "high": low + 0.2, "level": 0.999}
    return make("rcd.ratio_to_unseen", label, role=role, value=0.57, details={"quicker_than_unseen": found})


def test_relearning_too_fast_puts_a_reference_in_doubt_and_nobody_else(make_measurement: Make) -> None:
    measured = [
        ratio(make_measurement, "slow", "retrained", 0.45),
        ratio(make_measurement, "fast", "retrained", 0.7),
        ratio(make_measurement, "original", "original", 0.9),
        make_measurement("rcd.ratio_to_unseen", "none", role="retrained", value=None, reason="diverged"),
        make_measurement("rcd.ratio_to_unseen", "old", role="retrained", value=0.5),
    ]
    ((text, label),) = telling_apart(measured)
    assert label == "fast"
    assert "RCD / unseen 0.570" in text
    assert "from scratch?" in text


@pytest.mark.parametrize(("name", "found"), [("mia.lira.auc", True), ("mia.svc.auc", False), ("mia.ulira.auc", False)])
def test_a_strong_attack_on_a_reference_counts_a_legacy_one_does_not(
    make_measurement: Make, name: str, found: bool
) -> None:
    measured = make_measurement(name, "r1", role="retrained", value=0.9, interval=(0.86, 0.93))
    assert bool(list(telling_apart([measured]))) == found
    wide = make_measurement(name, "r1", role="retrained", value=0.62, interval=(0.56, 0.68))
    assert not list(telling_apart([wide]))


def test_sixty_draws_of_a_model_that_saw_neither_set_raise_no_doubt() -> None:
    doubted = 0
    for seed in range(60):
        saw_neither = right(forget=0.9, test=0.9, forgotten=RANDOM, seed=seed)
        doubted += bool(examined(RANDOM, original=ORIGINAL, r1=("retrained", saw_neither)).doubts)
    assert doubted <= 1


# ----- recipes


def said(**recipe: Any) -> dict[str, Any]:
    return {"metadata": Metadata(model="lookup", recipe={"name": "small", "epochs": 30} | recipe)}


def test_a_reference_of_another_recipe_is_in_doubt() -> None:
    subjects = {
        "original": (*ORIGINAL, said()),
        "alike": (*fair(1), said(name="mine")),
        "short": (*fair(2), said(epochs=3)),
        "unknown": fair(3),
    }
    context = examined(RANDOM, **subjects)
    assert list(context.doubts) == ["short"]
    assert "not trained as original was (epochs 3, not 30)" in context.doubts["short"][0]
