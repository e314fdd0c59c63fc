"""RCD of generators: the original's own curve as floor, the share of the retrained models' excess, steps, refusals."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from analytic_denoisers import denoiser, generators, small_splits

from unlearn_audit.audit import audit_candidates
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.generators import asked_of_generators
from unlearn_audit.audit.rcd.curves import ModelCurves, relearn_models
from unlearn_audit.audit.rcd.loss_steps import first_within
from unlearn_audit.audit.rcd.numbers import _normalised_difference
from unlearn_audit.audit.rcd.runs import check_request
from unlearn_audit.audit.rcd.shares import share_of_excess
from unlearn_audit.config import AuditConfig, RcdSettings
from unlearn_audit.engine import Draws, setup_device
from unlearn_audit.engine.task import Task
from unlearn_audit.errors import UsageError
from unlearn_audit.gate import apply_policy, read_policy
from unlearn_audit.models.denoisers import Denoiser
from unlearn_audit.report import AuditReport, Measurement

CPU = setup_device("cpu")
FEW: dict[str, Any] = {"steps": 6, "step_size": 0.02, "controls": False, "resamples": 100}
MODELS = {
    "original": ("original", 0.55), "unlearned": ("unlearned", 0.3), "first": ("retrained", 0.0),
    "second": ("retrained", 0.05), "third": ("retrained", -0.04),
}  # fmt: skip


def context_of(forget: str = "range:0-11", n: int = 48, models: Any = MODELS, **rcd: Any) -> AuditContext:
    made = {label: (role, model if isinstance(model, Denoiser) else denoiser(model))
            for label, (role, model) in models.items()}  # fmt: skip
    return generators(small_splits(forget, n=n), {"rcd": FEW | rcd}, **made)


def report_of(context: AuditContext, **more: Any) -> AuditReport:
    config = context.config.model_copy(update=more)
    return audit_candidates(context.subjects, context.splits, config, compute=CPU).report


def of(report: AuditReport, name: str, subject: str) -> Measurement:
    found = report.find(f"rcd.{name}", subject)
    assert found is not None, (name, subject)
    return found


@pytest.fixture(scope="module")
def report() -> AuditReport:
    return report_of(context_of())


# ----- defaults


def test_generators_relearn_by_adam_on_fresh_draws_over_the_original_s_curve(report: AuditReport) -> None:
    rcd = report.settings["config"]["rcd"]
    asked = {name: rcd[name] for name in ("optimizer", "floor", "draws", "gradient_draws", "steps")}
    assert asked == {"optimizer": "adam", "floor": "original", "draws": 8, "gradient_draws": 4, "steps": 6}
    method = of(report, "raw", "unlearned").method
    assert "full-batch Adam, gradients on 4 fresh draws an example, measured on 8 fixed ones" in method
    assert "floor original (the curve of original)" in method
    plain = asked_of_generators(generators(small_splits("range:0-5"), {"rcd": {}}, one=("subject", denoiser())))
    assert plain.config.rcd is not None
    assert (plain.config.rcd.floor, plain.config.rcd.steps) == ("zero", 40)


def test_what_is_said_stays_as_it_is_said() -> None:
    context = asked_of_generators(context_of(optimizer="gd", floor="zero", draws=3, gradient_draws=2))
    assert context.config.rcd is not None
    rcd = context.config.rcd
    assert (rcd.optimizer, rcd.floor, rcd.draws, rcd.gradient_draws, rcd.steps) == ("gd", "zero", 3, 2, 6)
    assert context.draws("forget") == Draws(3, ("pair",), count=3)
    fixed = asked_of_generators(context_of(draws="fixed")).config.rcd
    assert fixed is not None
    assert (fixed.optimizer, fixed.gradient_draws) == ("gd", None)


# ----- the sum over the original's own curve


def test_raw_is_the_sum_of_the_difference_of_two_curves(report: AuditReport) -> None:
    base = np.array(of(report, "raw", "original").details["loss"])
    for label in MODELS:
        found = of(report, "raw", label)
        assert found.value == pytest.approx((np.array(found.details["loss"]) - base).sum(), abs=1e-12)
        assert found.unit == "mean squared error per element x steps"
        assert found.interval is not None
        assert found.interval.low <= found.value <= found.interval.high
        assert "error" not in found.details


def test_the_original_s_own_sum_and_share_and_intervals_are_exactly_zero(report: AuditReport) -> None:
    for name in ("raw", "ratio_to_retrained"):
        found = of(report, name, "original")
        assert found.value == 0.0
        assert found.interval is not None
        assert (found.interval.low, found.interval.high) == (0.0, 0.0)
    assert of(report, "normalised", "original").reason == "the initial excess over the floor, 0, is below 0.001"


def test_the_interval_of_an_excess_is_that_of_paired_areas() -> None:
    curves = relearn_models(asked_of_generators(context_of()), RcdSettings(**FEW, gradient_draws=4, floor="original"))
    one, original = curves.taken[1], curves.taken[0]
    assert one.candidate.label == "unlearned"
    differences = one.forget.areas - original.forget.areas
    assert one.raw == pytest.approx(differences.mean())
    found = of(report_of(context_of(optimizer="gd")), "raw", "unlearned").interval
    from scipy.stats import t

    half = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    assert found is not None
    assert (found.high - found.low) / 2 == pytest.approx(half)
    assert (found.high + found.low) / 2 == pytest.approx(one.raw)


def _shifted(context: AuditContext, constant: float) -> AuditContext:
    """The same models, the loss of each of whose rows is larger by a constant: a part that nothing can reduce."""

    def task_of(task: Task) -> Task:
        return task._replace(losses=lambda outputs, target: task.losses(outputs, target) + constant)

    return replace(context, subjects=tuple(replace(one, task=task_of(one.task)) for one in context.subjects))


def test_an_irreducible_part_changes_raw_with_floor_zero_and_nothing_over_the_original() -> None:
    plain, shifted = context_of(), _shifted(context_of(), 0.5)
    before, after = report_of(plain), report_of(shifted)
    for name in ("raw", "ratio_to_retrained"):
        assert of(after, name, "unlearned").value == pytest.approx(of(before, name, "unlearned").value, rel=1e-9)
    zero = [of(report_of(context_of(floor="zero")), "raw", "unlearned")]
    zero.append(of(report_of(_shifted(context_of(floor="zero"), 0.5)), "raw", "unlearned"))
    assert zero[1].value == pytest.approx(float(zero[0].value) + 7 * 0.5)  # type: ignore[arg-type]


def test_two_audits_come_to_the_same_bits(report: AuditReport) -> None:
    again = report_of(context_of())
    assert [one.model_dump() for one in again.measurements] == [one.model_dump() for one in report.measurements]


def test_the_floor_original_needs_an_original() -> None:
    with pytest.raises(UsageError, match="--floor original needs an original"):
        report_of(context_of(models={"first": ("retrained", 0.0)}, floor="original"))


# ----- the share


def test_the_share_is_the_excess_over_the_retrained_models_mean(report: AuditReport) -> None:
    raw = {label: float(of(report, "raw", label).value) for label in MODELS}  # type: ignore[arg-type]
    retrained = np.array([raw[label] for label in ("first", "second", "third")])
    found = of(report, "ratio_to_retrained", "unlearned")
    assert found.value == pytest.approx(raw["unlearned"] / retrained.mean())
    assert 0 < float(found.value) < 1  # type: ignore[arg-type]
    assert found.reference is not None
    assert (found.reference.value, found.reference.n) == (1.0, 3)
    assert found.reference.spread == pytest.approx(retrained.std(ddof=1) / retrained.mean())
    assert found.interval is not None
    assert found.interval.low < found.value < found.interval.high
    assert of(report, "ratio_to_retrained", "first").value == pytest.approx(raw["first"] / retrained[1:].mean())
    assert found.details["at_k"]["6"] == pytest.approx(found.value)
    compared = found.comparison
    assert compared is not None
    assert (compared.scale, compared.seen) == ("share", True)
    assert compared.difference == pytest.approx(float(found.value) - 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("floor", ["zero", "best", 0.01])
def test_over_another_floor_than_the_original_s_there_is_no_share(floor: Any) -> None:
    """Where the part that nothing reduces stands in every sum, an untouched original would pass for a retrained one."""
    found = report_of(context_of(floor=floor))
    for label in ("original", "unlearned"):
        share = of(found, "ratio_to_retrained", label)
        assert (share.value, share.interval, share.comparison) == (None, None, None)
        assert 'take floor = "original"' in str(share.reason)
    decisions = {one.rule.id: one for one in apply_policy(read_policy(Path("generation")), found)}
    assert decisions["forgotten"].verdict == "inconclusive"


def test_a_copy_of_the_only_retrained_model_has_a_share_of_exactly_one() -> None:
    models = {"original": ("original", 0.55), "copy": ("unlearned", 0.1), "first": ("retrained", 0.1)}
    found = report_of(context_of(models=models))
    assert of(found, "ratio_to_retrained", "copy").value == 1.0
    assert of(found, "ratio_to_retrained", "copy").interval is None
    assert of(found, "ratio_to_retrained", "first").reason == "no other retrained model to compare with was given"
    alone = report_of(context_of(models={"original": ("original", 0.55), "u": ("unlearned", 0.1)}))
    assert of(alone, "ratio_to_retrained", "u").reason == "no retrained model to compare with was given"


def test_where_the_retrained_models_have_no_excess_there_is_no_share() -> None:
    models = {"original": ("original", 0.3), "u": ("unlearned", 0.5), "first": ("retrained", 0.3),
              "second": ("retrained", 0.3)}  # fmt: skip
    found = of(report_of(context_of(models=models)), "ratio_to_retrained", "u")
    assert found.value is None
    assert "nothing to take a share of" in str(found.reason)


def test_the_interval_of_a_share_holds_it_as_often_as_it_says() -> None:
    """Examples and seeds drawn anew: the true share lies within in about 95 % of the cases, also far from 1."""
    rng, held, runs = np.random.default_rng(0), 0, 400
    n, count, truth = 37, 5, 0.3

    class Made:
        def __init__(self, areas: np.ndarray[Any, Any]) -> None:
            self.excess_areas, self.raw, self.why_no_sum = areas, float(areas.mean()), None

    for _ in range(runs):
        examples = 1 + 0.3 * rng.standard_normal(n)
        retrained = [Made(examples * (1 + 0.07 * rng.standard_normal())) for _ in range(count)]
        ours = Made(truth * examples + 0.1 * rng.standard_normal(n))
        found = share_of_excess(ours, retrained).interval  # type: ignore[arg-type]
        assert found is not None
        held += found.low <= truth <= found.high
    assert 0.93 <= held / runs <= 0.97


# ----- the shape of the fall


def test_the_shape_of_a_fall_is_held_against_the_retrained_models_(
    report: AuditReport,
) -> None:
    found = {label: of(report, "normalised", label) for label in MODELS}
    retrained = [float(found[label].value) for label in ("first", "second", "third")]  # type: ignore[arg-type]
    compared = found["unlearned"].comparison
    assert compared is not None
    assert compared.scale == "log ratio"
    assert compared.difference == pytest.approx(np.log(float(found["unlearned"].value)) - np.log(retrained).mean())  # type: ignore[arg-type]
    assert found["original"].comparison is None
    over_zero = of(report_of(context_of(floor="zero")), "normalised", "unlearned")
    assert (over_zero.value is None, over_zero.comparison) == (False, None)


def test_one_more_retrained_model_is_seldom_told_by_its_shape_and_one_that_falls_in_half_the_time_is() -> None:
    rng, steps, n, runs = np.random.default_rng(0), 41, 36, 300

    def made(shape: float) -> Any:
        height = 0.04 * np.exp(0.5 * rng.standard_normal(n))
        areas = steps * shape * np.exp(0.05 * rng.standard_normal()) * height * np.exp(0.3 * rng.standard_normal(n))
        excess = np.full(steps, areas.mean() / steps)
        excess[0] = height.mean()
        return SimpleNamespace(
            excess_areas=areas, excess_first=height, raw=float(areas.mean()), excess=excess, phi=excess, original=True,
            forget=SimpleNamespace(areas=areas), why_no_sum=None, candidate=SimpleNamespace(is_generator=True),
        )  # fmt: skip

    seen = np.zeros((runs, 2), dtype=bool)
    for run in range(runs):
        others = [made(0.32) for _ in range(5)]
        for place, shape in enumerate((0.32, 0.15)):
            difference = _normalised_difference(made(shape), others)
            assert difference is not None
            seen[run, place] = difference.high < 0 or difference.low > 0
    assert seen[:, 0].mean() <= 0.08
    assert seen[:, 1].mean() >= 0.95


def test_drawing_an_untrained_row_anew_changes_no_number() -> None:
    def made(row: float) -> AuditReport:
        rows = torch.tensor([0.1, row, 0.05])
        models = {"original": ("original", 0.55), "u": ("unlearned", 0.3), "first": ("retrained", denoiser(0.0, rows)),
                  "second": ("retrained", denoiser(0.05, rows))}  # fmt: skip
        return report_of(context_of("class:1", models=models))

    one, other = made(0.3), made(-2.0)
    assert [m.model_dump() for m in one.measurements] == [m.model_dump() for m in other.measurements]
    assert any("first, second: made without class 1" in text for text in one.limitations)


# ----- steps, ratio to the twin, nulls


def test_steps_count_to_within_five_percent_of_the_original_s_first_loss() -> None:
    found = report_of(context_of(steps=30, step_size=0.03))
    target = of(found, "raw", "original").details["loss"][0]
    steps = of(found, "steps_to_relearn", "first")
    losses = np.array(of(found, "raw", "first").details["loss"])
    assert steps.value == np.flatnonzero(losses <= 1.05 * target)[0] > 0
    assert steps.details["within"]["0.2"] <= steps.value <= (steps.details["within"]["0.02"] or 31)
    assert of(found, "steps_to_relearn", "original").value == 0
    short = of(report_of(context_of(steps=1)), "steps_to_relearn", "first")
    assert (short.value, short.at_least) == (None, 2)
    assert "is not reached in 1 steps" in str(short.reason)
    without = of(report_of(context_of(models={"u": ("unlearned", 0.1)})), "steps_to_relearn", "u")
    assert without.reason == "no original model to take the loss from was given"


def test_the_first_step_within_a_share() -> None:
    curve = type("C", (), {"loss": np.array([3.0, 2.2, 2.0, 2.1])})()
    assert [first_within(curve, 2.0, share) for share in (0.0, 0.1, 0.5)] == [2, 1, 0]
    assert first_within(curve, 1.0, 0.1) is None


def test_the_ratio_to_the_twin_is_one_of_pairs(report: AuditReport) -> None:
    found = of(report, "ratio_to_unseen", "unlearned")
    assert found.interval is not None
    assert found.interval.method.endswith("pairs")
    assert found.comparison is not None
    assert found.flags in ((), ("blind",))
    of_class = of(report_of(context_of("class:1")), "ratio_to_unseen", "unlearned")
    assert "another question" in of_class.flags
    assert "members of the same class" in of_class.method


def test_numbers_that_need_an_accuracy_or_a_gradient_step_are_null(report: AuditReport) -> None:
    assert of(report, "anamnesis_index", "unlearned").reason == "a generator has no accuracy; see generation.*"
    assert "Adam's steps have no length" in str(of(report, "scaled", "unlearned").reason)


# ----- refusals


@pytest.mark.parametrize(
    ("rcd", "said"),
    [
        ({"draws": "fixed", "optimizer": "adam"}, "--draws fixed requires --optimizer gd"),
        ({"draws": "fixed", "gradient_draws": 2}, "cannot be combined with --draws fixed"),
        ({"draws": "fixed", "minibatch": 4}, "--minibatch cannot be combined with --draws fixed"),
        ({"draws": "fixed", "augment": True}, "--augment cannot be combined with --draws fixed"),
        ({"scope": "head"}, "--scope head is of classifiers"),
        ({"match_difficulty": True}, "--match-difficulty is of classifiers"),
        ({"bn": "train"}, "--bn train is of classifiers"),
        ({"accuracies": [0.5]}, "--accuracies is of classifiers"),
        ({"steps": "auto", "floor": "zero"}, "--steps auto requires --draws fixed"),
        ({"floor": "fit"}, "--floor fit requires --draws fixed"),
        ({"step_size": "lambda", "optimizer": "gd"}, "--step-size lambda requires --draws fixed"),
    ],
)
def test_options_that_make_no_sense_of_generators_are_refused(rcd: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        report_of(context_of(**rcd))


def test_fixed_draws_relearn_the_noise_and_say_so() -> None:
    found = report_of(context_of(draws="fixed"))
    assert any("relearn this noise, and not the set" in text for text in found.limitations)
    assert "relearns this noise and not the set" in of(found, "raw", "original").method


def test_steps_of_their_own_choice_take_the_fitted_floor_where_none_is_named() -> None:
    settings = asked_of_generators(context_of(draws="fixed", steps="auto")).config.rcd
    assert settings is not None
    assert "floor" not in settings.model_fields_set
    check_request(settings, generators=True)
    named = asked_of_generators(context_of(draws="fixed", steps="auto", floor="original")).config.rcd
    assert named is not None
    with pytest.raises(UsageError, match="--steps auto requires --floor"):
        check_request(named, generators=True)


def test_curves_have_no_errors() -> None:
    curves = relearn_models(asked_of_generators(context_of()), RcdSettings(**FEW, gradient_draws=4))
    assert all(isinstance(one, ModelCurves) and one.error_sum is None for one in curves.taken)


def test_a_config_has_the_settings() -> None:
    config = AuditConfig.model_validate({"rcd": {"optimizer": "adam", "draws": 8, "gradient_draws": 4,
                                                 "floor": "original"}})  # fmt: skip
    assert config.rcd is not None
    assert config.rcd.floor == "original"
