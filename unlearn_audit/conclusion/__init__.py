"""What an audit's numbers allow to be said in plain words, and what they do not."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from unlearn_audit.conclusion.comparing import (
    Reading,
    Told,
    compared_sentence,
    powerless,
    readings_of,
    told_of,
)
from unlearn_audit.conclusion.generated import generated_sentences
from unlearn_audit.conclusion.levels import change_sentence, level_readings, level_sentence, one_reference_sentence
from unlearn_audit.conclusion.plants import power_sentences
from unlearn_audit.conclusion.relearning import relearning_sentence
from unlearn_audit.conclusion.resurgence import resurgence_sentence
from unlearn_audit.conclusion.traces import trace_sentence
from unlearn_audit.conclusion.words import listed
from unlearn_audit.report import Measurement

__all__ = ["Compared", "Told", "compared", "conclude"]

MANY = 5  # comparisons, from which on their number is told
NO_RETRAINED = (
    "No retrained model was given: whether anything differs from a model that never saw the data stays open, beyond "
    "what a model and the controls printed here say by themselves. `unlearn-audit audit CONFIG --out DIR --retrain 3` "
    "makes three, trained as the original says it was; `unlearn-audit train --data SPEC --without FORGET --out FILE` "
    "makes one by any recipe."
)
ONE_RETRAINED = (
    "Only one retrained model was given: it takes a second one to tell a difference from the chance of a training run."
)
ONE_RETRAINED_TESTED = (
    "Only one retrained model was given: the two-sample test needs no more, but it takes a second one to tell any "
    "other difference from the chance of a training run."
)
NO_ORIGINAL = (
    "No original model was given: whether these instruments can see any difference on this forget set is not known."
)
EQUALLY_HARD = (
    "What a model says by itself assumes that forget set and unseen twin are equally hard for a model that saw "
    "neither; only retrained models can show that."
)


class Compared(NamedTuple):
    """One model beside the retrained ones: what each instrument says, and the sentence that `conclude` has of it."""

    label: str
    role: str
    told: Told
    sentence: str


def compared(measurements: Sequence[Measurement]) -> tuple[Compared, ...]:
    """Return what the comparisons with retrained models say of each subject, then of references that differ.

    Args:
        measurements: of one report.

    Returns:
        Models of which they say anything, as `conclude` puts into sentences.
    """
    asked = _Asked.of(measurements)
    found = []
    for label, role, useless in asked.judged():
        only_seen = label in asked.references
        said = compared_sentence(label, role, asked.readings[label], useless, only_seen=only_seen)
        told = told_of(asked.readings[label], useless)
        if said is not None:
            found.append(Compared(label, role, Told(told.differing, {}, {}, []) if only_seen else told, said))
    return tuple(found)


class _Asked(NamedTuple):
    """Whom a report is about: subjects and what they are compared with, by role, and the readings of each."""

    subjects: dict[str, str]
    references: dict[str, str]
    readings: dict[str, tuple[Reading, ...]]
    useless: tuple[str, ...]  # instruments that do not even see the original

    @classmethod
    def of(cls, measurements: Sequence[Measurement]) -> "_Asked":
        by_role = dict.fromkeys((m.subject, m.role) for m in measurements)
        subjects = {label: role for label, role in by_role if role not in ("control", "retrained")}
        references = {label: role for label, role in by_role if role in ("control", "retrained")}
        readings = {label: readings_of(measurements, label) for label, _ in by_role}
        originals = [label for label, role in subjects.items() if role == "original"]
        useless = powerless([reading for label in originals for reading in readings[label]])
        return cls(subjects, references, readings, useless)

    def judged(self) -> Iterator[tuple[str, str, Sequence[str]]]:
        """Yield label, role and the instruments that say nothing of that model."""
        for label, role in self.subjects.items():
            yield label, role, () if role == "original" else self.useless
        for label, role in self.references.items():
            yield label, role, ()


def conclude(measurements: Sequence[Measurement], *, doubted: Sequence[str] = ()) -> tuple[str, ...]:
    """Return plain sentences: what was and was not told apart, for each original and each other subject.

    Every comparison with retrained models that sees a difference is named. One that sees none says how large a
    difference it could have seen, and one that could have seen only large ones is called blind; "no difference seen" is
    weaker than "the same". Where not even the original is told apart by an instrument in any of its forms, the
    instrument has no power here, and says so; plants of the original say how small a leak each could have shown.
    Without two retrained models, what can be read from a model by itself, or against a single retrained one, is said
    with what it assumes.

    Args:
        measurements: of one report.
        doubted: labels of retrained models that are in doubt.

    Returns:
        Sentences, the most important first; empty when nothing was comparable.
    """
    asked = _Asked.of(measurements)
    comparable = [reading for label in asked.subjects for reading in asked.readings[label]]
    sentences = _rests_on(doubted) if comparable else []
    sentences += _of_subjects(measurements, asked)
    for label, role in asked.references.items():
        told = compared_sentence(label, role, asked.readings[label], (), only_seen=True)
        back = resurgence_sentence(measurements, label, role, only_seen=True)
        sentences += [each for each in (told, back) if each]
    sentences += [_no_power(asked.useless)] if asked.useless else []
    sentences += power_sentences(measurements)
    sentences += _many([
        reading for label, role in asked.subjects.items() if role != "original" for reading in asked.readings[label]
    ])  # fmt: skip
    has_original = "original" in asked.subjects.values()
    if comparable and not has_original and not all(reading.seen for reading in comparable):
        sentences.append(NO_ORIGINAL)
    return (*sentences, *_too_few_references(measurements, asked.subjects, comparable))


def _rests_on(doubted: Sequence[str]) -> list[str]:
    """Say that retrained models are in doubt, before anything is said of differences to them."""
    if not doubted:
        return []
    which, are = listed(doubted), "is" if len(doubted) == 1 else "are"
    return [
        f"{which} {are} in doubt as retrained (see the limitations): what differs from the retrained models, and what "
        "does not, says nothing that could be relied on."
    ]


def _of_subjects(measurements: Sequence[Measurement], asked: _Asked) -> Iterator[str]:
    """Yield what is said of each subject: against the retrained models, against a single one, and by itself."""
    alone = False
    for label, role in asked.subjects.items():
        levels = level_readings(measurements, label)
        alone = alone or bool(levels)
        for told in (
            compared_sentence(label, role, asked.readings[label], () if role == "original" else asked.useless),
            trace_sentence(measurements, label, role),
            relearning_sentence(measurements, label, role),
            one_reference_sentence(measurements, label, role),
            level_sentence(label, role, levels),
            change_sentence(measurements, label, role),
            resurgence_sentence(measurements, label, role),
        ):
            if told:
                yield told
        yield from generated_sentences(measurements, label, role)
    if alone:
        yield EQUALLY_HARD


def _no_power(instruments: Sequence[str]) -> str:
    it = "it" if len(instruments) == 1 else "they"
    return (
        f"With {listed(instruments)} no difference is seen even between the original and the retrained models, in any "
        f"form: on this forget set {it} cannot show whether the data was ever used, so {it} cannot show that it is "
        "gone."
    )


def _many(made: Sequence[Reading]) -> list[str]:
    """Say how many comparisons there were, since some differ by chance alone."""
    gaps = {(one.measurement.subject, one.instrument) for one in made if one.measurement.name.startswith("gap.")}
    made = [
        one
        for one in made
        if not (one.measurement.name.startswith("accuracy.") and (one.measurement.subject, one.instrument) in gaps)
    ]  # a gap is the same comparison as the accuracy's
    if len(made) <= MANY:
        return []
    seen = sum(reading.seen for reading in made)
    return [f"{len(made)} comparisons, each at 95 %: about one in twenty differs by chance alone; {seen} differ here."]


def _too_few_references(
    measurements: Sequence[Measurement], subjects: Collection[str], comparable: Sequence[Reading]
) -> list[str]:
    """Say that retrained models are missing, where nothing could be compared."""
    retrained = len({m.subject for m in measurements if m.role == "retrained"})  # their own values may be undefined
    held_against = [m.reference for m in measurements if m.reference and m.role != "retrained"]
    most = max((found.n for found in held_against if found.role == "retrained"), default=retrained)
    if any(one.comparison for one in comparable) or not subjects or most >= 2:
        return []
    if comparable:
        return [ONE_RETRAINED_TESTED]
    return [ONE_RETRAINED if most else NO_RETRAINED]
