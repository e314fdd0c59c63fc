"""A run in stages: what each is given, what joins all of them, and one state for the whole."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problems import Plain, batches_of, cross_entropy, difference, make_context, parameters_of, same, slopes
from torch import Tensor

from unlearn_audit.data import Splits
from unlearn_audit.engine import Hooks, Term, Terms
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.methods import Extra, Settings, StepTransform, Unlearned, UnlearningContext
from unlearn_audit.methods.loop import LoopSettings, mean_loss, minibatches, paired
from unlearn_audit.methods.resume import StateFile
from unlearn_audit.methods.stages import Edit, Stage, run_stages
from unlearn_audit.methods.transforms.mask import MASK, MaskSettings
from unlearn_audit.step_transforms import parse_extras

FIRST = {"step_size": 0.1, "steps": 3, "batch_size": 16}
SECOND = {"step_size": 0.02, "steps": 4, "batch_size": 16, "momentum": 0.9}


def descent(context: UnlearningContext, settings: dict[str, Any], **more: Any) -> Stage:
    """A stage that fine-tunes on the retain set."""
    chosen = LoopSettings(**settings)
    retain = minibatches(context, "retain", chosen)

    def terms(step: int) -> Terms:
        return {"retain": Term(mean_loss(context, retain, step))}

    return Stage(chosen, paired(retain, None, terms), **more)


def run(context: UnlearningContext, first: dict[str, Any] = FIRST, second: dict[str, Any] = SECOND) -> Unlearned:
    return run_stages(context, [descent(context, first), descent(context, second)], task="testing")


def test_each_stage_has_its_own_settings_and_optimiser(splits: Splits) -> None:
    model = Plain()
    theta = parameters_of(model)
    retain = batches_of(splits, "retain")
    for rate, momentum, steps in ((0.1, 0.0, 3), (0.02, 0.9, 4)):
        velocity = {name: torch.zeros_like(each) for name, each in theta.items()}
        for step in range(steps):
            slope = slopes(lambda weights, at=step: cross_entropy(model, weights, retain.at(at)), theta)
            for name in theta:
                velocity[name] = momentum * velocity[name] + slope[name]
                theta[name] = theta[name] - rate * velocity[name]
    done = run(make_context(model, splits))
    assert difference(parameters_of(model), theta) < 1e-12
    assert (done.steps, done.gradient_evaluations) == (7, 3 * 16 + 4 * 16)


def test_what_it_takes_is_known_before_it_and_nothing_is_touched_then(splits: Splits) -> None:
    model = Plain()
    told = run(make_context(model, splits, count_only=True, extras=parse_extras(["mask:saliency", "ascent"])))
    assert same(model, Plain())
    done = run(make_context(model, splits, extras=parse_extras(["mask:saliency", "ascent"])))
    assert (told.steps, told.gradient_evaluations) == (done.steps, done.gradient_evaluations)


def test_what_joins_counts_the_steps_of_the_whole_run_and_is_made_once(splits: Splits) -> None:
    steps: list[int] = []
    courses: list[tuple[int, list[int]]] = []

    def make(context: UnlearningContext, settings: Settings, course: Any) -> Hooks:
        courses.append((course.steps, [course.epoch_of(step) for step in range(course.steps)]))
        return Hooks(after=steps.append, figures=lambda: {"seen": len(steps)}, notes=("it was there",))

    context = make_context(Plain(), splits, extras=(Extra(StepTransform("watch", "", Settings, make), Settings()),))
    done = run(context, FIRST | {"steps": 7}, SECOND)  # six steps are an epoch: two of them, then a first one again
    assert steps == list(range(11))
    assert courses == [(11, [0] * 6 + [1] + [2] * 4)]
    assert (done.figures, done.notes) == ({"seen": 11}, ("it was there",))


def test_a_mask_is_one_mask_over_all_stages(splits: Splits) -> None:
    model = Plain()
    before = parameters_of(model)
    run(make_context(model, splits, extras=parse_extras(["mask:saliency,density=0.25"])))
    moved = torch.cat([(parameters_of(model)[name] != before[name]).reshape(-1) for name in before])
    assert int(moved.sum()) == int(0.25 * len(moved))


@pytest.mark.parametrize(("first", "second", "at"), [(3, 4, [7]), (3, 0, [3]), (0, 4, [4]), (0, 0, [])])
def test_what_joins_finishes_after_the_last_step_of_the_run_whichever_stage_has_it(
    splits: Splits, first: int, second: int, at: list[int]
) -> None:
    model, taken, finished = Plain(), [], []

    def finish() -> None:
        finished.append(len(taken))
        for parameter in model.parameters():
            parameter.fill_(0.5)

    def make(context: UnlearningContext, settings: Settings, course: Any) -> Hooks:
        return Hooks(after=taken.append, finish=finish)

    context = make_context(model, splits, extras=(Extra(StepTransform("clip", "", Settings, make), Settings()),))
    run(context, FIRST | {"steps": first}, SECOND | {"steps": second})
    assert finished == at
    assert all(bool((parameter == 0.5).all()) == bool(at) for parameter in model.parameters())


def test_a_stage_begins_with_the_weights_that_the_one_before_has_left(splits: Splits) -> None:
    model = Plain()
    context = make_context(model, splits)
    seen: list[dict[str, Tensor]] = []

    def begin(edit: Edit) -> Sequence[Hooks]:
        seen.append(parameters_of(model))
        return []

    run_stages(context, [descent(context, FIRST, begin=begin), descent(context, SECOND, begin=begin)], task="testing")
    other = Plain()
    context = make_context(other, splits)
    run_stages(context, [descent(context, FIRST)], task="testing")
    assert same(seen[0], parameters_of(Plain()))
    assert same(seen[1], parameters_of(other))


def test_gradients_are_edited_as_those_of_a_step(splits: Splits) -> None:
    model = Plain()
    context = make_context(model, splits, extras=parse_extras(["mask:saliency,density=0.25"]))
    kept: list[int] = []

    def begin(edit: Edit) -> Sequence[Hooks]:
        ones = [torch.ones_like(parameter) for parameter in model.parameters()]
        kept.append(sum(int(each.sum()) for each in edit(0, ones)))
        return []

    run_stages(context, [descent(context, FIRST, begin=begin)], task="testing")
    assert kept == [int(0.25 * sum(parameter.numel() for parameter in model.parameters()))]


def test_a_stage_takes_no_stop(splits: Splits) -> None:
    with pytest.raises(UsageError, match="testing runs in 2 stages, each to the end of its budget; leave the stop out"):
        run(make_context(Plain(), splits), FIRST | {"stop_retain_loss": 1.0})


# ----- one state


class Killed(BaseException):
    """What nobody catches."""


LONG = {**FIRST, "steps": 45, "momentum": 0.5, "step_size": 0.01}
LAST = {**SECOND, "steps": 50, "optimizer": "adam", "step_size": 1e-3}


def resumable_run(splits: Splits, path: Path, *, resume: bool, kill_at: int | None = None) -> Plain:
    """Run stages of 45 and 50 steps, the second with a saliency mask of its own; a look is every 20 steps."""
    model = Plain()
    context = make_context(model, splits, extras=parse_extras(["reinit:alpha=0.99"]))
    state = StateFile(path, {"task": "testing"}, resume=resume, every=0, memory=context.memory)
    context = replace(context, resumable=state)

    def killer(context: UnlearningContext, settings: Settings, course: Any) -> Hooks:
        def after(step: int) -> None:
            if kill_at is not None and step == kill_at:
                raise Killed

        return Hooks(after=after)

    own = [(MASK, MaskSettings(density=0.5))]
    kill = Extra(StepTransform("kill", "", Settings, killer), Settings())
    context = replace(context, extras=(*context.extras, kill))
    stages = [descent(context, LONG), descent(context, LAST, own=own)]
    run_stages(context, stages, task="testing")
    return model


@pytest.mark.parametrize("kill_at", [10, 30, 44, 45, 50, 70, 94])
def test_a_run_that_is_killed_in_any_stage_goes_on_to_the_same_weights(
    splits: Splits, tmp_path: Path, kill_at: int
) -> None:
    whole = resumable_run(splits, tmp_path / "whole", resume=False)
    path = tmp_path / "state"
    with pytest.raises(Killed):
        resumable_run(splits, path, resume=False, kill_at=kill_at)
    assert path.exists() == (kill_at >= 20)
    assert same(resumable_run(splits, path, resume=True), whole)


def test_divergence_names_the_stage(splits: Splits) -> None:
    with pytest.raises(MeasurementError, match="^testing, stage 2 of 2 diverged at step "):
        run(make_context(Plain(), splits), FIRST, SECOND | {"step_size": 1e30, "weight_decay": 1.0, "steps": 20})


def test_a_transform_for_two_sides_needs_both_in_every_stage(splits: Splits) -> None:
    with pytest.raises(UsageError, match="^--with nash weighs .* but testing takes no batch of the forget set"):
        run(make_context(Plain(), splits, extras=parse_extras(["nash"])))
