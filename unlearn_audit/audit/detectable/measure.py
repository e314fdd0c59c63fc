"""What this audit could have seen: for each instrument the smallest planted leak that it tells, at no training cost.

Each retrained model in turn carries the leak and is compared with the other ones, so that a subject, which is compared
with one more, is seen no later than the plants are. A plant is the original's kind of memory: what a method leaves that
moves a model away from original and retrained models alike is of another kind, for which a fleet of shadow models that
were unlearned in the same way is the only measure.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from unlearn_audit import metrics
from unlearn_audit.attacks import Signals
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.detectable.instruments import Instrument, instruments_of
from unlearn_audit.audit.detectable.planting import (
    FINER,
    POWER,
    SIZES,
    Plant,
    Reach,
    Readings,
    between,
    mixed,
    orders,
    planted,
    reach,
    whole,
)
from unlearn_audit.audit.measurement import measurement
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.config import AuditConfig, DetectableSettings
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import CouldSee, Measurement
from unlearn_audit.streams import generator

EACH = 0.001  # seconds that an instrument without swaps takes for a plant, a few hundred examples
# What the shipped policies stop a model by; only these make `detectable.*`, the others have a figure of their own.
BLOCKING = ("gap.forget", "twosample.p", "mia.loss.auc")
Sees = Callable[[Plant], bool]
NO_ORIGINAL = "no original was given, of which something could be planted"
NO_RETRAINED = "no retrained model was given that something could be planted in"
NO_INSTRUMENT = (
    "nothing is measured that a plant could be shown to: [gaps] needs three retrained models, [twosample] two and "
    f"{metrics.FEWEST_PAIRS} pairs, [mia] the attack loss"
)


class Found(NamedTuple):
    """What one instrument could have seen: of shares, and of doses or why there are none.

    Attributes:
        stopping: the same where a plant has to be told as clearly as it takes to stop a model; None where no shipped
            policy stops one by this instrument.
    """

    instrument: Instrument
    share: Reach
    dose: Reach | str
    stopping: "Found | None" = None

    def could_see(self, runs: int) -> CouldSee:
        """Return it as a report has it."""
        dose = self.dose if isinstance(self.dose, Reach) else None
        reasons = dict.fromkeys((self.share.reason, dose.reason if dose else str(self.dose)))
        return CouldSee(
            share=self.share.smallest,
            dose=dose.smallest if dose else None,
            power=POWER,
            runs=runs,
            seen_when=self.instrument.seen_when,
            reason="; ".join(filter(None, reasons)) or None,
        )


def on_by_default(config: AuditConfig, roles: Sequence[str]) -> bool:
    """Return whether plants are made although no section asks for them: where there is all that they need.

    Args:
        config: what is measured.
        roles: of the models.
    """
    sees = any(section is not None for section in (config.gaps, config.mia, config.twosample))
    return config.detectable is None and sees and "original" in roles and roles.count("retrained") > 1


def seconds_at_most(config: AuditConfig, pairs: int, bases: int) -> float:
    """Return how long plants take where nothing is seen before the original itself, from one timed two-sample test.

    Args:
        config: what is measured.
        pairs: forget examples that have a partner in the unseen twin.
        bases: retrained models.
    """
    settings = config.detectable or DetectableSettings()
    plants = bases * (len(SIZES) + 2 * FINER) * (settings.draws + 1)  # finer ones for what is told, and what stops
    if pairs < metrics.FEWEST_PAIRS or config.twosample is None:
        return plants * len(config.mia.attacks if config.mia else ()) * EACH
    draws = generator("planted", 0, "price")  # of made-up numbers: only how long it takes is of interest
    made_up, swaps = (
        draws.standard_normal((3, 2 * pairs)),
        metrics.paired_swaps(pairs, swaps=settings.swaps, generator=draws),
    )
    began = time.perf_counter()
    metrics.two_sample_test(made_up[0], made_up[1:], swaps)
    return plants * (time.perf_counter() - began + EACH)


def measure_detectable(context: AuditContext, settings: DetectableSettings, _search: SearchState) -> SectionResult:
    """Return `detectable.*` of every subject, and what stands beside the numbers of the instruments."""
    originals, bases = context.with_role("original"), context.with_role("retrained")
    reason = NO_ORIGINAL if not originals else NO_RETRAINED if not bases else None
    found = [] if reason else _found(context, originals[0], bases, settings)
    runs = len(bases) * settings.draws
    could_see = {one.instrument.metric: one.could_see(runs) for one in found}
    deciding = {one.instrument.metric: one.stopping.could_see(runs) for one in found if one.stopping}
    reason = reason or (None if deciding else NO_INSTRUMENT)
    told = [line for one in context.subjects for line in _measurements(context, one, deciding, reason, runs)]
    return SectionResult(tuple(told), could_see=could_see)


def _found(
    context: AuditContext, original: Candidate, bases: Sequence[Candidate], settings: DetectableSettings
) -> list[Found]:
    """Return what every instrument could have seen."""
    paired, seed = context.paired, context.config.seed
    swaps = None
    if paired.sum() >= metrics.FEWEST_PAIRS:
        draws = generator("planted", seed, "swaps")
        swaps = metrics.paired_swaps(int(paired.sum()), swaps=settings.swaps, generator=draws)
    order = orders(len(paired), settings.draws, generator("planted", seed))
    instruments = tuple(instruments_of(context.config, paired, len(bases) - 1, swaps))
    found = []
    for index, instrument in enumerate(instruments):
        context.progress("planting", index, len(instruments), instrument.metric)
        field = _Field(context, instrument, original, bases, order)
        told = field.found(instrument.sees)
        stops = field.found(instrument.stops) if instrument.metric in BLOCKING else None
        found.append(told._replace(stopping=stops))
    context.progress("planting", len(instruments), max(len(instruments), 1))
    return found


class _Field:
    """Where one instrument's plants grow: what it reads of the original and of every retrained model.

    Args:
        context: has the outputs.
        instrument: that is to see the plants.
        original: whose answers are planted.
        bases: in which they are planted, one after the other.
        order: in which forget examples are planted, [draws, m].
    """

    def __init__(self, context: AuditContext, instrument: Instrument, original: Candidate,
                 bases: Sequence[Candidate], order: np.ndarray) -> None:  # fmt: skip
        self.instrument, self.order = instrument, order
        self.outputs = [context.signals(one, "forget") for one in (original, *bases)]
        twins = [context.signals(one, "unseen") for one in (original, *bases)]
        read = [
            Readings(instrument.reads(forget), instrument.reads(twin))
            for forget, twin in zip(self.outputs, twins, strict=True)
        ]
        self.original, self.bases = read[0], read[1:]

    def found(self, sees: Sees) -> Found:
        """Return from which share and from which dose on plants are told.

        Args:
            sees: whether a plant is.
        """
        return Found(self.instrument, self._reach_of_shares(sees), self._reach_of_doses(sees))

    def _reach_of_shares(self, sees: Sees) -> Reach:
        of = partial(whole, self.order.shape[1])
        return reach(of(SIZES), partial(self._share_seen, sees), lambda low, high: [
            size for size in of(between(low, high)) if low < size < high
        ])  # fmt: skip

    def _reach_of_doses(self, sees: Sees) -> Reach | str:
        """Return from which dose on it sees what is kept of every example, or why none could be given."""
        if len({one.logits.shape[1:] for one in self.outputs}) > 1:
            return "original and retrained models differ in how many outputs they have"
        return reach(SIZES, partial(self._dose_seen, sees), between)

    def _share_seen(self, sees: Sees, share: float) -> float:
        count = round(share * self.order.shape[1])
        draws = self.order if 0 < count < self.order.shape[1] else self.order[:1]  # where none differs from another
        return self._seen(
            sees,
            (
                (index, planted(base, self.original, rows[:count]))
                for index, base in enumerate(self.bases)
                for rows in draws
            ),
        )

    def _dose_seen(self, sees: Sees, dose: float) -> float:
        return self._seen(sees, ((index, self._dosed(index, dose)) for index in range(len(self.bases))))

    def _dosed(self, index: int, dose: float) -> Readings:
        original, base = self.outputs[0], self.outputs[index + 1]
        logits = mixed(base.logits, original.logits, dose).astype(np.float32)
        return Readings(self.instrument.reads(Signals(logits, base.labels)), self.bases[index].unseen)

    def _seen(self, sees: Sees, plants: Iterator[tuple[int, Readings]]) -> float:
        """Return which part of the plants is seen; each comes with the number of the base that carries it."""
        found = [
            sees(Plant(target, [other for place, other in enumerate(self.bases) if place != index]))
            for index, target in plants
        ]
        return sum(found) / len(found)


# ----- what the report says


def _measurements(
    context: AuditContext, candidate: Candidate, deciding: Mapping[str, CouldSee], reason: str | None, runs: int
) -> Iterator[Measurement]:
    """Yield the smallest share and the smallest dose that an instrument by which policies stop models would tell."""
    n = len(context.splits.measured)
    shares = {name: one.share for name, one in deciding.items()}
    doses = {name: one.dose for name, one in deciding.items()}
    planted = f"the original's answers planted in {len(context.with_role('retrained'))} retrained models, {runs} plants"
    for name, values, what in (
        ("detectable.share", shares, f"{planted} of each share of the forget set"),
        ("detectable.dose", doses, f"{planted.rpartition(',')[0]}, one plant of each dose on every forget example"),
    ):
        smallest = min((value for value in values.values() if value is not None), default=None)
        none = "; ".join(f"{metric}: {one.reason}" for metric, one in deciding.items())
        yield measurement(
            name,
            candidate,
            smallest,
            reason or none,
            n=n,
            method=f"{what}; the smallest of which {POWER:.0%} are told from the retrained models by one instrument of "
            f"{', '.join(deciding) or 'none'} (at 5 %; twosample.p only below {metrics.STOPS_P}, where the default "
            "policy stops); a rule with a margin or limits may take more to stop a model; relearning has no such "
            "figure, since its curves do not mix",
            details={"by_instrument": values, "power": POWER},
        )
