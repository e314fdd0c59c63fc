"""The instruments of an audit that plants can be shown to: what each reads of a model, and when it says "different"."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import catalogue, metrics
from unlearn_audit.attacks import Attack, Evidence, Signals, log_odds
from unlearn_audit.audit.detectable.planting import Floats, Plant, Readings
from unlearn_audit.audit.mia.numbers import Scores, auc_comparison
from unlearn_audit.audit.reference import difference_of_means
from unlearn_audit.config import AuditConfig
from unlearn_audit.files import sha256_of_bytes

INDISTINGUISHABLE = 0.5  # AUC
APART = "its difference to the retrained models leaves zero out (95 %)"
LEVEL = "its interval leaves .5 out (95 %)"


class Instrument(NamedTuple):
    """One way in which a report tells a model from retrained ones.

    Attributes:
        metric: whose measurements say what it finds.
        reads: a number an example, of logits and labels.
        sees: whether it tells a plant from its references, by the code that the report uses.
        seen_when: the same in words.
        stops: whether it tells a plant as clearly as it takes to stop a model: as `sees`, but below another p.
    """

    metric: str
    reads: Callable[[Signals], Floats]
    sees: Callable[[Plant], bool]
    seen_when: str
    stops: Callable[[Plant], bool]


def instruments_of(
    config: AuditConfig, paired: NDArray[np.bool_], references: int, swaps: metrics.Swaps | None
) -> Iterator[Instrument]:
    """Yield the instruments that an audit has, of those that read one number an example.

    RCD is none of them: a curve of relearning is not a mixture of two models' curves. Attacks with shadow models are
    left to their fleet, whose own models are targets with known truth.

    Args:
        config: whose sections say what is measured.
        paired: [m] which of the measured forget examples have a partner in the unseen twin.
        references: retrained models that each plant is compared with.
        swaps: of the two-sample test; None where there are too few pairs for one.
    """
    if config.gaps is not None and references > 1:
        yield Instrument("gap.forget", _right, _sees_accuracy, APART, _sees_accuracy)
    if config.twosample is not None and swaps is not None and references > 0:
        p_of = _TwoSamples(paired, swaps)
        said = f"p of at most {metrics.TOLD_P}"
        yield Instrument("twosample.p", _log_odds, lambda plant: p_of(plant) <= metrics.TOLD_P, said,
                         lambda plant: p_of(plant) < metrics.STOPS_P)  # fmt: skip
    for attack in _threshold_attacks(config):
        said, sees = (APART, _sees_difference) if references > 1 else (LEVEL, _sees_level)
        told = partial(sees, paired)
        yield Instrument(f"mia.{attack.name}.auc", partial(_scores, attack), told, said, told)


def _threshold_attacks(config: AuditConfig) -> Iterator[Attack]:
    """Yield the attacks asked for whose score of an example depends on nothing but the model's output for it."""
    asked = config.mia.attacks if config.mia is not None else ()
    names = dict.fromkeys(name for one in asked for name in catalogue.ATTACK_GROUPS.get(one, (one,)))
    for name in names:
        if name in catalogue.ATTACK_GROUPS["threshold"]:
            yield catalogue.load("attack", catalogue.ATTACKS, name)


# ----- what they read


def _right(signals: Signals) -> Floats:
    return metrics.correct(signals.logits, signals.labels)


def _log_odds(signals: Signals) -> Floats:
    return log_odds(signals.logits, signals.labels)


def _scores(attack: Attack, signals: Signals) -> Floats:
    none = np.zeros((len(signals.labels), 0), dtype=np.float32)
    return attack.score(Evidence(signals.logits[:, None], signals.labels, none))


# ----- when they say "different"


def _sees_accuracy(plant: Plant) -> bool:
    difference = difference_of_means(plant.target.forget, [one.forget for one in plant.references], "fraction")
    return difference is not None and difference.seen


def _attacked(paired: NDArray[np.bool_], readings: Readings) -> Scores:
    return Scores(readings.forget[paired], readings.unseen)


def _sees_difference(paired: NDArray[np.bool_], plant: Plant) -> bool:
    found = auc_comparison(_attacked(paired, plant.target), [_attacked(paired, one) for one in plant.references])
    return found is not None and found.seen


def _sees_level(paired: NDArray[np.bool_], plant: Plant) -> bool:
    ends = metrics.auc_interval(*_attacked(paired, plant.target))
    return ends is not None and not ends.low <= INDISTINGUISHABLE <= ends.high


class _TwoSamples:
    """The p of a plant, kept: the same plants are asked for at two levels, and a test is what takes the time."""

    def __init__(self, paired: NDArray[np.bool_], swaps: metrics.Swaps) -> None:
        self.paired, self.swaps = paired, swaps
        self.found: dict[str, float] = {}

    def __call__(self, plant: Plant) -> float:
        """Return p, and 1 where there is none."""
        sides = np.stack([np.concatenate(_attacked(self.paired, one)) for one in (plant.target, *plant.references)])
        key = sha256_of_bytes(sides.tobytes())
        if key not in self.found:
            test = metrics.two_sample_test(sides[0], sides[1:], self.swaps)
            self.found[key] = 1.0 if isinstance(test, str) else test.p
        return self.found[key]


def read(instrument: Instrument, forget: Signals, unseen: Signals) -> Readings:
    """Return what an instrument reads of a model on the forget set and on its unseen twin."""
    return Readings(instrument.reads(forget), instrument.reads(unseen))
