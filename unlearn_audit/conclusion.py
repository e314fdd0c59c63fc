"""What an audit's numbers allow to be said in plain words, and what they do not."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from unlearn_audit.catalogue import ATTACKS
from unlearn_audit.report import Measurement

__all__ = ["Seen", "conclude"]

INSTRUMENTS = {"rcd.ratio_to_unseen": "relearning"} | {
    f"mia.{attack}.auc": f"the {attack} attack" for attack in ATTACKS
}
MANY = 5  # comparisons, from which on their number is told
UTILITY = {"gap.forget": "forget accuracy", "gap.test": "test accuracy", "gap.retain": "retain accuracy"}


class Seen(NamedTuple):
    """Whether a measurement tells a subject from the retrained models, on an instrument named in words."""

    instrument: str
    measurement: Measurement
    seen: bool


def conclude(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Return plain sentences: what was and was not told apart, for each original and each other subject.

    A subject that is not told apart from retrained models is only reported as such: "no difference seen" is weaker
    than "the same". Where not even the original can be told apart, the instrument has no power here, and says so.

    Args:
        measurements: of one report.

    Returns:
        Sentences, the most important first; empty when nothing was comparable.
    """
    subjects = list(dict.fromkeys((m.subject, m.role) for m in measurements if m.role not in ("control", "retrained")))
    readings = {label: list(_readings(measurements, label)) for label, _ in subjects}
    originals = [label for label, role in subjects if role == "original"]
    blind = _blind([reading for label in originals for reading in readings[label]])
    sentences = [_sentence(label, role, readings[label], blind) for label, role in subjects if readings[label]]
    sentences += [_no_power(instrument) for instrument in blind]
    made = sum(len(readings[label]) for label, role in subjects if role != "original")
    if made > MANY:
        sentences.append(f"{made} comparisons, each at 95 %: about one in twenty differs by chance alone.")
    if sentences and not originals and not all(reading.seen for found in readings.values() for reading in found):
        sentences.append(NO_ORIGINAL)
    retrained = len({m.subject for m in measurements if m.role == "retrained"})  # their own values may be undefined
    most = max((m.reference.n for m in measurements if m.reference and m.role != "retrained"), default=retrained)
    if not sentences and subjects and most < 2:
        sentences.append(ONE_RETRAINED if most else NO_RETRAINED)
    return tuple(sentences)


NO_RETRAINED = (
    "No retrained model was given: whether anything differs from a model that never saw the data stays open, and "
    "numbers can only be read against the controls printed here. `unlearn-audit audit CONFIG --out DIR --retrain 3` "
    "makes three, trained as the original says it was; `unlearn-audit train --without FORGET` makes one by any recipe."
)
ONE_RETRAINED = (
    "Only one retrained model was given: it takes a second one to tell a difference from the chance of a training run."
)
NO_ORIGINAL = (
    "No original model was given: whether these instruments can see any difference on this forget set is not known."
)


def _readings(measurements: Sequence[Measurement], label: str) -> Iterator[Seen]:
    """Yield what each instrument says of one subject, where it could compare."""
    for measurement in measurements:
        if measurement.subject != label:
            continue
        if measurement.name in INSTRUMENTS and (difference := _difference(measurement)):
            if "legacy" in measurement.details:
                continue
            if "wrong_hypothesis" in measurement.details and (not difference["seen"] or measurement.role == "original"):
                continue  # an attack that asks another question has nothing to say by finding nothing
            yield Seen(INSTRUMENTS[measurement.name], measurement, bool(difference["seen"]))
        elif measurement.name in UTILITY and measurement.details.get("seen") is not None:
            yield Seen(UTILITY[measurement.name], measurement, bool(measurement.details["seen"]))


def _difference(measurement: Measurement) -> dict[str, Any] | None:
    found = measurement.details.get("difference")
    return found if isinstance(found, dict) else None


def _blind(readings: Sequence[Seen]) -> list[str]:
    """Return the instruments that cannot even tell the original, whose readings these are, from the retrained ones."""
    names = dict.fromkeys(reading.instrument for reading in readings if reading.instrument in INSTRUMENTS.values())
    return [name for name in names if not any(reading.seen for reading in readings if reading.instrument == name)]


def _sentence(label: str, role: str, found: Sequence[Seen], blind: Sequence[str]) -> str:
    """Say what tells one subject from the retrained models and what does not."""
    differing = [_with_numbers(reading) for reading in found if reading.seen]
    equal = [reading.instrument for reading in found if not reading.seen and reading.instrument not in blind]
    powerless = [reading.instrument for reading in found if not reading.seen and reading.instrument in blind]
    parts = []
    if differing:
        parts.append("differs from the retrained models on " + _list(differing))
    if equal:
        parts.append(
            ("no difference seen on " if differing else "no difference seen from the retrained models on ")
            + _list(equal)
        )
    if powerless and not differing and not equal:
        parts.append("no difference seen from the retrained models on " + _list(powerless))
    elif powerless:
        has = "has" if len(powerless) == 1 else "have"
        parts.append(f"no difference seen either on {_list(powerless)}, which {has} no power here")
    name = label if label == role else f"{label} ({role})"
    return f"{name}: " + "; ".join(parts) + "."


def _with_numbers(reading: Seen) -> str:
    measurement = reading.measurement
    if measurement.name in UTILITY:
        return f"{reading.instrument} (gap {float(measurement.value or 0):+.3f})"
    level = f", retrained {measurement.reference.value:.3g}" if measurement.reference else ""
    return f"{reading.instrument} ({float(measurement.value or 0):.3g}{level})"


def _no_power(instrument: str) -> str:
    return (
        f"With {instrument} no difference is seen even between the original and the retrained models: on this forget "
        "set it cannot show whether the data was ever used, so it cannot show that it is gone."
    )


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
