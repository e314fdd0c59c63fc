"""Membership inference: can forget examples be told from examples that the model never saw?

An attack is a pure function of evidence: it gives each example a score, higher for "member". Which examples are members
is not part of the evidence.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

__all__ = ["Attack", "AttackSettings", "Denoised", "Evidence", "Need", "Population", "Shadows", "Signals", "log_odds"]

Floats = NDArray[np.float64]
Need = Literal["shadows", "unlearned", "population", "splits", "denoiser"]


class Signals(NamedTuple):
    """What a model says about a set: logits [N, C], float32, and the labels it was seen under, [N]."""

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shadows:
    """What M shadow models say about the attacked examples and about the rest of what they were trained on.

    Attributes:
        logits: [M, N, Q, C] float32, on the attacked examples, query by query as for the target.
        inside: [M, N] whether the example was in the training set; for models that unlearned, in the forget set.
        outside: [M, N] whether it was out: never seen. An example that is neither says nothing about either side.
        rest: [M, P, C] float32, on the other examples of the pool, plain images only.
        rest_inside: [M, P] whether those were in the training set.
        rest_labels: [P].
        population: [M, Z, C] float32, on the population, which none of them saw; Z may be 0.
    """

    logits: NDArray[np.float32]
    inside: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    rest: NDArray[np.float32]
    rest_inside: NDArray[np.bool_]
    rest_labels: NDArray[np.int64]
    population: NDArray[np.float32]


class Population(NamedTuple):
    """Held-out examples that nobody was trained on: the target's signals, and the images as rows [Z, D], float32."""

    signals: Signals
    inputs: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Denoised:
    """What a generator may be asked about N attacked examples: pure functions, the same when asked again.

    Attributes:
        images: [N, ...] as the denoiser was trained on them, without noise.
        noise: (x [N, ...], t) -> [N, ...], the noise that the target finds in x at timestep t, 0 <= t < T, example by
            example under its own condition.
        alphas_bar: [T] the share of the image's variance that is left at each timestep.
        losses: () -> [N], the denoising loss of each example on the measuring grid, per element; the two examples of a
            pair get the same noise.
    """

    images: Floats
    noise: Callable[[Floats, int], Floats]
    alphas_bar: Floats
    losses: Callable[[], Floats]

    @property
    def timesteps(self) -> int:
        """T."""
        return len(self.alphas_bar)


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that an attack may look at: one target model, N attacked examples, and what its `needs` name.

    Attributes:
        logits: [N, Q, C] float32, the target's; query 0 is the plain image, the others are augmented. Of a generator
            [N, 0, 0]: it has none.
        labels: [N] the labels that the examples were seen under.
        inputs: [N, D] float32, the images as the model gets them, flattened.
        shadows: models that were trained as the target was.
        unlearned: models that were trained and then unlearned as the target was.
        population: held-out examples.
        retain: the target's signals on its retain set.
        test: the target's signals on the test set.
        seed: of anything random.
        denoised: what the target says as a denoiser, where it is a generator.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    inputs: NDArray[np.float32]
    shadows: Shadows | None = None
    unlearned: Shadows | None = None
    population: Population | None = None
    retain: Signals | None = None
    test: Signals | None = None
    seed: int = 0
    denoised: Denoised | None = None

    @property
    def plain(self) -> Signals:
        """The target's signals on the plain images."""
        return Signals(self.logits[:, 0], self.labels)


class AttackSettings(BaseModel):
    """What can be set of an attack: frozen, unknown keys refused, finite numbers only.

    A field is a key of a configuration's `[mia]` and a flag of `mia`; attacks that have one of the same name mean the
    same by it. Its description is the flag's help.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Attack(NamedTuple):
    """An attack on one target model.

    Attributes:
        name: as the catalogue has it; its measurements are `mia.<name>.auc` and so on.
        hypothesis: the question that it answers, in words.
        source: where it comes from.
        score: evidence -> [N], higher for "member".
        needs: what the evidence must hold besides the target's own signals; "splits" is retain and test,
            "denoiser" a generator in the place of logits.
        threshold: the score from which on it says "member" of its own accord; None where it only ranks.
        legacy: why it should not be a verdict; None where it may.
        differs: what keeps its numbers from being compared with published tables, in words; None where nothing does.
        settings: what it runs with; scores that are kept are found again by them.
        make: settings -> the same attack with these; None where nothing can be set.
        explain: evidence -> what was estimated from shadow models on the way, for details; it reads nothing that the
            target says. None where there is nothing to tell.
    """

    name: str
    hypothesis: str
    source: str
    score: Callable[[Evidence], Floats]
    needs: tuple[Need, ...] = ()
    threshold: float | None = None
    legacy: str | None = None
    differs: str | None = None
    settings: AttackSettings = AttackSettings()
    make: Callable[[Any], "Attack"] | None = None
    explain: Callable[[Evidence], Mapping[str, Any]] | None = None

    def with_settings(self, values: Mapping[str, Any]) -> "Attack":
        """Return the attack with those of the values that are settings of its own.

        Args:
            values: by key, of all attacks.
        """
        if self.make is None:
            return self
        kind = type(self.settings)
        return self.make(kind.model_validate({key: values[key] for key in kind.model_fields if key in values}))

    @property
    def needs_shadows(self) -> bool:
        """Whether it needs shadow models, trained ones or unlearned ones."""
        return "shadows" in self.needs or "unlearned" in self.needs


def log_odds(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Floats:
    """Return log p_y - log(1 - p_y) of the label y, the sum over the other classes taken before the logarithm.

    log(1 - p_y) is unstable where p_y is near 1, so that 1 - p_y is summed as the other classes' share; all in float64
    (Carlini et al. 2022, section IV-C).

    Args:
        logits: [..., C], at least two classes.
        labels: of the shape [...], or one that broadcasts to it.

    Returns:
        [...] in nats.
    """
    wide = logits.astype(np.float64)
    wanted = np.broadcast_to(labels, wide.shape[:-1])[..., None]
    chosen = np.take_along_axis(wide, wanted, axis=-1)[..., 0]
    others = wide.copy()
    np.put_along_axis(others, wanted, -np.inf, axis=-1)
    highest = others.max(axis=-1)
    odds: Floats = chosen - highest - np.log(np.exp(others - highest[..., None]).sum(axis=-1))
    return odds
