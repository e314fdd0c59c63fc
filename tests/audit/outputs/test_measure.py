"""The section `outputs` beyond divergences: ZRF, composites, cost, features, probe and populations."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lookup_models import CLASSES, TEST, TRAIN, context_of, right
from torch import nn

from unlearn_audit import metrics
from unlearn_audit.attacks import Signals, svc
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.controls import random_control
from unlearn_audit.audit.cost import planned_steps
from unlearn_audit.audit.outputs.composites import measure_composites
from unlearn_audit.audit.outputs.ignorance import NO_TEACHER, measure_ignorance
from unlearn_audit.audit.outputs.measure import measure_outputs
from unlearn_audit.audit.outputs.populations import NOT_UNLEARNED, measure_populations
from unlearn_audit.audit.outputs.representations import _halves, measure_alignment, measure_probe
from unlearn_audit.audit.section import ANEW
from unlearn_audit.checkpoints import Metadata
from unlearn_audit.config import Layer, OutputsSettings, resolve
from unlearn_audit.inputs import IN_MEMORY
from unlearn_audit.report import Measurement

FORGET = "range:0-99"
By = dict[tuple[str, str], Measurement]


def by_name(found: Any) -> By:
    return {(one.name, one.subject): one for one in found}


def recorded(**fields: Any) -> dict[str, Any]:
    return {"metadata": Metadata(model="lookup", **fields)}


def composed(**more: Any) -> AuditContext:
    """Return an original that knows the forget set, one that unlearned, and three retrained models."""
    return context_of(
        FORGET,
        original=("original", right(forget=1.0, forgotten=FORGET)),
        unlearned=("unlearned", right(forget=0.4, retain=0.97, forgotten=FORGET, seed=1),
                   recorded(gradient_evaluations=200, wall_seconds=3.0, **more)),
        r1=("retrained", right(forget=0.5, forgotten=FORGET, seed=2), recorded(gradient_evaluations=1000)),
        r2=("retrained", right(forget=0.6, forgotten=FORGET, seed=3), recorded(gradient_evaluations=3000)),
        r3=("retrained", right(forget=0.5, forgotten=FORGET, seed=4)),
    )  # fmt: skip


# ----- composites


def test_tow_is_the_mean_product_and_its_floor_that_of_the_retrained_models() -> None:
    context = composed()
    found = by_name(measure_composites(context, svc=False))
    levels = {
        one.label: [metrics.correct(context.signals(one, split).logits, context.signals(one, split).labels).mean()
                    for split in ("forget", "retain", "test")]
        for one in context.subjects
    }  # fmt: skip

    def product(first: str, second: str) -> float:
        return float(np.prod([1 - abs(a - b) for a, b in zip(levels[first], levels[second], strict=True)]))

    one = found["outputs.tow", "unlearned"]
    assert one.value == pytest.approx(np.mean([product("unlearned", other) for other in ("r1", "r2", "r3")]))
    assert one.details["by_reference"]["r2"] == pytest.approx(product("unlearned", "r2"))
    floor = np.mean([product("r1", "r2"), product("r1", "r3"), product("r2", "r3")])
    assert one.reference is not None
    assert (one.reference.value, one.reference.n) == (pytest.approx(floor), 3)
    assert one.interval is not None
    assert one.interval.low < float(one.value or 0) < one.interval.high <= 1
    assert float(found["outputs.tow", "original"].value or 0) < float(one.value or 0) < floor
    assert ("outputs.tow_mia", "unlearned") not in found


def test_what_does_not_vary_has_no_interval_of_zero_width() -> None:
    same = {f"r{k}": ("retrained", right(forget=0.5, forgotten=FORGET)) for k in (1, 2)}
    found = by_name(measure_composites(context_of(FORGET, u=("unlearned", right(forgotten=FORGET)), **same), svc=False))
    assert found["outputs.tow", "u"].value is not None
    assert found["outputs.tow", "u"].interval is None
    assert (found["outputs.retention.forget", "r1"].value, found["outputs.retention.forget", "r1"].interval) == (
        1,
        None,
    )
    assert found["outputs.retention.forget", "u"].interval is not None


def test_tow_mia_takes_the_efficacy_of_the_svc_for_the_forget_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    def efficacy(retain: Signals, test: Signals, forget: Signals) -> float:  # the fit itself takes seconds
        return float(forget.logits.max(axis=1).mean() - test.logits.mean() + retain.logits.min()) / 10

    monkeypatch.setattr(svc, "efficacy", efficacy)
    context = composed()
    found = by_name(measure_composites(context, svc=True))["outputs.tow_mia", "unlearned"]

    def row(label: str) -> tuple[float, ...]:
        (one,) = (each for each in context.subjects if each.label == label)
        retain, test, forget = (context.signals(one, split) for split in ("retain", "test", "forget"))
        accuracies = [float(metrics.correct(side.logits, side.labels).mean()) for side in (retain, test)]
        return (svc.efficacy(retain, test, forget) or 0.0, *accuracies)

    expected = [metrics.tug_of_war(row("unlearned"), row(other)) for other in ("r1", "r2", "r3")]
    assert found.value == pytest.approx(np.mean(expected))


def test_retention_kodge_and_indiscernibility_are_arithmetic_on_accuracies_and_the_auc() -> None:
    context = composed()
    found = by_name(measure_composites(context, svc=False))
    own = {split: found[f"outputs.retention.{split}", "unlearned"] for split in ("retain", "forget", "test")}
    (unlearned,) = context.with_role("unlearned")
    right_now = {split: metrics.correct(context.signals(unlearned, split).logits,
                                        context.signals(unlearned, split).labels)
                 for split in ("retain", "forget")}  # fmt: skip
    others = [metrics.correct(context.signals(one, "forget").logits, context.signals(one, "forget").labels).mean()
              for one in context.with_role("retrained")]  # fmt: skip
    assert own["forget"].value == pytest.approx(right_now["forget"].mean() / np.mean(others))
    assert own["retain"].interval is not None
    kodge = found["outputs.kodge", "unlearned"]
    assert kodge.value == pytest.approx(right_now["retain"].mean() * (1 - right_now["forget"].mean()))
    assert kodge.interval is not None
    assert kodge.interval.low < float(kodge.value or 0) < kodge.interval.high
    members = context.paired_forget(unlearned)
    losses = [
        metrics.cross_entropy(side.logits, side.labels) for side in (members, context.signals(unlearned, "unseen"))
    ]
    area = metrics.auc(-losses[0], -losses[1])
    assert area is not None
    told = found["outputs.indiscernibility", "unlearned"]
    assert told.value == pytest.approx(1 - 2 * abs(area - 0.5))
    assert told.interval is not None
    assert told.interval.low <= float(told.value or 0) <= told.interval.high


def test_relative_cost_is_that_of_retraining_where_both_are_recorded() -> None:
    found = by_name(measure_composites(composed(), svc=False))
    one = found["outputs.rte_gradients", "unlearned"]
    assert one.value == 200 / 2000
    assert one.reference is not None
    assert (one.reference.value, one.reference.n) == (pytest.approx((1 / 3 + 3) / 2), 2)
    assert found["outputs.rte", "unlearned"].reason == "no retrained model's metadata has its wall time"
    assert found["outputs.rte", "original"].reason == "it was not unlearned"
    assert found["outputs.rte_gradients", "r3"].reason == "its metadata has no gradients of single examples"
    alone = context_of(FORGET, unlearned=("unlearned", right(), recorded(wall_seconds=1.0)))
    without = by_name(measure_composites(alone, svc=False))
    assert without["outputs.rte", "unlearned"].reason == "no retrained model to compare with was given"
    assert without["outputs.tow", "unlearned"].reason == "no retrained model to compare with was given"


def test_where_retrained_models_get_nothing_right_nothing_is_retained_of_it() -> None:
    nothing = right(forget=0.0, forgotten=FORGET)
    context = context_of(FORGET, unlearned=("unlearned", right()), r=("retrained", nothing), r2=("retrained", nothing))
    found = by_name(measure_composites(context, svc=False))["outputs.retention.forget", "unlearned"]
    assert (found.value, found.reason) == (None, "the retrained models get nothing right on the forget set")


def knowing(count: int) -> Any:
    """Return which images a model gets right that knows the first `count` of the forget set."""
    found = right(forget=0.0, forgotten=FORGET)
    found[:count] = True
    return found


@pytest.mark.parametrize(("known", "value", "levels"), [
    ((0, 0, 1), None, None),
    ((0, 10, 20), 90 / 10, None),  # the last is held against 5 right answers of the others
    ((10, 10, 20), 90 / (40 / 3), (10 / 15 + 10 / 15 + 20 / 10) / 3),
])  # fmt: skip
def test_no_ratio_divides_by_a_few_right_answers(known: Any, value: float | None, levels: float | None) -> None:
    models: dict[str, Any] = {f"r{k}": ("retrained", knowing(count)) for k, count in enumerate(known)}
    context = context_of(FORGET, unlearned=("unlearned", knowing(90)), **models)
    found = by_name(measure_composites(context, svc=False))["outputs.retention.forget", "unlearned"]
    assert found.value == (None if value is None else pytest.approx(value))
    assert (found.reference and found.reference.value) == (None if levels is None else pytest.approx(levels))
    if value is None:
        assert (
            found.reason == "the retrained models get 0.333 right on the forget set, and a ratio needs 8 to divide by"
        )


# ----- models with features


class Net(nn.Module):
    """A body that is given, and a head on it."""

    def __init__(self, body: torch.Tensor, head: torch.Tensor) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, len(body), bias=False), nn.Linear(len(body), len(head))
        self.body.weight.data, self.head.weight.data = body, head
        self.head.bias.data.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return [N, C]."""
        return self.head(self.body(images.flatten(1)))


def featured(**heads: float) -> AuditContext:
    """Return models of random features of images that lie about their class's place; `heads` scales class 3's row."""
    roles = {"original": "original", "unlearned": "unlearned", "r1": "retrained", "r2": "retrained", "r3": "retrained"}
    context = context_of("class:3", **{label: (role, right()) for label, role in roles.items()})
    rng = torch.Generator().manual_seed(0)
    places = torch.randn(CLASSES, 4, generator=rng) * 3
    dataset = context.splits.dataset
    for part in (dataset.train, dataset.test):
        noise = torch.randn(len(part.labels), 4, generator=rng)
        part.images[:] = (places[part.labels] + 0.3 * noise).reshape(-1, 1, 2, 2)
    made = []
    for index, candidate in enumerate(context.subjects):
        own = torch.Generator().manual_seed(1 if candidate.label in ("original", "unlearned") else index)
        head = torch.randn(CLASSES, 6, generator=own)
        head[3] *= heads.get(candidate.label, 1.0)
        model = Net(torch.randn(6, 4, generator=own), head).eval()
        made.append(replace(candidate, model=model, path=IN_MEMORY, spec="tests.made_up:Net"))
    return replace(context, subjects=tuple(made))


def test_features_that_a_head_only_step_leaves_are_the_originals_and_keep_the_class() -> None:
    context = featured(unlearned=-50.0)  # the head alone has unlearned class 3
    found = by_name([*measure_alignment(context), *measure_probe(context)])
    assert found["cka.original", "unlearned"].value == pytest.approx(1.0, abs=1e-6)
    assert found["cka.original", "original"].reason == "this is the original"
    retrained = found["cka.retrained", "unlearned"]
    assert retrained.reference is not None
    assert (retrained.reference.n, retrained.details["width"]) == (3, 6)
    recall = found["probe.recall_f", "unlearned"]
    assert float(recall.value or 0) > 0.9
    assert recall.n == 25
    assert recall.reference is not None
    assert recall.reference.value > 0.9  # a network that never saw the class separates it, too
    assert float(found["probe.accuracy", "unlearned"].value or 0) > 0.9
    assert found["probe.accuracy", "unlearned"].n == 250
    assert found["probe.accuracy", "unlearned"].comparison is not None
    assert found["probe.accuracy", "r1"].comparison is None  # two others are too few to call it different


def test_the_floor_of_alignment_is_that_of_the_retrained_models() -> None:
    context = featured()
    found = by_name(measure_alignment(context))
    own = [float(found["cka.retrained", label].value or 0) for label in ("r1", "r2", "r3")]
    reference = found["cka.retrained", "unlearned"].reference
    assert reference is not None
    assert reference.value == pytest.approx(np.mean(own))
    assert found["cka.original", "unlearned"].reference is not None


def test_halves_of_the_probe_have_every_class_alike_and_share_no_example() -> None:
    labels = np.array([0, 1, 0, 1, 1, 0, 2, 0])
    first, second = _halves(labels)
    assert (first.tolist(), second.tolist()) == ([0, 1, 4, 5, 6], [2, 3, 7])


def test_without_a_linear_head_or_whole_classes_there_is_a_reason() -> None:
    found = by_name([*measure_alignment(composed()), *measure_probe(composed())])
    assert (found["cka.retrained", "unlearned"].reason or "").startswith("the model does not end in a linear layer")
    assert found["probe.recall_f", "unlearned"].reason == "the forget set is not all training examples of some classes"
    headless = context_of("class:3", unlearned=("unlearned", right()), r=("retrained", right(seed=1)))
    probe = by_name(measure_probe(headless))["probe.recall_f", "unlearned"]
    assert (probe.reason or "").startswith("the model does not end in a linear layer")


# ----- ZRF


def test_zrf_is_1_for_the_random_network_itself_and_stands_beside_the_retrained_models() -> None:
    context = featured()
    teacher = random_control(context)
    asked = replace(context, subjects=(*context.subjects, replace(teacher, role="subject")))
    found, limitations = measure_ignorance(asked)
    told = {one.subject: one for one in found}
    assert told[teacher.label].value == pytest.approx(1.0, abs=1e-12)
    own = [float(told[label].value or 0) for label in ("r1", "r2", "r3")]
    reference = told["unlearned"].reference
    assert reference is not None
    assert reference.value == pytest.approx(np.mean(own))
    assert max(own) < 0.9  # a retrained model is not ignorant
    assert limitations == ()


def test_models_of_no_known_architecture_have_no_zrf() -> None:
    class Owner(Net):
        """A net with a parameter that it cannot draw anew."""

        def __init__(self) -> None:
            super().__init__(torch.zeros(6, 4), torch.zeros(CLASSES, 6))
            self.own = nn.Parameter(torch.zeros(1))

    context = featured()
    others = tuple(replace(one, model=Owner().eval()) for one in context.subjects)
    found, limitations = measure_ignorance(replace(context, subjects=others))
    assert {(one.value, one.reason) for one in found} == {(None, NO_TEACHER)}
    assert limitations


# ----- populations


def population(unlearned: int, retrained: int, *, shift: float = 0.0) -> AuditContext:
    """Return models whose logits of the label are drawn; those that unlearned have `shift` more."""
    subjects = {
        **{f"u{k}": ("unlearned", right(), recorded(method="ft", seed=k)) for k in range(unlearned)},
        **{f"r{k}": ("retrained", right()) for k in range(retrained)},
    }
    context = context_of("range:0-39", **subjects)
    rng = np.random.default_rng(0)
    rows = np.arange(TRAIN + TEST)
    for candidate in context.subjects:
        logits = np.zeros((TRAIN + TEST, CLASSES))
        logits[rows, rows % CLASSES] = rng.normal(shift if candidate.role == "unlearned" else 0.0, 1, len(rows))
        candidate.model.load_state_dict({"table": torch.from_numpy(logits).float()})
    return context


def test_populations_of_one_law_lie_at_their_floor_and_a_shift_does_not() -> None:
    same, apart = (by_name(measure_populations(population(8, 16, shift=shift))) for shift in (0.0, 2.0))
    klom = same["klom.gaussian", "u0"]
    assert klom.reference is not None
    assert klom.reference.n == 8
    assert float(klom.value or 0) == pytest.approx(klom.reference.value, rel=0.5)
    assert klom.details["floor_of_normal_margins"] == pytest.approx(0.4)
    assert same["klom.gaussian", "u3"].value == klom.value  # the population's, whichever model is asked
    assert float(apart["klom.gaussian", "u0"].value or 0) > 4 * klom.reference.value
    quality, lower = same["neurips.forgetting_quality", "u0"], apart["neurips.forgetting_quality", "u0"]
    assert quality.reference is not None
    assert float(quality.value or 0) == pytest.approx(quality.reference.value, rel=0.5)
    assert float(lower.value or 1) < 0.7 * float(quality.value or 0)
    assert same["klom.gaussian", "r0"].reason == NOT_UNLEARNED


def test_too_few_models_have_neither_and_without_a_second_half_only_the_normal_floor() -> None:
    few = by_name(measure_populations(population(3, 8)))
    assert (few["klom.gaussian", "u0"].reason or "").endswith("with other seeds; there are 3")
    found = by_name(measure_populations(population(5, 5)))
    klom = found["klom.gaussian", "u0"]
    assert klom.reference is not None
    assert klom.reference.value == 1.0  # 2 / (5 - 3)
    assert (found["neurips.forgetting_quality", "u0"].reason or "").startswith("needs 8 retrained models, half of")
    none = by_name(measure_populations(population(4, 0)))
    assert none["klom.gaussian", "u0"].reason == "needs 4 retrained models; there are 0"


def test_models_of_other_settings_or_without_a_record_are_no_population() -> None:
    context = population(6, 8)
    changed = [
        replace(one, metadata=None if k % 2 else Metadata(model="lookup", method="ft", settings={"epochs": k}))
        for k, one in enumerate(context.subjects)
    ]
    found = by_name(measure_populations(replace(context, subjects=tuple(changed))))
    assert {found["klom.gaussian", f"u{k}"].value for k in range(6)} == {None}


# ----- the whole section


def test_the_section_measures_what_is_cheap_and_the_rest_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svc, "efficacy", lambda *_: 0.5)  # whose fit takes seconds
    context = featured()
    usual = {one.name for one in measure_outputs(context, OutputsSettings(), ANEW).measurements}
    asked = OutputsSettings(probe=True, svc=True, populations=True)
    more = {one.name for one in measure_outputs(context, asked, ANEW).measurements} - usual
    assert more == {
        "outputs.tow_mia",
        "probe.recall_f",
        "probe.accuracy",
        "klom.gaussian",
        "neurips.forgetting_quality",
    }
    assert {"outputs.js", "outputs.js.class_test", "outputs.zrf", "outputs.tow", "cka.retrained"} <= usual


def test_the_plan_prices_a_look_at_every_set_and_one_more_for_features(tiny: Path, tmp_path: Path) -> None:
    entries = [{"path": str(tiny / "unlearned.safetensors")}]
    asked = {"checkpoint": entries, "forget": str(tiny / "forget.npy"), "device": "cpu", "gaps": {}}
    flop = []
    for section, settings in (("gaps", {}), ("outputs", {}), ("outputs", {"probe": True})):
        values = asked | {"outputs": settings}
        (step,) = planned_steps(resolve([Layer("flag", values, "test")]), tmp_path, (section,))
        assert step.flop is not None
        assert step.gradients is None
        flop.append(step.flop)
    forget, everything, test = 144, 2 * 144 + 1293 + 360, 360
    assert flop[1] / flop[0] == pytest.approx((everything + forget) / everything)
    assert flop[2] / flop[0] == pytest.approx((everything + forget + test) / everything)


def test_the_verb_measures_real_checkpoints(tiny: Path, run: Any) -> None:
    files = [tiny / f"{name}.safetensors" for name in ("original", "unlearned", "retrained-1", "retrained-2")]
    done = run("outputs", *files, "--forget", tiny / "forget.npy", "--format", "json", "--quiet")
    assert done.code == 0, done.stderr
    values = {(one["name"], one["subject"]): one["value"] for one in json.loads(done.stdout)["measurements"]}
    assert values["outputs.zrf", "original"] is not None
    assert values["cka.original", "unlearned"] is not None
    assert values["outputs.agreement", "retrained-1"] == values["outputs.agreement", "retrained-2"]  # one pair
