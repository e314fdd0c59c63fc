"""What is published of each method's settings: that it is complete, can be followed, and that deviations are told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unlearn_audit import catalogue
from unlearn_audit.audit.config_checks import method_problems
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Method, StepTransform
from unlearn_audit.methods.apply import parse_settings
from unlearn_audit.methods.published import deviations, published_value, with_published
from unlearn_audit.methods.transforms.reinit import ReinitSettings
from unlearn_audit.step_transforms import forms_of

OURS = {"ft-wd", "retrain", "mask-only"}


def method(name: str) -> Method:
    loaded: Method = catalogue.load("method", catalogue.METHODS, name)
    return loaded


def transform(name: str) -> StepTransform:
    loaded: StepTransform = catalogue.load("transform", catalogue.TRANSFORMS, name)
    return loaded


# Values of the authors' code, or for IEU the letter of its Algorithm 1, as the reference has them.
SOURCES: dict[str, dict[str, Any]] = {
    "ft": {"step_size": 0.01, "epochs": 10, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256},
    "ga": {"step_size": 1e-4, "epochs": 5, "batch_size": 256, "loss_clip": None},
    "rl": {"step_size": 0.01, "epochs": 10, "batch_size": 256, "exclude_true": False, "order": "forget-first"},
    "salun": {"step_size": 0.013, "epochs": 10, "batch_size": 256, "density": 0.5, "strict": True},
    "l1-sparse": {"step_size": 0.01, "epochs": 10, "batch_size": 256, "decay": "linear"},
    "neggrad-plus": {"step_size": 0.01, "epochs": 10, "alpha": 0.95, "weight_decay": 0.0},
    "scrub": {"step_size": 5e-4, "epochs": 3, "forget_epochs": 2, "batch_size": 128, "forget_batch_size": 32,
              "alpha": 0.001, "gamma": 0.99, "temperature": 4.0, "schedule": "milestones:3,5,9"},
    "ssd": {"alpha": 10.0, "dampening": 1.0, "batch_size": 128},
    "fisher": {"batch_size": 32, "class_row": True},
    "msg": {"redrawn": 0.3, "step_size": 1e-3, "epochs": 5, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 64},
    "ct": {"step_size": 1e-3, "epochs": 3, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"},
    "bad-teacher": {"optimizer": "adam", "step_size": 0.01, "epochs": 10, "batch_size": 256, "temperature": 1.0,
                    "retain_share": 0.3},
    "sfron": {"steps": 1800, "every": 5, "alpha": 25.0, "adapt": 0.5, "threshold": 1.0, "clip_norm": 7.0,
              "step_size": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"},
    "cf-k": {"epochs": 62, "step_size": 0.1, "weight_decay": 5e-5, "batch_size": 64},
    "delete": {"step_size": 1e-4, "epochs": 20, "batch_size": 128, "momentum": 0.9, "weight_decay": 0.0},
    "trw": {"beta": 10.0},
    "entanglement": {"step_size_1": 2.5e-6, "epochs_1": 1, "batch_size_1": 128, "forget_batch_size_1": 16, "mu": 10.0,
                     "gamma": 1.0, "relax": 1.0, "loss_clip": 10.0, "step_size": 2e-5, "epochs": 6, "limit": 10,
                     "batch_size": 128, "forget_batch_size": 128, "remote_batch_size": 512, "alpha": 0.5,
                     "momentum": 0.9, "sign": "code", "project": True},
    "ieu": {"schedule": "constant", "scale": "total_d", "draw": "fresh", "include_1d": True, "loss_clip": "none",
            "batch_size": "full", "momentum": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_the_published_recipe_has_the_values_of_the_source(name: str) -> None:
    settings = parse_settings(method(name), {}, published=True)
    assert {key: getattr(settings, key) for key in SOURCES[name]} == SOURCES[name]
    assert not [text for text in deviations(settings) if not text.startswith("of our own")]


PARTS = [*map(method, catalogue.METHODS), *map(transform, catalogue.TRANSFORMS)]


@pytest.mark.parametrize("part", [form.settings for part in PARTS for form in forms_of(part).values()])
def test_what_is_said_to_be_published_are_settings_that_can_be_set(part: Any) -> None:
    published = part.PUBLISHED or {}
    assert {*published, *part.UNKNOWN} <= set(part.model_fields)
    assert not set(published) & set(part.UNKNOWN)
    part.model_validate(dict(published))


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_nobody_published_cannot_be_followed_and_deviates_from_nothing(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} has no published recipe"):
        parse_settings(method(name), {}, published=True)
    assert deviations(parse_settings(method(name), {})) == ()


DEFAULTS = {
    "ft": ["batch_size is 64, published is 256: 4 times the steps"],
    "ga": ["batch_size is 64, published is 256: 4 times the steps"],
    "rl": ["batch_size is 64, published is 256: 4 times the steps"],
    "salun": ["batch_size is 64, published is 256: 4 times the steps"],
    "l1-sparse": [
        "batch_size is 64, published is 256: 4 times the steps",
        "of our own, since no value is published: alpha 0.0005",
    ],
    "neggrad-plus": ["of our own, since no value is published: batch_size 64"],
    "scrub": [],
    "ssd": [],
    "fisher": ["of our own, since no value is published: alpha 1e-06"],
    "delete": [],
    "trw": [
        "of our own, since no value is published: temperature 0.1, energy 0.9, retain_weight 1, step_size 0.01, "
        "epochs 10, batch_size 128, momentum 0.9, weight_decay 0.0005"
    ],
    "entanglement": [],
    "ieu": [
        "batch_size is 64, published is full",
        "the ascended loss of an example is clipped at 15 nats, in the source none",
        "schedule is cosine, published is constant",
        "scale is fan_in, published is total_d",
        "include_1d is no, published is yes",
        "of our own, since no value is published: alpha 0.999, c 0.2, step_size 0.05, steps 400, augment recipe",
    ],
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_deviation_of_the_defaults_is_told(name: str) -> None:
    assert sorted(deviations(parse_settings(method(name), {}))) == sorted(DEFAULTS[name])


def test_what_has_no_effect_is_no_deviation() -> None:
    plain = deviations(parse_settings(method("ieu"), {"alpha": 1.0, "c": 0.0}))
    assert not any(word in text for text in plain for word in ("clipped", "scale", "include_1d"))
    assert deviations(ReinitSettings(alpha=1.0), part="reinit") == (
        "reinit: of our own, since no value is published: alpha 1",
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"steps": 7}, ["7 steps, published are 10 epochs", "batch_size is 64, published is 256"]),
        ({"epochs": 2, "batch_size": 256}, ["epochs is 2, published is 10"]),
        ({"batch_size": 512}, ["batch_size is 512, published is 256: 1/2 of the steps"]),
        ({"batch_size": "full"}, ["batch_size is full, published is 256"]),
        ({"batch_size": 256, "optimizer": "adam"}, ["optimizer is adam, published is sgd"]),
        ({"batch_size": 256, "stop_retain_loss": 2.5}, ["stop_retain_loss is 2.5, published is none"]),
    ],
)
def test_other_settings_than_published_are_told(values: dict[str, Any], told: list[str]) -> None:
    assert sorted(deviations(parse_settings(method("ft"), values))) == sorted(told)


def test_what_is_given_wins_over_the_published_value() -> None:
    ft = method("ft").settings
    assert with_published("ft", ft, {"batch_size": 32, "steps": 5}) == {"batch_size": 32, "steps": 5}
    assert parse_settings(method("ft"), {"steps": 5}, published=True).epochs is None


def test_what_is_not_known_is_an_error_to_ask_for() -> None:
    with pytest.raises(LookupError):
        published_value(method("ieu").settings, "alpha")
    with pytest.raises(LookupError):
        published_value(method("ft-wd").settings, "step_size")


def test_deviations_that_are_no_settings_are_listed() -> None:
    assert "equal as can be" in method("ssd").deviations[0]
    assert method("salun").deviations == transform("mask").deviations
    assert "mean loss over the whole forget set" in method("salun").deviations[0]
    assert "shuffled anew" in method("neggrad-plus").deviations[0]


def test_help_shows_default_and_published(run: Callable[..., Any]) -> None:
    text = " ".join(run("apply", "ft", "--help").stdout.replace("│", " ").split())
    assert "Default 64; published 256." in text
    assert "Default 0.01, as published." in text
    text = " ".join(run("apply", "ieu", "--help").stdout.replace("│", " ").split())
    assert "Default 0.2; no value is published." in text
    assert "Default cosine; published constant." in text


def test_a_config_can_ask_for_it_and_is_refused_where_nothing_is_published(tmp_path: Path) -> None:
    entry = {"label": "u", "method": "ft", "recipe": "published"}
    assert list(method_problems({"apply": [entry]})) == []
    (problem,) = method_problems({"apply": [entry | {"method": "ft-wd"}]})
    assert "ft-wd has no published recipe" in problem.text
