"""What an audit could have seen: the plants' sizes, who has a figure, why one is missing, and where it stands."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lookup_models import Lookup
from made_up_memories import remembering

from unlearn_audit import audit, metrics
from unlearn_audit.attacks import log_odds
from unlearn_audit.audit.accuracy import measure_gaps
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.detectable.instruments import Instrument, instruments_of
from unlearn_audit.audit.detectable.measure import BLOCKING, measure_detectable, on_by_default
from unlearn_audit.audit.detectable.planting import Plant, Readings
from unlearn_audit.audit.mia.measure import measure_mia
from unlearn_audit.audit.section import ANEW, SectionResult
from unlearn_audit.catalogue import METRICS
from unlearn_audit.config import AuditConfig, DetectableSettings
from unlearn_audit.metrics import paired_swaps, two_sample_test
from unlearn_audit.report import Measurement

FORGET, N = "range:0-79", 80
ALL_MODELS = ("original", "unlearned", "retrained-1", "retrained-2", "retrained-3", "retrained-4")
ALL: dict[str, Any] = {"gaps": {}, "mia": {"attacks": ["loss", "entropy"]}}
TESTED: dict[str, Any] = {"twosample": {}}
FEW = DetectableSettings(draws=2, swaps=100)


def detected(context: AuditContext) -> SectionResult:
    return measure_detectable(context, FEW, ANEW)


@cache
def leaking() -> AuditContext:
    return remembering(FORGET, *ALL_MODELS, **ALL)


@cache
def found() -> SectionResult:
    return detected(leaking())


def values(result: SectionResult) -> dict[str, set[Any]]:
    names = {one.name for one in result.measurements}
    return {name: {one.value for one in result.measurements if one.name == name} for name in names}


# ----- what is found


def test_every_instrument_has_its_size_and_the_smallest_of_those_that_stop_a_model_is_the_audits() -> None:
    seen = found().could_see
    assert set(seen) == {"gap.forget", "mia.loss.auc", "mia.entropy.auc"}
    shares = {name: one.share for name, one in seen.items()}
    assert all(0.005 < (shares[name] or 0) < 0.4 for name in BLOCKING if name in shares), shares
    assert values(found())["detectable.share"] == {min(shares[name] or 2 for name in BLOCKING if name in shares)}
    doses = {name: one.dose for name, one in seen.items()}
    assert values(found())["detectable.dose"] == {min(doses[name] or 2 for name in BLOCKING if name in doses)}
    assert {one.runs for one in seen.values()} == {8}


def test_every_subject_has_the_same_figure() -> None:
    assert [one.subject for one in found().measurements if one.name == "detectable.share"] == list(ALL_MODELS)


def test_the_same_seed_gives_the_same_and_another_draws_other_examples() -> None:
    assert detected(leaking()) == found()
    other = replace(leaking(), config=leaking().config.model_copy(update={"seed": 1}))
    assert detected(other).could_see != found().could_see


def test_an_original_that_is_like_the_retrained_models_is_seen_by_nothing() -> None:
    result = detected(remembering(FORGET, *ALL_MODELS, memory=0.0, **ALL))
    assert values(result) == {"detectable.share": {None}, "detectable.dose": {None}}
    assert all(one.blind for one in result.could_see.values())
    reason = result.measurements[0].reason or ""
    assert "mia.loss.auc: not even the original is seen: 0% of the plants that are all of it" in reason


def test_a_weaker_memory_takes_a_larger_share_to_be_seen() -> None:
    weak = detected(remembering(FORGET, *ALL_MODELS, memory=2.5, **ALL)).could_see
    assert (weak["mia.loss.auc"].share or 1) > (found().could_see["mia.loss.auc"].share or 1)


def test_the_two_sample_test_sees_a_small_part_and_its_own_seed_is_not_the_sections() -> None:
    context = remembering(FORGET, *ALL_MODELS[:4], **TESTED)
    seen = measure_detectable(context, DetectableSettings(draws=1, swaps=199), ANEW).could_see
    assert set(seen) == {"twosample.p"}
    assert 0.02 < (seen["twosample.p"].share or 1) < 0.3
    assert seen["twosample.p"].seen_when == "p of at most 0.05"


# ----- "seen" is what the report says of such a model


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0])
def test_a_plant_is_seen_where_the_report_would_have_said_so(share: float) -> None:
    """A retrained model with the plant is audited as a subject; the report's own comparison has to agree."""
    context = leaking()
    original, bases = context.with_role("original")[0], context.with_role("retrained")
    rows = np.arange(round(share * N))
    table = bases[0].model.state_dict()["table"].clone()
    table[rows] = original.model.state_dict()["table"][rows]
    subject = replace(context.subjects[1], model=Lookup(table).eval())
    audited = replace(context, subjects=(subject, *bases[1:]), _signals={})
    reported = {
        one.name: one
        for section in (
            measure_gaps(audited, audited.config.gaps, ANEW),
            measure_mia(audited, audited.config.mia, ANEW),
        )
        for one in section.measurements
        if one.subject == subject.label
    }
    sides = [[log_odds(*audited.signals(one, split)) for split in ("forget", "unseen")] for one in audited.subjects]
    odds = np.stack([np.concatenate(side) for side in sides])
    swaps = paired_swaps(N, swaps=999, generator=np.random.default_rng(0))
    for instrument in instruments_of(AuditConfig.model_validate(ALL | TESTED), np.ones(N, dtype=bool), 3, swaps):
        if instrument.metric == "twosample.p":
            test = two_sample_test(odds[0], odds[1:], swaps)
            assert sees(instrument, audited) == (not isinstance(test, str) and test.p <= 0.05)
            assert stops(instrument, audited) == (not isinstance(test, str) and test.p < 0.01)
        else:
            told = _is_told(reported[instrument.metric])
            assert sees(instrument, audited) == stops(instrument, audited) == told, instrument.metric


@pytest.mark.parametrize(("p", "told", "stopped"), [(0.0501, False, False), (0.05, True, False), (0.01, True, False),
                                                   (0.0099, True, True)])  # fmt: skip
def test_a_p_that_is_told_stops_a_model_only_below_the_policies_least(
    p: float, told: bool, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def found(*_: Any) -> Any:
        asked.append(1)
        return SimpleNamespace(p=p)

    monkeypatch.setattr(metrics, "two_sample_test", found)
    swaps = paired_swaps(N, swaps=100, generator=np.random.default_rng(0))
    (instrument,) = instruments_of(AuditConfig.model_validate(TESTED), np.ones(N, dtype=bool), 3, swaps)
    assert (sees(instrument, leaking()), stops(instrument, leaking())) == (told, stopped)
    assert len(asked) == 1  # a plant is tested once for both


def test_what_is_told_but_would_stop_no_model_is_not_the_audits_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plant has a p of .03, which a rule with min = 0.01 lets pass."""
    context = remembering(FORGET, *ALL_MODELS[:4], **TESTED)
    untouched = [log_odds(*context.signals(one, "forget")) for one in context.with_role("retrained")]

    def test(target: np.ndarray, *_: Any) -> Any:
        return SimpleNamespace(p=0.5 if any(np.array_equal(target[:N], one) for one in untouched) else 0.03)

    monkeypatch.setattr(metrics, "two_sample_test", test)
    result = detected(context)
    assert 0 < (result.could_see["twosample.p"].share or 0) <= 0.025
    assert values(result) == {"detectable.share": {None}, "detectable.dose": {None}}
    assert "twosample.p: not even the original is seen: 0%" in (result.measurements[0].reason or "")


def stops(instrument: Instrument, context: AuditContext) -> bool:
    return instrument.stops(plant_of(instrument, context))


def sees(instrument: Instrument, context: AuditContext) -> bool:
    return instrument.sees(plant_of(instrument, context))


def plant_of(instrument: Instrument, context: AuditContext) -> Plant:
    read = [
        Readings(*(instrument.reads(context.signals(one, split)) for split in ("forget", "unseen")))
        for one in context.subjects
    ]
    return Plant(read[0], read[1:])


def _is_told(one: Measurement) -> bool:
    return one.comparison is not None and one.comparison.seen


# ----- what is missing


@pytest.mark.parametrize(
    ("labels", "sections", "reason"),
    [
        (ALL_MODELS[1:], ALL, "no original was given"),
        (("original", "unlearned"), ALL, "no retrained model was given"),
        (ALL_MODELS, {"rcd": {}}, "nothing is measured that a plant could be shown to"),
        (ALL_MODELS[:4], {"gaps": {}}, "[gaps] needs three retrained models"),
        (ALL_MODELS, {"mia": {"attacks": ["confidence"]}}, "[mia] the attack loss"),
    ],
)
def test_what_cannot_be_measured_is_null_with_its_reason(
    labels: tuple[str, ...], sections: dict[str, Any], reason: str
) -> None:
    result = detected(remembering(FORGET, *labels, **sections))
    assert values(result) == {"detectable.share": {None}, "detectable.dose": {None}}
    assert all(reason in (one.reason or "") for one in result.measurements)


def test_with_one_retrained_model_an_attack_says_what_it_tells_by_itself() -> None:
    seen = detected(remembering(FORGET, *ALL_MODELS[:3], **ALL, **TESTED)).could_see
    assert set(seen) == {"mia.loss.auc", "mia.entropy.auc"}
    assert seen["mia.loss.auc"].seen_when == "its interval leaves .5 out (95 %)"
    assert 0 < (seen["mia.loss.auc"].share or 0) < 0.5


def test_with_two_retrained_models_there_is_no_gap_with_an_interval() -> None:
    seen = detected(remembering(FORGET, *ALL_MODELS[:4], **ALL)).could_see
    assert "gap.forget" not in seen
    assert (seen["mia.loss.auc"].share or 1) < 0.5


def test_a_handful_of_examples_has_no_two_sample_test_and_shares_that_exist() -> None:
    seen = detected(remembering("range:0-9", *ALL_MODELS, **ALL, **TESTED)).could_see
    assert "twosample.p" not in seen
    assert all(one.share is None or one.share > 0.05 for one in seen.values())


def test_models_with_other_numbers_of_outputs_take_a_share_but_no_dose() -> None:
    context = leaking()
    wide = torch.nn.functional.pad(context.subjects[0].model.state_dict()["table"], (0, 1), value=-30.0)
    original = replace(context.subjects[0], model=Lookup(wide).eval())
    seen = detected(replace(context, subjects=(original, *context.subjects[1:]), _signals={})).could_see["gap.forget"]
    assert (seen.share, seen.dose) == (found().could_see["gap.forget"].share, None)
    assert seen.reason == "original and retrained models differ in how many outputs they have"


# ----- where it stands


def test_it_is_on_by_default_where_there_is_all_that_it_needs() -> None:
    whole = AuditConfig.model_validate(ALL)
    assert on_by_default(whole, ["original", "retrained", "unlearned", "retrained"])
    assert not on_by_default(whole, ["original", "retrained"])
    assert not on_by_default(whole, ["retrained", "retrained", "retrained"])
    assert not on_by_default(AuditConfig.model_validate({"rcd": {}}), ["original", "retrained", "retrained"])
    asked = AuditConfig.model_validate({**ALL, "detectable": {}})
    assert not on_by_default(asked, ["original", "retrained", "retrained"])  # since it is on already


def test_the_report_has_it_beside_every_number_that_it_is_about() -> None:
    models = [label for label in ALL_MODELS if label != "retrained-4"]
    report = audit._audit(remembering(FORGET, *models, memory=0.0, gaps={}), ()).report
    assert report.settings["config"]["detectable"] == {"draws": 6, "swaps": 299}
    for one in report.measurements:
        assert (one.could_see is not None) == (one.name == "gap.forget")
        assert one.is_blind == ("blind" in one.flags)
        assert one.could_see is None or one.is_blind
    assert [one.value for one in report.measurements if one.name == "detectable.share"] == [None] * len(models)


def test_a_part_of_an_audit_has_no_plants_that_nobody_asked_for() -> None:
    assert audit._with_plants(leaking(), ("gaps",)).config.detectable is None
    assert audit._with_plants(leaking(), ()).config.detectable == DetectableSettings()


def test_doubts_about_the_original_are_doubts_about_it() -> None:
    assert METRICS["detectable.share"].rests_on_original
    assert METRICS["detectable.dose"].rests_on_original
