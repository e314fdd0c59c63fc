"""Attacks on generators through the audit: denoisers in closed form, pairs with one noise, and what is refused."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from made_up_evidence import null_error
from torch import Tensor, nn

from unlearn_audit import catalogue
from unlearn_audit.attacks import Attack, Denoised
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.mia.denoised import denoised
from unlearn_audit.audit.mia.measure import measure_mia
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.config import AuditConfig, MiaSettings
from unlearn_audit.data import Dataset, Examples, make_pool, make_splits
from unlearn_audit.engine import Device, Draws, setup_device
from unlearn_audit.errors import UsageError
from unlearn_audit.generation import denoising_task
from unlearn_audit.inputs import Candidate
from unlearn_audit.models.denoisers import Noised, Schedule, linear_schedule

Prediction = Literal["epsilon", "v_prediction", "sample"]
TRAIN, TEST, FORGET, SPREAD = 60, 60, 30, 0.3
ATTACKS = tuple(catalogue.GENERATOR_ATTACKS)


class Known(nn.Module):
    """The best denoiser of some images: they have this spread about the nearest of some centres, 0 for one by heart."""

    conditioning, null = "class", None

    def __init__(self, centres: Tensor, spread: float, prediction: Prediction = "epsilon") -> None:
        super().__init__()
        self.centres, self.spread, self.broken = centres.flatten(1).double(), spread, False
        self.schedule = Schedule(linear_schedule().alphas_bar, prediction)

    def forward(self, noised: Noised) -> Tensor:
        x, bar = noised.x.flatten(1).double(), self.schedule.alphas_bar[noised.t][:, None]
        variance = bar * self.spread**2 + 1 - bar
        away = ((x[:, None] - bar.sqrt()[:, None] * self.centres) ** 2).sum(dim=2)
        centre = (-away / (2 * variance)).softmax(dim=1) @ self.centres
        epsilon = (x - bar.sqrt() * centre) * (1 - bar).sqrt() / variance
        image = (x - (1 - bar).sqrt() * epsilon) / bar.sqrt()
        velocity = bar.sqrt() * epsilon - (1 - bar).sqrt() * image
        found = {"epsilon": epsilon, "sample": image, "v_prediction": velocity}[self.schedule.prediction]
        return (found * (float("nan") if self.broken else 1.0)).view_as(noised.x).float()


def dataset() -> Dataset:
    """Images of two classes that are all of one distribution; as stored they are .5 + .5 x."""
    drawn = 0.5 + 0.5 * SPREAD * torch.randn(TRAIN + TEST, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(TRAIN + TEST) % 2
    train, test = (Examples(drawn[part], labels[part], labels[part]) for part in (slice(0, TRAIN), slice(TRAIN, None)))
    return Dataset("made up", train, test, 2, (0.5,), (0.5,), "0" * 64)


def memoriser(prediction: Prediction = "epsilon", *, without: int = 0) -> Known:
    """Return the perfect memoriser of the training set, but for its first examples."""
    images = dataset().train
    return Known(dataset().transform(images.images)[without:], 0.0, prediction)


def gaussian() -> Known:
    """Return the best denoiser of the distribution that all images are of."""
    return Known(torch.zeros(1, 64), SPREAD)


def candidate(label: str, role: str, model: Known) -> Candidate:
    found = Candidate(label, role, label, f"{len(label):064x}", "made up", model, dataset().transform)
    return replace(found, task=denoising_task(model))  # type: ignore[arg-type]


def context(**subjects: tuple[str, Known]) -> AuditContext:
    found = tuple(candidate(label, role, model) for label, (role, model) in subjects.items())
    return AuditContext(AuditConfig(), {}, setup_device("cpu"), make_splits(dataset(), f"range:0-{FORGET - 1}"), found)


def measured(asked: AuditContext, *attacks: str) -> SectionResult:
    return measure_mia(asked, MiaSettings.model_validate({"attacks": attacks}), SearchState())


def shown(model: Known, *, count: int = 8, compute: Device | None = None) -> Denoised:
    asked = context(one=("subject", model))
    (one,) = asked.subjects
    return denoised(one, make_pool(asked.splits), draws=Draws(0, ("pair",), count), compute=compute or asked.compute)


# ----- what is found


@pytest.fixture(scope="module")
def found() -> SectionResult:
    return measured(
        context(
            original=("original", memoriser()),
            retrained=("retrained", memoriser(without=FORGET)),
            honest=("retrained", gaussian()),
        ),
        "all",
    )


def auc(found: SectionResult, attack: str, subject: str) -> float:
    (one,) = (each for each in found.measurements if (each.name, each.subject) == (f"mia.{attack}.auc", subject))
    assert isinstance(one.value, float), one.reason
    return one.value


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_memoriser_is_found_and_who_never_saw_the_examples_is_not(found: SectionResult, attack: str) -> None:
    assert auc(found, attack, "original") == 1.0
    for other in ("retrained", "honest"):
        assert abs(auc(found, attack, other) - 0.5) < 3 * null_error(FORGET, FORGET)


def test_each_number_has_what_is_needed_to_read_it(found: SectionResult) -> None:
    for attack in ATTACKS:
        own = {one.name: one for one in found.measurements if one.subject == "original"}
        area = own[f"mia.{attack}.auc"]
        assert area.n == 2 * FORGET
        assert area.reference is not None
        assert area.comparison is not None
        assert area.comparison.df >= 1
        assert area.details["base_rate"] == own[f"mia.{attack}.base_rate"].value == 0.5
        assert re.search("generator|sampler", area.method)
        rate = own[f"mia.{attack}.tpr_at_fpr_1e-3"]
        assert rate.value is None
        assert "non-members" in str(rate.reason)


def test_all_runs_those_on_generators_and_names_the_others(found: SectionResult) -> None:
    assert {one.name.split(".")[1] for one in found.measurements} == set(ATTACKS)
    (said,) = (text for text in found.limitations if text.startswith("attacks not run"))
    assert "confidence" in said
    assert "lira" in said
    assert "needs class probabilities" in said


def test_the_group_of_thresholds_has_the_loss_alone() -> None:
    found = measured(context(one=("subject", gaussian())), "threshold")
    assert {one.name.split(".")[1] for one in found.measurements} == {"loss"}


# ----- what attacks are shown


def test_both_examples_of_a_pair_get_one_noise_and_no_two_pairs_the_same() -> None:
    asked = context(one=("subject", gaussian()))
    pool, seen = make_pool(asked.splits), []
    (one,) = asked.subjects
    model = one.model
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].x))
    same = replace(pool, examples=replace(pool.examples, images=torch.full_like(pool.examples.images, 0.5)))
    losses = denoised(one, same, draws=Draws(0, ("pair",)), compute=asked.compute).losses()
    np.testing.assert_allclose(losses[:FORGET], losses[FORGET:], rtol=1e-6)
    assert len(np.unique(losses[:FORGET].round(9))) == FORGET
    assert sum(map(len, seen)) == 2 * FORGET * 8


@pytest.mark.parametrize("attack", ["pia", "secmi"])  # the loss is that of what is predicted
@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_what_a_network_predicts_does_not_matter(attack: str, prediction: Prediction) -> None:
    score = _attack(attack)
    ours, theirs = score(shown(memoriser())), score(shown(memoriser(prediction)))
    np.testing.assert_allclose(theirs, ours, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("attack", ATTACKS)
def test_scores_do_not_depend_on_the_batch(attack: str) -> None:
    score = _attack(attack)
    whole = score(shown(memoriser()))
    np.testing.assert_array_equal(score(shown(memoriser())), whole)
    np.testing.assert_allclose(
        score(shown(memoriser(), compute=Device(torch.device("cpu"), chunk=7))), whole, rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_without_pairs_there_are_no_scores_and_no_crash(attack: str) -> None:
    asked, nobody = context(one=("subject", gaussian())), np.zeros(0, np.int64)
    pool = replace(make_pool(asked.splits), forget=nobody, unseen=nobody)
    found = denoised(asked.subjects[0], pool, draws=Draws(0, ("pair",)), compute=asked.compute)
    assert _attack(attack)(found).shape == (0,)


def _attack(name: str) -> Callable[[Denoised], np.ndarray]:  # type: ignore[type-arg]
    from unlearn_audit.attacks import Evidence

    attack: Attack = catalogue.load("attack", catalogue.GENERATOR_ATTACKS, name)
    none, labels = np.zeros((2 * FORGET, 0, 0), np.float32), np.zeros(2 * FORGET, np.int64)
    return lambda asked: attack.score(Evidence(none, labels, np.zeros((2 * FORGET, 0), np.float32), denoised=asked))


# ----- refusals and reasons


@pytest.mark.parametrize("attack", ["confidence", "entropy", "quantile", "svc", "lira", "rmia-offline", "ulira", "nn"])
def test_an_attack_that_needs_class_probabilities_is_refused(attack: str) -> None:
    with pytest.raises(UsageError, match=f"mia {attack}: it needs class probabilities.* loss, pia, secmi"):
        measured(context(one=("subject", gaussian())), attack)


@pytest.mark.parametrize("attack", ATTACKS)
def test_outputs_that_are_not_finite_are_a_reason(attack: str) -> None:
    broken = gaussian()
    broken.broken = True
    found = measured(context(one=("subject", broken)), attack)
    for one in found.measurements:
        if not one.name.endswith("base_rate"):
            assert one.value is None
            assert "not finite" in str(one.reason)
