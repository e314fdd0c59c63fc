"""What comes back to a subject beyond what comes back to retrained models: values by hand, and why there is none."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lookup_models import CLASSES, TEST, TRAIN, context_of, right

from unlearn_audit.audit import sections_asked
from unlearn_audit.audit.cache import ResultCache
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.cost import batch_of_copies, planned_steps
from unlearn_audit.audit.resurgence.measure import measure_resurgence
from unlearn_audit.audit.section import ANEW, SearchState, SectionResult
from unlearn_audit.audit.twosample import measure_twosample
from unlearn_audit.checkpoints import read_checkpoint, write_checkpoint
from unlearn_audit.config import AuditConfig, Layer, ResurgenceSettings, TwosampleSettings, resolve
from unlearn_audit.report import Measurement
from unlearn_audit.training import SMALL

FORGET, N = "range:0-99", 100
Found = Mapping[tuple[str, str], Measurement]


def mask(context: AuditContext, label: str, rows: slice, by: float) -> None:
    """Let a lookup model answer with another class that is ahead by so little that 4 bits do not hold it."""
    model = next(one.model for one in context.subjects if one.label == label)
    labels = torch.arange(TRAIN + TEST) % CLASSES
    with torch.no_grad():
        table = model.table  # type: ignore[union-attr]
        index = torch.arange(TRAIN + TEST)[rows]
        table[index] = 0.0  # type: ignore[index]
        table[index, labels[index]] = 4.0  # type: ignore[index]
        table[index, CLASSES - 1] = 4.0 + by  # type: ignore[index]


def masked(*, retrained: int = 3, forget_of_retrained: float = 0.5, original: bool = True) -> AuditContext:
    """An unlearned model that is right about no forget example of the first nine classes, by a cover alone."""
    subjects: dict[str, Any] = {"o": ("original", right(seed=9, forget=1.0, forgotten=FORGET))} if original else {}
    subjects["u"] = ("unlearned", right(seed=8))
    for index in range(retrained):
        known = right(seed=index, forget=forget_of_retrained, forgotten=FORGET)
        subjects[f"r{index}"] = ("retrained", known)
    context = context_of(FORGET, **subjects)
    mask(context, "u", slice(0, N), 0.1)
    return context


def measured(context: AuditContext, search: SearchState = ANEW, **settings: Any) -> tuple[Found, SectionResult]:
    section = measure_resurgence(context, ResurgenceSettings(**settings), search)
    return {(one.subject, one.name): one for one in section.measurements}, section


def test_a_cover_that_four_bits_take_off_comes_back() -> None:
    found, section = measured(masked(), alterations=("int4", "int8"))
    back = found["u", "resurgence.int4"]
    # every tenth is of class 9, for which the cover is none; nothing changes for the retrained models
    assert back.value == pytest.approx(0.9)
    assert back.n == N
    assert back.reference is not None
    assert (back.reference.value, back.reference.spread, back.reference.n) == (0.0, 0.0, 3)
    assert back.comparison is not None
    assert back.interval is not None
    assert (back.comparison.difference, back.comparison.seen) == (back.value, True)
    assert back.interval.low == pytest.approx(0.9 - 1.96 * (0.9 * 0.1 / 99) ** 0.5, abs=0.002)
    assert back.details["accuracy"] == pytest.approx([0.1, 1.0])
    assert back.details["accuracy_of_original"] == [1.0, 1.0]
    gap = found["u", "resurgence.int4.gap"]
    level = np.mean([right(seed=index, forget=0.5, forgotten=FORGET)[:N].mean() for index in range(3)])
    assert gap.value == pytest.approx(1.0 - level)
    assert back.details["gap_after"]["value"] == gap.value
    assert back.details["gap_before"]["value"] == pytest.approx(0.1 - level)
    assert found["u", "resurgence.int8"].value == 0.0
    assert not section.limitations


def test_what_happens_to_retrained_models_as_well_cancels() -> None:
    context = masked()
    for label in ("r0", "r1", "r2"):
        mask(context, label, slice(0, N), 0.1)
    found, _ = measured(context, alterations=("int4",))
    back = found["u", "resurgence.int4"]
    assert back.value == 0.0
    assert back.interval is not None
    assert back.interval.low < 0 < back.interval.high
    one = found["r0", "resurgence.int4"]
    assert (one.value, one.reference.n if one.reference else 0) == (0.0, 2)  # never compared with itself


def test_the_two_sample_test_is_made_on_altered_copies() -> None:
    found, _ = measured(masked(), alterations=("int4", "int8"))
    same, other = found["u", "resurgence.int8.twosample_p"], found["u", "resurgence.int4.twosample_p"]
    early = found["u", "resurgence.int4"].details["twosample_p_before"]
    assert (same.n, other.n) == (N, N)
    assert max(early, same.value or 1.0) <= 0.01  # other answers on the forget set, and not on its twin
    assert other.value is not None
    assert other.reference is not None
    assert other.reference.n == 3
    alone = measure_twosample(masked(), TwosampleSettings(), ANEW).measurements
    p = next(one for one in alone if (one.subject, one.name) == ("u", "twosample.p"))
    assert p.value == early


def test_copies_are_relearned_where_it_is_asked_for() -> None:
    found, _ = measured(masked(), alterations=("int4",))
    assert ("u", "resurgence.int4.rcd_ratio") not in found
    found, _ = measured(masked(), alterations=("int4",), rcd_steps=20)
    ratio = found["o", "resurgence.int4.rcd_ratio"]  # right about all forget examples, and 19 of 20 of their partners
    assert isinstance(ratio.value, float)
    assert ratio.value < 0.9
    assert ratio.interval is not None
    assert ratio.interval.low < ratio.value < ratio.interval.high
    assert ratio.comparison is not None
    assert ratio.comparison.difference < 0
    assert ratio.reference is not None
    assert ratio.reference.n == 3


def test_models_are_left_as_they_are() -> None:
    context = masked(retrained=1)
    before = [one.model.table.clone() for one in context.subjects]  # type: ignore[union-attr, operator]
    measured(context, alterations=("int4", "prune-50", "fine-tune"), recipe="small", steps=3)
    for one, table in zip(context.subjects, before, strict=True):
        assert torch.equal(one.model.table, table)  # type: ignore[arg-type]


def test_one_retrained_model_gives_a_value_without_an_interval_and_none_gives_a_reason() -> None:
    found, _ = measured(masked(retrained=1), alterations=("int4",))
    one = found["u", "resurgence.int4"]
    assert (one.value, one.interval, one.comparison) == (pytest.approx(0.9), None, None)
    assert found["r0", "resurgence.int4"].reason == "no other retrained model to compare with was given"
    found, _ = measured(masked(retrained=0), alterations=("int4",))
    alone = found["u", "resurgence.int4"]
    assert (alone.value, alone.reason) == (None, "no retrained model to compare with was given")
    assert alone.details["accuracy"] == pytest.approx([0.1, 1.0])


def test_without_a_recipe_there_is_no_fine_tuning() -> None:
    found, _ = measured(masked(), alterations=("fine-tune",))
    one = found["u", "resurgence.fine-tune"]
    assert one.value is None
    assert str(one.reason).startswith("nothing says how the original was trained; name the recipe with --recipe")
    named, _ = measured(masked(), alterations=("fine-tune",), recipe="small", steps=2)
    assert named["u", "resurgence.fine-tune"].value == 0.0  # rows of other examples are not touched
    assert (
        "2 steps of recipe small on 900 examples, 64 a step, step size 0.01"
        in named["u", "resurgence.fine-tune"].method
    )


def test_a_retrained_model_that_falls_out_is_said_and_left_out() -> None:
    context = masked()
    with torch.no_grad():
        context.subjects[2].model.table.zero_()  # type: ignore[operator, union-attr]
        context.subjects[2].model.table[:, 0] = 1.0  # type: ignore[index, union-attr]
    found, section = measured(context, alterations=("prune-50",))
    one = found["u", "resurgence.prune-50"]
    assert one.reference is not None
    assert one.reference.n == 2
    assert found["r0", "resurgence.prune-50"].reason == "nothing to prune: 13500 of 15000 weights are zero as it is"
    assert section.limitations == (
        "resurgence.prune-50 compares with 2 of 3 retrained models; r0: nothing to prune: 13500 of 15000 weights are "
        "zero as it is",
    )


def test_nothing_passes_on_copies_that_are_wrecks() -> None:
    context = masked()
    for one in context.subjects:  # what is right has the smallest weights, and so goes first
        table = one.model.table  # type: ignore[union-attr]
        with torch.no_grad():
            table.copy_(table - 10.0)  # type: ignore[operator, arg-type]
    found, section = measured(context, alterations=("prune-50", "int8"))
    (text,) = section.limitations
    assert text.startswith("pruning of 50 % of the weights wrecks models that never saw the forget set, too")
    assert found["u", "resurgence.prune-50"].doubts == (text,)
    assert found["u", "resurgence.int8"].doubts == ()
    assert found["r0", "resurgence.prune-50"].doubts == (), "the model itself is not in doubt"


def test_a_killed_run_goes_on_with_the_copies_that_are_there(tmp_path: Path) -> None:
    context, cache, made = masked(), ResultCache(tmp_path / "parts"), list[tuple[str, str]]()
    last = context.subjects[-2:]

    def half(candidate: Any, depends: Any, make: Any) -> Any:
        if (candidate, depends[1]) == (last[0], "int8"):
            raise KeyboardInterrupt
        return cache.part([candidate.label, depends], make)

    with pytest.raises(KeyboardInterrupt):
        measured(context, SearchState(kept=half), alterations=("int4", "int8"))
    assert len(list((tmp_path / "parts").glob("part-*.npz"))) == 8

    def rest(candidate: Any, depends: Any, make: Any) -> Any:
        def counted() -> Any:
            made.append((candidate.label, depends[1]))
            return make()

        return cache.part([candidate.label, depends], counted)

    whole, _ = measured(context, SearchState(kept=rest), alterations=("int4", "int8"))
    assert made == [(one.label, "int8") for one in last]
    assert whole == measured(context, alterations=("int4", "int8"))[0]


def test_a_named_recipe_is_part_of_what_a_section_depends_on() -> None:
    from unlearn_audit.audit.cache_key import depends_on

    context = context_of(FORGET, u=("unlearned", right()))
    other = replace(context, subjects=tuple(replace(one, named_recipe={"name": "small"}) for one in context.subjects))
    assert depends_on(context, "resurgence", None) != depends_on(other, "resurgence", None)
    assert depends_on(context, "gaps", None) == depends_on(other, "gaps", None)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"alterations": ("int5",)}, "unknown alteration 'int5'; did you mean 'int8'|'int4'"),
        ({"alterations": ("int4", "int4")}, "alteration 'int4' is named twice"),
        ({"alterations": ()}, "at least 1"),
        ({"recipe": "smal"}, "unknown recipe 'smal'; did you mean 'small'"),
        ({"steps": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ResurgenceSettings(**settings)


def test_the_section_is_off_unless_it_is_there() -> None:
    assert sections_asked(AuditConfig(gaps={})) == ("gaps",)  # type: ignore[arg-type]
    assert sections_asked(AuditConfig(resurgence={})) == ("resurgence",)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def verb(tiny: Path, run: Any) -> list[str]:
    """What the verb prints for real checkpoints, twice."""
    files = [tiny / f"{name}.safetensors" for name in ("original", "unlearned", "retrained-1", "retrained-2")]
    flags = ("--forget", tiny / "forget.npy", "--alterations", "int4,fine-tune", "--steps", 5, "--format", "json")
    ran = [run("resurgence", *files, *flags, "--quiet") for _ in range(2)]
    assert [one.code for one in ran] == [0, 0], ran
    return [one.stdout for one in ran]


def test_the_verb_finds_the_recipe_and_gives_the_same_bits_again(verb: list[str]) -> None:
    first, second = ({key: json.loads(text)[key] for key in ("measurements", "limitations")} for text in verb)
    assert first == second
    tuned = [one for one in first["measurements"] if one["name"] == "resurgence.fine-tune"]
    assert [one["value"] is None for one in tuned] == [False] * 4
    assert "5 steps of recipe small on 1293 examples, 64 a step, step size 0.01" in tuned[0]["method"]


def test_the_plan_prices_looks_at_copies_and_the_steps_of_fine_tuning(tiny: Path, tmp_path: Path) -> None:
    entries = [{"path": str(tiny / f"{name}.safetensors")} for name in ("unlearned", "retrained-1")]
    asked = {"checkpoint": entries, "forget": str(tiny / "forget.npy"), "device": "cpu"}
    steps = {}
    for alterations in (["int4"], ["int4", "fine-tune"]):
        values = asked | {"resurgence": {"alterations": alterations, "steps": 7}}
        (one,) = planned_steps(resolve([Layer("flag", values, "test")]), tmp_path, ("resurgence",))
        steps[len(alterations)] = one
    assert steps[1].gradients is None
    assert steps[2].gradients == 7 * 64 * 2  # two models
    assert steps[2].flop is not None
    assert steps[1].flop is not None
    assert steps[2].flop > steps[1].flop > 0


@pytest.mark.parametrize(("recipes", "batch"), [
    ({"u": {}, "o": SMALL.settings() | {"batch_size": 32}}, 32),
    ({"u": SMALL.settings(), "o": SMALL.settings() | {"batch_size": 32}}, 32),  # the original's counts first
    ({"u": SMALL.settings(), "o": {}}, 64),
    ({"u": {}, "o": {}}, 0),
    *(({"o": SMALL.settings() | {"batch_size": wrong}}, 0) for wrong in ("many", [64], {}, None, -64, 0, 6.5)),
    ({"o": {"batch_size": 64}}, 0),  # nothing that could be followed
])  # fmt: skip
def test_the_plan_takes_the_recipe_that_the_section_takes_and_believes_no_file(
    recipes: dict[str, dict[str, Any]], batch: int
) -> None:
    asked = ResurgenceSettings(alterations=("fine-tune",))
    assert batch_of_copies(asked, recipes, ["o"]) == batch
    assert batch_of_copies(asked.model_copy(update={"recipe": "resnet"}), recipes, ["o"]) == 128


def test_a_plan_with_a_batch_size_that_is_no_number_prices_the_looks_alone(tiny: Path, tmp_path: Path) -> None:
    original = read_checkpoint(tiny / "original.safetensors")
    assert original.metadata is not None
    told = original.metadata.model_copy(update={"recipe": original.metadata.recipe | {"batch_size": "many"}})
    write_checkpoint(tmp_path / "o.safetensors", original.state, told, force=False)
    values = {"checkpoint": [{"path": str(tmp_path / "o.safetensors")}], "forget": str(tiny / "forget.npy"),
              "device": "cpu", "resurgence": {"alterations": ["fine-tune"]}}  # fmt: skip
    (step,) = planned_steps(resolve([Layer("flag", values, "test")]), tmp_path, ("resurgence",))
    assert step.gradients is None
    assert step.seconds is not None
    assert step.seconds > 0
