"""What an attack finds of a fleet's own models: the mean of all areas, with an interval over pairs."""

import numpy as np
import pytest
from made_up_evidence import logits_of
from scipy import stats

from unlearn_audit import metrics
from unlearn_audit.attacks import Shadows
from unlearn_audit.attacks.leave_pair_out import own_targets
from unlearn_audit.attacks.lira import lira
from unlearn_audit.attacks.ulira import ulira
from unlearn_audit.audit.mia.own_models import own_models

LABELS = np.arange(40) % 4


def fleet(models: int) -> Shadows:
    rng = np.random.default_rng(0)
    first = rng.random((models // 2, 40)).argsort(axis=1) < 20
    inside = np.stack([first, ~first], axis=1).reshape(models, 40)
    odds = rng.normal(0, 2, 40) + inside + rng.normal(0, 1, inside.shape)
    nothing = np.zeros((models, 0, 4), np.float32)
    return Shadows(
        logits_of(odds, LABELS)[:, :, None], inside, ~inside, nothing, np.zeros((models, 0), bool),
        np.zeros(0, np.int64), nothing,
    )  # fmt: skip


def test_the_interval_is_students_over_pairs() -> None:
    shadows = fleet(8)
    found = own_models(ulira, shadows, LABELS)
    assert found is not None
    areas = np.array([metrics.auc(one.members, one.non_members) for one in own_targets(ulira.score, shadows, LABELS)])
    pairs = areas.reshape(4, 2).mean(axis=1)
    low, high = stats.t.interval(0.95, 3, pairs.mean(), stats.sem(pairs))
    assert (found.auc, found.targets, found.compared_with) == (pytest.approx(areas.mean()), 8, 6)
    assert found.bounds == pytest.approx((max(0.0, low), min(1.0, high)))
    assert found.could_see.auc == found.auc
    assert (found.could_see.auc_low, found.could_see.auc_high) == tuple(found.bounds)
    assert found.could_see.blind == (found.bounds.low <= 0.5 <= found.bounds.high)
    assert found._replace(auc=0.5, bounds=metrics.Bounds(0.47, 0.53)).could_see.blind
    assert not found._replace(auc=0.7, bounds=metrics.Bounds(0.6, 0.8)).could_see.blind


def test_without_enough_models_or_with_an_attack_of_another_kind_there_is_none() -> None:
    assert own_models(ulira, fleet(4), LABELS) is None
    assert own_models(lira, fleet(8), LABELS) is None
