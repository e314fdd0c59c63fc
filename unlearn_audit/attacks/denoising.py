"""Attacks on image generators: does a denoiser know this image better than one that it never saw?

They ask a denoiser at one timestep that is fixed beforehand; nothing is tuned on the attacked examples. All arithmetic
is float64, whatever the denoiser computes in.
"""

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.attacks import Attack, Denoised, Evidence
from unlearn_audit.errors import MeasurementError

Floats = NDArray[np.float64]
PIA_POWER = 4  # p of the norm (Kong et al. 2024, section 4.2)


def _asked(evidence: Evidence) -> Denoised:
    if evidence.denoised is None:
        raise MeasurementError("this attack asks a denoiser, and there is none")
    return evidence.denoised


def _per_example(values: Floats) -> Floats:
    """Return the sum over all that is not the example, [N]."""
    return np.asarray(values.sum(axis=tuple(range(1, values.ndim))))


def noised(images: Floats, noise: Floats, alpha_bar: float) -> Floats:
    """Return sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) epsilon."""
    return np.asarray(np.sqrt(alpha_bar) * images + np.sqrt(1 - alpha_bar) * noise)


def ddim_step(images: Floats, noise: Floats, before: float, after: float) -> Floats:
    """Return images moved from one noise level to another, either way, along the noise found in them (DDIM, eta 0).

    The image that the noise leaves, (x - sqrt(1 - a) epsilon) / sqrt(a), is noised again with the same noise.

    Args:
        images: [N, ...] at the level `before`.
        noise: [N, ...] found in them.
        before: alpha_bar there.
        after: alpha_bar where they go.
    """
    clean = (images - np.sqrt(1 - before) * noise) / np.sqrt(before)
    return noised(clean, noise, after)


def _negative_loss(evidence: Evidence) -> Floats:
    return -_asked(evidence).losses()


def _proximal(evidence: Evidence) -> Floats:
    """Return -||f(x_0, 0) - f(x_t, t)||_p^p with x_t noised by f(x_0, 0) itself, t = T / 10, p = 4: [N]."""
    asked = _asked(evidence)
    step = asked.timesteps // 10
    first = asked.noise(asked.images, 0)
    again = asked.noise(noised(asked.images, first, asked.alphas_bar[step]), step)
    return -_per_example(np.abs(first - again) ** PIA_POWER)


def _step_error(evidence: Evidence) -> Floats:
    """Return -||x~ - x||^2: x inverted to T / 10 in steps of T / 100, x~ after one step on and one back: [N]."""
    asked = _asked(evidence)
    last, stride = asked.timesteps // 10, max(1, asked.timesteps // 100)

    def moved(images: Floats, before: int, after: int) -> Floats:
        alphas = asked.alphas_bar
        return ddim_step(images, asked.noise(images, before), alphas[before], alphas[after])

    images = asked.images
    for step in range(0, last, stride):
        images = moved(images, step, min(step + stride, last))
    back = moved(moved(images, last, last + stride), last + stride, last)
    return -_per_example((back - images) ** 2)


loss = Attack(
    "loss",
    "is the denoising loss of forget examples lower than that of their unseen twin, on this generator?",
    "Matsumoto et al. 2023; Carlini et al. 2023",
    _negative_loss,
    ("denoiser",),
)
pia = Attack(
    "pia",
    "does the generator find in a forget example with its own noise that noise again, sooner than in its unseen twin?",
    "Kong et al. 2024: t = T / 10, p = 4",
    _proximal,
    ("denoiser",),
    differs="published rates take the best of 30 timesteps on the very examples that are reported; here one is fixed",
)
secmi = Attack(
    "secmi",
    "does a forget example come back to itself after a step of the sampler on and back, sooner than its unseen twin?",
    "Duan et al. 2023, SecMI-stat: t = T / 10, steps of T / 100",
    _step_error,
    ("denoiser",),
    differs="published true positive rates are at the nearest false positive rate; here at the attained one",
)
