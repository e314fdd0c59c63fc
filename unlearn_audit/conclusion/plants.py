"""How small a leak the audit could have seen, instrument by instrument, and which of them miss even the original."""

from collections.abc import Iterator, Mapping, Sequence

from unlearn_audit.catalogue import info_or_name
from unlearn_audit.conclusion.words import listed, percent
from unlearn_audit.report import CouldSee, Measurement


def power_sentences(measurements: Sequence[Measurement]) -> Iterator[str]:
    """Yield what planted leaks of every size say of the instruments; nothing where none were planted."""
    planted = _planted(measurements)
    shares = _smallest({name: one.share for name, one in planted.items()})
    doses = _smallest({name: one.dose for name, one in planted.items()})
    if shares:
        first, *rest = shares.items()
        told = [f"{percent(first[1])} of the forget set kept as the original has it ({first[0]})"]
        told += [f"{percent(share)} ({name})" for name, share in rest]
        text = f"This audit could have seen {', '.join(told)}"
        if doses:
            name, dose = next(iter(doses.items()))
            text += f"; {percent(dose)} of the way back to the original on every example ({name})"
        yield f"{text}."
    blind = [name for name in planted if name not in shares and name not in doses]
    if blind:
        yield (
            f"Not even the original's own answers in the place of a retrained model's would have been seen by "
            f"{listed(blind)}: blind on this forget set with these retrained models."
        )
    own = {info_or_name(one.name).instrument: None for one in measurements if _misses_its_own(one)}
    if own:
        yield (
            f"Not even the shadow models' own unlearning is told by {listed(list(own))}: blind to what this kind of "
            "unlearning leaves."
        )


def _misses_its_own(measurement: Measurement) -> bool:
    return measurement.could_see is not None and measurement.could_see.misses_its_own


def _planted(measurements: Sequence[Measurement]) -> Mapping[str, CouldSee]:
    """Return what each instrument could have seen, the best of its forms; plants are the same for all subjects."""
    found: dict[str, CouldSee] = {}
    for measurement in measurements:
        seen, name = measurement.could_see, info_or_name(measurement.name).instrument
        if seen is not None and seen.auc is None and _rank(seen) < _rank(found.get(name)):
            found[name] = seen
    return found


def _rank(seen: CouldSee | None) -> tuple[float, float]:
    """Return how little an instrument sees; more than all of it where it sees nothing, or is not there."""
    return (3.0, 3.0) if seen is None else (seen.share or 2.0, seen.dose or 2.0)


def _smallest(sizes: Mapping[str, float | None]) -> dict[str, float]:
    """Return the sizes that there are, the smallest first."""
    known = {name: size for name, size in sizes.items() if size is not None}
    return dict(sorted(known.items(), key=lambda item: item[1]))
