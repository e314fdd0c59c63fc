"""`--with`: its grammar, what it refuses, and that transforms join a method in the order given."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from small_problems import (
    Plain,
    batches_of,
    cross_entropy,
    difference,
    make_context,
    make_net,
    parameters_of,
    same,
    slopes,
    watch_inputs,
)
from torch import Tensor

from unlearn_audit import catalogue
from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.data import Splits
from unlearn_audit.errors import AuditError, ConfigError, UsageError
from unlearn_audit.methods import StepTransform, Unlearned, UnlearningContext
from unlearn_audit.methods.ft import FtSettings, FtWdSettings, run_ft, run_ft_wd
from unlearn_audit.methods.ga import GaSettings, run_ga
from unlearn_audit.methods.ieu import IeuSettings, run_ieu
from unlearn_audit.methods.loop import LoopSettings
from unlearn_audit.methods.neggrad_plus import NegGradPlusSettings, run_neggrad_plus
from unlearn_audit.methods.random_labels import RlSettings, run_rl
from unlearn_audit.methods.salun import SalunSettings, run_salun
from unlearn_audit.methods.scrub import ScrubSettings, run_scrub
from unlearn_audit.methods.transforms.mask import MaskSettings
from unlearn_audit.methods.transforms.reinit import ReinitSettings
from unlearn_audit.step_transforms import parse_extra, parse_extras

SHORT: dict[str, Any] = {
    "batch_size": 16, "step_size": 0.05, "momentum": 0.0, "weight_decay": 0.0, "steps": 5, "schedule": "constant",
}  # fmt: skip


def transform(name: str) -> StepTransform:
    loaded: StepTransform = catalogue.load("transform", catalogue.TRANSFORMS, name)
    return loaded


# ----- the grammar


@pytest.mark.parametrize("name", list(catalogue.TRANSFORMS))
@pytest.mark.parametrize("form", ["{}", "{}:", " {} "])
def test_a_name_alone_has_the_defaults(name: str, form: str) -> None:
    found = parse_extra(form.format(name))
    assert found.transform is transform(name)
    assert found.settings == transform(name).settings()
    assert found.transform.name == name
    assert found.transform.source


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("reinit:alpha=0.99", ReinitSettings(alpha=0.99)),
        ("reinit,alpha=0.99", ReinitSettings(alpha=0.99)),
        ("reinit: alpha = 0.99 , scale = total_d ", ReinitSettings(alpha=0.99, scale="total_d")),
        ("reinit:include_1d=yes,draw=per_epoch", ReinitSettings(include_1d=True, draw="per_epoch")),
        ("mask:random", MaskSettings(variant="random")),
        ("mask:saliency,density=0.25", MaskSettings(density=0.25)),
        ("mask:random,density=1e-1,strict=no", MaskSettings(variant="random", density=0.1, strict=False)),
        ("mask:density=0.25,variant=random", MaskSettings(variant="random", density=0.25)),
        ("mask,density=0.25", MaskSettings(density=0.25)),
    ],
)
def test_forms_that_are_understood(text: str, settings: object) -> None:
    assert parse_extra(text).settings == settings


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("reinot:alpha=0.9", UsageError, "unknown transform 'reinot'; did you mean 'reinit'? Known: "),
        ("", UsageError, "unknown transform ''"),
        (":alpha=0.9", UsageError, "unknown transform ''"),
        ("reinit:alpha", UsageError, "'alpha' is no KEY=VALUE; reinit has the settings alpha, scale, draw, include_1d"),
        ("reinit:fan_in", UsageError, "'fan_in' is no KEY=VALUE"),
        ("mask,random", UsageError, "'random' is no KEY=VALUE; mask has the settings density, strict"),
        ("mask:density=0.5,random", UsageError, "'random' is no KEY=VALUE"),
        ("mask:random,saliency", UsageError, "'saliency' is no KEY=VALUE"),
        ("reinit:alpha=0.9,alpha=0.8", UsageError, "alpha is given twice"),
        ("mask:random,variant=saliency", UsageError, "variant is given twice"),
        ("reinit:alpha=0.9,", UsageError, "'' is no KEY=VALUE"),
        ("reinit:,alpha=0.9", UsageError, "'' is no KEY=VALUE"),
        ("reinit:alpha=0.9,,scale=none", UsageError, "'' is no KEY=VALUE"),
        ("reinit:=0.9", UsageError, "'=0.9' is no KEY=VALUE"),
        ("reinit:alpha=", ConfigError, "--with reinit: alpha: "),
        ("reinit:alpha=1.5", ConfigError, "--with reinit: alpha: "),
        ("reinit:alpha=nan", ConfigError, "--with reinit: alpha: "),
        ("reinit:beta=1", ConfigError, "--with reinit: unknown key 'beta'; known: alpha, "),
        ("mask:salient", ConfigError, "--with mask: variant: "),
        ("mask:", None, ""),
        ("mask:density=-0.1", ConfigError, "--with mask: density: "),
        ("l1:alpha=-1", ConfigError, "--with l1: alpha: "),
        ("l1:free_epochs=1.5", ConfigError, "--with l1: free_epochs: "),
        ("ascent:c=2", ConfigError, "--with ascent: c: "),
    ],
)
def test_forms_that_are_refused(text: str, kind: type[AuditError] | None, says: str) -> None:
    if kind is None:
        parse_extra(text)
        return
    with pytest.raises(kind) as caught:
        parse_extra(text)
    assert type(caught.value) is kind
    assert says in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_every_problem_of_one_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_extra("reinit:alpha=2,scale=kaiming,beta=1")
    assert len(caught.value.problems) == 3


# ----- that they do what they do


def test_several_are_applied_in_order_after_the_methods_own(splits: Splits) -> None:
    """The method shrinks the weights, two mixings halve them; the penalty's slope is that of the weights before."""
    model, eta, alpha = Plain(), 0.05, 0.1
    theta, retain = parameters_of(model), batches_of(splits, "retain")
    for step in range(3):
        slope = slopes(lambda weights, step=step: cross_entropy(model, weights, retain.at(step)), theta)
        for name in theta:
            slope[name] = slope[name] + alpha * theta[name].sign()
            factor = 0.9 * 0.5 * 0.5 if theta[name].dim() >= 2 else 1.0
            theta[name] = factor * theta[name] - eta * slope[name]
    extras = parse_extras(["reinit:alpha=0.5,scale=none", "l1:alpha=0.1,decay=none", "reinit:alpha=0.5,scale=none"])
    run_ft_wd(
        make_context(model, splits, extras=extras), FtWdSettings(**SHORT | {"alpha": 0.9, "step_size": eta, "steps": 3})
    )
    assert difference(theta, parameters_of(model)) < 1e-12


def test_the_order_of_gradient_edits_is_the_order_given(splits: Splits) -> None:
    """A mask before the penalty lets it through to masked weights; after it, nothing passes."""
    moved = []
    for order in (["mask:random,strict=no", "l1:alpha=0.1"], ["l1:alpha=0.1", "mask:random,strict=no"]):
        model = Plain()
        before = parameters_of(model)
        run_ft(make_context(model, splits, extras=parse_extras(order)), FtSettings(**SHORT))
        weights = torch.cat([parameter.flatten() for parameter in model.parameters()])
        moved.append((weights != torch.cat([each.flatten() for each in before.values()])).float().mean().item())
    assert moved[0] == 1.0
    assert moved[1] == pytest.approx(0.5, abs=0.01)


def test_reinit_joins_ft_as_ieu_does_it_itself(splits: Splits) -> None:
    one, two = make_net(), make_net()
    extras = parse_extras(["reinit:alpha=0.95,scale=total_d"])
    run_ft(make_context(one, splits, extras=extras), FtSettings(**SHORT))
    run_ieu(make_context(two, splits), IeuSettings(**SHORT, alpha=0.95, c=0, scale="total_d"))
    assert same(one, two)


RUNS: list[tuple[Callable[[UnlearningContext, Any], Unlearned], LoopSettings]] = [
    (run_ft, FtSettings(**SHORT)),
    (run_ga, GaSettings(**SHORT)),
    (run_neggrad_plus, NegGradPlusSettings(**SHORT)),
    (run_rl, RlSettings(**SHORT)),
    (run_salun, SalunSettings(**SHORT)),
    (run_scrub, ScrubSettings(**SHORT)),
    (run_ieu, IeuSettings(**SHORT)),
]


@pytest.mark.parametrize(("run", "settings"), RUNS)
def test_mixing_alone_does_the_same_to_every_method(
    splits: Splits, run: Callable[[UnlearningContext, Any], Unlearned], settings: LoopSettings
) -> None:
    """With no memory and steps of next to no length what is left is the last draw, whatever the objective."""
    model, other = make_net(), make_net(1)
    extras = parse_extras(["reinit:alpha=0"])
    still = settings.model_copy(update={"step_size": 1e-300})
    run(make_context(model, splits, extras=extras), still)
    run_ft(make_context(other, splits, extras=extras), FtSettings(**SHORT | {"step_size": 1e-300}))
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert one.dim() < 2 or torch.equal(one, two), name


def test_ascent_joins_ft_as_ieu_ascends(splits: Splits) -> None:
    """The stream of forget batches is its own, so full batches are compared."""
    one, two = Plain(), Plain()
    settings = SHORT | {"batch_size": "full", "steps": 4}
    first = run_ft(
        make_context(one, splits, extras=parse_extras(["ascent:c=0.3,batch_size=full"])), FtSettings(**settings)
    )
    second = run_ieu(make_context(two, splits), IeuSettings(**settings, alpha=1, c=0.3))
    assert difference(one, two) < 1e-12
    assert difference(one, Plain()) > 1e-3
    assert first.gradient_evaluations == second.gradient_evaluations == 400


def test_ascent_of_no_weight_passes_no_batch(splits: Splits) -> None:
    model, plain = make_net(), make_net()
    seen = watch_inputs(model)
    done = run_ft(make_context(model, splits, extras=parse_extras(["ascent:c=0"])), FtSettings(**SHORT))
    assert len(seen) == 5
    assert done == run_ft(make_context(plain, splits), FtSettings(**SHORT))
    assert same(model, plain)


def test_a_clipped_ascent_has_no_slope_above(splits: Splits) -> None:
    one, two = Plain(), Plain()
    run_ft(make_context(one, splits, extras=parse_extras(["ascent:c=1,loss_clip=1e-6"])), FtSettings(**SHORT))
    run_ft(make_context(two, splits), FtSettings(**SHORT))
    assert same(one, two)


def test_two_ascents_add_up(splits: Splits) -> None:
    def ascended(*extras: str) -> dict[str, Tensor]:
        model = Plain()
        problem = make_context(model, splits, extras=parse_extras(extras))
        run_ft(problem, FtSettings(**SHORT | {"batch_size": "full", "steps": 1}))
        return parameters_of(model)

    full = "batch_size=full"
    assert (
        difference(ascended(f"ascent:c=0.3,{full}", f"ascent:c=0.2,{full}"), ascended(f"ascent:c=0.5,{full}")) < 1e-12
    )


# ----- from the command line


def apply(run: Run, tiny: Path, out: Path, method: str, *flags: object) -> Any:
    return run("apply", method, tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--out", out, *flags)


def test_what_joined_is_recorded_in_order(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "u.safetensors"
    given = ["reinit:alpha=0.999,scale=fan_in", "mask:saliency,density=0.5"]
    done = apply(run, tiny, out, "scrub", "--steps", 2, "--with", given[0], "--with", given[1])
    assert done.code == 0, done.stderr
    metadata = read_checkpoint(out).metadata
    assert metadata is not None
    assert metadata.transforms == tuple(given)
    assert json.loads(run("inspect", out, "--format", "json").stdout)["metadata"]["transforms"] == given
    plain = apply(run, tiny, tmp_path / "p.safetensors", "scrub", "--steps", 2)
    assert plain.code == 0
    assert not same(dict(read_checkpoint(out).state), dict(read_checkpoint(tmp_path / "p.safetensors").state))


@pytest.mark.parametrize("method", ["ssd", "newton", "retrain", "fisher", "iu"])
def test_methods_without_a_loop_take_none(run: Run, tiny: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "u.safetensors"
    done = apply(run, tiny, out, method, "--with", "reinit")
    assert done.code == 2
    assert "--with" in done.stderr
    from unlearn_audit.config import Layer, resolve
    from unlearn_audit.methods.apply import apply_method

    request = resolve([
        Layer("flag", {"checkpoint": [{"path": str(tiny / "original.safetensors")}], "forget": "class:3"})
    ])
    with pytest.raises(UsageError, match=f"^{method} takes no --with: it is no loop of gradient steps"):
        apply_method(method, out, request, {}, extras=["reinit"])
    assert not out.exists()


@pytest.mark.parametrize("text", ["reinot", "reinit:alpha=2", "reinit:alpha", "mask:x"])
def test_a_wrong_transform_is_refused_in_one_line(refused: Callable[..., None], tiny: Path, text: str) -> None:
    arguments = [
        "apply",
        "ft",
        tiny / "original.safetensors",
        "--forget",
        tiny / "forget.npy",
        "--out",
        "u.safetensors",
    ]
    refused(*arguments, "--with", text, code=2, says=[text.partition(":")[0]])
