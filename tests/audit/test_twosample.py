"""The section `twosample`: who is tested against whom, what has no value and why, what the references' own p say."""

import numpy as np
import pytest
import torch
from lookup_models import CLASSES, TEST, TRAIN, context_of, right
from numpy.typing import NDArray

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.section import ANEW, SectionResult
from unlearn_audit.audit.twosample import NOT_ALIKE, _odd_references, measure_twosample, pair_log_odds
from unlearn_audit.conclusion import conclude
from unlearn_audit.conclusion.words import listed
from unlearn_audit.config import TwosampleSettings
from unlearn_audit.metrics import TwoSample, paired_swaps, two_sample_test
from unlearn_audit.report import Measurement

Floats = NDArray[np.float64]
FORGET = "range:0-119"
N = 120
ROLES = {"original": "original", "unlearned": "unlearned", "r1": "retrained", "r2": "retrained", "r3": "retrained"}


def audited(forget: str = FORGET, *, labels: tuple[str, ...] = tuple(ROLES), odd: tuple[str, ...] = ()) -> AuditContext:
    """Return models whose logit of the label is an example's difficulty and chance.

    The original knows the forget set; the unlearned model answers it all alike; models of `odd` do as the original.
    """
    context = context_of(forget, **{label: (ROLES[label], right(seed=k)) for k, label in enumerate(labels)})
    rng = np.random.default_rng(6)
    difficulty, answers = rng.normal(0, 3, TRAIN + TEST), torch.arange(TRAIN + TEST) % CLASSES
    rows = context.splits.forget.indices
    for candidate in context.subjects:
        logits = difficulty + rng.normal(0, 1.5, TRAIN + TEST)
        if candidate.label == "original" or candidate.label in odd:
            logits[rows] += 12
        if candidate.label == "unlearned":
            logits[rows] = 0.3 * logits[rows]
        table = torch.zeros(TRAIN + TEST, CLASSES)
        table[torch.arange(TRAIN + TEST), answers] = torch.from_numpy(logits).float()
        candidate.model.load_state_dict({"table": table})
    return context


def measured(context: AuditContext, swaps: int = 999) -> tuple[SectionResult, dict[tuple[str, str], Measurement]]:
    found = measure_twosample(context, TwosampleSettings(swaps=swaps), ANEW)
    return found, {(one.name.removeprefix("twosample."), one.subject): one for one in found.measurements}


@pytest.fixture(scope="module")
def usual() -> tuple[SectionResult, dict[tuple[str, str], Measurement]]:
    """An original that knows the forget set, a model that answers it all alike, and three that never saw it."""
    return measured(audited())


def test_a_trace_is_seen_and_models_that_never_saw_the_data_are_the_control(
    usual: tuple[SectionResult, dict[tuple[str, str], Measurement]],
) -> None:
    section, by_name = usual
    assert by_name["p", "original"].value == 0.001
    assert by_name["auc", "original"].value == pytest.approx(1.0, abs=0.02)
    assert 0.001 <= float(by_name["p", "unlearned"].value or 1) <= 0.005
    own = [float(by_name["p", label].value or 0) for label in ("r1", "r2", "r3")]
    assert min(own) > 0.01
    reference = by_name["p", "unlearned"].reference
    assert reference is not None
    assert (reference.value, reference.n) == (float(np.median(own)), 3)
    other = by_name["p", "r1"].reference
    assert other is not None
    assert (other.value, other.n) == (pytest.approx(np.mean(own[1:])), 2)  # against the other ones
    assert "depend less on how hard an example is" in by_name["p", "unlearned"].details["differs"]
    assert by_name["p", "original"].details["differs"][0] == "lie higher"
    for (name, _), one in by_name.items():
        assert (one.n, one.doubts) == (N if name == "p" else 2 * N, ())
        assert (one.interval is None) == (name == "p")
    assert section.limitations == ()


def test_the_value_is_that_of_the_pure_function_on_pairs_of_an_example_and_its_twin() -> None:
    context = audited(labels=("unlearned", "r1", "r2"))
    first = measured(context)[1]["p", "unlearned"]
    odds = pair_log_odds(context, context.subjects[0])
    table = context.subjects[0].model.state_dict()["table"].double()
    shown = np.concatenate([context.splits.unseen.forget, TRAIN + context.splits.unseen.unseen])
    expected = [table[row].max() if table[row].max() > 0 else table[row].min() for row in shown]
    assert odds == pytest.approx(np.array(expected) - np.log(CLASSES - 1), abs=1e-5)
    again = measured(context)[1]["p", "unlearned"]
    assert again == first  # bit for bit
    free = paired_swaps(N, swaps=999, generator=np.random.default_rng(0))
    found = two_sample_test(odds, np.stack([pair_log_odds(context, one) for one in context.subjects[1:]]), free)
    assert not isinstance(found, str)
    assert found.p == pytest.approx(float(first.value or 0), abs=0.01)  # other swaps, the same test


def test_arrays_hold_what_the_picture_shows(usual: tuple[SectionResult, dict[tuple[str, str], Measurement]]) -> None:
    section, _ = usual
    assert section.arrays["twosample/unlearned/residual"].shape == (2 * N,)
    assert section.arrays["twosample/unlearned/difficulty"].shape == (2 * N,)


def test_without_another_retrained_model_there_is_no_p() -> None:
    _, alone = measured(audited(labels=("original", "unlearned")))
    assert alone["p", "unlearned"].reason == "no retrained model to compare with was given"
    _, one = measured(audited(labels=("unlearned", "r1")))
    assert float(one["p", "unlearned"].value or 1) <= 0.05  # one reference is enough for the others
    assert one["p", "unlearned"].reference is None
    assert one["p", "unlearned"].details["references"] == 1
    assert one["p", "r1"].reason == "no other retrained model to compare with was given"
    assert one["auc", "r1"].value is None


def test_few_pairs_and_constant_answers_have_no_p() -> None:
    _, few = measured(audited("range:0-39", labels=("unlearned", "r1")))
    assert few["p", "unlearned"].reason == "needs 50 pairs of a forget example and its unseen twin; there are 40"
    context = audited(labels=("unlearned", "r1"))
    context.subjects[0].model.load_state_dict({"table": torch.ones(TRAIN + TEST, CLASSES)})
    _, constant = measured(context)
    assert constant["p", "unlearned"].reason == "degenerate: the model gives every example the same log-odds"


def test_a_retrained_model_that_is_told_apart_is_named_and_most_of_them_are_a_doubt() -> None:
    section, one = measured(audited(odd=("r3",)))
    assert one["p", "r3"].value == 0.001
    assert [text for text in section.limitations if "on r3, too (p 0.001" in text]
    section, most = measured(audited(odd=("r1", "r2", "r3"), labels=("unlearned", "r1", "r2", "r3")))
    doubted = {label for (_, label), found in most.items() if NOT_ALIKE in found.doubts}
    small = {label for label in ("r1", "r2", "r3") if float(most["p", label].value or 1) <= 0.01}
    assert doubted == (small if len(small) > 1 else set())


@pytest.mark.parametrize(("p", "odd"), [(0.009, True), (0.01, False)])
def test_a_retrained_model_is_odd_below_the_level_that_stops_one_and_not_at_it(p: float, odd: bool) -> None:
    context = audited(labels=("unlearned", "r1", "r2"))
    odds = np.stack([pair_log_odds(context, one) for one in context.subjects])
    some = two_sample_test(odds[0], odds[1:], paired_swaps(N, swaps=9, generator=np.random.default_rng(0)))
    assert isinstance(some, TwoSample)
    found = {"unlearned": some, "r1": some._replace(p=p), "r2": some._replace(p=0.5)}
    assert _odd_references(context, found) == ({"r1": p} if odd else {})


def test_the_conclusion_says_what_differs(usual: tuple[SectionResult, dict[tuple[str, str], Measurement]]) -> None:
    section, by_name = usual
    told = conclude(section.measurements)
    p, area = by_name["p", "unlearned"].value, by_name["auc", "unlearned"].value
    assert told[0].startswith("original: differs from the retrained models on the two-sample test (twosample.p 0.001,")
    assert (
        f"unlearned: differs from the retrained models on the two-sample test (twosample.p {p:.3f}, told apart with "
        f"AUC {area:.3f})."
    ) in told
    words = listed(by_name["p", "unlearned"].details["differs"])
    whose = "unlearned: given the retrained models, its log-odds on forget examples"
    assert f"{whose} {words} than those on their unseen twin." in told
