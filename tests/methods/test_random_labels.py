"""RL: the law of its labels, which labels a step uses, and the order of its passes."""

from typing import Any

import pytest
import torch
from scipy import stats
from small_problems import (
    Plain,
    batches_of,
    cross_entropy,
    difference,
    make_context,
    make_net,
    make_small_splits,
    parameters_of,
    rows_in,
    slopes,
    watch_inputs,
)
from torch import Tensor

from unlearn_audit.data import Splits
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.methods import Unlearned
from unlearn_audit.methods.apply import parse_settings
from unlearn_audit.methods.random_labels import RL, RandomLabels, RlSettings, run_rl
from unlearn_audit.methods.salun import SALUN

CLASSES, N = 5, 20_000
SHORT: dict[str, Any] = {"batch_size": 8, "step_size": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def drawn(seed: int = 0, passes: int = 1, **form: Any) -> tuple[Tensor, Tensor]:
    """Return the true labels and those of some passes, one after the other."""
    true = torch.arange(N) % CLASSES
    labels = RandomLabels(true, CLASSES, seed=seed, **{"exclude_true": False, "redraw": "epoch"} | form)
    return true.repeat(passes), torch.cat([labels.drawn(number) for number in range(passes)])


# ----- the law


@pytest.mark.parametrize("exclude_true", [False, True])
def test_labels_are_uniform_whatever_the_true_one(exclude_true: bool) -> None:
    true, labels = drawn(exclude_true=exclude_true)
    table = torch.zeros(CLASSES, CLASSES).index_put((true, labels), torch.ones(()), accumulate=True)
    allowed = ~torch.eye(CLASSES, dtype=torch.bool) if exclude_true else torch.ones(CLASSES, CLASSES, dtype=torch.bool)
    assert table[~allowed].sum() == 0
    cells = table[allowed].numpy()
    assert len(cells) == CLASSES * (CLASSES - exclude_true)
    # The rows' sums are given, which takes a degree of freedom each.
    p = float(stats.chi2.sf(stats.chisquare(cells).statistic, len(cells) - CLASSES))
    assert 1e-3 < p < 1 - 1e-3


@pytest.mark.parametrize("exclude_true", [False, True])
def test_passes_are_independent_or_all_the_first_one(exclude_true: bool) -> None:
    first, second = drawn(passes=2, exclude_true=exclude_true)[1].split(N)
    chance = 1 / (CLASSES - exclude_true)
    agreement = (first == second).float().mean().item()
    assert abs(agreement - chance) < 4 * (chance * (1 - chance) / N) ** 0.5
    one, two = drawn(passes=2, exclude_true=exclude_true, redraw="once")[1].split(N)
    assert torch.equal(one, two)
    assert torch.equal(one, first)


def test_labels_depend_on_seed_and_pass_alone() -> None:
    torch.manual_seed(3)
    assert torch.equal(drawn(seed=1, passes=3)[1], drawn(seed=1, passes=3)[1])
    assert not torch.equal(drawn(seed=1)[1], drawn(seed=2)[1])
    labels = RandomLabels(torch.arange(N) % CLASSES, CLASSES, seed=1, exclude_true=False, redraw="epoch")
    backwards = [labels.on(torch.device("cpu"), number).clone() for number in (2, 0, 1)]
    assert torch.equal(torch.cat([backwards[1], backwards[2], backwards[0]]), drawn(seed=1, passes=3)[1])


def test_two_classes_without_the_true_one_are_flipped() -> None:
    labels = RandomLabels(torch.tensor([0, 1, 1]), 2, seed=0, exclude_true=True, redraw="epoch")
    assert labels.drawn(0).tolist() == labels.drawn(7).tolist() == [1, 0, 0]


def test_one_class_has_no_other(noise: Any) -> None:
    splits = make_small_splits(noise, classes=1)
    with pytest.raises(UsageError, match="^exclude_true: there is only one class"):
        run_rl(make_context(make_net(classes=1), splits), RlSettings(exclude_true=True))
    assert run_rl(make_context(make_net(classes=1), splits), RlSettings(steps=1)).steps == 1


# ----- the steps


@pytest.mark.parametrize("exclude_true", [False, True])
@pytest.mark.parametrize("redraw", ["epoch", "once"])
def test_steps_are_forget_passes_under_drawn_labels_then_retain_passes(
    splits: Splits, redraw: Any, exclude_true: bool
) -> None:
    model, seed = Plain(), 5
    theta = parameters_of(model)
    retain, forget = batches_of(splits, "retain", seed, 30), batches_of(splits, "forget", seed, 4)
    labels = RandomLabels(splits.forget_examples.labels, 4, seed=seed, exclude_true=exclude_true, redraw=redraw)
    batches = []
    for epoch in range(2):
        for number in range(3 * epoch, 3 * epoch + 3):
            batches.append((forget.at(number)[0], labels.drawn(epoch)[forget.rows(number)]))
        batches += [retain.at(number) for number in range(3 * epoch, 3 * epoch + 3)]
    for batch in batches:
        slope = slopes(lambda weights, batch=batch: cross_entropy(model, weights, batch), theta)
        theta = {name: theta[name] - 0.1 * slope[name] for name in theta}
    done = run_two_sizes(make_context(model, splits, seed), redraw, exclude_true)
    assert done == Unlearned(12, 200)
    assert difference(theta, parameters_of(model)) < 1e-12


def run_two_sizes(context: Any, redraw: Any, exclude_true: bool) -> Unlearned:
    """Run RL with forget batches of 4 and retain batches of 30."""
    from unlearn_audit.methods import random_labels

    def sized(context: Any, which: Any, settings: Any) -> Any:
        return batches_of(context.splits, which, context.seed, 4 if which == "forget" else 30)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_labels, "minibatches", sized)
        return run_rl(context, RlSettings(**SHORT, epochs=2, redraw=redraw, exclude_true=exclude_true))


def kinds(splits: Splits, **settings: Any) -> tuple[str, list[list[int]], Unlearned]:
    """Return which set each batch that passes through the network is of, the rows of forget batches, and the result."""
    model = make_net()
    seen = watch_inputs(model)
    done = run_rl(make_context(model, splits), RlSettings(**SHORT | {"batch_size": 30, "epochs": 2} | settings))
    rows = [rows_in(batch, splits.forget_examples) for batch in seen]
    return "".join("r" if -1 in each else "f" for each in rows), [each for each in rows if -1 not in each], done


def test_the_published_order_has_the_forget_pass_first() -> None:
    assert RlSettings().order == "forget-first"


def test_each_epoch_passes_over_forget_then_over_retain(splits: Splits) -> None:
    order, rows, done = kinds(splits)
    assert order == "frrr" * 2
    assert [sorted(each) for each in rows] == [list(range(10))] * 2
    assert rows[0] != rows[1]
    assert done == Unlearned(8, 200)


def test_alternating_steps_take_a_batch_of_each(splits: Splits) -> None:
    order, _, done = kinds(splits, order="alternate")
    assert order == "fr" * 6
    assert done == Unlearned(6, 240)


def test_alternating_labels_change_with_the_pass_over_the_forget_set(splits: Splits) -> None:
    """Three forget batches make a pass, though twelve steps make an epoch."""
    seen: list[tuple[int, ...]] = []
    forget = batches_of(splits, "forget", size=4)
    with pytest.MonkeyPatch.context() as patch:
        original = RandomLabels.on
        patch.setattr(
            RandomLabels, "on", lambda self, device, epoch: (seen.append(epoch), original(self, device, epoch))[1]
        )
        run_rl(
            make_context(make_net(), splits), RlSettings(**SHORT | {"batch_size": 4, "order": "alternate", "steps": 7})
        )
    assert forget.per_epoch == 3
    assert seen == [0, 0, 0, 1, 1, 1, 2]


def test_without_retain_set_only_forget_passes_are_made(splits: Splits) -> None:
    order, _, done = kinds(splits, retain_free=True)
    assert order == "ff"
    assert done == Unlearned(2, 20)


@pytest.mark.parametrize("method", [RL, SALUN])
def test_an_order_of_one_set_is_refused(method: Any) -> None:
    with pytest.raises(ConfigError, match="order alternate needs the retain set"):
        parse_settings(method, {"retain_free": True, "order": "alternate"})
