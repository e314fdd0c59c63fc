"""What tells a subject from the retrained models, what does not, and what could not have done so."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from unlearn_audit.catalogue import info_or_name
from unlearn_audit.conclusion.traces import tells_apart, trace_numbers
from unlearn_audit.conclusion.words import could_see, listed, named, with_numbers
from unlearn_audit.metrics import ScaledDifference
from unlearn_audit.report import Measurement

MOST_FORMS = 2  # of one instrument that are told with their numbers, where there are two more


class Reading(NamedTuple):
    """One measurement's comparison with the retrained models.

    Attributes:
        instrument: what it is a form of, in words.
        measurement: which.
        numbers: its value and what it is read against, in words.
        comparison: its difference; None for a p-value, which says by itself whether there is one.
        aside: why it speaks of something else, and only where it sees a difference; else "".
    """

    instrument: str
    measurement: Measurement
    numbers: str
    comparison: ScaledDifference | None
    aside: str = ""

    @property
    def seen(self) -> bool:
        """Whether it tells the subject from the retrained models."""
        return tells_apart(self.measurement) if self.comparison is None else self.comparison.seen

    @property
    def weakness(self) -> float:
        """How large a difference it could miss, in units of one that matters; 0 where that is not known."""
        return 0.0 if self.comparison is None else self.comparison.weakness

    @property
    def blind(self) -> bool:
        """Whether a difference that matters would not have been seen."""
        return "blind" in self.measurement.flags if self.comparison is None else self.comparison.blind

    @property
    def unseen(self) -> str:
        """What it says where it sees no difference."""
        if self.comparison is None:
            return self.numbers
        return f"{self.measurement.name}, could see {could_see(self.comparison)}"


def difference_to_retrained(measurement: Measurement) -> ScaledDifference | None:
    """Return a measurement's difference to the retrained models; None where it has none."""
    found = measurement.comparison
    if found is None or found.to != "retrained":
        return None
    return ScaledDifference(found.scale, found.difference, found.interval.low, found.interval.high)


def readings_of(measurements: Sequence[Measurement], label: str) -> tuple[Reading, ...]:
    """Return every comparison of one subject, in the order of the report.

    Three kinds are left out, whatever they see: legacy attacks, which are never a verdict, attacks on an original that
    ask whether it was unlearned, whose scores have no direction, and resurgence, whose sentence is its own.
    """
    return tuple(_readings(measurements, label))


def _readings(measurements: Sequence[Measurement], label: str) -> Iterator[Reading]:
    for measurement in measurements:
        comparison = difference_to_retrained(measurement) if measurement.subject == label else None
        info = info_or_name(measurement.name)
        p_value = measurement.subject == label and info.p_value
        if measurement.value is None or (comparison is None and not p_value) or info.section == "resurgence":
            continue
        elsewhere = "another question" in measurement.flags
        if "legacy" in measurement.flags or (elsewhere and measurement.role == "original"):
            continue
        aside = "to another question" if elsewhere else ""
        numbers = trace_numbers(measurements, measurement) if p_value else with_numbers(measurement)
        yield Reading(info.instrument, measurement, numbers, comparison, aside)


def powerless(originals: Sequence[Reading]) -> tuple[str, ...]:
    """Return the instruments that do not see even an original in any form: of relearning, traces, probe and attacks.

    Args:
        originals: the readings of all original models.
    """
    forms = _grouped([reading for reading in originals if not reading.aside])
    return tuple(
        instrument
        for instrument, found in forms.items()
        if _is_of_memory(found[0]) and not any(reading.seen for reading in found)
    )


def _is_of_memory(reading: Reading) -> bool:
    """Return whether an instrument is made to see what a model remembers, and not how good it is."""
    name = reading.measurement.name
    return name == "probe.recall_f" or info_or_name(name).section in ("rcd", "twosample", "mia")


def _grouped(readings: Sequence[Reading]) -> dict[str, list[Reading]]:
    found: dict[str, list[Reading]] = {}
    for reading in readings:
        found.setdefault(reading.instrument, []).append(reading)
    return found


class Told(NamedTuple):
    """What the comparisons of one subject say of each instrument, which stands in one of these."""

    differing: dict[str, list[Reading]]  # in the forms in which it sees a difference
    equal: dict[str, Reading]  # sees none; its keenest form
    blind: dict[str, Reading]  # likewise, and would not have seen one that matters
    useless: list[str]  # does not even see the original


def told_of(readings: Sequence[Reading], without_power: Sequence[str]) -> Told:
    """Sort the instruments of one subject by what they say.

    Args:
        readings: of the subject.
        without_power: instruments that do not even see the original.
    """
    told = Told({}, {}, {}, [])
    for instrument, forms in _grouped(readings).items():
        seen = [reading for reading in forms if reading.seen]
        judged = [reading for reading in forms if not reading.aside]
        if seen:
            told.differing[instrument] = seen
        elif not judged:
            continue
        elif instrument in without_power:
            told.useless.append(instrument)
        else:
            best = min(judged, key=lambda reading: (reading.weakness, len(reading.measurement.name)))
            (told.blind if best.blind else told.equal)[instrument] = best
    return told


def compared_sentence(
    label: str, role: str, readings: Sequence[Reading], without_power: Sequence[str], *, only_seen: bool = False
) -> str | None:
    """Return what the comparisons say of one subject; None where they say nothing.

    Args:
        label: of the subject.
        role: of the subject.
        readings: of the subject.
        without_power: instruments that do not even see the original.
        only_seen: leave out what is not seen.
    """
    peers = "the other retrained models" if role == "retrained" else "the retrained models"
    told = told_of(readings, without_power)
    differing = [f"{instrument} ({_forms(seen)})" for instrument, seen in told.differing.items()]
    equal, blind = (
        [f"{instrument} ({best.unseen})" for instrument, best in part.items()] for part in (told.equal, told.blind)
    )
    parts = [f"differs from {peers} on {listed(differing)}"] if differing else []
    if equal and not only_seen:
        parts.append(f"no difference seen {'' if differing else f'from {peers} '}on {listed(equal)}")
    if blind and not only_seen:
        parts.append(f"could not tell, being blind, on {listed(blind)}")
    if told.useless and not only_seen:
        parts.append(f"could not tell, since the original is not seen either, on {listed(told.useless)}")
    return f"{named(label, role)}: {'; '.join(parts)}." if parts else None


def _forms(seen: Sequence[Reading]) -> str:
    """Return the forms in which an instrument sees a difference, each with its numbers."""
    told = [reading.numbers + (f" {reading.aside}" if reading.aside else "") for reading in seen]
    more = len(told) - MOST_FORMS
    return "; ".join(told if more < 2 else [*told[:MOST_FORMS], f"and {more} more forms"])
