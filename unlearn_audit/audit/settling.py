"""When has a fleet of shadow models grown enough? Looks at a verdict as it grows, with the repetition paid for.

The question is U-LiRA's: does its AUC on an unlearned model differ from that on retrained models under the same shadow
models? It is asked with 4, 8, 16, 32, … of them, always the first ones of the fleet, until the interval of the
difference leaves zero out or lies within a margin. Looking until something is seen would find a difference sooner or
later, so look k may err with alpha / (k·(k + 1)): these shares add up to alpha however often one looks, so that a fleet
may be grown further afterwards, and by the union bound it does not matter how the looks depend on each other. How they
do differs: the examples, the target and the retrained models stay the same, so that with a trace to be seen successive
differences correlate at .95, and without one, where each fleet makes another direction out of noise, at .5 and less.
Rules for data that accrue independently (Pocock 1977, O'Brien & Fleming 1979) fit neither; spending a share of alpha at
each look is Lan and DeMets' idea (1983). Half of alpha goes to the first look: later ones are hardly more precise.

A difference is told at level 1 - share; that it lies within the margin by two one-sided tests, each at the share
(Schuirmann 1987): an interval of level 1 - 2·share. Alpha is .03 for errors of at most 5 %: the interval of a
difference is made for 95 %, and with few retrained models one of a higher level is wrong up to twice as often as it
says. Simulated rates stand in the guide; `tests/benchmarks/settling_errors.py` makes them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unlearn_audit import metrics
from unlearn_audit.attacks.leave_pair_out import only
from unlearn_audit.attacks.ulira import ulira
from unlearn_audit.audit.context import AuditContext, doubts_of, open_context
from unlearn_audit.audit.mia.inputs import AttackInputs, attack_inputs
from unlearn_audit.audit.mia.numbers import Scores, auc_difference, why_no_value
from unlearn_audit.audit.reference_checks import examine_subjects
from unlearn_audit.config import Resolved
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.progress import Progress, silent
from unlearn_audit.shadows import Treatment

ALPHA = 0.03  # spent over all looks that there will ever be, on either verdict
FEWEST = 4  # shadow models: with fewer U-LiRA has no empirical Bayes
FEWEST_RETRAINED = 3  # with two their spread is hardly known, and intervals of such levels are too narrow
Verdict = Literal["differs", "within the margin", "open"]


def look_sizes(most: int) -> tuple[int, ...]:
    """Return after how many shadow models to look: 4, 8, 16, …, twice as many each time.

    >>> look_sizes(40)
    (4, 8, 16, 32)
    """
    sizes = [FEWEST]
    while sizes[-1] * 2 <= most:
        sizes.append(sizes[-1] * 2)
    return tuple(size for size in sizes if size <= most)


def share_of(look: int) -> float:
    """Return what of alpha is spent at a look, counted from 1.

    >>> round(sum(share_of(look) for look in range(1, 100_000)), 4)
    0.03
    """
    return ALPHA / (look * (look + 1))


class Look(NamedTuple):
    """What was seen with so many shadow models.

    Attributes:
        number: of the look, from 1.
        models: how many shadow models.
        auc: U-LiRA's on the unlearned model.
        retrained: its mean on the retrained models under the same shadow models.
        spread: their standard deviation.
        difference: of the AUCs, with its interval of level 1 - share: where it leaves out zero, the models differ.
        narrow: the same with an interval of level 1 - 2·share, which may lie within a margin.
    """

    number: int
    models: int
    auc: float
    retrained: float
    spread: float
    difference: metrics.Difference
    narrow: metrics.Difference

    def verdict(self, margin: float) -> Verdict:
        """Return what the interval says."""
        if self.difference.seen:
            return "differs"
        inside = -margin < self.narrow.low and self.narrow.high < margin
        return "within the margin" if inside else "open"

    @property
    def told(self) -> str:
        """The numbers in a line."""
        found = self.difference
        return (
            f"{self.models} shadow models: AUC {self.auc:.3f}, retrained {self.retrained:.3f} ± {self.spread:.3f}, "
            f"difference {found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}] at {1 - share_of(self.number):.2%}"
        )

    @property
    def as_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {
            "look": self.number,
            "shadow_models": self.models,
            "auc": self.auc,
            "retrained": self.retrained,
            "spread": self.spread,
            "difference": self.difference.value,
            "low": self.difference.low,
            "high": self.difference.high,
            "level": 1 - share_of(self.number),
            "narrow_low": self.narrow.low,
            "narrow_high": self.narrow.high,
        }


def look_at(number: int, models: int, ours: Scores, others: Sequence[Scores]) -> Look:
    """Return what is seen at a look.

    Args:
        number: of the look, from 1.
        models: how many shadow models there were.
        ours: scores of the unlearned model.
        others: of the retrained models, under the same shadow models; two or more.

    Raises:
        MeasurementError: the scores mean nothing, or there are too few examples or retrained models.
    """
    reason = next((why for why in map(why_no_value, (ours, *others)) if why), None)
    share = share_of(number)
    difference = auc_difference(ours, others, level=1 - share)
    narrow = auc_difference(ours, others, level=1 - 2 * share)
    value, levels = metrics.auc(*ours), [metrics.auc(*other) for other in others]
    known = [level for level in levels if level is not None]
    if reason or difference is None or narrow is None or value is None:
        raise MeasurementError(f"ulira with {models} shadow models: {reason or 'two pairs of examples are needed'}")
    mean, spread = metrics.mean_and_spread(known)
    return Look(number, models, value, mean, spread or 0.0, difference, narrow)


class Settling:
    """One unlearned model, the retrained ones that it is compared with, and the fleet that they are asked under.

    Args:
        request: the unlearned model, at least three retrained ones and the forget set.
        progress: callback, called after each checkpoint.

    Attributes:
        context: the models and the sets.
        said: what is in doubt about the unlearned model, and what could not be checked.

    Raises:
        UsageError: one of them is missing.
        MeasurementError: a retrained model is in doubt.
    """

    def __init__(self, request: Resolved, progress: Progress = silent) -> None:
        if not request.config.checkpoint:
            raise UsageError(
                "--until-settled needs the unlearned model, three retrained ones or more, and the forget set: "
                "--unlearned FILE --retrained FILE --retrained FILE --retrained FILE --forget SPEC"
            )
        self.context: AuditContext = open_context(request.config, request.origins, progress)
        unlearned, retrained = self.context.with_role("unlearned"), self.context.with_role("retrained")
        if len(unlearned) != 1:
            raise UsageError(
                f"--until-settled is about one unlearned model, and {len(unlearned)} are given: name it with "
                "--unlearned FILE"
            )
        if len(retrained) < FEWEST_RETRAINED:
            raise UsageError(
                f"--until-settled needs {FEWEST_RETRAINED} retrained models or more, and {len(retrained)} are given: "
                "they say where a model lies that never saw the data, and how far one lies from another; name each "
                "with --retrained FILE, or make one with `unlearn-audit train --data SPEC --without FORGET --out FILE`"
            )
        self.target, self.retrained = unlearned[0], retrained
        notes = [*self.context.notes, *examine_subjects(self.context)]
        doubts = doubts_of(notes)
        for one in retrained:
            if one.label in doubts:
                raise MeasurementError(f"{doubts[one.label][0]}; leave {one.label} out, or retrain it")
        self.said = tuple(dict.fromkeys(note.text for note in notes))

    def look(self, folder: Path, number: int, models: int) -> Look:
        """Return what is seen with the first models of a fleet.

        Args:
            folder: of the fleet.
            number: of the look, from 1.
            models: how many of its models are used; they have to be finished.

        Raises:
            DataError: the fleet was made for other examples.
            MeasurementError: too few models are finished, or there is no score.
        """
        inputs, _ = attack_inputs(self.context, str(folder))
        treatment = inputs.treatment_of(self.target)
        if treatment is None:
            raise UsageError(f"no shadow model in {folder} was unlearned as {self.target.label} was")
        if inputs.count(treatment) < models:
            raise MeasurementError(f"{models} unlearned shadow models are needed, {folder} has fewer")
        ours, *others = (
            self._scores(inputs, one, treatment=treatment, models=models) for one in (self.target, *self.retrained)
        )
        return look_at(number, models, ours, others)

    def _scores(self, inputs: AttackInputs, candidate: Candidate, *, treatment: Treatment, models: int) -> Scores:
        evidence = inputs.evidence(candidate, ulira, treatment)
        found = ulira.score(replace(evidence, unlearned=only(inputs.shadows(treatment), range(models))))
        half = len(inputs.pool.forget)
        return Scores(found[:half], found[half:])

    def conclusion(self, look: Look, margin: float) -> str:
        """Return what the last look says, in a sentence or two.

        Args:
            look: the last one.
            margin: of the AUC.
        """
        verdict, label = look.verdict(margin), self.target.label
        if verdict == "differs":
            return f"settled: {label} differs from the retrained models under ulira ({look.told})"
        if verdict == "within the margin":
            return (
                f"settled: {label} differs from the retrained models under ulira by less than {margin:g}, if at all "
                f"({look.told}; [{look.narrow.low:+.3f}, {look.narrow.high:+.3f}] at "
                f"{1 - 2 * share_of(look.number):.2%})"
            )
        pairs = len(self.context.splits.unseen.forget)
        return (
            f"not settled: whether {label} differs from the retrained models under ulira by {margin:g} or not at all "
            f"stays open ({look.told}). Of the chance that is left most is in the {pairs:,} pairs of examples and the "
            f"{len(self.retrained)} retrained models: a larger forget set or more of these narrow it, more shadow "
            "models hardly do"
        )
