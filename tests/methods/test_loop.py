"""The common loop of first-order methods: budgets, schedules, stops, and passes that take turns."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_problems import CPU, HALF, Plain, make_context, make_net, make_small_splits, parameters_of, watch_inputs
from torch import nn

from unlearn_audit import catalogue
from unlearn_audit.data import Examples, Splits
from unlearn_audit.engine import Batches, Descent, Hooks, Term, Terms, descend
from unlearn_audit.errors import ConfigError, MeasurementError, UsageError
from unlearn_audit.methods import Course, Extra, Method, Settings, StepTransform, Unlearned
from unlearn_audit.methods.apply import parse_settings
from unlearn_audit.methods.esd import EsdOnTexts
from unlearn_audit.methods.ft import FT, FtSettings, run_ft
from unlearn_audit.methods.ga import GA, GaSettings, run_ga
from unlearn_audit.methods.generators import GeneratorSettings
from unlearn_audit.methods.ieu import IEU, IeuSettings, run_ieu
from unlearn_audit.methods.loop import LoopSettings, Objective, run_composition, schedule_of
from unlearn_audit.methods.neggrad_plus import NegGradPlusSettings, run_neggrad_plus
from unlearn_audit.methods.random_labels import RL, RlSettings, run_rl
from unlearn_audit.methods.scrub import SCRUB, ScrubSettings, run_scrub
from unlearn_audit.methods.turns import Turns
from unlearn_audit.step_transforms import forms_of, parse_extras


def method(name: str) -> Method:
    loaded: Method = catalogue.load("method", catalogue.METHODS, name)
    return loaded


COMPOSING = [name for name in catalogue.METHODS if method(name).composes and "classifier" in forms_of(method(name))]


# ----- budgets


@pytest.mark.parametrize("name", list(catalogue.METHODS))
def test_defaults_are_valid_and_a_record_of_them_reads_back(name: str) -> None:
    settings = parse_settings(method(name), {})
    assert parse_settings(method(name), settings.model_dump(mode="json")) == settings
    if method(name).composes:
        assert (settings.steps is None) != (settings.epochs is None)


@pytest.mark.parametrize("name", COMPOSING)
def test_a_budget_that_is_given_replaces_the_default_one_and_two_are_refused(name: str) -> None:
    given_steps = parse_settings(method(name), {"steps": 7})
    given_epochs = parse_settings(method(name), {"epochs": 2})
    assert (given_steps.steps, given_steps.epochs) == (7, None)
    assert (given_epochs.steps, given_epochs.epochs) == (None, 2)
    with pytest.raises(ConfigError, match="steps and epochs exclude each other"):
        parse_settings(method(name), {"steps": 7, "epochs": 2})


@pytest.mark.parametrize(("epochs", "steps"), [(1, 6), (2, 12), (0.5, 3), (1.5, 9), (1.01, 7), (1e-9, 1), (1 / 6, 1)])
def test_epochs_are_passes_over_the_retain_set_and_a_part_of_a_step_is_a_step(
    splits: Splits, epochs: float, steps: int
) -> None:
    model = make_net()
    seen = watch_inputs(model)
    done = run_ft(make_context(model, splits), FtSettings(epochs=epochs, batch_size=16))
    assert done.steps == len(seen) == steps
    assert done.gradient_evaluations == sum(len(batch) for batch in seen)


@pytest.mark.parametrize(
    ("settings", "context"),
    [
        ({"steps": -1}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"epochs": 0}, "epochs"),
        ({"epochs": float("inf")}, "epochs"),
        ({"epochs": 1e7}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "half"}, "batch_size"),
        ({"schedule": "milestones"}, "schedule"),
        ({"schedule": "milestones:1,"}, "schedule"),
        ({"schedule": "step"}, "schedule"),
        ({"momentum": 1.0}, "momentum"),
        ({"optimizer": "adamw"}, "optimizer"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"augment": "maybe"}, "augment"),
        ({"stop_forget_loss": 0}, "stop_forget_loss"),
    ],
)
@pytest.mark.parametrize("name", ["ft", "scrub", "salun"])
def test_settings_of_the_loop_are_checked(name: str, settings: dict[str, Any], context: str) -> None:
    with pytest.raises(ConfigError, match=f"^settings of {name}: {context}: "):
        parse_settings(method(name), settings)


def test_no_steps_leave_the_weights_alone(noise: Any, splits: Splits) -> None:
    one_class = make_small_splits(noise, forget="class:3")
    for name in COMPOSING:
        model = make_net()
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        problem = make_context(model, one_class if method(name).whole_classes else splits)
        few = {"least": 5} if name == "reference" else {}  # held-out examples there are of a class
        done = method(name).run(problem, parse_settings(method(name), {"steps": 0} | few))
        assert done.steps == 0
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items()), name


def test_a_budget_must_be_there(splits: Splits) -> None:
    with pytest.raises(ConfigError, match="neither steps nor epochs"):
        run_composition(make_context(Plain(), splits), constant(Plain()), LoopSettings(), task="testing")


# ----- schedules


def constant(model: nn.Module, epoch_of: Callable[[int], int] = int) -> Objective:
    """An objective of slope one in every weight."""

    def terms(step: int) -> Terms:
        return {"loss": Term(torch.stack([parameter.sum() for parameter in model.parameters()]).sum())}

    return Objective(terms, length=int, epoch_of=epoch_of, gradients=lambda steps: 0, losses=())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]),
        ("milestones:1,3", [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        ("milestones:0", [0.1] * 8),
    ],
)
def test_the_learning_rate_follows_the_schedule(
    splits: Splits, schedule: str, factors: list[float], optimizer: str
) -> None:
    model, places = nn.Linear(1, 1, bias=False).double(), [0.0]
    nn.init.zeros_(model.weight)
    run_composition(
        make_context(model, splits),
        constant(model, epoch_of=lambda step: step // 2),
        LoopSettings(steps=8, step_size=0.5, schedule=schedule, optimizer=optimizer),
        hooks=[Hooks(after=lambda step: places.append(model.weight.item()))],
        task="testing",
    )
    moved = [places[step] - places[step + 1] for step in range(8)]
    assert moved == pytest.approx([0.5 * factor for factor in factors], rel=1e-6)


def test_milestones_count_the_epochs_of_the_objective(splits: Splits) -> None:
    """Of SCRUB's epochs only the first has a forget pass here: 1 + 6 steps, then 6 an epoch."""
    course = Course(19, Turns(batches(10, 16), batches(90, 16), until=1).objective(no_terms, no_terms).epoch_of)
    schedule = schedule_of("milestones:1,2", course)
    assert [schedule(step) for step in range(19)] == [1.0] * 7 + [0.1] * 6 + [0.01] * 6


def test_the_published_schedule_of_scrub_is_at_rest_in_its_three_epochs() -> None:
    settings = ScrubSettings()
    schedule = schedule_of(settings.schedule, Course(100, lambda step: step // 10))
    assert settings.epochs == 3
    assert [schedule(10 * epoch) for epoch in range(10)] == [1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.001]


# ----- stops


def test_a_stop_ends_the_run_at_the_first_look_that_reaches_it(splits: Splits) -> None:
    settings = {"step_size": 0.02, "momentum": 0, "weight_decay": 0, "batch_size": 4}
    model = make_net()
    told: list[str] = []
    context = make_context(model, splits, progress=lambda task, done, total, note="": told.append(note))
    free = run_ga(context, GaSettings(steps=200, **settings))
    means = [float(note.removeprefix("forget ")) for note in told]
    assert means[0] < means[3] < means[-1]
    limit = (means[2] + means[3]) / 2
    done = run_ga(make_context(make_net(), splits), GaSettings(steps=200, stop_forget_loss=limit, **settings))
    assert (free.steps, free.stopped) == (200, None)
    assert done.steps == 80
    assert done.stopped == f"forget loss {means[3]:.3f} reached {limit:g}"
    assert done.gradient_evaluations == 80 // 3 * 10 + 8


def test_the_retain_loss_stops_too(splits: Splits) -> None:
    settings = IeuSettings(alpha=0.5, c=0, steps=200, stop_retain_loss=1.0)
    done = run_ieu(make_context(make_net(), splits), settings)
    assert done.steps == 20
    assert done.stopped is not None
    assert done.stopped.startswith("retain loss ")


UNANSWERABLE = [
    (FT, run_ft, FtSettings, "forget"),
    (GA, run_ga, GaSettings, "retain"),
    (IEU, run_ieu, lambda **given: IeuSettings(c=0, **given), "forget"),
    (IEU, run_ieu, lambda **given: IeuSettings(retain_free=True, **given), "retain"),
    (RL, run_rl, RlSettings, "forget"),
    (RL, run_rl, lambda **given: RlSettings(retain_free=True, **given), "retain"),
    (RL, run_rl, lambda **given: RlSettings(order="alternate", **given), "forget"),
    (SCRUB, run_scrub, ScrubSettings, "forget"),
    (None, run_neggrad_plus, lambda **given: NegGradPlusSettings(alpha=1, **given), "forget"),
    (None, run_neggrad_plus, lambda **given: NegGradPlusSettings(alpha=0, **given), "retain"),
]


@pytest.mark.parametrize(("_", "run", "settings", "which"), UNANSWERABLE)
def test_a_stop_that_a_method_never_answers_is_refused_before_any_step(
    splits: Splits, _: object, run: Callable[..., Unlearned], settings: Callable[..., Any], which: str
) -> None:
    model = make_net()
    seen = watch_inputs(model)
    with pytest.raises(UsageError, match=f"^stop_{which}_loss: no step of this method takes the {which} set's loss"):
        run(make_context(model, splits), settings(**{f"stop_{which}_loss": 1.0}))
    assert seen == []


@pytest.mark.parametrize(
    ("run", "settings"),
    [(run_rl, RlSettings(stop_retain_loss=1e-9)), (run_scrub, ScrubSettings(stop_retain_loss=1e-9, batch_size=8))],
)
def test_where_passes_take_turns_the_retain_loss_is_that_of_the_retain_steps(
    splits: Splits, run: Callable[..., Unlearned], settings: LoopSettings
) -> None:
    done = run(make_context(make_net(), splits), settings)
    assert done.steps == 20
    assert done.stopped is not None
    assert done.stopped.startswith("retain loss ")


class Recorder:
    """A resumable that notes what it is given."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        return 0

    def keep(self, done: int) -> None:
        self.kept.append(done)


def test_a_state_at_which_the_run_stops_is_not_kept_for_nobody_must_go_on_from_there() -> None:
    model, resumable = nn.Linear(1, 1), Recorder()

    def stop(means: object) -> str | None:
        return "enough" if len(resumable.kept) == 2 else None

    done = descend(
        model,
        constant(model).terms,
        torch.optim.SGD(model.parameters(), lr=0.1),
        steps=100,
        stop=stop,
        resumable=resumable,
    )
    assert done == Descent(60, "enough")
    assert resumable.kept == [20, 40]


def test_statistics_that_are_not_finite_are_divergence_too() -> None:
    """BatchNorm divides what is too large by what is larger still: the loss stays finite, its statistics do not."""
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    nn.init.constant_(model[0].weight, 1e25)
    inputs = torch.linspace(-1, 1, 8)[:, None]

    def terms(step: int) -> Terms:
        return {"loss": Term(model(inputs).square().mean())}

    with pytest.raises(MeasurementError, match="^testing diverged at step 2: the weights are not finite"):
        descend(model, terms, torch.optim.SGD(model.parameters(), lr=1e-30), steps=3, task="testing")


# ----- passes that take turns


def no_terms(batch: int) -> Terms:
    return {}


def batches(n: int, size: int, name: str = "some") -> Batches:
    labels = torch.zeros(n, dtype=torch.int64)
    return Batches(Examples(torch.zeros(n, 1, 1, 1), labels, labels), HALF, size, 0, name, CPU)


# ----- which side a term serves, BatchNorm at rest, figures of a run


def test_every_term_on_a_set_says_which_side_it_serves(noise: Any, splits: Splits) -> None:
    sides: dict[str, set[Any]] = {}
    one_class = make_small_splits(noise, forget="class:3")

    def watch(name: str) -> Hooks:
        return Hooks(parts=True, gradient=lambda step, parts: sides[name].update(part.side for part in parts.values()))

    for name in ("ieu", "neggrad-plus", "scrub", "rl", "ft", "ga", "delete", "trw"):
        sides[name] = set()
        joining = Extra(StepTransform("watch", "", Settings, lambda context, settings, course, name=name: watch(name)),
                        Settings())  # fmt: skip
        context = make_context(make_net(), one_class if method(name).whole_classes else splits, extras=(joining,))
        method(name).run(context, parse_settings(method(name), {"steps": 12, "batch_size": 64}))
    assert sides["ieu"] == sides["neggrad-plus"] == sides["scrub"] == sides["rl"] == {"retain", "forget"}
    assert sides["ft"] == {"retain"}
    assert sides["ga"] == sides["delete"] == {"forget"}
    assert sides["trw"] == {"retain", "forget"}


def test_frozen_batchnorm_moves_no_buffer_and_normalises_by_its_running_statistics(splits: Splits) -> None:
    nets = {bn: make_net() for bn in ("train", "frozen")}
    before = {name: buffer.clone() for name, buffer in nets["frozen"].named_buffers()}
    for bn, net in nets.items():
        run_ft(make_context(net, splits), FtSettings(steps=3, bn=bn))
    assert all(torch.equal(buffer, before[name]) for name, buffer in nets["frozen"].named_buffers())
    assert not all(torch.equal(buffer, before[name]) for name, buffer in nets["train"].named_buffers())
    assert "bn" not in FtSettings().model_dump(mode="json")
    assert FtSettings(bn="frozen").model_dump(mode="json")["bn"] == "frozen"


def test_figures_are_read_once_at_the_end_and_only_finite_ones_are_kept(splits: Splits) -> None:
    read: list[int] = []

    def figures() -> dict[str, float]:
        read.append(1)
        return {"clipped": 3, "cosine": math.nan}

    context = make_context(Plain(), splits)
    objective = Objective(lambda step: {}, math.ceil, int, int, ())
    settings = LoopSettings(steps=0)
    done = run_composition(context, objective, settings, hooks=[Hooks(figures=figures)], task="none")
    assert (done.figures, done.notes, len(read)) == ({"clipped": 3}, ("cosine could not be measured",), 1)
    counted = replace(context, count_only=True)
    assert run_composition(counted, objective, settings, hooks=[Hooks(figures=figures)], task="none").figures == {}
    assert len(read) == 1


# ----- the largest norm of a gradient


def test_a_gradient_is_no_longer_than_max_norm_whatever_transforms_made_of_it(splits: Splits) -> None:
    lengths = []
    for settings in ({}, {"max_norm": 1e-3}, {"max_norm": 1e9}):
        model = Plain()
        before = parameters_of(model)
        l1 = parse_extras(["l1:alpha=0.5"])
        run_ft(
            replace(make_context(model, splits), extras=l1),
            FtSettings(steps=1, step_size=1.0, momentum=0.0, weight_decay=0.0, **settings),
        )
        step = [before[name] - parameter for name, parameter in model.named_parameters()]
        lengths.append(torch.cat([each.flatten() for each in step]).norm().item())
    assert lengths[1] == pytest.approx(1e-3, rel=1e-4)
    assert lengths[0] == lengths[2] > 1
    assert "max_norm" not in FtSettings().model_dump()
    assert FtSettings(max_norm=2).model_dump()["max_norm"] == 2


@pytest.mark.parametrize("settings", [FtSettings, GeneratorSettings, EsdOnTexts])
@pytest.mark.parametrize("most", ["none", 1.0, 2.0])
def test_a_record_reads_back_as_the_largest_norm_that_was_asked_for(settings: type[LoopSettings], most: Any) -> None:
    assert settings(**settings(max_norm=most).model_dump()).max_norm == most
