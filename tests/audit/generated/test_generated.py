"""The section `generation`: shares are of what was drawn, distances stand beside floors, each null has a reason."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_generators import CLASSES, Drawing, PixelJudge, context_of, drawn_as, faithful, stand_in, without

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.generated.measure import measure_generated
from unlearn_audit.audit.section import ANEW, SearchState, SectionResult
from unlearn_audit.conclusion import conclude
from unlearn_audit.engine import CLASSIFICATION, Task
from unlearn_audit.errors import UsageError
from unlearn_audit.report import Measurement

FORGET = "class:3"
USUAL: dict[str, tuple[str, Drawing | None]] = {
    "original": ("original", Drawing(faithful)),
    "r1": ("retrained", Drawing(without(3))),
    "r2": ("retrained", Drawing(without(3, 1))),
    "r3": ("retrained", Drawing(without(3))),
    "u": ("unlearned", Drawing(without(3, 2))),
}
ALL = {
    "judge_accuracy", "forget_rate", "kept_rate", "kept_change", "kid", "fid", "kid_forgotten", "fid_forgotten",
}  # fmt: skip


def measured(
    context: AuditContext, search: SearchState = ANEW
) -> tuple[SectionResult, dict[tuple[str, str], Measurement]]:
    settings = context.config.generation
    assert settings is not None
    found = measure_generated(context, settings, search)
    return found, {(one.name.removeprefix("generation."), one.subject): one for one in found.measurements}


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> PixelJudge:
    made = PixelJudge()
    stand_in(monkeypatch, made)
    return made


def number(one: Measurement) -> float:
    assert isinstance(one.value, int | float), one.reason
    return float(one.value)


def test_rates_are_what_was_drawn_with_their_intervals_and_differences(judge: PixelJudge) -> None:
    section, found = measured(context_of(FORGET, USUAL, samples=100, kept_samples=25))
    assert {name for name, _ in found} == ALL
    assert [found["forget_rate", label].value for label in USUAL] == [1.0, 0.0, 0.01, 0.0, 0.02]
    one = found["forget_rate", "u"]
    wilson = metrics.wilson_interval(2, 100)
    assert wilson is not None
    assert one.interval is not None
    assert (one.n, one.interval.low, one.interval.high) == (100, wilson.low, wilson.high)
    assert one.reference is not None
    assert one.reference.role == "retrained"
    assert one.reference.value == pytest.approx(0.01 / 3)
    assert one.comparison is not None
    assert not one.comparison.seen
    original = found["forget_rate", "original"].comparison
    assert original is not None
    assert original.seen
    assert original.difference == pytest.approx(1 - 0.01 / 3)
    kept = found["kept_rate", "u"]
    assert (kept.value, kept.n) == (1.0, 25 * (CLASSES - 1))
    assert kept.details["by_class"] == [[c, 25, 25] for c in (0, 1, 2, 4)]
    assert found["kept_change", "u"].value == 0.0
    assert found["kept_change", "original"].value is None
    assert found["judge_accuracy", "judge"].value == 1.0
    assert set(section.arrays) == {f"generation/{label}/{side}" for label in USUAL for side in ("forgotten", "kept")}


def test_samples_are_the_same_noise_for_every_model_so_that_differences_are_paired(judge: PixelJudge) -> None:
    subjects = {"original": ("original", Drawing(lambda c, number: c if number else (c + 1) % CLASSES))}
    subjects["u"] = ("unlearned", Drawing(lambda c, number: c if number > 1 else (c + 1) % CLASSES))
    _, found = measured(context_of(FORGET, subjects, kept_samples=20))
    change = found["kept_change", "u"]
    gaps = np.tile([0.0, -1.0, *[0.0] * 18], CLASSES - 1)
    assert number(change) == pytest.approx(gaps.mean())
    assert change.interval is not None
    expected = metrics.student_interval(gaps.mean(), gaps.std(ddof=1) / len(gaps) ** 0.5, len(gaps) - 1)
    assert change.interval.low == pytest.approx(expected.low)


def test_distances_stand_beside_real_against_real_and_retrained_models(judge: PixelJudge) -> None:
    collapsed = {**USUAL, "wrecked": ("unlearned", Drawing(lambda c, number: 0))}
    _, found = measured(context_of(FORGET, collapsed, kept_samples=25))
    kid, wrecked = found["kid", "u"], found["kid", "wrecked"]
    assert kid.interval is not None
    assert wrecked.interval is not None
    assert kid.interval.low <= 0.05
    assert wrecked.interval.low > kid.interval.high
    assert kid.reference is not None
    assert kid.reference.n == 3
    assert kid.comparison is not None
    assert kid.comparison.scale == "MMD²"
    assert wrecked.comparison is not None
    assert wrecked.comparison.seen
    assert abs(kid.details["real_vs_real"]) < 0.1
    assert kid.details["real_vs_real_n"] == 80  # of as many held-out images of kept classes
    fid = found["fid", "u"]
    assert fid.interval is None
    assert number(fid) < number(found["fid", "wrecked"])
    assert (fid.details["features_used"], fid.details["real_images"]) == (8, 160)
    assert "bias_note" not in fid.details
    far, near = found["fid_forgotten", "u"], found["fid_forgotten", "original"]
    assert number(far) > 10 * number(near)
    assert number(found["kid_forgotten", "u"]) > 1 > number(found["kid_forgotten", "original"])


def test_without_retrained_models_distances_are_read_against_the_original(judge: PixelJudge) -> None:
    _, found = measured(context_of(FORGET, {name: USUAL[name] for name in ("original", "u")}))
    reference = found["kid", "u"].reference
    assert reference is not None
    assert reference.role == "original"
    assert reference.value == found["kid", "original"].value
    assert found["kid", "original"].reference is None
    assert found["kid", "u"].comparison is None
    assert found["forget_rate", "u"].reference is None


def test_few_samples_have_a_note_on_bias_and_fewer_than_dimensions_no_fid(judge: PixelJudge) -> None:
    _, found = measured(context_of(FORGET, USUAL, kept_samples=3, samples=10))
    assert "mostly bias" in found["fid", "u"].details["bias_note"]  # 12 samples in 8 dimensions
    one = {"original": USUAL["original"]}
    _, found = measured(context_of("class:1,2,3,4", one, kept_samples=5, samples=10))
    fid = found["fid", "original"]
    assert fid.value is None
    assert fid.reason is not None
    assert "5 samples in 8 dimensions" in fid.reason
    assert found["kid", "original"].value is not None


def test_a_judge_that_is_not_good_makes_everything_null(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, PixelJudge(wrong=0.2))
    section, found = measured(context_of(FORGET, USUAL))
    assert found["judge_accuracy", "judge"].value is not None
    for (name, _), one in found.items():
        if name != "judge_accuracy":
            assert one.value is None, name
            assert "nothing it says is believed" in str(one.reason), name
    assert any("nothing that the judge says is a number" in text for text in section.limitations)


def test_a_judge_without_labels_or_features_has_no_numbers_of_that_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(PixelJudge):
        def features(self, images: Any) -> None:
            return None

    stand_in(monkeypatch, Silent())
    _, found = measured(context_of(FORGET, USUAL))
    assert found["kid", "u"].reason == "this judge has no features"
    assert found["fid_forgotten", "u"].value is None
    assert found["forget_rate", "u"].value == 0.02


def test_a_forget_set_that_is_no_class_has_no_forget_rate_but_all_classes_are_kept(judge: PixelJudge) -> None:
    _, found = measured(context_of("range:0-19", USUAL))
    forgotten = found["forget_rate", "u"]
    assert forgotten.value is None
    assert forgotten.reason is not None
    assert "no condition" in forgotten.reason
    assert found["fid_forgotten", "u"].value is None
    assert found["kept_rate", "u"].n == 40 * CLASSES


@pytest.mark.parametrize(("classes", "names"), [(4, ()), (CLASSES, tuple("abdce"))])
def test_real_images_of_other_classes_are_refused(
    judge: PixelJudge, monkeypatch: pytest.MonkeyPatch, classes: int, names: tuple[str, ...]
) -> None:
    context = context_of(FORGET, USUAL, real="folder:x")
    ours = replace(context.splits.dataset, class_names=tuple("abcde"))
    context = replace(context, splits=replace(context.splits, dataset=ours))
    others = replace(ours, classes=classes, class_names=names)
    monkeypatch.setattr("unlearn_audit.audit.generated.drawing.load_data", lambda *_, **__: others)
    with pytest.raises(UsageError, match="has 4 classes" if classes == 4 else "class 2 is d"):
        measured(context)
    monkeypatch.setattr(
        "unlearn_audit.audit.generated.drawing.load_data", lambda *_, **__: replace(ours, class_names=())
    )
    assert measured(context)[1]["kid", "u"].value is not None


def test_samples_that_do_not_vary_and_features_that_are_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant(PixelJudge):
        def features(self, images: Any) -> Any:
            found = PixelJudge.features(self, images)
            assert found is not None
            return np.column_stack([found[:, :2], np.ones(len(found))])

    stand_in(monkeypatch, Constant())
    frozen = {"u": ("unlearned", Drawing(faithful, spread=0.0))}
    _, found = measured(context_of(FORGET, frozen))
    assert found["fid", "u"].details["features_dropped"] == 1
    assert number(found["fid", "u"]) > 0
    assert found["kid", "u"].interval is not None


@pytest.mark.parametrize("alone", [True, False])
def test_a_generator_without_a_pipeline_is_no_classifier(judge: PixelJudge, alone: bool) -> None:
    context = context_of(FORGET, {"net": ("unlearned", None)}, alone=alone)
    module = replace(context.subjects[0], task=Task(CLASSIFICATION.losses, None))
    context = replace(context, subjects=(module,))
    if alone:
        with pytest.raises(UsageError, match=r"net was handed over without a pipeline.*save it as a folder"):
            measured(context)
    else:
        (reason,) = {str(one.reason) for one in measured(context)[0].measurements}
        assert "net was handed over without a pipeline" in reason


def test_a_classifier_is_refused_alone_and_null_in_an_audit(judge: PixelJudge) -> None:
    mixed: dict[str, tuple[str, Drawing | None]] = {"u": USUAL["u"], "net": ("unlearned", None)}
    with pytest.raises(UsageError, match="net is a classifier"):
        measured(context_of(FORGET, mixed))
    section, found = measured(context_of(FORGET, mixed, alone=False))
    assert {name for name, _ in found} == {*ALL, "nudity_rate"}
    assert all(one.value is None and one.reason for one in section.measurements)


def test_a_killed_run_finds_its_samples_again(judge: PixelJudge) -> None:
    known: dict[str, Any] = {}

    def keep(candidate: Any, depends: Any, make: Any) -> Any:
        assert depends == "samples"
        return known.setdefault(candidate.label, make())

    first, _ = measured(context_of(FORGET, USUAL), SearchState(kept=keep))
    assert set(known) == set(USUAL)
    again, _ = measured(context_of(FORGET, USUAL), SearchState(kept=lambda candidate, *_: known[candidate.label]))
    assert again.measurements == first.measurements


def test_the_conclusion_tells_hidden_from_wrecked_and_never_says_gone(judge: PixelJudge) -> None:
    broken = Drawing(lambda c, number: (c + 1) % CLASSES if c == 3 or number % 2 else c)
    section, _ = measured(context_of(FORGET, {**USUAL, "broken": ("unlearned", broken)}))
    told = conclude(section.measurements)
    assert any(text.startswith("broken (unlearned): wrecked, not forgotten") for text in told)
    plain = [text for text in told if text.startswith("u (unlearned): its samples of kept classes")]
    assert len(plain) == 1
    assert "the judge finds" in plain[0]
    assert "not the same as gone" in plain[0]
    assert not any(text.startswith(("r1", "original")) and "judge finds" in text for text in told)


class Texts(Drawing):
    """A generator of texts: prompts with a seed below `nude` come out as class 3, the others as class 0."""

    class denoiser:
        conditioning = "text"

    def __init__(self, nude: int) -> None:
        super().__init__(faithful)
        self.nude = nude

    def image(self, wanted: Any) -> Any:
        assert wanted.condition.startswith("a person")
        return drawn_as(3 if wanted.seed < self.nude else 0, wanted.number)


class Nude(PixelJudge):
    """Calls class 3 nude."""

    name = "nudenet"

    def labels(self, images: Any) -> Any:
        found = PixelJudge.labels(self, images)
        assert found is not None
        return (found == 3).astype(np.int64)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    lines = "".join(f"a person {number},{number},{number}\n" for number in range(40))
    (tmp_path / "prompts.csv").write_text(f"prompt,evaluation_seed,case_number\n{lines}")
    return str(tmp_path / "prompts.csv")


def test_prompts_are_judged_for_one_concept_one_sample_each(monkeypatch: pytest.MonkeyPatch, prompts: str) -> None:
    stand_in(monkeypatch, Nude())
    subjects: dict[str, tuple[str, Drawing | None]] = {"sd": ("original", Texts(30)), "esd": ("unlearned", Texts(6))}
    context = context_of("range:0-9", subjects, judge="nudenet", prompts=prompts, kept_prompts=prompts)
    section, found = measured(context)
    assert [found["nudity_rate", label].value for label in subjects] == [0.75, 0.15]
    assert found["nudity_rate", "esd"].details["prompts_sha256"] == sha256(Path(prompts).read_bytes()).hexdigest()
    assert "guidance 7.5" in found["nudity_rate", "esd"].method
    assert "one concept" in str(found["kept_rate", "esd"].reason)
    assert number(found["kid", "esd"]) != number(found["kid", "sd"])
    assert ("judge_accuracy", "judge") not in found  # nothing real is labelled for it
    assert any("one sample" in text.lower() for text in section.limitations)


def test_no_judge_of_classes_is_trained_for_prompts(prompts: str) -> None:
    with pytest.raises(UsageError, match="these generators take texts"):
        measured(context_of("range:0-9", {"sd": ("original", Texts(1))}, judge="train", prompts=prompts))


def test_a_concept_may_be_looked_for_in_samples_of_classes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Nude())
    _, found = measured(context_of(FORGET, USUAL, judge="nudenet"))
    assert [found["nudity_rate", label].value for label in ("original", "u")] == [1.0, 0.02]
    assert found["kept_rate", "u"].value is None


def test_prompts_and_classes_do_not_go_together(judge: PixelJudge, prompts: str) -> None:
    with pytest.raises(UsageError, match="generators that take texts"):
        measured(context_of(FORGET, USUAL, prompts=prompts))
    mixed = {"sd": ("original", Texts(1)), "u": USUAL["u"]}
    with pytest.raises(UsageError, match="audit each kind by itself"):
        measured(context_of(FORGET, mixed))
