"""A fleet's own models as targets: no leak gives one half, a leak is found, and half a pair is never left out."""

from collections.abc import Callable

import numpy as np
import pytest
from made_up_evidence import Floats, logits_of

from unlearn_audit import metrics
from unlearn_audit.attacks import Evidence, Shadows
from unlearn_audit.attacks.leave_pair_out import only, own_targets, pairs_of, without
from unlearn_audit.attacks.ulira import ulira
from unlearn_audit.errors import MeasurementError

COUNT = 60
LABELS = np.arange(COUNT) % 4


def fleet(seed: int, *, models: int, leak: float = 0.0) -> Shadows:
    """Complementary pairs of models that say more of the examples that they have seen."""
    rng = np.random.default_rng(seed)
    first = rng.random((models // 2, COUNT + 8)).argsort(axis=1) < (COUNT + 8) // 2
    everything = np.stack([first, ~first], axis=1).reshape(models, -1)
    inside, rest = everything[:, :COUNT], everything[:, COUNT:]
    odds = rng.normal(0, 2, COUNT) + leak * inside + rng.normal(0, 1, inside.shape)
    return Shadows(
        logits_of(odds, LABELS)[:, :, None], inside, ~inside, np.zeros((models, 8, 4), np.float32), rest,
        np.zeros(8, np.int64), np.zeros((models, 0, 4), np.float32),
    )  # fmt: skip


def areas(score: Callable[[Evidence], Floats], shadows: Shadows) -> list[float]:
    found = [metrics.auc(one.members, one.non_members) for one in own_targets(score, shadows, LABELS)]
    return [value for value in found if value is not None]


@pytest.mark.parametrize("variance", ["pooled", "eb"])
def test_without_a_leak_the_mean_is_one_half(variance: str) -> None:
    score = ulira.with_settings({"variance": variance}).score
    found = [np.mean(areas(score, fleet(seed, models=6))) for seed in range(40)]
    assert np.mean(found) == pytest.approx(0.5, abs=4 * np.std(found) / np.sqrt(40))
    assert np.std(found) / np.sqrt(40) < 0.008  # leaving out the target alone would give .46


def test_a_leak_is_found_in_every_model() -> None:
    found = areas(ulira.score, fleet(1, models=8, leak=3.0))
    assert len(found) == 8
    assert min(found) > 0.9


def test_half_a_pair_is_never_left_out() -> None:
    shadows = fleet(2, models=6)
    assert pairs_of(shadows) == [(0, 1), (2, 3), (4, 5)]
    with pytest.raises(MeasurementError, match="shadow models 2 and 3 are a pair"):
        without(shadows, [2])
    assert (without(shadows, [2, 3]).inside == shadows.inside[[0, 1, 4, 5]]).all()


def test_a_model_whose_partner_is_missing_has_no_pair_and_is_no_target() -> None:
    shadows = only(fleet(3, models=10), [0, 1, 2, 5, 6, 7, 8, 9])
    assert pairs_of(shadows) == [(0, 1), (4, 5), (6, 7)]
    assert [one.model for one in own_targets(ulira.score, shadows, LABELS)] == [0, 1, 4, 5, 6, 7]
    assert len(without(shadows, [2]).inside) == 7


def test_four_models_are_too_few_to_leave_two_out() -> None:
    with pytest.raises(MeasurementError, match="from three whole pairs on"):
        next(own_targets(ulira.score, fleet(4, models=4), LABELS))


def test_so_many_pairs_as_asked_for_are_targets() -> None:
    found = list(own_targets(ulira.score, fleet(5, models=8), LABELS, most=1))
    assert [one.model for one in found] == [0, 1]
    assert len(found[0].members) + len(found[0].non_members) == COUNT
