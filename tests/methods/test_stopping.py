"""Stopping where the forget set looks like held-out examples: the distance, the look, the record, the refusals."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from small_problems import Plain, batches_of, make_context, same, snapshot
from torch.nn import functional

from unlearn_audit.data import Dataset, Examples, Splits, make_spare_twin, make_splits
from unlearn_audit.engine import Hooks, Term
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.methods.ga import GaSettings, run_ga
from unlearn_audit.methods.ieu import IeuSettings
from unlearn_audit.methods.loop import LoopSettings, mean_loss, paired, run_composition
from unlearn_audit.methods.stopping import CHANCE, DISTANCE, LEAST, Unseen, first_of


def problem(noise: Any, *, forget: int = 40, test: int = 160) -> Splits:
    """Random images of four classes with enough held-out ones for two twins."""
    train, held_out = noise(120, classes=4), noise(test, classes=4, seed=1)
    return make_splits(Dataset("noise", train, held_out, 4, (0.5,), (0.25,), "0" * 64), f"range:0-{forget - 1}")


def losses(context: UnlearningContext, examples: Examples) -> np.ndarray:
    with torch.no_grad():
        logits = context.model.eval()(context.transform(examples.images))
    return functional.cross_entropy(logits, examples.labels, reduction="none").numpy()


def test_a_look_is_the_distance_between_the_losses_on_both_sides_of_the_spare_twin(noise: Any) -> None:
    splits = problem(noise)
    context = make_context(Plain(), splits, seed=5)
    context.model.train()
    found = Unseen(context).look(19)
    assert context.model.training
    twin = make_spare_twin(splits, at_most=500, seed=5)
    assert twin is not None
    sides = losses(context, splits.dataset.train.subset(twin.forget)), losses(context, twin.examples)
    assert found[DISTANCE] == pytest.approx(stats.ks_2samp(*sides).statistic)
    assert found[CHANCE] == pytest.approx(stats.kstwobign.sf(found[DISTANCE] * np.sqrt(len(twin) / 2)))
    assert float(context.memory["unseen/least"]) == found[DISTANCE]
    assert int(context.memory["unseen/step"]) == 20


@pytest.mark.parametrize(("p", "stops"), [(0.49, False), (0.5, True), (1.0, True)])
def test_the_stop_is_reached_when_half_of_all_unseen_pairs_of_sets_lie_as_far_apart(
    noise: Any, p: float, stops: bool
) -> None:
    unseen = Unseen(make_context(Plain(), problem(noise)))
    assert (unseen.stop({DISTANCE: 0.1, CHANCE: p}) is not None) == stops
    assert unseen.stop({"forget": 3.0}) is None


def test_of_two_stops_the_first_that_is_reached_ends_the_run() -> None:
    stop = first_of(None, lambda found: None, lambda found: "the second")
    assert stop is not None
    assert stop({}) == "the second"
    assert first_of(None, None) is None


def learned(splits: Splits) -> Plain:
    """A network that knows its training set by heart."""
    model = Plain(torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.06)
    images, train = (splits.dataset.train.images / 255 - 0.5) / 0.25, splits.dataset.train
    for _ in range(70):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), train.labels).backward()
        optimizer.step()
    return model


def test_a_run_stops_where_forget_losses_are_distributed_as_on_examples_never_seen(noise: Any) -> None:
    """The weights go in a straight line from a network that knows the examples to one that never saw any."""
    splits, fresh = problem(noise), snapshot(Plain(torch.float32))
    told: list[str] = []
    context = make_context(
        learned(splits), splits, seed=1, progress=lambda task, done, total, note="": told.append(note)
    )
    start = snapshot(context.model)

    def towards_fresh(step: int) -> None:
        share = min(1.0, (step + 1) / 60)
        context.model.load_state_dict({name: (1 - share) * start[name] + share * fresh[name] for name in start})

    forget = batches_of(splits, "forget")
    objective = paired(None, forget, lambda step: {"forget": Term(mean_loss(context, forget, step), -1.0)})
    settings = LoopSettings(step_size=1e-9, steps=80, stop_at="unseen")
    before = Unseen(context).look(0)[CHANCE]
    done = run_composition(context, objective, settings, hooks=[Hooks(after=towards_fresh)], task="planted")
    assert before < 0.001
    assert done.stopped is not None
    assert "are distributed as on 40 held-out ones" in done.stopped
    assert 20 < done.steps <= 60
    assert Unseen(context).look(0)[CHANCE] >= 0.5
    assert DISTANCE in told[0]
    twin = make_spare_twin(splits, at_most=500, seed=1)
    assert twin is not None
    assert done.looked_at == tuple(twin.unseen.tolist())
    assert not set(done.looked_at) & set(splits.unseen.unseen.tolist())


def test_a_stop_that_is_never_reached_spends_the_budget_and_says_so(noise: Any) -> None:
    splits = problem(noise)
    start = snapshot(learned(splits))
    settings = {"step_size": 1e-6, "batch_size": 10, "steps": 40}
    ends = []
    for stop_at in ("unseen", None):
        context = make_context(Plain(torch.float32), splits)
        context.model.load_state_dict(start)
        ends.append((run_ga(context, GaSettings(stop_at=stop_at, **settings)), snapshot(context.model)))
    (watched, weights), (free, others) = ends
    assert (watched.steps, watched.stopped) == (40, None)
    assert watched.notes[-1].startswith("stop_at unseen was not reached, so that the whole budget was spent")
    assert same(weights, others)  # looking changes nothing
    assert (free.notes, free.looked_at) == ((), None)


def test_without_enough_held_out_examples_beside_the_twin_it_is_refused(noise: Any) -> None:
    splits = problem(noise, forget=40, test=44)
    with pytest.raises(UsageError, match=rf"stop_at unseen: beside the unseen twin .* and {LEAST} are needed"):
        run_ga(make_context(Plain(), splits), GaSettings(stop_at="unseen"))


def test_settings_are_written_as_before_where_the_stop_is_not_asked_for() -> None:
    assert "stop_at" not in IeuSettings().model_dump(mode="json")
    assert json.loads(IeuSettings(stop_at="unseen").model_dump_json())["stop_at"] == "unseen"
