"""What holds of every attack, and the statistics of one output against decimals of many digits."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_evidence import Floats, logits_of, made_up, null_error, planted, with_shadows
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from unlearn_audit import catalogue, metrics
from unlearn_audit.attacks import Attack, Evidence, Population, Shadows, Signals, log_odds, quantile, shokri
from unlearn_audit.attacks import threshold as population
from unlearn_audit.config import MiaSettings
from unlearn_audit.errors import MeasurementError

ATTACKS: dict[str, Attack] = {name: catalogue.load("attack", catalogue.ATTACKS, name) for name in catalogue.ATTACKS}
SEEDS = st.integers(0, 2**20)
every = pytest.mark.parametrize("name", list(ATTACKS))
every_formula = pytest.mark.parametrize(
    "name", [name for name in ATTACKS if name != "shokri"]
)  # its training draws rows


# --- one output, exactly ---


class Exact:
    """What follows from one vector of logits, with `digits` decimal digits and no care about cancellation."""

    def __init__(self, logits: Sequence[float], label: int, digits: int = 1000) -> None:
        with localcontext(prec=digits):
            raised = [Decimal(float(one)).exp() for one in logits]
            shares = [one / sum(raised) for one in raised]
            inverse = [1 - one for one in shares]
            own = inverse[label] * shares[label].ln()
            rest = sum(p * q.ln() for c, (p, q) in enumerate(zip(shares, inverse, strict=True)) if c != label)
            self.log_share = float(shares[label].ln())
            self.log_odds = float(shares[label].ln() - inverse[label].ln())
            self.entropy = float(-sum(one * one.ln() for one in shares))
            self.modified_entropy = float(-own - rest)


def outputs() -> list[tuple[list[float], int]]:
    rng = np.random.default_rng(0)
    drawn = [(rng.normal(0, scale, 5).astype(np.float32).tolist(), 2) for scale in (0.1, 1, 5, 30, 300)]
    return [
        ([0.0, 0.0], 1), ([3.5, 3.5, 3.5], 0), ([1000.0, -1000.0], 0), ([1000.0, -1000.0], 1), ([40.0, 0.0, 0.0], 0),
        ([-1000.0, 1000.0, 0.0], 2), ([700.0, 0.0, -700.0], 0), ([0.0, 30.0, 30.0, -5.0], 3), ([1.0, 50.0, 0.0], 1),
        *drawn,
    ]  # fmt: skip


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(("logits", "label"), outputs())
def test_the_statistics_of_an_output_are_exact_however_sure_it_is(logits: list[float], label: int) -> None:
    expected = Exact(logits, label)
    signals = Signals(np.array([logits], np.float32), np.array([label]))
    assert log_odds(*signals)[0] == close(expected.log_odds)
    assert population.entropies(signals.logits)[0] == close(expected.entropy)
    assert population.modified_entropies(signals)[0] == close(expected.modified_entropy)
    evidence = Evidence(signals.logits[:, None], signals.labels, np.zeros((1, 0), np.float32))
    assert population.loss.score(evidence)[0] == close(expected.log_share)
    assert population.confidence.score(evidence)[0] == close(Exact(logits, int(np.argmax(logits))).log_share)


@pytest.mark.parametrize(("label", "odds", "modified"), [(0, 1e4, 0.0), (1, -2e4, 3e4), (2, -1e4, 2e4)])
def test_logits_of_ten_thousand_lose_nothing(label: int, odds: float, modified: float) -> None:
    signals = Signals(np.array([[1e4, -1e4, 0.0]], np.float32), np.array([label]))
    assert log_odds(*signals)[0] == close(odds)
    assert population.modified_entropies(signals)[0] == close(modified)


def test_log_odds_take_any_shape_and_leave_the_logits_alone() -> None:
    logits = np.random.default_rng(1).normal(0, 2, (3, 4, 2, 5)).astype(np.float32)
    labels = np.array([0, 4, 2, 2])
    before = logits.copy()
    found = log_odds(logits, labels[:, None])
    assert (logits == before).all()
    assert found.shape == (3, 4, 2)
    for m, i, q in np.ndindex(3, 4, 2):
        assert found[m, i, q] == close(Exact(logits[m, i, q].tolist(), int(labels[i]), 50).log_odds)


def test_entropies_and_losses_are_scipys_and_torchs() -> None:
    evidence = made_up(2, count=50)
    logits = torch.from_numpy(evidence.plain.logits).double()
    np.testing.assert_allclose(
        ATTACKS["entropy"].score(evidence), -stats.entropy(logits.softmax(1).numpy(), axis=1), rtol=1e-12
    )
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(evidence.labels), reduction="none")
    np.testing.assert_allclose(ATTACKS["loss"].score(evidence), -losses.numpy(), rtol=1e-12)
    np.testing.assert_allclose(population.probabilities(evidence.logits), softmax(evidence.logits), rtol=1e-12)


def softmax(logits: NDArray[np.float32]) -> Floats:
    found: Floats = torch.from_numpy(logits).double().softmax(-1).numpy()
    return found


@pytest.mark.parametrize("name", ["loss", "confidence", "modified-entropy"])
def test_the_surer_of_the_label_the_higher_the_score_without_ties_at_certainty(name: str) -> None:
    odds = np.array([1.0, 5, 20, 30, 36, 38, 40, 60, 100, 300, 600])
    labels = np.zeros(len(odds), np.int64)
    found = ATTACKS[name].score(
        Evidence(logits_of(odds, labels)[:, None], labels, np.zeros((len(odds), 0), np.float32))
    )
    assert (np.diff(found) > 0).all()


def test_modified_entropy_tells_a_sure_mistake_from_a_sure_answer_and_entropy_does_not() -> None:
    logits = np.array([[9.0, 0.0, 0.0]] * 2, np.float32)
    right, wrong = population.modified_entropies(Signals(logits, np.array([0, 1])))
    assert right < 0.01
    assert wrong > 9
    assert len(set(population.entropies(logits).tolist())) == 1


def test_the_loss_attack_looks_at_plain_images_alone() -> None:
    evidence = made_up(3)
    changed = replace(evidence, logits=np.concatenate([evidence.logits[:, :1], -evidence.logits[:, 1:]], axis=1))
    for name in catalogue.ATTACK_GROUPS["population"]:
        assert (ATTACKS[name].score(changed) == ATTACKS[name].score(evidence)).all()


# --- every attack ---


def area(attack: Attack, evidence: Evidence) -> float:
    """Return the AUC of the first half against the second."""
    scores, half = attack.score(evidence), len(evidence.labels) // 2
    found = metrics.auc(scores[:half], scores[half:])
    assert found is not None
    assert found == pytest.approx(roc_auc_score(np.repeat([1, 0], half), scores))
    return found


# What these find of the planted leak; an attack that is new has to find at least .9 of it.
STRONG = (
    "loss", "confidence", "entropy", "modified-entropy", "quantile", "shokri", "lira", "lira-offline", "rmia",
    "rmia-offline", "ulira", "svc",
)  # fmt: skip


@every
def test_an_obvious_leak_is_found(name: str) -> None:
    assert area(ATTACKS[name], planted(0, 5.0)) > (0.97 if name in STRONG else 0.9)


@every
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_where_nothing_leaks_nothing_is_found(name: str, seed: int) -> None:
    assert abs(area(ATTACKS[name], planted(seed, 0.0)) - 0.5) <= 3 * null_error(150, 150)


@every
def test_a_model_that_saw_neither_side_is_not_accused_by_shadows_that_leak(name: str) -> None:
    """A retrained model: the shadow models remember, it does not."""
    evidence = planted(4, 5.0, remembers=False)
    assert abs(area(ATTACKS[name], evidence) - 0.5) <= 3 * null_error(150, 150)


@every
@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_scores_are_finite_numbers_one_for_each_example(name: str, seed: int) -> None:
    evidence = made_up(seed)
    scores = ATTACKS[name].score(evidence)
    assert scores.shape == evidence.labels.shape
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert (ATTACKS[name].score(evidence) == scores).all()  # and the same when asked again


def mapped(evidence: Evidence, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Evidence:
    """Return the evidence with all logits changed, whoever gave them."""

    def signals(found: Signals | None) -> Signals | None:
        return None if found is None else Signals(change(found.logits), found.labels)

    def shadows(found: Shadows | None) -> Shadows | None:
        if found is None:
            return None
        return replace(found, logits=change(found.logits), rest=change(found.rest), population=change(found.population))

    held_out = evidence.population
    heard = signals(held_out.signals) if held_out else None
    return replace(
        evidence, logits=change(evidence.logits), shadows=shadows(evidence.shadows),
        unlearned=shadows(evidence.unlearned), retain=signals(evidence.retain), test=signals(evidence.test),
        population=Population(heard, held_out.inputs) if heard and held_out else None,
    )  # fmt: skip


@every
@pytest.mark.parametrize("scale", [1e4, 300.0])
def test_outputs_that_are_certain_give_finite_scores(name: str, scale: float) -> None:
    def certain(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        one_hot: NDArray[np.float32] = np.eye(4, dtype=np.float32)[logits.argmax(axis=-1)]
        return scale * (2 * one_hot - 1)

    assert np.isfinite(ATTACKS[name].score(mapped(made_up(4), certain))).all()
    assert np.isfinite(ATTACKS[name].score(replace(made_up(4), logits=certain(made_up(4).logits)))).all()


@every
@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_a_constant_added_to_all_logits_of_an_output_changes_nothing(name: str, seed: int) -> None:
    rng, evidence = np.random.default_rng(seed), made_up(seed)

    def lifted(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        return logits + rng.integers(-500, 500, (*logits.shape[:-1], 1)).astype(np.float32)  # exact in float32

    found = ATTACKS[name].score(mapped(evidence, lifted))
    np.testing.assert_allclose(found, ATTACKS[name].score(evidence), rtol=1e-10, atol=1e-10)


def reordered(evidence: Evidence, order: NDArray[np.int64]) -> Evidence:
    """Return the evidence with the attacked examples in another order."""
    assert evidence.shadows is not None
    assert evidence.unlearned is not None
    moved = [
        replace(s, logits=s.logits[:, order], inside=s.inside[:, order], outside=s.outside[:, order])
        for s in (evidence.shadows, evidence.unlearned)
    ]
    return replace(
        evidence, logits=evidence.logits[order], labels=evidence.labels[order], inputs=evidence.inputs[order],
        shadows=moved[0], unlearned=moved[1],
    )  # fmt: skip


@every_formula
@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_scores_move_with_their_examples(name: str, seed: int) -> None:
    evidence = made_up(seed)
    order = np.random.default_rng(seed).permutation(len(evidence.labels))
    found = ATTACKS[name].score(reordered(evidence, order))
    np.testing.assert_allclose(found, ATTACKS[name].score(evidence)[order], rtol=1e-9, atol=1e-10)


@every_formula
@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_the_order_of_shadow_models_and_of_the_rest_does_not_matter(name: str, seed: int) -> None:
    evidence, rng = made_up(seed), np.random.default_rng(seed)
    assert evidence.shadows is not None
    assert evidence.unlearned is not None
    moved = []
    for shadows in (evidence.shadows, evidence.unlearned):
        models, rest = rng.permutation(len(shadows.logits)), rng.permutation(len(shadows.rest_labels))
        changed = {f.name: getattr(shadows, f.name)[models] for f in fields(shadows) if f.name != "rest_labels"}
        changed |= {name: changed[name][:, rest] for name in ("rest", "rest_inside")}
        moved.append(Shadows(**changed, rest_labels=shadows.rest_labels[rest]))
    found = ATTACKS[name].score(replace(evidence, shadows=moved[0], unlearned=moved[1]))
    np.testing.assert_allclose(found, ATTACKS[name].score(evidence), rtol=1e-9, atol=1e-10)


@every
def test_an_attack_needs_what_it_says_and_no_more(name: str) -> None:
    full, needs = made_up(5), set(ATTACKS[name].needs)
    for need, lacking in {
        "shadows": replace(full, shadows=None), "unlearned": replace(full, unlearned=None),
        "population": replace(full, population=None), "splits": replace(full, retain=None, test=None),
    }.items():  # fmt: skip
        if need in needs:
            with pytest.raises(MeasurementError):
                ATTACKS[name].score(lacking)
        else:
            assert (ATTACKS[name].score(lacking) == ATTACKS[name].score(full)).all()


# --- quantile ---


def test_the_margin_is_the_labels_logit_less_the_largest_other() -> None:
    logits = np.array([[1.0, 5.0, 2.0], [1.0, 5.0, 2.0], [-3.0, -3.0, -7.0]], np.float32)
    assert quantile.margins(Signals(logits, np.array([1, 2, 0]))).tolist() == [3.0, -3.0, 0.0]


def test_what_images_and_labels_explain_is_not_held_against_an_example() -> None:
    """The margin and its spread depend on the image; a margin is judged by what images like it have."""
    rng = np.random.default_rng(6)
    inputs = rng.normal(0, 1, (1600, 5)).astype(np.float32)
    labels, spread = np.arange(1600) % 4, np.exp(inputs[:, 1] / 2)
    noise = rng.normal(0, 1, 1600)
    noise[:300] += 2.0  # of the first attacked examples
    odds = 4 * inputs[:, 0] + 3 * labels + spread * noise
    logits = (np.eye(4)[labels] * odds[:, None]).astype(np.float32)
    seen = Population(Signals(logits[600:], labels[600:]), inputs[600:])
    evidence = Evidence(logits[:600, None], labels[:600], inputs[:600], population=seen)
    scores = quantile.quantile.score(evidence)
    assert area(quantile.quantile, evidence) == pytest.approx(stats.norm.cdf(2 / np.sqrt(2)), abs=0.03)
    assert area(ATTACKS["loss"], evidence) < 0.75
    assert abs(np.corrcoef(scores[300:], (odds - spread * noise)[300:600])[0, 1]) < 0.15
    assert scores[300:].mean() == pytest.approx(0, abs=0.25)
    wide = inputs[300:600, 1] > 0
    assert scores[300:][wide].std() == pytest.approx(
        scores[300:][~wide].std(), rel=0.3
    )  # that of the margins is double


@pytest.mark.parametrize("count", [0, 49, 50])
def test_a_small_population_is_refused_with_both_numbers(count: int) -> None:
    evidence = made_up()
    assert evidence.population is not None
    signals, inputs = evidence.population
    few = Population(Signals(signals.logits[:count], signals.labels[:count]), inputs[:count])
    if count == 50:
        assert np.isfinite(quantile.quantile.score(replace(evidence, population=few))).all()
        return
    with pytest.raises(
        MeasurementError, match=f"needs 50 held-out examples besides the unseen twin; there are {count}"
    ):
        quantile.quantile.score(replace(evidence, population=few))


# --- shokri ---


def test_each_class_has_a_network_of_its_own() -> None:
    """What the outputs of the first two classes look like if seen, those of the others look like if not."""
    evidence = planted(7, 5.0)
    members = np.arange(300) < 150
    assert evidence.shadows is not None

    def said(inside: NDArray[np.bool_], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        shown = np.where(labels < 2, inside, ~inside)
        found: NDArray[np.float32] = (3 * np.eye(4)[0] * shown[..., None]).astype(np.float32)
        return found

    shadows = evidence.shadows
    changed = with_shadows(
        evidence, logits=said(shadows.inside, evidence.labels)[:, :, None],
        rest=said(shadows.rest_inside, shadows.rest_labels),
    )  # fmt: skip
    target = replace(changed, logits=said(members, evidence.labels)[:, None])
    assert area(shokri.shokri, target) == 1.0
    assert ((shokri.shokri.score(target) >= (shokri.shokri.threshold or 0.0)) == members).all()


def test_probabilities_of_membership_are_balanced_though_most_outputs_are_of_one_side() -> None:
    evidence = planted(8, 0.0)
    assert evidence.shadows is not None
    inside, rest_inside = evidence.shadows.inside.copy(), evidence.shadows.rest_inside.copy()
    inside[:7], rest_inside[:7] = True, True
    found = shokri.shokri.score(with_shadows(evidence, inside=inside, outside=~inside, rest_inside=rest_inside))
    assert ((found >= 0) & (found <= 1)).all()
    assert found.mean() == pytest.approx(0.5, abs=0.1)


def test_an_output_on_neither_side_teaches_nothing_and_augmented_views_are_not_asked() -> None:
    evidence = made_up(9)
    assert evidence.shadows is not None
    neither = np.zeros_like(evidence.shadows.inside)
    neither[0, :] = True
    poisoned = evidence.shadows.logits.copy()
    poisoned[:, :, 1:] = np.nan
    poisoned[neither] = np.nan
    masks = {"inside": evidence.shadows.inside & ~neither, "outside": evidence.shadows.outside & ~neither}
    clean = shokri.shokri.score(with_shadows(evidence, **masks))
    assert (shokri.shokri.score(with_shadows(evidence, logits=poisoned, **masks)) == clean).all()


def test_a_class_that_was_only_seen_on_one_side_is_refused() -> None:
    evidence = made_up()
    assert evidence.shadows is not None
    everywhere = np.ones_like(evidence.shadows.inside)
    one_sided = with_shadows(
        evidence, inside=everywhere, outside=~everywhere, rest_inside=np.ones_like(evidence.shadows.rest_inside)
    )
    with pytest.raises(MeasurementError, match="a class has no shadow outputs on one side"):
        shokri.shokri.score(one_sided)


def test_the_networks_of_a_fleet_are_trained_once_for_all_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, asked = made_up(10), []
    original = shokri._fitted

    def counting(*args: Any) -> Any:
        asked.append(args)
        return original(*args)

    monkeypatch.setattr(shokri, "_fitted", counting)
    first = shokri.shokri.score(evidence)
    other = shokri.shokri.score(replace(evidence, logits=-evidence.logits))
    assert len(asked) == len(np.unique(evidence.labels))
    assert not np.allclose(first, other)
    shokri.shokri.score(replace(evidence, seed=11))
    assert len(asked) == 2 * len(np.unique(evidence.labels))


# ----- settings


def test_an_attack_takes_the_settings_that_are_its_own_and_leaves_the_others() -> None:
    values = {"variance": "pooled", "a": 0.3, "signal": "sm-taylor", "temperature": 2.0, "worst": 3}
    lira, offline, loss = (ATTACKS[name].with_settings(values) for name in ("lira", "rmia-offline", "loss"))
    assert lira.settings.model_dump() == {"variance": "pooled"}
    assert offline.settings.model_dump() == {"signal": "sm-taylor", "temperature": 2.0, "a": 0.3}
    assert loss is ATTACKS["loss"]


@every
def test_settings_of_one_name_mean_the_same_everywhere_and_say_what_they_are(name: str) -> None:
    for key, field in type(ATTACKS[name].settings).model_fields.items():
        ours = MiaSettings.model_fields[key]
        assert (field.annotation, field.metadata, field.default) == (ours.annotation, ours.metadata, ours.default)
        assert field.description


def test_the_threshold_attacks_have_an_older_name() -> None:
    groups = catalogue.ATTACK_GROUPS
    assert groups["population"] == groups["threshold"] == ("loss", "confidence", "entropy", "modified-entropy")
