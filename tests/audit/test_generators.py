"""Audits of generators: losses and no accuracies, nulls with reasons, refusals, and the row that nothing trained."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from analytic_denoisers import CLASSES, AsIs, closed_form, denoiser, drawn, generators, small_splits
from torch import nn

from unlearn_audit.audit import audit_candidates
from unlearn_audit.audit.context import AuditContext, context_of
from unlearn_audit.audit.generators import CANNOT, NO_ACCURACY
from unlearn_audit.audit.mixtures import refuse_a_mixture
from unlearn_audit.audit.null_rows import told_of_null_rows, untrained_rows, with_null_row
from unlearn_audit.catalogue import metric_info
from unlearn_audit.checkpoints import Metadata
from unlearn_audit.config import AuditConfig
from unlearn_audit.engine import Draws, setup_device
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.generation import denoising_task
from unlearn_audit.generation.conditions import ClassConditions
from unlearn_audit.generation.pipelines import Pipeline
from unlearn_audit.inputs import Candidate
from unlearn_audit.models.denoisers import Denoiser, Noised
from unlearn_audit.report import AuditReport, Measurement, dump_report

CPU = setup_device("cpu")


def report_of(context: AuditContext, **sections: dict[str, object]) -> AuditReport:
    config = AuditConfig.model_validate({"seed": 3} | sections)
    return audit_candidates(context.subjects, context.splits, config, compute=CPU).report


def of(report: AuditReport, name: str, subject: str) -> Measurement:
    found = report.find(name, subject)
    assert found is not None, (name, subject)
    return found


# ----- losses


def test_the_loss_of_a_split_is_its_closed_form_and_its_noise_belongs_to_each_example() -> None:
    splits = small_splits("range:0-5")
    model = denoiser(0.4)
    context = generators(splits, original=("original", model))
    for split, purpose in (("forget", "pair"), ("unseen", "pair"), ("retain", "retain"), ("test", "test")):
        above, along, constant = closed_form(
            *drawn(context.examples(split), model, Draws(3, (purpose,), count=8))  # type: ignore[arg-type]
        )
        found = context.losses(context.subjects[0], split)  # type: ignore[arg-type]
        assert found.mean() == pytest.approx(0.16 * above - 0.8 * along + constant, rel=1e-6)
    few = generators(small_splits("range:0-2"), original=("original", model))
    np.testing.assert_array_equal(
        few.losses(few.subjects[0], "forget"), context.losses(context.subjects[0], "forget")[:3]
    )


def test_predicting_nothing_has_the_noise_s_own_square_as_loss() -> None:
    context = generators(small_splits("range:0-19", n=400), original=("original", denoiser(0.0)))
    assert context.losses(context.subjects[0], "retain").mean() == pytest.approx(1.0, abs=0.05)


def test_gaps_of_generators_are_losses_and_everything_else_is_null_with_the_reason() -> None:
    splits = small_splits("range:0-5")
    context = generators(
        splits, original=("original", denoiser(0.4)), first=("retrained", denoiser(0.3)),
        second=("retrained", denoiser(0.31)),
    )  # fmt: skip
    report = report_of(context, gaps={})
    names = {one.name for one in report.measurements}
    assert {"accuracy.forget", "gap.average", "change.retain", "loss.unseen"} <= names
    for one in report.measurements:
        if one.name.startswith("loss."):
            assert isinstance(one.value, float)
            assert one.unit == "mean squared error per element"
            assert one.interval is not None
        else:
            assert (one.value, one.reason) == (None, NO_ACCURACY)
    found = of(report, "loss.forget", "original")
    assert found.reference is not None
    assert found.reference.value == pytest.approx(
        np.mean([of(report, "loss.forget", label).value for label in ("first", "second")])
    )
    assert found.comparison is not None
    assert found.comparison.scale == "log ratio"
    assert "8 timesteps and noises" in found.method
    json.loads(dump_report(report))


def test_large_sets_are_measured_on_512_examples_which_is_said() -> None:
    context = generators(small_splits("range:0-9", n=700), original=("original", denoiser(0.4)))
    report = report_of(context, gaps={})
    found = of(report, "loss.retain", "original")
    assert found.n == 512
    assert "512 of 690 examples" in found.method
    assert of(report, "loss.test", "original").n == 350


# ----- what cannot be asked


def test_sections_that_need_classes_are_null_in_a_whole_audit_and_refused_alone() -> None:
    context = generators(small_splits("range:0-5"), original=("original", denoiser(0.4)))
    sections: dict[str, dict[str, object]] = {name: {} for name in CANNOT}
    report = report_of(context, **sections)
    for name in CANNOT:
        found = [one for one in report.measurements if metric_info(one.name).section == name]
        assert found, name
        assert {one.value for one in found} == {None}
        assert {one.reason for one in found} == {CANNOT[name]}
    for name in CANNOT:
        config = AuditConfig.model_validate(sections)
        with pytest.raises(UsageError, match=f"{name} is of classifiers"):
            audit_candidates(context.subjects, context.splits, config, compute=CPU, only=(name,))


def test_plants_are_not_made_of_generators_unasked() -> None:
    context = generators(
        small_splits("range:0-5"), original=("original", denoiser(0.4)), first=("retrained", denoiser(0.3)),
        second=("retrained", denoiser(0.31)),
    )  # fmt: skip
    assert not [one for one in report_of(context, gaps={}).measurements if one.name.startswith("detectable")]


def test_generators_and_classifiers_are_audited_apart() -> None:
    splits = small_splits("range:0-5")
    maker = generators(splits, maker=("original", denoiser(0.4))).subjects[0]
    names = Candidate("names", "original", "c", "0" * 64, "c", nn.Flatten(), AsIs)
    with pytest.raises(UsageError, match="maker is a generator, names a classifier"):
        context_of([maker, names], splits, AuditConfig(), origins={}, compute=CPU)


def _other_schedule(**changes: object) -> Denoiser:
    model = denoiser(0.4)
    model.schedule = model.schedule._replace(**changes)  # type: ignore[arg-type]
    return model


def test_generators_whose_losses_are_of_different_things_are_audited_apart() -> None:
    splits, alphas = small_splits("range:0-5"), denoiser().schedule.alphas_bar
    texts = denoiser(0.4)
    texts.conditioning = "text"
    for other, said in (
        (_other_schedule(prediction="v_prediction"), "a predicts epsilon, b v_prediction"),
        (_other_schedule(alphas_bar=alphas[:500]), "a has 1000 timesteps, b 500"),
        (_other_schedule(alphas_bar=alphas**2), "a and b have different noise schedules"),
        (texts, "a takes classes, b takes texts"),
    ):
        with pytest.raises(UsageError, match=said):
            generators(splits, a=("original", denoiser(0.4)), b=("unlearned", other))
    generators(splits, a=("original", denoiser(0.4)), b=("unlearned", _other_schedule(alphas_bar=alphas.float())))


def test_generators_with_other_autoencoders_are_audited_apart() -> None:
    def subject(label: str, vae: nn.Module | None) -> Candidate:
        model = denoiser(0.4)
        pipeline = Pipeline(model, {}, ClassConditions(CLASSES, null=True), None, 1, vae=vae)
        return Candidate(label, "subject", label, "0" * 64, "c", model, AsIs, task=denoising_task(model),
                         pipeline=pipeline)  # fmt: skip

    vae, half = nn.Linear(3, 3), nn.Linear(3, 3)
    half.load_state_dict({name: each.half() for name, each in vae.state_dict().items()})
    refuse_a_mixture([subject("a", vae), subject("b", vae), subject("c", half)])
    for other in (None, nn.Linear(3, 3), nn.Linear(3, 2)):
        with pytest.raises(UsageError, match="a and b have different autoencoders"):
            refuse_a_mixture([subject("a", vae), subject("b", other)])


class _Restless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.calls = 0

    def forward(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * 0.1 * self.calls


class _Broken(_Restless):
    def forward(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        return x * float("nan")


@pytest.mark.parametrize(("kind", "said"), [(_Restless, "two passes"), (_Broken, "not finite")])
def test_the_instrument_is_checked(kind: type[nn.Module], said: str) -> None:
    model = denoiser()
    with pytest.raises(MeasurementError, match=said):
        generators(small_splits("range:0-5"), model=("original", Denoiser(kind(), model.schedule, null=CLASSES)))


# ----- the row of a class that a model was made without


@pytest.mark.parametrize(("rows", "doubted"), [([0.0, 0.0, 0.5], True), ([0.0, 0.5, 0.0], False)])
def test_without_a_record_a_model_keeps_its_row_and_is_doubted_where_that_knows_the_class(
    rows: list[float], doubted: bool
) -> None:
    splits, model = small_splits("class:1"), denoiser(0.4, torch.tensor(rows))
    subjects = {"original": ("original", denoiser(0.4)), "first": ("retrained", model)}
    context = generators(splits, recorded=False, **subjects)
    first = context.subjects[1]
    wrong = Metadata(model="small-unet", role="retrained", forget_sha256="f" * 64)
    for one in (first, replace(first, metadata=wrong)):
        assert untrained_rows(one, splits) == ()
        assert with_null_row(one, splits) is model
    report = report_of(context, gaps={})
    assert any("first: named as retrained, and no record" in text for text in report.limitations)
    (subject,) = (one for one in report.subjects if one.label == "first")
    assert any("it was trained on them" in text for text in subject.doubts) == doubted
    known = report_of(generators(splits, **subjects), gaps={})
    assert not any("it was trained on them" in text for one in known.subjects for text in one.doubts)


def test_a_model_made_without_a_class_is_measured_with_the_row_of_no_condition() -> None:
    splits = small_splits("class:1")
    rows = torch.tensor([0.0, 5.0, 0.25])
    made, other = denoiser(0.4, rows), denoiser(0.4, torch.tensor([0.0, -7.0, 0.25]))
    context = generators(splits, original=("original", made), first=("retrained", made), second=("retrained", other))
    original, first, second = context.subjects
    assert untrained_rows(first, splits) == (1,)
    assert untrained_rows(original, splits) == ()
    changed = with_null_row(first, splits)
    assert changed.get_parameter("class_embedding.weight").flatten().tolist() == [0.0, 0.25, 0.25]
    assert made.get_parameter("class_embedding.weight").flatten().tolist() == rows.tolist()
    assert with_null_row(original, splits) is made
    # Drawing the row anew changes nothing, but in the original, whose row was trained.
    np.testing.assert_array_equal(context.losses(first, "forget"), context.losses(second, "forget"))
    assert context.losses(original, "forget").mean() > 10
    (told,) = told_of_null_rows(context.subjects, splits)
    assert told.startswith("first, second: made without class 1")
    assert told in report_of(context, gaps={}).limitations


@pytest.mark.parametrize("forget", ["range:0-5", "random:0.3:0"])
def test_a_class_of_which_something_is_left_keeps_its_row(forget: str) -> None:
    splits = small_splits(forget)
    context = generators(splits, first=("retrained", denoiser(0.4)))
    assert untrained_rows(context.subjects[0], splits) == ()
    assert told_of_null_rows(context.subjects, splits) == ()


def test_a_model_without_a_row_of_no_condition_keeps_its_own() -> None:
    splits, model = small_splits("class:1"), denoiser(0.4)
    model.null = None
    context = generators(splits, first=("retrained", model))
    assert with_null_row(context.subjects[0], splits) is model
    assert told_of_null_rows(context.subjects, splits) == ()


def test_noised_is_what_a_denoiser_is_called_with() -> None:
    noised = Noised(torch.ones(2, 1, 2, 2), torch.tensor([3, 4]), torch.tensor([0, 1]))
    assert denoiser(0.5)(noised).tolist() == (0.5 * noised.x).tolist()
