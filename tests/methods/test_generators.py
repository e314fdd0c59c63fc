"""Methods on generators: which run and which are refused, what moves, what is clipped, drawn and left alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_generators import (
    CLASSES,
    Convolutions,
    generator_context,
    generator_splits,
    make_denoiser,
    unlearn_generator,
)
from small_problems import changed, make_net, parameters_of, same
from torch import nn

from unlearn_audit import catalogue
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.methods import Method
from unlearn_audit.methods.apply import joining, parse_settings
from unlearn_audit.methods.ft import FT
from unlearn_audit.methods.ga import GA
from unlearn_audit.methods.generators import SCOPES, concept_alone, kind_of, scoped
from unlearn_audit.methods.ieu import IEU
from unlearn_audit.methods.loop import LoopSettings, mean_loss, minibatches
from unlearn_audit.methods.published import deviations
from unlearn_audit.methods.resume import StateFile
from unlearn_audit.models.denoisers import Denoiser, linear_schedule
from unlearn_audit.progress import silent
from unlearn_audit.step_transforms import forms_of

METHODS = {name: catalogue.load("method", catalogue.METHODS, name) for name in catalogue.METHODS}
RUN = [name for name, method in METHODS.items() if "generator" in forms_of(method) and name != "retrain"]


def test_which_methods_run_on_generators_is_known_of_each() -> None:
    assert {*RUN} >= {"ft", "ft-wd", "ga", "neggrad-plus", "ieu", "rl", "salun", "pseudo", "ssd", "l1-sparse",
                      "label-swap"}  # fmt: skip
    refused = {name: METHODS[name].on["generator"] for name in METHODS if name not in RUN and name != "retrain"}
    assert all(isinstance(reason, str) for reason in refused.values())
    assert "probabilities of classes" in refused["scrub"]
    with pytest.raises(UsageError, match="scrub cannot be used on a generator of classes: it works with the prob"):
        parse_settings(METHODS["scrub"], {}, kind="generator")
    with pytest.raises(UsageError, match="pseudo cannot be used on a classifier"):
        parse_settings(METHODS["pseudo"], {}, kind="classifier")


@pytest.mark.parametrize("name", RUN)
def test_a_method_edits_a_generator_and_comes_to_the_same_weights_again(name: str) -> None:
    method: Method = METHODS[name]
    models = [make_denoiser() for _ in range(2)]
    before = parameters_of(models[0])
    values = {"steps": 2, "batch_size": 8} if method.composes else {}
    values |= {"alpha": 1.0} if name == "ssd" else {}
    done = [unlearn_generator(method, model, values=values) for model in models]
    assert same(*models)
    assert any(moved.any() for moved in changed(before, models[0]).values())
    assert all(torch.isfinite(each).all() for each in models[0].parameters())
    if method.composes:
        counted = unlearn_generator(method, make_denoiser(), values=values, count_only=True)
        assert counted.gradient_evaluations == done[0].gradient_evaluations > 0


def test_settings_are_those_of_the_kind_and_what_no_kind_takes_is_refused_at_once() -> None:
    salun = METHODS["salun"]
    assert parse_settings(salun, {}).order == "forget-first"
    assert parse_settings(salun, {}, kind="generator").pseudo == "next"
    assert parse_settings(salun, {"pseudo": "random"}).pseudo == "random"  # no classifier takes it, a generator does
    for kind in (None, "generator"):
        with pytest.raises(ConfigError, match="psuedo"):
            parse_settings(salun, {"psuedo": "random"}, kind=kind)
    assert (parse_settings(FT, {}).optimizer, parse_settings(FT, {}, kind="generator").optimizer) == ("sgd", "adam")
    with pytest.raises(ConfigError, match="stop_at compares losses of a classifier"):
        parse_settings(FT, {"stop_at": "unseen"}, kind="generator")


def test_what_a_model_is_decides_its_kind() -> None:
    assert kind_of(make_net()) == "classifier"
    assert kind_of(make_denoiser()) == "generator"
    assert kind_of(Denoiser(Convolutions(), linear_schedule(), conditioning="text")) == "text-to-image"


def test_a_concept_without_data_is_forgotten_by_what_looks_at_no_image() -> None:
    esd = METHODS["esd"]
    named = parse_settings(esd, {"concept": "a dog"}, kind="text-to-image")
    assert concept_alone(named, (), None) == "a dog"
    assert concept_alone(named, (), "class:3") is None
    assert concept_alone(parse_settings(esd, {}, kind="text-to-image"), (), None) is None
    assert concept_alone(named, joining(esd, ["reinit"], "text-to-image"), None) == "a dog"
    for joined in ("ascent", "mask", "nash"):
        with pytest.raises(UsageError, match=f"{joined} looks at images"):
            concept_alone(named, joining(esd, [joined], "text-to-image"), None)
    with pytest.raises(UsageError, match="retain_weight looks at images"):
        concept_alone(named.model_copy(update={"retain_weight": 1.0}), (), None)


# ----- scopes


class Named(nn.Module):
    """Parameters under the names that they have in U-Nets."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            *path, last = name.split(".")
            part: nn.Module = self
            for each in path:
                if each not in part._modules:
                    part.add_module(each, nn.Module())
                part = part.get_submodule(each)
            part.register_parameter(last, nn.Parameter(torch.zeros(1)))


BLOCK = "down_blocks.0.attentions.0"
OF_TEXTS = {
    "xattn": f"{BLOCK}.transformer_blocks.0.attn2.to_k.weight",
    "selfattn": f"{BLOCK}.transformer_blocks.0.attn1.to_q.weight",
    "resnet": "mid_block.resnets.0.time_emb_proj.weight",
    "norm": f"{BLOCK}.norm.weight",
    "time": "time_embedding.linear_1.weight",
    "out": "conv_out.weight",
    "out norm": "conv_norm_out.weight",
}
OF_CLASSES = {"labels": "class_embedding.weight", "selfattn": "mid_block.attentions.0.to_out.0.weight"}


@pytest.mark.parametrize(
    ("scope", "names", "moving"),
    [
        ("full", OF_TEXTS, {*OF_TEXTS}),
        ("xattn", OF_TEXTS, {"xattn"}),
        ("noxattn", OF_TEXTS, {"selfattn", "resnet", "norm"}),
        ("selfattn", OF_TEXTS, {"selfattn"}),
        ("selfattn", OF_CLASSES, {"selfattn"}),
        ("labels", OF_CLASSES, {"labels"}),
        ("noxattn", OF_CLASSES, {"labels", "selfattn"}),
    ],
)
def test_a_scope_is_what_the_published_code_means_by_its_name(
    scope: Any, names: dict[str, str], moving: set[str]
) -> None:
    model = Named(*names.values())
    with scoped(model, scope):
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {names[each] for each in moving}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_empty_scope_is_refused_and_one_that_is_there_holds_against_everything() -> None:
    with pytest.raises(UsageError, match="--scope xattn: this model has no parameters of cross-attention"):
        unlearn_generator(FT, make_denoiser(), values={"scope": "xattn", "steps": 1})
    model = make_denoiser()
    before = parameters_of(model)
    unlearn_generator(IEU, model, values={"scope": "labels", "steps": 2}, extras=("l1", "mask:random"))
    assert [name for name, moved in changed(before, model).items() if moved.any()] == ["class_embedding.weight"]
    assert {*SCOPES} == {"full", "xattn", "noxattn", "selfattn", "labels"}


# ----- losses, draws and transforms


def test_labels_are_dropped_in_retain_batches_alone() -> None:
    context = generator_context(make_denoiser(), generator_splits("range:0-29"))
    conditions = {
        which: torch.cat([
            minibatches(context, which, LoopSettings(steps=1, batch_size=30)).rows_at(step).inputs.condition  # type: ignore[arg-type]
            for step in range(20)
        ])
        for which in ("retain", "forget")
    }  # fmt: skip
    assert not (conditions["forget"] == CLASSES).any()
    share = (conditions["retain"] == CLASSES).double().mean().item()
    assert abs(share - 0.1) < 4 * (0.09 / 600) ** 0.5


def test_retain_and_forget_batches_have_noise_of_their_own() -> None:
    context = generator_context(make_denoiser(), generator_splits("range:0-29"))
    settings = LoopSettings(steps=1, batch_size=30)
    batches = [minibatches(context, which, settings) for which in ("retain", "forget")]  # type: ignore[arg-type]
    rows = [each.rows_at(0).target for each in batches]
    again = minibatches(context, "retain", settings).rows_at(0).target
    assert torch.equal(rows[0], again)
    assert not torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], batches[0].rows_at(1).target)


class Constant(nn.Module):
    """It predicts a multiple of nothing but one number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))

    def forward(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        return self.weight * torch.ones_like(x)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_loss_is_clipped_at_that_of_predicting_nothing(prediction: Any) -> None:
    schedule = linear_schedule()._replace(prediction=prediction)
    for value, moves in ((0.0, True), (5.0, False)):  # at 5 each row's loss is above that of predicting nothing
        model = Denoiser(Constant(value), schedule, null=CLASSES)
        context = generator_context(model)
        batches = minibatches(context, "forget", LoopSettings(steps=1, batch_size=15))
        loss = mean_loss(context, batches, 0, clip=1.0)
        nothing = batches.rows_at(0).target.square().mean()
        torch.testing.assert_close(loss.detach(), nothing)
        gradient = torch.autograd.grad(loss, list(model.parameters()))[0]
        assert bool(gradient.abs() > 0) == moves


def test_ascent_stops_where_nothing_is_predicted_and_has_a_clip_of_its_own_on_generators() -> None:
    assert joining(FT, ["ascent"], "generator")[0].settings.loss_clip == 1.0  # type: ignore[attr-defined]
    assert joining(FT, ["ascent"])[0].settings.loss_clip == 15.0  # type: ignore[attr-defined]
    losses = {}
    for clip in (1.0, None):
        model = make_denoiser()
        values = {"steps": 10, "optimizer": "sgd", "step_size": 0.1, "schedule": "constant", "max_norm": "none"}
        unlearn_generator(GA, model, values=values | {"loss_clip": clip})
        context = generator_context(model)
        batches = minibatches(context, "forget", LoopSettings(steps=1, batch_size=15))
        losses[clip] = sum(mean_loss(context, batches, step).item() for step in range(5)) / 5
    assert 0.9 < losses[1.0] < 3 < losses[None]


def test_rows_of_embeddings_are_not_mixed_and_the_run_says_so() -> None:
    model = make_denoiser()
    before = parameters_of(model)
    done = unlearn_generator(FT, model, values={"steps": 1, "step_size": 1e-30}, extras=("reinit:alpha=0.5",))
    moved = {name: bool(each.any()) for name, each in changed(before, model).items()}
    assert not moved["class_embedding.weight"]
    assert moved["conv_in.weight"]
    assert any("rows of embeddings are not re-initialised" in note for note in done.notes)


def test_a_transform_that_shows_a_network_one_image_is_refused() -> None:
    with pytest.raises(UsageError, match="clip cannot be used on a generator of classes: it is shown one image"):
        joining(FT, ["clip"], "generator")


def test_deviations_name_the_unit_of_a_clip() -> None:
    told = deviations(parse_settings(IEU, {}, kind="generator"))
    assert any("clipped at 1 times the loss of predicting nothing" in text for text in told)
    assert any("clipped at 15 nats" in text for text in deviations(parse_settings(IEU, {})))


@pytest.mark.parametrize("name", ["esd", "salun", "ieu"])
def test_a_run_that_was_killed_goes_on_to_the_same_weights(name: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {"steps": 30, "batch_size": 4} | (
        {"pool": 2, "sampling_steps": 3} if name == "esd" else {}
    )

    def killed(task: str, done: int, total: int, note: str = "") -> None:
        if "samples" not in task and done == 30:
            raise KeyboardInterrupt

    def run(model: Denoiser, *, resume: bool, progress: Any = silent) -> None:
        state = StateFile(tmp_path / "state", {}, resume=resume, every=0.0, memory={})
        unlearn_generator(METHODS[name], model, values=values, resumable=state, progress=progress)

    whole, first, again = (make_denoiser() for _ in range(3))
    unlearn_generator(METHODS[name], whole, values=values)
    with pytest.raises(KeyboardInterrupt):
        run(first, resume=False, progress=killed)
    assert (tmp_path / "state").exists()
    run(again, resume=True)
    assert same(whole, again)
