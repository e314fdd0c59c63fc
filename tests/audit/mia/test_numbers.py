"""From scores to measurements: what is null and why, and whether differences to retrained models are called rightly."""

from typing import cast

import numpy as np
import pytest

from unlearn_audit.attacks import Attack
from unlearn_audit.audit.mia.numbers import RATES, Scores, mia_numbers, why_no_value, worst
from unlearn_audit.inputs import Candidate
from unlearn_audit.metrics import wilson_interval
from unlearn_audit.report import Measurement

RANKING = Attack("made-up", "is it higher?", "ours", lambda evidence: np.zeros(len(evidence.labels)))
DECIDING = RANKING._replace(threshold=0.0)


class Subject:
    """As much of a candidate as the numbers look at."""

    label, role, is_generator = "subject", "unlearned", False


def numbers(scores: Scores | str, others: list[Scores], attack: Attack = RANKING) -> dict[str, Measurement]:
    """Measurements by the last part of their name."""
    subject = cast(Candidate, Subject())
    return {
        m.name.rpartition(".")[2]: m for m in mia_numbers(attack, subject, scores=scores, others=others, details={})
    }


def draw(rng: np.random.Generator, count: int, shift: float = 0.0) -> Scores:
    """Normal scores, those of members higher by `shift`."""
    return Scores(rng.normal(shift, 1, count), rng.normal(0, 1, count))


def test_each_attack_has_five_measurements_and_all_say_what_was_compared() -> None:
    found = numbers(draw(np.random.default_rng(0), 100), [])
    assert set(found) == {"auc", *RATES.values(), "accuracy", "base_rate"}
    for measurement in found.values():
        assert measurement.n == 200
        assert measurement.details["members"] == "100 forget examples"
        assert measurement.details["non_members"] == "100 examples of their unseen twin"
        assert measurement.method == "is it higher? (ours)"


@pytest.mark.parametrize(("scores", "reason"), [
    (Scores(np.ones(5), np.ones(5)), "degenerate: the attack gives every example the same score"),
    (Scores(np.array([1.0, np.nan]), np.array([0.0, 1.0])), "the attack's score is not a number for some examples"),
    (Scores(np.zeros(0), np.zeros(0)), "no forget example has a partner in the unseen twin"),
])  # fmt: skip
def test_scores_that_mean_nothing_are_null_with_the_reason(scores: Scores, reason: str) -> None:
    found = numbers(scores, [])
    for ending in ("auc", "accuracy", *RATES.values()):
        assert (found[ending].value, found[ending].reason) == (None, reason)
        assert found[ending].interval is None
    assert why_no_value(scores) == reason
    if len(scores.members):
        assert found["base_rate"].value == 0.5
    else:
        assert found["base_rate"].value is None


def test_an_attack_that_could_not_run_passes_its_reason_on() -> None:
    found = numbers("one model a side has no variance", [])
    assert {m.reason for m in found.values()} == {"one model a side has no variance"}
    assert {m.value for m in found.values()} == {None}


def test_a_rate_below_what_the_twin_resolves_is_null_and_says_how_many_it_takes() -> None:
    found = numbers(draw(np.random.default_rng(1), 400), [])
    assert isinstance(found["tpr_at_fpr_1e-2"].value, float)
    assert found["tpr_at_fpr_1e-3"].value is None
    assert found["tpr_at_fpr_1e-3"].reason == (
        "needs about 3,688 non-members to show a false positive rate of 0.1%; there are 400"
    )


def test_a_rate_comes_with_what_was_attained() -> None:
    scores = draw(np.random.default_rng(2), 4000, shift=1.0)
    found = numbers(scores, [])["tpr_at_fpr_1e-3"]
    threshold = found.details["threshold"]
    assert found.value == (scores.members >= threshold).mean()
    assert found.details["attained_fpr"] == (scores.non_members >= threshold).mean() <= 0.001
    assert found.details["true_positives"] == (scores.members >= threshold).sum()
    assert found.interval is not None
    assert found.interval.method == "Clopper-Pearson, combined with that of the threshold"
    assert found.interval.low < found.value < found.interval.high


def test_one_answer_for_all_is_called_degenerate() -> None:
    rng = np.random.default_rng(3)
    found = numbers(Scores(rng.uniform(1, 2, 50), rng.uniform(1, 2, 50)), [], DECIDING)["accuracy"]
    assert found.details["degenerate"] is True
    assert found.details["says_member"] == 1.0
    assert (found.value, found.details["base_rate"]) == (0.5, 0.5)
    assert found.details["threshold"] == "the attack's own threshold"
    assert numbers(draw(rng, 50), [])["accuracy"].details["degenerate"] is False


def test_infinite_scores_rank_at_the_end_and_are_shown_as_nothing() -> None:
    scores = Scores(np.array([np.inf, 1.0, 0.0]), np.array([0.5, -np.inf, 0.2]))
    assert numbers(scores, [])["auc"].value == pytest.approx(7 / 9)
    shown = worst(scores, np.array([30, 10, 20]), np.array([3, 1, 2]), 2)
    assert [(one["index"], one["label"], one["score"]) for one in shown] == [(30, 3, None), (10, 1, 1.0)]


def test_ties_among_the_most_exposed_go_by_index() -> None:
    scores = Scores(np.array([1.0, 2.0, 2.0]), np.array([2.0, 0.0]))
    shown = worst(scores, np.array([7, 9, 4]), np.array([0, 0, 0]), 5)
    assert [one["index"] for one in shown] == [4, 9, 7]
    assert [one["share_of_twin_above"] for one in shown] == [0.5, 0.5, 0.5]


def test_below_two_retrained_models_there_is_no_difference() -> None:
    rng = np.random.default_rng(4)
    assert numbers(draw(rng, 50), [])["auc"].comparison is None
    one = numbers(draw(rng, 50), [draw(rng, 50)])
    assert one["auc"].comparison is None
    assert one["auc"].reference is not None


def test_a_retrained_model_without_scores_is_left_out_of_the_reference() -> None:
    rng = np.random.default_rng(5)
    others = [draw(rng, 50), draw(rng, 50), Scores(np.ones(50), np.ones(50))]
    reference = numbers(draw(rng, 50), others)["auc"].reference
    assert reference is not None
    assert reference.n == 2


def models(rng: np.random.Generator, count: int, size: int, shift: float = 0.0) -> list[Scores]:
    """Scores of models that agree on which examples are hard, and whose seeds shift all members a little."""
    hard, seeds = rng.normal(0, 1, (2, size)), rng.normal(0, 0.1, count)
    shifts = np.r_[shift, np.zeros(count - 1)] + seeds
    return [
        Scores(hard[0] + rng.normal(0, 0.5, size) + shifts[k], hard[1] + rng.normal(0, 0.5, size)) for k in range(count)
    ]


def share_seen(ending: str, *, shift: float, runs: int, others: int = 3) -> tuple[int, int]:
    rng = np.random.default_rng(6)
    seen = 0
    for _ in range(runs):
        ours, *rest = models(rng, 1 + others, 150, shift)
        comparison = numbers(ours, rest)[ending].comparison
        assert comparison is not None
        seen += comparison.seen
    return seen, runs


@pytest.mark.parametrize("ending", ["auc", "accuracy"])
def test_a_model_like_the_retrained_ones_is_rarely_called_different(ending: str) -> None:
    """5 % are due; with three retrained models the spread of seeds is itself an estimate."""
    bounds = wilson_interval(*share_seen(ending, shift=0.0, runs=300))
    assert bounds is not None
    assert bounds.low < 0.08


def test_a_model_that_remembers_is_called_different() -> None:
    seen, runs = share_seen("auc", shift=1.5, runs=50)
    assert seen / runs > 0.9
