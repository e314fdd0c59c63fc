"""What can be read without retrained models, or with a single one, where no difference has an interval of its own."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unlearn_audit.catalogue import info_or_name
from unlearn_audit.conclusion.comparing import difference_to_retrained
from unlearn_audit.conclusion.words import could_see, listed, named, number
from unlearn_audit.metrics import Bounds, ScaledDifference, difference_of_values
from unlearn_audit.report import Measurement

NEVER_SEEN_RATIO, TOLD_APART_BY_CHANCE = 1.0, 0.5
# Its shadow models were unlearned: a model that was not, and truly never saw the data, is like neither side, and lay at
# .545 ± .012 on clean random examples. Only retrained models under the same shadow models say where it should lie.
NEVER_AGAINST_CHANCE = ("mia.ulira.auc",)


class LevelReading(NamedTuple):
    """A measurement held against the level of a model that saw neither the forget set nor its unseen twin."""

    comparison: ScaledDifference
    text: str


class _Found:
    """The measurements of a report, by name and subject."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self.all = measurements
        self.by_key = {(measurement.name, measurement.subject): measurement for measurement in measurements}

    def known(self, name: str, label: str) -> tuple[float, Bounds, Measurement] | None:
        """Return a value with its interval; None where it has none."""
        found = self.by_key.get((name, label))
        if found is None or found.interval is None or not isinstance(found.value, int | float):
            return None
        return float(found.value), Bounds(found.interval.low, found.interval.high), found

    def of_role(self, name: str, role: str) -> list[Measurement]:
        return [found for found in self.all if found.name == name and found.role == role]


def level_readings(measurements: Sequence[Measurement], label: str) -> tuple[LevelReading, ...]:
    """Return what one subject's numbers say by themselves, where they have no comparison with retrained models.

    RCD / unseen is held against 1 (and the controls' values), the forget set's accuracy against its unseen twin's, an
    attack's AUC against .5 (but never ulira's). All three assume that the two sets are equally hard for a model that
    saw neither.
    """
    found = _Found(measurements)
    return (*_ratio(found, label), *_accuracies(found, label), *_attacks(found, label))


def _uncompared(found: _Found, name: str, label: str) -> tuple[float, Bounds, Measurement] | None:
    known = found.known(name, label)
    return None if known is None or difference_to_retrained(known[2]) is not None else known


def _is_a_verdict(measurement: Measurement) -> bool:
    """Return whether a number speaks of the question that is asked here."""
    return "legacy" not in measurement.flags and "another question" not in measurement.flags


def _ratio(found: _Found, label: str) -> Iterator[LevelReading]:
    known = _uncompared(found, "rcd.ratio_to_unseen", label)
    if known is None or not (known[0] > 0 and known[1].low > 0 and _is_a_verdict(known[2])):
        return
    value, ends, measurement = known
    controls = {
        one.subject: float(one.value)
        for one in found.of_role(measurement.name, "control")
        if isinstance(one.value, int | float) and one.value > 0
    }
    levels = [NEVER_SEEN_RATIO, *controls.values()]
    nearest = min(max(value, min(levels)), max(levels))  # between two levels nothing stands out
    middle, low, high = (math.log(end / nearest) for end in (value, *ends))
    said = "".join(f", {name} {level:.3g}" for name, level in controls.items())
    yield LevelReading(
        ScaledDifference("log ratio", middle, low, high),
        f"relearning ({_with_ends(measurement, value, ends)}, 1 where a model saw neither{said})",
    )


def _accuracies(found: _Found, label: str) -> Iterator[LevelReading]:
    forget, unseen = _uncompared(found, "accuracy.forget", label), found.known("accuracy.unseen", label)
    if forget is None or unseen is None:
        return
    ends = difference_of_values(forget[0], forget[1], unseen[0], unseen[1])
    difference = forget[0] - unseen[0]
    yield LevelReading(
        ScaledDifference("fraction", difference, ends.low, ends.high),
        f"forget accuracy (accuracy.forget {forget[0]:.3f} over {forget[2].n:,} examples, accuracy.unseen "
        f"{unseen[0]:.3f} over {unseen[2].n:,}: {difference:+.3f} [{ends.low:+.3f}, {ends.high:+.3f}])",
    )


def _attacks(found: _Found, label: str) -> Iterator[LevelReading]:
    for measurement in found.all:
        name = measurement.name
        if measurement.subject != label or not (name.startswith("mia.") and name.endswith(".auc")):
            continue
        if name in NEVER_AGAINST_CHANCE:
            continue
        known = _uncompared(found, name, label)
        if known is None or not _is_a_verdict(measurement):
            continue
        value, ends, _ = known
        yield LevelReading(
            ScaledDifference("AUC", *(end - TOLD_APART_BY_CHANCE for end in (value, ends.low, ends.high))),
            f"{info_or_name(name).instrument} ({_with_ends(measurement, value, ends)}, 0.5 means indistinguishable)",
        )


def _with_ends(measurement: Measurement, value: float, ends: Bounds) -> str:
    low, high = (number(measurement, end) for end in ends)
    return f"{measurement.name} {number(measurement, value)} [{low}, {high}]"


def level_sentence(label: str, role: str, readings: Sequence[LevelReading]) -> str | None:
    """Return what stands out without a comparison, what does not, and what could not have; None without readings."""
    out = [reading.text for reading in readings if reading.comparison.seen]
    silent = [reading for reading in readings if not reading.comparison.seen]
    calm = [_told(reading) for reading in silent if not reading.comparison.blind]
    blind = [_told(reading) for reading in silent if reading.comparison.blind]
    parts = [f"the forget set stands out from its unseen twin on {listed(out)}"] if out else []
    if calm:
        parts.append(f"{'it does' if out else 'the forget set does'} not stand out on {listed(calm)}")
    parts += [f"could not tell, being blind, on {listed(blind)}"] if blind else []
    return f"{named(label, role)}, by itself: {'; '.join(parts)}." if parts else None


def _told(reading: LevelReading) -> str:
    return f"{reading.text.removesuffix(')')}; could see {could_see(reading.comparison)})"


def change_sentence(measurements: Sequence[Measurement], label: str, role: str) -> str | None:
    """Return how far a model's forget accuracy has moved from the original's; None where that is not known."""
    found = _Found(measurements)
    original = next((one.subject for one in found.of_role("accuracy.forget", "original")), None)
    after = _uncompared(found, "accuracy.forget", label)
    before = found.known("accuracy.forget", original) if original is not None else None
    if role == "original" or after is None or before is None:
        return None
    ends = difference_of_values(after[0], after[1], before[0], before[1])
    return (
        f"{named(label, role)}: forget accuracy went from {before[0]:.1%} ({original}) to {after[0]:.1%} over "
        f"{after[2].n:,} examples ({after[0] - before[0]:+.3f} [{ends.low:+.3f}, {ends.high:+.3f}])."
    )


def one_reference_sentence(measurements: Sequence[Measurement], label: str, role: str) -> str | None:
    """Return where a subject is so far from the only retrained model that examples alone cannot explain it.

    Only differences whose whole interval is larger than what a comparison may be blind to are told: smaller ones may be
    the chance of a training run, of which one model shows nothing.
    """
    found = _Found(measurements)
    plain = [text for one in measurements if one.subject == label for text in _plainly_apart(found, one)]
    if not plain:
        return None
    return (
        f"{named(label, role)}: far from the only retrained model on {listed(plain)}, counting the chance of the "
        "examples; that of a training run is not known from one."
    )


def _plainly_apart(found: _Found, measurement: Measurement) -> Iterator[str]:
    name, label = measurement.name, measurement.subject
    peers = [one.subject for one in found.of_role(name, "retrained") if one.subject != label]
    if len(peers) != 1 or not _is_a_verdict(measurement):
        return
    ours, theirs, scale = _uncompared(found, name, label), found.known(name, peers[0]), info_or_name(name).scale
    if ours is None or theirs is None or not scale:
        return
    sides = [(value, *ends) for value, ends, _ in (ours, theirs)]
    if scale == "log ratio":
        if min(min(side) for side in sides) <= 0:
            return
        sides = [tuple(math.log(end) for end in side) for side in sides]  # type: ignore[misc]
    (value, *ends), (other, *around) = sides
    low, high = difference_of_values(value, Bounds(*ends), other, Bounds(*around))
    if ScaledDifference(scale, value - other, low, high).plain:
        told = number(measurement, theirs[0])
        yield f"{info_or_name(name).instrument} ({_with_ends(measurement, ours[0], ours[1])}, {peers[0]} {told})"
