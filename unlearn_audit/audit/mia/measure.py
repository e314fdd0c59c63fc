"""Membership inference against every subject: forget examples against their unseen twin, attack by attack."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import catalogue
from unlearn_audit.attacks import Attack, Evidence, svc
from unlearn_audit.audit.context import AuditContext, Split
from unlearn_audit.audit.measurement import measurement
from unlearn_audit.audit.mia.inputs import AttackInputs, attack_inputs
from unlearn_audit.audit.mia.numbers import Scores, mia_numbers, why_no_value, worst
from unlearn_audit.audit.mia.score_cache import KeptScores
from unlearn_audit.audit.mia.thumbnails import thumbnails
from unlearn_audit.audit.mia.user_attack import attack_from_code
from unlearn_audit.audit.reference import reference_of
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.config import MiaSettings, code_is_allowed
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement
from unlearn_audit.shadows import Treatment

Floats = NDArray[np.float64]


def measure_mia(context: AuditContext, settings: MiaSettings, _search: SearchState) -> SectionResult:
    """Return what every attack finds on every subject, read against the retrained models' own values."""
    inputs, said = attack_inputs(context, settings.shadows)
    of_outputs = [one for name in _model_attacks(settings, inputs) for one in _measured(context, name)]
    attacks, left_out = _attacks(context, settings, inputs)
    said += [*left_out, *_other_questions(context, attacks)]
    found: list[Measurement] = []
    arrays: dict[str, NDArray[Any]] = {}
    for index, attack in enumerate(attacks):
        context.progress("membership inference", index, len(attacks), attack.name)
        for measurements, scores in _against_all(context, inputs, attack, settings):
            found += measurements
            arrays |= scores
    said += _of_own_models(context, inputs, attacks)
    context.progress("membership inference", len(attacks), len(attacks))
    return SectionResult((*found, *of_outputs), tuple(said), arrays)


def _model_attacks(settings: MiaSettings, inputs: AttackInputs) -> tuple[str, ...]:
    """Return what was asked for that tests a model's outputs as a whole."""
    found = tuple(name for name in settings.attacks if name in catalogue.MODEL_ATTACKS)
    if found and inputs.of_generators:
        raise UsageError(f"mia {found[0]}: {NO_PROBABILITIES}")
    return found


def _measured(context: AuditContext, name: str) -> Iterator[Measurement]:
    """Return the measurements of such a test on every subject."""
    measure: Callable[[AuditContext], Iterator[Measurement]] = catalogue.load("attack", catalogue.MODEL_ATTACKS, name)
    return measure(context)


def _attacks(context: AuditContext, settings: MiaSettings, inputs: AttackInputs) -> tuple[list[Attack], list[str]]:
    """Return the attacks asked for, each once, and which ones of a group cannot run and why."""
    found: dict[str, Attack] = {}
    left_out: dict[str, list[str]] = {}
    by_example = [name for name in settings.attacks if name not in catalogue.MODEL_ATTACKS]
    for asked in by_example:
        for name in _group(asked, inputs) or (asked,):
            attack = _attack(context, name, settings, of_generators=inputs.of_generators)
            lacks = _lacks(attack, inputs)
            if lacks is None:
                found[attack.name] = attack
            elif asked in catalogue.ATTACK_GROUPS:
                left_out.setdefault(lacks, []).append(attack.name)
            else:
                raise UsageError(f"mia {attack.name}: {lacks}")
    return list(found.values()), [f"attacks not run: {', '.join(names)}; {lacks}" for lacks, names in left_out.items()]


def _group(name: str, inputs: AttackInputs) -> tuple[str, ...]:
    """Return the attacks that go by one name, () where it names none; those on generators come first where they can."""
    named = catalogue.ATTACK_GROUPS.get(name, ())
    more = tuple(catalogue.GENERATOR_ATTACKS) if inputs.of_generators and set(named) >= set(catalogue.ATTACKS) else ()
    return tuple(dict.fromkeys((*more, *named)))


def _attack(context: AuditContext, name: str, settings: MiaSettings, *, of_generators: bool) -> Attack:
    """Return an attack of the catalogue with its settings, or one of the user's own."""
    if ":" in name:
        if not code_is_allowed(context.origins.get("mia.attacks", "default")):
            raise UsageError(
                f"attack '{name}' is code to run, and a config that was merely found may not choose it; name it "
                "yourself: `mia module:callable`, or --config FILE"
            )
        return attack_from_code(name)
    tables = (catalogue.GENERATOR_ATTACKS, catalogue.ATTACKS)
    table = next(each for each in (tables if of_generators else reversed(tables)) if name in each)
    attack: Attack = catalogue.load("attack", table, name)
    return attack.with_settings(settings.model_dump())


SVC_SPLITS: tuple[Split, ...] = ("retain", "test", "forget")
NO_FLEET = "shadow models are needed: make them with `unlearn-audit shadows run DIR`, then name them with --shadows DIR"
NO_TREATMENT = (
    "shadow models that were unlearned as the target was are needed: give the unlearned checkpoint to "
    "`unlearn-audit shadows run`"
)

NO_DENOISER = "it asks a denoiser at a noise level, and the models here are classifiers"
NO_PROBABILITIES = (
    "it needs class probabilities, and a generator has none; generators are asked by "
    f"{', '.join(catalogue.GENERATOR_ATTACKS)}"
)


def _lacks(attack: Attack, inputs: AttackInputs) -> str | None:
    """Return what an attack lacks, or None."""
    if inputs.of_generators != ("denoiser" in attack.needs):
        return NO_PROBABILITIES if inputs.of_generators else NO_DENOISER
    if inputs.fleet is None and attack.needs_shadows:
        return NO_FLEET
    if inputs.fleet is not None and "unlearned" in attack.needs and not inputs.fleet.plan.treatments:
        return NO_TREATMENT
    return None


def _other_questions(context: AuditContext, attacks: Sequence[Attack]) -> list[str]:
    """Return what to say of attacks whose shadow models are not like a subject."""
    told = []
    for role, need, why in (("unlearned", "shadows", WRONG_HYPOTHESIS), ("original", "unlearned", NEVER_UNLEARNED)):
        names = [attack.name for attack in attacks if need in attack.needs]
        labels = [candidate.label for candidate in context.with_role(role)]
        told += [f"{', '.join(names)} of {', '.join(labels)}: {why}"] if names and labels else []
    return told


def _of_own_models(context: AuditContext, inputs: AttackInputs, attacks: Sequence[Attack]) -> Iterator[str]:
    """Yield what attacks find of the fleet's own models that were unlearned as a subject was."""
    known = (inputs.treatment_of(one) for one in context.subjects)
    treatments = {each.key: each for each in known if each is not None}
    for attack in attacks:
        for treatment in treatments.values():
            own = inputs.own_models(attack, treatment) if "unlearned" in attack.needs else None
            if own is not None:
                yield own.told(attack.name, treatment.method)


WRONG_HYPOTHESIS = (
    "the shadow models were trained and not unlearned: the scores ask whether an unlearned model is like one that was "
    "trained on the example; whether it is like one that unlearned it is ulira's question"
)

NEVER_UNLEARNED = (
    "this model was never unlearned: it is like neither side of the shadow models, and the score can lie on either side"
)


def _against_all(
    context: AuditContext, inputs: AttackInputs, attack: Attack, settings: MiaSettings
) -> Iterator[tuple[Sequence[Measurement], Mapping[str, NDArray[Any]]]]:
    """Yield one attack's measurements on each subject, with the scores of every example and pictures, if asked for."""
    known: dict[tuple[str, str], Scores | str] = {}
    kept = KeptScores(inputs.fleet.folder.scores if inputs.fleet else None, context.kept)

    def scores_of(candidate: Candidate, treatment: Treatment | None) -> Scores | str:
        key = candidate.label, treatment.key if treatment else ""
        if key not in known:
            known[key] = _scores(
                inputs, candidate, treatment=treatment, attack=attack, score=partial(kept.of, candidate, attack)
            )
        return known[key]

    for candidate in context.subjects:
        treatment, lacks = _treatment(inputs, attack, candidate)
        scores = lacks or scores_of(candidate, treatment)
        others = [scores_of(other, treatment) for other in context.references(candidate)]
        comparable = [other for other in others if isinstance(other, Scores)]
        shown = _worst(inputs, scores, settings.worst)
        own = inputs.own_models(attack, treatment)
        numbers = mia_numbers(
            attack,
            candidate,
            scores=scores,
            others=comparable,
            details=_details(inputs, attack, candidate, treatment),
            shown=shown,
            could_see=own.could_see if own else None,
        )
        key = f"mia.{attack.name}/{candidate.label}"
        pictures = (
            {f"{key}/exposed": thumbnails(inputs.pool.examples.images, shown)} if settings.thumbnails and shown else {}
        )
        yield tuple(numbers), _arrays(key, scores) | pictures
    if attack.name == "svc":
        yield tuple(_efficacies(context)), {}


def _arrays(key: str, scores: Scores | str) -> dict[str, NDArray[Any]]:
    """Return the scores of every example, by name."""
    if isinstance(scores, str):
        return {}
    return {f"{key}/members": scores.members, f"{key}/non_members": scores.non_members}


def _worst(inputs: AttackInputs, scores: Scores | str, count: int) -> list[dict[str, Any]]:
    """Return the most exposed examples."""
    if isinstance(scores, str) or why_no_value(scores):
        return []
    forget = inputs.pool.forget
    return worst(scores, forget, inputs.pool.examples.labels.numpy()[forget], count)


def _treatment(inputs: AttackInputs, attack: Attack, candidate: Candidate) -> tuple[Treatment | None, str | None]:
    """Return what the shadow models should have gone through for this target, or why there are none such."""
    if "unlearned" not in attack.needs or inputs.fleet is None:
        return None, None
    own = inputs.treatment_of(candidate)
    if candidate.role == "unlearned" and own is None:
        return None, f"no shadow model was unlearned as {candidate.label} was; {NO_TREATMENT}"
    return own or inputs.fleet.plan.treatments[0], None


def _scores(
    inputs: AttackInputs,
    candidate: Candidate,
    *,
    treatment: Treatment | None,
    attack: Attack,
    score: Callable[[Evidence], Floats],
) -> Scores | str:
    """Return an attack's scores, or why it cannot give any."""
    try:
        found = score(inputs.evidence(candidate, attack, treatment))
    except MeasurementError as problem:
        return str(problem)
    half = len(inputs.pool.forget)
    return Scores(found[:half], found[half:])


def _details(inputs: AttackInputs, attack: Attack, candidate: Candidate, treatment: Treatment | None) -> dict[str, Any]:
    """Say which hypothesis the scores test, and with how many models."""
    found: dict[str, Any] = {"queries": inputs.queries}
    if attack.needs_shadows:
        found["shadow_models"] = inputs.count(treatment)
        found["shadows_were"] = "trained, then unlearned" if "unlearned" in attack.needs else "trained"
        found |= inputs.training
        found |= inputs.explained(attack, candidate, treatment)
        own = inputs.own_models(attack, treatment)
        found |= {"own_models": own.details} if own else {}
    if treatment is not None:
        found["unlearned_by"] = treatment.method
    if candidate.role == "unlearned" and "shadows" in attack.needs:
        found["wrong_hypothesis"] = WRONG_HYPOTHESIS
    if candidate.role == "original" and "unlearned" in attack.needs:
        found["wrong_hypothesis"] = NEVER_UNLEARNED
    return found


def _efficacies(context: AuditContext) -> Iterator[Measurement]:
    """Yield the share of the forget set that the legacy attack takes for non-members, on all features."""
    shares = {candidate.label: _shares(context, candidate) for candidate in context.subjects}
    for candidate in context.subjects:
        found = shares[candidate.label]
        levels = [shares[other.label]["confidence"] for other in context.references(candidate)]
        value = found["confidence"]
        yield measurement(
            "mia.svc.efficacy",
            candidate,
            value,
            "the retain, test or forget set is empty",
            n=len(context.examples("forget")),
            reference=reference_of([level for level in levels if level is not None]),
            method="1 - share of the forget set that an SVC on confidences, trained on retain against test, calls "
            "member (MIA-efficacy, Fan et al. 2024); higher is not better: the retrained models' value is the target",
            flags=("legacy",),
            details={"by_feature": found, "legacy": svc.LEGACY},
        )


def _shares(context: AuditContext, candidate: Candidate) -> dict[str, float | None]:
    retain, test, forget = (context.signals(candidate, split) for split in SVC_SPLITS)
    return {feature: svc.efficacy(retain, test, forget, feature) for feature in svc.FEATURES}
