"""Attacks on generators against denoisers in closed form: one that knows its members, one that knows nobody."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from made_up_evidence import Floats, made_up, null_error

from unlearn_audit import catalogue, metrics
from unlearn_audit.attacks import Attack, Denoised, Evidence
from unlearn_audit.attacks.denoising import ddim_step, noised
from unlearn_audit.errors import MeasurementError

Finds = Callable[[Floats, int], Floats]
ATTACKS: dict[str, Attack] = {
    name: catalogue.load("attack", catalogue.GENERATOR_ATTACKS, name) for name in catalogue.GENERATOR_ATTACKS
}
every = pytest.mark.parametrize("name", list(ATTACKS))
PAIRS, SIDE, SPREAD, STEPS = 40, 8, 0.3, 1000
ALPHAS: Floats = np.cumprod(1 - np.linspace(1e-4, 0.02, STEPS))


def images(seed: int) -> Floats:
    """Return the images of members and non-members, of one distribution, [2 n, 1, 8, 8]."""
    drawn: Floats = np.random.default_rng(seed).normal(0, SPREAD, (2 * PAIRS, 1, SIDE, SIDE))
    return drawn


def memoriser(members: Floats) -> Finds:
    """Return the optimal denoiser of a finite training set: the softmax-weighted mean of its members is taken away."""
    known = members.reshape(len(members), -1)

    def noise(x: Floats, t: int) -> Floats:
        rows, alpha = x.reshape(len(x), -1), ALPHAS[t]
        weights = -((rows[:, None] - np.sqrt(alpha) * known) ** 2).sum(axis=2) / (2 * (1 - alpha))
        weights = np.exp(weights - weights.max(axis=1, keepdims=True))
        mean = weights @ known / weights.sum(axis=1, keepdims=True)
        found: Floats = (rows - np.sqrt(alpha) * mean) / np.sqrt(1 - alpha)
        return found.reshape(x.shape)

    return noise


def gaussian() -> Finds:
    """Return the optimal denoiser of the distribution that all images are of."""
    return lambda x, t: x * np.sqrt(1 - ALPHAS[t]) / (ALPHAS[t] * SPREAD**2 + 1 - ALPHAS[t])


def evidence(seed: int, noise: Finds) -> Evidence:
    """Ask a denoiser; its losses are those on 8 common timesteps, with one noise for both examples of a pair."""
    clean = images(seed)

    def losses() -> Floats:
        rng, found = np.random.default_rng(seed + 1), []
        for step in ((np.arange(8) + 0.5) * STEPS / 8).astype(int):
            drawn = np.tile(rng.normal(0, 1, clean[:PAIRS].shape), (2, 1, 1, 1))
            errors = noise(noised(clean, drawn, ALPHAS[step]), step) - drawn
            found.append((errors**2).reshape(len(clean), -1).mean(axis=1))
        return np.asarray(np.mean(found, axis=0))

    empty, labels = np.zeros((2 * PAIRS, 0, 0), np.float32), np.zeros(2 * PAIRS, np.int64)
    return Evidence(
        empty, labels, np.zeros((2 * PAIRS, 0), np.float32), denoised=Denoised(clean, noise, ALPHAS, losses)
    )


def area(name: str, asked: Evidence) -> float:
    scores = ATTACKS[name].score(asked)
    assert scores.shape == (2 * PAIRS,)
    assert scores.dtype == np.float64
    found = metrics.auc(scores[:PAIRS], scores[PAIRS:])
    assert found is not None
    return found


@every
@pytest.mark.parametrize("seed", range(3))
def test_whoever_knows_the_members_by_heart_is_found(name: str, seed: int) -> None:
    """SecMI sees whether the estimate of the image changes within a step: in few dimensions it would not always."""
    assert area(name, evidence(seed, memoriser(images(seed)[:PAIRS]))) == 1.0


@every
@pytest.mark.parametrize("seed", range(3))
def test_whoever_knows_the_distribution_alone_knows_nobody(name: str, seed: int) -> None:
    assert abs(area(name, evidence(seed, gaussian())) - 0.5) < 3 * null_error(PAIRS, PAIRS)


@every
def test_whoever_knows_both_sides_or_neither_prefers_none(name: str) -> None:
    everybody = area(name, evidence(0, memoriser(images(0))))
    others = area(name, evidence(0, memoriser(images(9))))
    assert abs(everybody - 0.5) < 3 * null_error(PAIRS, PAIRS)
    assert abs(others - 0.5) < 3 * null_error(PAIRS, PAIRS)


@every
def test_a_score_is_the_same_again_and_does_not_depend_on_the_other_examples(name: str) -> None:
    asked = evidence(0, memoriser(images(0)[:PAIRS]))
    scores = ATTACKS[name].score(asked)
    np.testing.assert_array_equal(scores, ATTACKS[name].score(asked))
    assert asked.denoised is not None
    losses, turned = asked.denoised.losses(), asked.denoised.images[::-1]
    other = replace(asked, denoised=replace(asked.denoised, images=turned, losses=lambda: losses[::-1]))
    np.testing.assert_allclose(ATTACKS[name].score(other), scores[::-1], rtol=1e-9)


@pytest.mark.parametrize(("name", "forwards"), [("pia", 2), ("secmi", 12)])
def test_forward_passes_are_two_for_pia_and_two_more_than_strides_for_secmi(name: str, forwards: int) -> None:
    asked: list[int] = []

    def counted(x: Floats, t: int) -> Floats:
        asked.append(t)
        return gaussian()(x, t)

    ATTACKS[name].score(evidence(0, counted))
    assert len(asked) == forwards
    assert asked == ([0, 100] if name == "pia" else [*range(0, 100, 10), 100, 110])


def test_pia_by_hand() -> None:
    """One pixel, f(x, t) = x / (t + 1): f(x_0, 0) = x_0, x_t = (sqrt(a) + sqrt(1 - a)) x_0."""
    asked = evidence(0, lambda x, t: x / (t + 1))
    assert asked.denoised is not None
    clean, alpha = asked.denoised.images.reshape(2 * PAIRS, -1), ALPHAS[100]
    left = 1 - (np.sqrt(alpha) + np.sqrt(1 - alpha)) / 101
    np.testing.assert_allclose(ATTACKS["pia"].score(asked), -((clean * left) ** 4).sum(axis=1), rtol=1e-12)


def test_secmi_by_hand() -> None:
    """A denoiser that finds the constant e goes on and back without error; one that finds e times t does not."""
    assert (np.abs(ATTACKS["secmi"].score(evidence(0, lambda x, t: np.full_like(x, 0.7)))) < 1e-20).all()
    found = ATTACKS["secmi"].score(evidence(0, lambda x, t: np.full_like(x, 0.01 * t)))
    here, there = ALPHAS[100], ALPHAS[110]
    width = np.sqrt(1 - here) - np.sqrt(here) * np.sqrt(1 / there - 1)  # of a step back, in units of the noise
    np.testing.assert_allclose(found, -(SIDE**2) * (width * (1.1 - 1.0)) ** 2, rtol=1e-9)


def test_a_step_of_the_sampler_keeps_what_the_noise_leaves() -> None:
    clean, noise = images(0), images(1)
    here = noised(clean, noise, 0.9)
    np.testing.assert_allclose(ddim_step(here, noise, 0.9, 0.3), noised(clean, noise, 0.3), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(ddim_step(here, noise, 0.9, 1.0), clean, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["pia", "secmi"])
def test_a_schedule_of_few_steps_is_enough(name: str) -> None:
    asked = evidence(0, gaussian())
    assert asked.denoised is not None
    few = replace(asked, denoised=replace(asked.denoised, alphas_bar=ALPHAS[::50]))  # T = 20: t = 2, steps of 1
    assert np.isfinite(ATTACKS[name].score(few)).all()


@every
def test_without_a_denoiser_there_is_no_score(name: str) -> None:
    assert ATTACKS[name].needs == ("denoiser",)
    with pytest.raises(MeasurementError, match="asks a denoiser"):
        ATTACKS[name].score(made_up(0))
