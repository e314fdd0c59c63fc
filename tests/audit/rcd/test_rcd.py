"""`rcd` from end to end: every number against closed forms or a loop by hand, every choice named, every refusal."""

import json
import math
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit.audit import run_audit
from unlearn_audit.audit.context import AuditContext, open_context
from unlearn_audit.audit.rcd.matched_twin import closest_partners, matched_twin
from unlearn_audit.audit.rcd.numbers import headline_accuracy, steps_to_accuracy
from unlearn_audit.audit.rcd.rankings import agreement, looked_at, order_changes, ranks
from unlearn_audit.audit.rcd.runs import matched_twins, plan
from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.config import AuditConfig, RcdSettings
from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import Device
from unlearn_audit.engine.task import Task
from unlearn_audit.errors import MeasurementError, ReportError, UsageError
from unlearn_audit.models import build
from unlearn_audit.relearning import Curve, Run, relearn
from unlearn_audit.render import markdown
from unlearn_audit.render.small_tables import small_tables
from unlearn_audit.report import AuditReport, Measurement, write_arrays

Cli = Callable[..., Any]
Floats = NDArray[np.float64]
ROLES = ("original", "unlearned", "retrained-1", "retrained-2")
HEAD = {"scope": "head", "weight_decay": 1.0, "controls": False}


def config_of(folder: Path, *labels: str, more: dict[str, Any] | None = None, **rcd: Any) -> AuditConfig:
    values = {
        "checkpoint": [{"path": str(folder / f"{label}.safetensors")} for label in labels],
        "forget": str(folder / "forget.npy"),
        "device": "cpu",
        "sample": 48,
        "rcd": {"steps": 4, "step_size": 0.01, "controls": False, "resamples": 100} | rcd,
    }
    return AuditConfig.model_validate(values | (more or {}))


Measure = Callable[..., AuditReport]


@pytest.fixture(scope="module")
def measured(tiny: Path) -> Measure:
    """measured("original", ..., steps=4, ...): the report on checkpoints of the tiny folder, made once per request."""
    made: dict[str, AuditReport] = {}

    def measure(*labels: str, more: dict[str, Any] | None = None, **rcd: Any) -> AuditReport:
        key = repr((labels, more, rcd))
        if key not in made:
            made[key] = run_audit(config_of(tiny, *labels, more=more, **rcd))
        return made[key]

    return measure


@pytest.fixture(scope="module")
def context(tiny: Path) -> AuditContext:
    return open_context(config_of(tiny, *ROLES), {"checkpoint": "flag", "forget": "flag"})


def of(report: AuditReport, name: str, subject: str = "original") -> Measurement:
    found = report.find(f"rcd.{name}", subject)
    assert found is not None, (name, subject)
    return found


def number(report: AuditReport, name: str, subject: str = "original") -> float:
    value = of(report, name, subject).value
    assert isinstance(value, float), (name, subject, value, of(report, name, subject).reason)
    return value


def drawn(errors: list[float]) -> Curve:
    """A curve of these errors."""
    points, steps, one = np.zeros(len(errors)), np.zeros(len(errors) - 1), np.zeros(1)
    return Curve(np.array(errors), np.array(errors), np.array(errors), steps, points, one, one, steps, None, None, 0, 0)


# ----- the sum and what is made of it


def test_a_curve_that_does_not_move_is_the_initial_loss_and_says_so(measured: Measure) -> None:
    report = measured("original", "unlearned", step_size=1e-12, steps=9)
    for label in ("original", "unlearned"):
        raw = of(report, "raw", label)
        assert raw.value == pytest.approx(10 * raw.details["loss"][0], rel=1e-6)
        assert raw.details["essentially_initial_loss"]
        assert number(report, "normalised", label) == pytest.approx(1, abs=1e-6)
        assert of(report, "normalised", label).details["error_version"] == pytest.approx(1)
        # It is a limitation of each, and a doubt about every number that is read off the curve.
        (doubt,) = of(report, "ratio_to_unseen", label).doubts
        assert doubt.startswith(f"{label}: at step size 1e-12 and K = 9 its loss on the forget set falls by less than")
        assert "RCD is essentially (K + 1) x initial loss" in doubt
        assert doubt in report.limitations
        assert of(report, "scaled", label).doubts == raw.doubts == (doubt,)


def test_normalised_is_the_mean_excess_over_the_first(measured: Measure) -> None:
    report = measured("original", "unlearned", floor=0.25)
    for label in ("original", "unlearned"):
        raw, found = of(report, "raw", label), of(report, "normalised", label)
        loss, error = np.array(raw.details["loss"]) - 0.25, np.array(raw.details["error"])
        assert found.value == pytest.approx(loss.mean() / loss[0])
        assert found.details["error_version"] == pytest.approx(error.mean() / error[0])
        assert found.interval is not None
        assert found.interval.low < found.value < found.interval.high


def test_normalised_needs_an_excess(measured: Measure) -> None:
    first = of(measured("original"), "raw").details["loss"][0]
    found = of(measured("original", floor=first - 5e-4), "normalised")
    assert (found.value, found.interval) == (None, None)
    assert found.reason == "the initial excess over the floor, 0.0005 nats, is below 0.001"


def test_scaled_approaches_a_limit_at_equal_step_times_k_on_a_convex_problem(measured: Measure) -> None:
    levels = []
    for halvings in range(4):
        step, steps = 0.02 / 2**halvings, 40 * 2**halvings
        report = measured("original", **HEAD, step_size=step, steps=steps, floor="fit")
        found = of(report, "scaled")
        assert found.details["step_times_steps"] == pytest.approx(0.8)
        assert "at equal step x K = 0.8" in found.method
        assert found.value == pytest.approx(step * number(report, "raw"))
        levels.append(float(found.value))
    gaps = -np.diff(levels)
    assert (gaps > 0).all()
    np.testing.assert_allclose(gaps[:-1] / gaps[1:], 2, rtol=0.1)  # first order in the step size
    assert gaps[-1] < 0.05 * levels[-1]


def test_scaled_has_no_meaning_for_adam_and_for_steps_that_follow_curvature(measured: Measure) -> None:
    adam = of(measured("original", optimizer="adam", step_size=1e-3), "scaled")
    assert (adam.value, adam.reason) == (None, "Adam's steps have no length in units of the gradient")
    report = measured("original", step_size="lambda", steps=2)
    assert of(report, "scaled").reason == "the step size follows the curvature"
    assert "step 1/lambda_max, measured every 10 steps" in of(report, "raw").method


def test_ratio_to_retrained_is_to_the_others_geometric_mean_which_its_interval_is_about(measured: Measure) -> None:
    report = measured(*ROLES)
    raws = {label: number(report, "raw", label) for label in ROLES}
    mean = math.sqrt(raws["retrained-1"] * raws["retrained-2"])
    for label in ("original", "unlearned"):
        found = of(report, "ratio_to_retrained", label)
        assert found.value == pytest.approx(raws[label] / mean)
        assert found.interval is not None
        assert 0 < found.interval.low < found.value < found.interval.high
        assert found.reference is not None
        spread = np.std([raws["retrained-1"] / mean, raws["retrained-2"] / mean], ddof=1)
        assert (found.reference.value, found.reference.spread) == (pytest.approx(1), pytest.approx(spread))
        errors = {other: of(report, "raw", other).details["error_sum"] for other in ROLES}
        expected = errors[label] / math.sqrt(errors["retrained-1"] * errors["retrained-2"])
        assert found.details["error_version"] == pytest.approx(expected)
    assert number(report, "ratio_to_retrained", "retrained-1") == pytest.approx(
        raws["retrained-1"] / raws["retrained-2"]
    )


def test_without_retrained_models_and_original_there_is_nothing_to_compare_with(measured: Measure) -> None:
    report = measured("unlearned")
    assert of(report, "ratio_to_retrained", "unlearned").reason == "no retrained model to compare with was given"
    assert "no original model" in str(of(report, "anamnesis_index", "unlearned").reason)
    lone = measured("original", "unlearned")
    assert of(lone, "anamnesis_index", "unlearned").reason == "no retrained model to compare with was given"


def test_steps_to_relearn_are_the_first_ones_at_each_accuracy(measured: Measure) -> None:
    assert [steps_to_accuracy(drawn([0.9, 0.5, 0.6, 0.1]), level) for level in (0.1, 0.5, 0.9, 0.95)] == [0, 1, 3, None]
    assert [headline_accuracy(levels) for levels in ((0.5, 0.9, 0.99), (0.3, 0.2))] == [0.9, 0.3]
    report = measured(*ROLES, **HEAD, step_size=0.1, steps=30, accuracies=(0.1, 0.15, 0.999))
    for label in ROLES:
        right = 1 - np.array(of(report, "raw", label).details["error"])
        found = of(report, "steps_to_relearn", label)
        assert found.details["at"] == {
            f"{level:g}": int(np.argmax(right >= level)) if (right >= level).any() else None
            for level in (0.1, 0.15, 0.999)
        }
        assert (found.value, found.reason) == (None, "accuracy 0.999 is not reached in 30 steps")
        assert found.reference is None


def test_the_anamnesis_index_counts_steps_to_the_originals_accuracy(measured: Measure) -> None:
    whole = {"sample": None}
    report = measured(*ROLES, more=whole, step_size=0.1, steps=20)
    rights = {label: 1 - np.array(of(report, "raw", label).details["error"]) for label in ROLES}
    target = 0.95 * rights["original"][0]
    steps = {label: int(np.argmax(right >= target)) for label, right in rights.items()}
    assert all((right >= target).any() for right in rights.values())
    assert min(steps["retrained-1"], steps["retrained-2"]) > 0
    for label in ("original", "unlearned"):
        found = of(report, "anamnesis_index", label)
        assert found.value == pytest.approx(steps[label] / np.mean([steps["retrained-1"], steps["retrained-2"]]))
        assert found.details["target_accuracy"] == pytest.approx(target)
    assert number(report, "anamnesis_index") == 0
    assert number(report, "anamnesis_index", "retrained-1") == pytest.approx(
        steps["retrained-1"] / steps["retrained-2"]
    )
    early = of(measured(*ROLES, more=whole, steps=1), "anamnesis_index", "unlearned")
    assert early.value is None
    assert "is not reached" in str(early.reason)


def test_divergence_has_no_numbers_at_all(measured: Measure) -> None:
    report = measured("original", "retrained-1", step_size=1e25)
    for name in ("raw", "ratio_to_unseen", "scaled", "normalised", "ratio_to_retrained", "steps_to_relearn"):
        found = of(report, name)
        assert (found.value, found.interval) == (None, None)
        assert "diverged at step" in str(found.reason)


# ----- every K from one trajectory


def test_every_k_of_one_trajectory_is_a_run_of_that_length(measured: Measure) -> None:
    long = measured(*ROLES, more={"sample": 48}, steps=12)
    twins = of(long, "ratio_to_unseen").details["loss_unseen"]
    assert len(twins) == 13
    assert math.isclose(sum(twins), of(long, "raw").details["on_unseen"])
    for steps in (1, 10):
        short = measured(*ROLES, more={"sample": 48}, steps=steps)
        for label in ROLES:
            for curve in ("loss", "error"):
                of_long, of_short = (of(report, "raw", label).details[curve] for report in (long, short))
                assert of_long[: steps + 1] == of_short
        sums = {label: number(short, "raw", label) for label in ROLES}
        told = {label: of(long, "raw", label).details["rank_by_k"][str(steps)] for label in ROLES}
        assert told == ranks(sums)


def test_ranks_and_changes_of_order() -> None:
    assert looked_at(0) == (0,)
    assert looked_at(1) == (1,)
    assert looked_at(100) == (1, 10, 100)
    assert ranks({"a": 1.0, "b": 3.0, "c": 1.0}) == {"a": 2, "b": 1, "c": 2}
    sums = {"a": np.array([3.0, 4, 5, 6]), "b": np.array([1.0, 4, 6, 7]), "c": np.array([0.0, 0, 0, 9])}
    assert [tuple(change) for change in order_changes(sums)] == [("b", "a", 2), ("c", "a", 3), ("c", "b", 3)]
    assert order_changes({"a": np.ones(3), "b": np.ones(3)}) == ()


# ----- several step sizes


def test_kendalls_tau_compares_rankings_from_four_models_up() -> None:
    assert agreement([1, 2, 3, 4], [10, 20, 30, 40]).tau == pytest.approx(1)
    assert agreement([1, 2, 3, 4], [4, 3, 2, 1]).tau == pytest.approx(-1)
    assert agreement([1, 2, 3, 4, None], [1, 2, 4, 3, 9]).tau == pytest.approx(4 / 6)
    few = agreement([1, 2, 3, 4], [1, 2, None, 4])
    assert (few.tau, few.n, few.reason) == (None, 3, "3 models to rank; Kendall's tau needs 4")
    assert agreement([1, 1, 1, 1], [1, 2, 3, 4]).reason == "all sums are equal"


def test_several_step_sizes_make_one_table(measured: Measure) -> None:
    sizes = (1e-2, 1e-3, 1e-7)
    few = {"sample": 48}
    report = measured(*ROLES, more=few, step_size=sizes)
    alone = {size: measured(*ROLES, more=few, step_size=size) for size in sizes}
    for label in ROLES:
        rows = of(report, "raw", label).details["step_sizes"]
        assert [row["step_size"] for row in rows] == list(sizes)
        for size, row in zip(sizes, rows, strict=True):
            loss = of(alone[size], "raw", label).details["loss"]
            assert row["value"] == number(alone[size], "raw", label)
            assert row["moved"] == pytest.approx(1 - loss[-1] / loss[0])
        assert rows[0]["kendall_tau_to_first"] == pytest.approx(1)
        assert rows[2]["essentially_initial_loss"]
        assert number(report, "raw", label) == rows[0]["value"]
    (table, *_) = small_tables(report)
    assert table.heading == ("step size", "0.01", "0.001", "1e-07")
    assert [row[0] for row in table.rows] == [*ROLES, "Kendall's tau"]
    assert "at 1e-07 RCD is essentially (K + 1) x initial loss" in table.notes
    assert "by step size" in markdown.render(report)


def test_three_models_have_no_tau_and_the_table_says_why(measured: Measure) -> None:
    report = measured("original", "unlearned", "retrained-1", step_size=(1e-2, 1e-3))
    assert [row["kendall_tau_to_first"] for row in of(report, "raw").details["step_sizes"]] == [None, None]
    (table, *_) = small_tables(report)
    assert table.rows[-1] == ("Kendall's tau", "–", "–")
    assert any("3 models to rank" in note for note in table.notes)


def test_the_ranking_is_shown_only_where_it_changes(
    make_measurement: Cli, make_report: Callable[..., AuditReport]
) -> None:
    def report_of(late: tuple[int, int]) -> AuditReport:
        changes = [{"with": "b", "at": 37, "larger_from_there": True}] if late == (1, 2) else []
        return make_report(
            make_measurement("rcd.raw", "a", details={"rank_by_k": {"1": 2, "100": late[0]}, "order_changes": changes}),
            make_measurement("rcd.raw", "b", details={"rank_by_k": {"1": 1, "100": late[1]}, "order_changes": []}),
        )

    assert small_tables(report_of((2, 1))) == ()
    (table,) = small_tables(report_of((1, 2)))
    assert (table.heading, table.rows) == (("K", "1", "100"), (("a", "2", "1"), ("b", "1", "2")))
    assert table.notes == ("a is above b from K = 37 on",)


# ----- how to relearn


class Point(nn.Module):
    """A point in double precision; to every image it answers its own coordinates."""

    def __init__(self, start: list[float]) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return self.place.expand(len(images), -1)


def test_lambda_steps_on_a_quadratic_are_one_over_its_largest_curvature(noise: Callable[..., Examples]) -> None:
    slopes, start = torch.tensor([5.0, 5.0, 5.0, 1.0], dtype=torch.float64), [1.0, -2.0, 3.0, 4.0]
    task = Task(lambda place, labels: place.square() @ slopes / 2, lambda place, labels: torch.zeros(len(place)))
    run = Run(Point(start), noise(2), Transform((0.5,), (0.25,)), task)
    curve = relearn(run, steps=3, step_size="lambda", compute=Device(torch.device("cpu")))
    np.testing.assert_allclose(curve.step_sizes, 1 / 5, rtol=0.01)
    # Newton's step where curvature is the largest: gone at once; elsewhere the factor 1 - 1/5 of every step.
    np.testing.assert_allclose(curve.loss[1:], [0.5 * 16 * 0.8 ** (2 * t) for t in (1, 2, 3)], rtol=2e-2)


def features_of(folder: Path, label: str, images: Tensor) -> tuple[Floats, Floats, Floats]:
    """Return the classifier's inputs, weights [C, D] and biases, without the engine."""
    model = build("small-cnn", classes=10, channels=1)
    model.load_state_dict(dict(read_checkpoint(folder / f"{label}.safetensors").state))
    layer = next(module for module in reversed(list(model.modules())) if isinstance(module, nn.Linear))
    seen: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(images)
    return tuple(np.asarray(found.detach().double().numpy()) for found in (seen[0], layer.weight, layer.bias))  # type: ignore[return-value]


def test_the_head_with_weight_decay_is_softmax_regression_by_hand(
    tiny: Path, context: AuditContext, measured: Measure
) -> None:
    examples, step, decay = context.examples("forget"), 0.02, 0.3
    inputs, weight, bias = features_of(tiny, "original", context.subjects[0].transform(examples.images))
    labels = np.eye(10)[examples.labels.numpy()]
    expected, plain = [], []
    for _ in range(8):
        logits = inputs @ weight.T + bias
        odds = np.exp(logits - logits.max(1, keepdims=True))
        odds /= odds.sum(1, keepdims=True)
        plain.append(-np.log((odds * labels).sum(1)).mean())
        expected.append(plain[-1] + decay / 2 * ((weight**2).sum() + (bias**2).sum()))
        slope = (odds - labels) / len(labels)
        weight, bias = weight - step * (slope.T @ inputs + decay * weight), bias - step * (slope.sum(0) + decay * bias)
    report = measured("original", scope="head", weight_decay=decay, step_size=step, steps=7)
    raw = of(report, "raw")
    np.testing.assert_allclose(raw.details["objective"], expected, rtol=1e-5)
    np.testing.assert_allclose(raw.details["loss"], plain, rtol=1e-4)
    assert raw.value == pytest.approx(sum(expected), rel=1e-5)
    assert raw.details["loss_sum"] == pytest.approx(sum(plain), rel=1e-4)
    assert "weight decay 0.3, classifier alone on fixed features, float64" in raw.method
    assert "Phi = loss + weight decay / 2 x |w|^2" in raw.method


def test_a_pattern_relearns_what_it_names(measured: Measure) -> None:
    some, every = measured("original", scope="bn*"), measured("original")
    assert of(some, "raw").details["loss"][0] == of(every, "raw").details["loss"][0]
    assert 0 < of(some, "raw").details["distance"][-1] < of(every, "raw").details["distance"][-1]
    assert "bn*" in of(some, "raw").method


def test_minibatches_and_augmentation_are_seeded_and_said(tiny: Path, measured: Measure) -> None:
    frozen = number(measured("original"), "raw")
    for choice in ({"minibatch": 16}, {"augment": True}):
        found = measured("original", **choice)
        again = run_audit(config_of(tiny, "original", **choice))
        other = measured("original", more={"seed": 1}, **choice)
        assert number(found, "raw") == number(again, "raw")
        assert len({number(found, "raw"), number(other, "raw"), frozen}) == 3
        assert any("one seeded draw" in text for text in found.limitations)
    assert "minibatch (16) GD" in of(measured("original", minibatch=16), "raw").method
    assert "gradients on crops and flips" in of(measured("original", augment=True), "raw").method


def test_momentum_and_batch_statistics_are_taken_and_said(measured: Measure) -> None:
    plain = measured("original")
    still = measured("original", optimizer="sgd", momentum=0.0)
    fast = measured("original", optimizer="sgd")
    assert of(still, "raw").details["loss"] == of(plain, "raw").details["loss"]
    assert of(fast, "raw").details["loss"][:2] == of(plain, "raw").details["loss"][:2]
    assert number(fast, "raw") < number(plain, "raw")
    assert "SGD with momentum 0.9" in of(fast, "raw").method
    trained = measured("original", bn="train", more={"batch_size": 1000})
    assert "BatchNorm on batch statistics" in of(trained, "raw").method
    assert of(trained, "raw").details["loss"][0] != of(plain, "raw").details["loss"][0]


def test_relearning_a_fraction_measures_the_rest(tiny: Path, context: AuditContext, measured: Measure) -> None:
    asked = RcdSettings(relearn=0.25)
    planned = plan(context, asked, context.subjects[:1], {})
    forget, unseen = (next(one for one in planned if one.kind == kind) for kind in ("forget", "unseen"))
    whole = context.splits.measured
    assert (len(forget.run.examples), len(forget.indices)) == (12, 36)
    relearned = np.setdiff1d(whole, forget.indices)
    train = context.splits.dataset.train
    assert torch.equal(forget.run.examples.images, train.subset(relearned).images)
    assert forget.run.measured is not None
    assert torch.equal(forget.run.measured.images, train.subset(forget.indices).images)
    partners = dict(zip(context.splits.unseen.forget.tolist(), context.splits.unseen.unseen.tolist(), strict=True))
    assert unseen.indices.tolist() == [partners[index] for index in forget.indices.tolist()]
    assert torch.equal(forget.run.measured.labels, unseen.run.measured.labels)  # type: ignore[union-attr]
    report = measured("original", relearn=0.25)
    raw = of(report, "raw")
    assert (raw.n, of(report, "ratio_to_unseen").n) == (36, 36)
    assert "relearned 12, measured on the other 36" in raw.method
    assert raw.value == pytest.approx(sum(raw.details["loss"]))


# ----- floors


def test_rankings_do_not_depend_on_the_floor(measured: Measure) -> None:
    few = {"sample": 24}
    plain = measured(*ROLES, more=few)
    for floor in (0.25, -3.0, "best", "fit"):
        report = measured(*ROLES, more=few, floor=floor, scope="fc*,bn*" if floor == "fit" else "all")
        plain = measured(*ROLES, more=few, scope="fc*,bn*") if floor == "fit" else plain
        shifts = [number(plain, "raw", label) - number(report, "raw", label) for label in ROLES]
        np.testing.assert_allclose(shifts, shifts[0], rtol=1e-6, atol=1e-9)
        details = of(report, "raw").details
        assert shifts[0] == pytest.approx(5 * details["floor"]["value"], rel=1e-6, abs=1e-9)
        assert details["same_ranking_with_floor_zero"]
        for label in ROLES:
            assert of(report, "raw", label).details["rank_by_k"] == of(plain, "raw", label).details["rank_by_k"]
            assert number(report, "ratio_to_unseen", label) == number(plain, "ratio_to_unseen", label)


def test_a_fitted_floor_tells_whether_it_converged_and_what_it_cost(measured: Measure) -> None:
    fitted = measured(*ROLES, more={"sample": 24}, floor="fit", scope="fc*,bn*")
    common = [of(fitted, "raw", label).details["floor"] for label in ROLES]
    assert all(found == common[0] for found in common)
    assert {"value", "kind", "converged", "gradient_norm", "passes"} == set(common[0])
    assert common[0]["kind"] == "fit"
    head = measured("original", "unlearned", **HEAD, floor="fit")
    own = [of(head, "raw", label).details["floor"] for label in ("original", "unlearned")]
    assert own[0]["value"] != own[1]["value"]
    assert all(found["converged"] for found in own)
    assert "floor fit (each model's own, on its own features)" in of(head, "raw").method


def test_a_floor_that_did_not_converge_is_a_limitation(measured: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    from unlearn_audit.audit.rcd import floors

    plain = floors.fit_floor
    monkeypatch.setattr(floors, "fit_floor", lambda *args, **more: plain(*args, **more, iterations=2))
    report = measured("unlearned", **HEAD, floor="fit", steps=3)
    assert any("the fitted floor is where L-BFGS gave up" in text for text in report.limitations)


# ----- K chosen by the curves


def test_steps_auto_saves_steps_and_keeps_its_tolerance(measured: Measure) -> None:
    report = measured("original", "unlearned", "retrained-1", **HEAD, step_size="auto", steps="auto", tolerance=0.01)
    stopped = of(report, "raw").details["stopped"]
    steps = stopped["steps"]
    assert steps == max(at for m in report.measurements if m.name == "rcd.raw"
                        for at in m.details["stopped"]["ready_at"].values())  # fmt: skip
    assert stopped["saved"] == 10_000 - steps > 9_000
    assert f"K = {steps} (auto: {10_000 - steps} fewer than 10000)" in of(report, "raw").method
    assert "floor fit" in of(report, "raw").method
    long = measured("original", "unlearned", "retrained-1", **HEAD, step_size="auto", steps=20 * steps, floor="fit")
    for label in ("original", "unlearned", "retrained-1"):
        kept, whole = number(report, "raw", label), number(long, "raw", label)
        assert len(of(report, "raw", label).details["loss"]) == steps + 1
        assert 0 <= whole - kept <= 0.01 * whole


def test_steps_auto_refuses_where_the_tail_is_not_exponential(measured: Measure) -> None:
    asked = {"scope": "head", "step_size": "auto", "steps": "auto", "max_steps": 400}
    with pytest.raises(MeasurementError) as refusal:
        measured("retrained-1", **asked)
    text = str(refusal.value)
    assert "after 400 steps the tail of retrained-1 relearning its forget set is not exponential" in text
    assert "give --steps a number, raise --max-steps, or use --scope head with --weight-decay" in text
    with pytest.raises(MeasurementError, match="take --floor fit instead of zero"):
        measured(
            "retrained-1", **HEAD, **{key: asked[key] for key in ("step_size", "steps", "max_steps")}, floor="zero"
        )
    with pytest.raises(MeasurementError, match=r"exponential, but up to .* of its sum .* raise --max-steps"):
        measured("retrained-1", **HEAD, step_size="auto", steps="auto", max_steps=100, tolerance=1e-12)
    with pytest.raises(MeasurementError, match="diverged at step"):
        measured("retrained-1", **HEAD, step_size=1e25, steps="auto", max_steps=400)


# ----- a twin as hard as the forget set


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_partners_are_the_closest_of_all_assignments(count: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted, offered = rng.exponential(size=count), rng.exponential(size=(count, count + more))
    found = closest_partners(wanted, offered)
    assert len(set(found.tolist())) == count
    cost = np.abs(offered - wanted[:, None])
    best = min(cost[np.arange(count), list(columns)].sum() for columns in permutations(range(count + more), count))
    assert cost[np.arange(count), found].sum() == pytest.approx(best)


def test_the_matched_twin_is_nearer_than_the_random_one_and_as_fair(context: AuditContext) -> None:
    random = context.splits.unseen
    found = matched_twin(context, context.with_role("retrained"))
    assert found.distance < 0.7 * found.random_distance
    assert len(set(found.twin.unseen.tolist())) == len(random) == len(found.twin)
    assert np.isin(found.twin.unseen, context.splits.pool).all()
    assert torch.equal(found.twin.examples.labels, random.examples.labels)
    assert torch.equal(found.twin.examples.true_labels, random.examples.true_labels)
    means = []
    for twin in (found.twin, random):
        gaps = []
        for judge in context.with_role("retrained"):
            with torch.no_grad():
                both = [
                    judge.model(judge.transform(part.images))
                    for part in (context.splits.paired_examples, twin.examples)
                ]
            losses = [nn.functional.cross_entropy(logits, twin.examples.labels, reduction="none") for logits in both]
            gaps.append(losses[0] - losses[1])
        means.append(float(torch.stack(gaps).mean(0).abs().mean()))
    assert means == [pytest.approx(found.distance, rel=1e-4), pytest.approx(found.random_distance, rel=1e-4)]


def test_a_retrained_model_is_matched_under_the_others(context: AuditContext, measured: Measure) -> None:
    twins, said = matched_twins(context, context.subjects)
    assert said == ()
    assert {label: found.reference_models for label, found in twins.items()} == {
        "original": ("retrained-1", "retrained-2"),
        "unlearned": ("retrained-1", "retrained-2"),
        "retrained-1": ("retrained-2",),
        "retrained-2": ("retrained-1",),
    }
    report = measured(*ROLES, match_difficulty=True)
    found = of(report, "ratio_to_unseen")
    assert found.method.endswith("twin matched on difficulty")
    assert found.details["matching"]["under"] == ["retrained-1", "retrained-2"]
    assert found.value != number(measured(*ROLES), "ratio_to_unseen")
    assert number(report, "raw") == number(measured(*ROLES), "raw")
    assert not any("had no choice" in text for text in report.limitations)
    lone = measured("original", "retrained-1", match_difficulty=True)
    assert any("matched under itself" in text for text in lone.limitations)


def test_matching_says_where_it_has_no_choice(tmp_path: Path, context: AuditContext, measured: Measure) -> None:
    path = tmp_path / "unseen.npy"
    np.save(path, context.splits.unseen.unseen)
    report = measured("original", "retrained-1", more={"unseen": str(path)}, match_difficulty=True, steps=1)
    assert any("--match-difficulty had no choice" in text for text in report.limitations)


# ----- what is refused


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"momentum": 0.5}, "--momentum requires --optimizer sgd"),
        ({"tolerance": 0.1}, "--tolerance requires --steps auto"),
        ({"max_steps": 200}, "--max-steps requires --steps auto"),
        ({"steps": "auto", "floor": "best"}, "--steps auto requires --floor zero, fit or a number"),
        ({"steps": "auto", "relearn": 0.5}, "cannot be combined with --relearn below 1"),
        ({"floor": "fit", "relearn": 0.5}, "no floor for the rest that --relearn measures"),
        ({"scope": "head", "augment": True}, "--augment cannot be combined with --scope head"),
        ({"scope": "head", "bn": "train"}, "--bn train cannot be combined with --scope head"),
        ({"step_size": "lambda", "bn": "train"}, "--step-size lambda cannot be combined with --bn train"),
        ({"step_size": "lambda", "optimizer": "adam"}, "--step-size lambda requires --optimizer gd"),
        ({"scope": "nothing*"}, "--scope nothing* matches no parameter"),
        ({"relearn": 0.001}, "--relearn 0.001 of 48 forget examples relearns nothing"),
        ({"relearn": 0.999}, "--relearn 0.999 of 48 forget examples leaves nothing to measure"),
        ({"match_difficulty": True}, "--match-difficulty needs a model that saw neither set; add one with --retrained"),
        ({"bn": "train"}, "BatchNorm in training mode is only defined where the whole set is one batch"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(tiny: Path, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        run_audit(config_of(tiny, "original", more={"batch_size": 20}, **asked))
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--steps", "many"], "--steps"),
        (["--steps", "-3"], "--steps"),
        (["--step-size", "1e-3,big"], "--step-size"),
        (["--step-size", "1e-3,-1"], "--step-size"),
        (["--accuracies", "0.5,2"], "--accuracies"),
        (["--relearn", "0"], "--relearn"),
        (["--optimizer", "lbfgs"], "--optimizer"),
        (["--floor", "low"], "--floor"),
        (["--tolerance", "1"], "--tolerance"),
    ],
)
def test_values_that_mean_nothing_are_refused_by_their_flag(
    refused: Callable[..., None], tiny: Path, flags: list[str], says: str
) -> None:
    refused("rcd", tiny / "original.safetensors", "--forget", tiny / "forget.npy", *flags, code=2, says=[says])


# ----- arrays beside the report, and the command line


def test_areas_and_long_curves_are_written_beside_the_report(
    run: Cli, tiny: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn_audit.audit.rcd import measure

    monkeypatch.setattr(measure, "LONGEST_CURVE", 4)
    flags = ("rcd", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--steps", 5, "--step-size", 0.01,
             "--no-controls", "--format", "json", "--quiet")  # fmt: skip
    for folder in ("one", "two"):
        done = run(*flags, "--out", folder)
        assert done.code == 0, done.stderr
    raw = next(m for m in json.loads(done.stdout)["measurements"] if m["name"] == "rcd.raw")
    assert raw["details"]["loss"] is None
    assert raw["details"]["curves_in"] == "arrays.npz, rcd/original/forget/"
    with np.load("one/arrays.npz", allow_pickle=False) as arrays:
        found = dict(arrays)
    assert found["rcd/original/forget/loss"].sum() == pytest.approx(raw["value"])
    assert found["rcd/original/forget/areas"].mean() == pytest.approx(raw["value"])
    assert found["rcd/original/forget/error_areas"].mean() == pytest.approx(raw["details"]["error_sum"])
    np.testing.assert_array_equal(found["rcd/original/forget/indices"], np.load(tiny / "forget.npy"))
    assert len(found["rcd/original/unseen/indices"]) == 144
    assert Path("one/arrays.npz").read_bytes() == Path("two/arrays.npz").read_bytes()
    taken = run(*flags, "--out", "one")
    assert (taken.code, "exists already" in taken.stderr) == (2, True)


def test_arrays_are_whole_stable_and_never_pickled(tmp_path: Path) -> None:
    path, arrays = tmp_path / "arrays.npz", {"b/x": np.arange(3.0), "a": np.zeros((2, 2), dtype=np.int64)}
    write_arrays(arrays, path)
    first = path.read_bytes()
    write_arrays(arrays, path)
    assert path.read_bytes() == first
    with np.load(path, allow_pickle=False) as found:
        assert list(found) == ["b/x", "a"]
        np.testing.assert_array_equal(found["b/x"], arrays["b/x"])
    with pytest.raises(ReportError, match="array bad holds Python objects"):
        write_arrays({"bad": np.array([None])}, path)
    assert path.read_bytes() == first
    write_arrays({}, path)
    assert list(tmp_path.iterdir()) == []


def test_the_flags_reach_the_settings(run: Cli, tiny: Path, here: Path) -> None:
    done = run("rcd", *(tiny / f"{label}.safetensors" for label in ROLES), "--forget", tiny / "forget.npy",
               "--optimizer", "sgd", "--momentum", 0.5, "--weight-decay", 0.01, "--minibatch", 64, "--augment",
               "--scope", "conv*,bn*", "--relearn", 0.5, "--steps", 2, "--step-size", "1e-3,1e-4", "--floor", 0.1,
               "--accuracies", "0.2,0.3", "--match-difficulty", "--no-controls", "--format", "json")  # fmt: skip
    assert done.code == 0, done.stderr
    asked = json.loads(done.stdout)["settings"]["config"]["rcd"]
    given = {
        "optimizer": "sgd", "momentum": 0.5, "weight_decay": 0.01, "minibatch": 64, "augment": True,
        "scope": "conv*,bn*", "relearn": 0.5, "steps": 2, "step_size": [1e-3, 1e-4], "floor": 0.1,
        "accuracies": [0.2, 0.3], "match_difficulty": True, "controls": False,
    }  # fmt: skip
    assert {key: asked[key] for key in given} == given


def test_the_table_fits_eighty_columns_and_help_has_examples(run: Cli, tiny: Path, here: Path) -> None:
    done = run("rcd", *(tiny / f"{label}.safetensors" for label in ROLES), "--forget", tiny / "forget.npy",
               "--steps", 3, "--step-size", "1e-2,1e-3,1e-4")  # fmt: skip
    assert done.code == 0, done.stderr
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    for text in ("RCD raw", "RCD / unseen", "RCD / retrained", "RCD x step", "RCD normalised", "by step size"):
        assert text in done.stdout
    shown = run("rcd", "--help")
    assert shown.code == 0
    for text in ("Examples", "--step-size 1e-4,1e-5,1e-6", "--match-difficulty", "--steps auto", "--scope head"):
        assert text in shown.stdout
