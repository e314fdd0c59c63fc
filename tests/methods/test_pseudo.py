"""Pseudo conditions: a step by hand, which condition takes whose place, and SalUn's mask on a generator."""

from typing import Any

import pytest
import torch
from small_generators import Scalars, generator_context, generator_splits, make_denoiser, unlearn_generator
from small_problems import changed, parameters_of

from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.methods import pseudo as module
from unlearn_audit.methods.pseudo import PSEUDO, next_kept, other_conditions
from unlearn_audit.methods.random_labels import RL
from unlearn_audit.methods.salun import SALUN

SGD = {"optimizer": "sgd", "step_size": 0.4, "steps": 25, "schedule": "constant", "max_norm": "none"}


def others_of(pseudo: str, forget: str = "class:3", seed: int = 0, step: int = 0, n: int = 400) -> list[int]:
    context = generator_context(make_denoiser(), generator_splits(forget), seed)
    own = context.splits.forget_examples.labels.repeat(n)[:n]
    return other_conditions(context, pseudo)(own, step).tolist()


@pytest.mark.parametrize("target", ["current", "frozen"])
def test_a_step_descends_to_the_prediction_under_the_next_class(target: str) -> None:
    model = make_denoiser(Scalars())
    before = model.class_embedding.weight.detach().clone()[:, 0]
    unlearn_generator(
        PSEUDO, model,
        values={"target": target, "retain_weight": 0, **SGD},
    )  # fmt: skip
    after = model.class_embedding.weight.detach()[:, 0]
    assert after[3].item() == pytest.approx(before[0].item(), abs=1e-4)
    assert torch.equal(after[[0, 1, 2, 4]], before[[0, 1, 2, 4]])


def test_under_its_own_condition_the_current_model_has_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "other_conditions", lambda *_: lambda conditions, step: conditions)
    model = make_denoiser()
    before = parameters_of(model)
    unlearn_generator(
        PSEUDO, model, values={"retain_weight": 0, "steps": 3, "optimizer": "sgd", "step_size": 1.0, "max_norm": "none"}
    )
    assert not any(moved.any() for moved in changed(before, model).values())


def test_next_is_the_next_class_that_is_kept() -> None:
    assert set(others_of("next")) == {0}
    assert set(others_of("next", "class:0")) == {1}
    assert set(others_of("next", "class:0,1")) == {2}
    assert others_of("next", "range:0-7", n=8) == [1, 2, 3, 0, 1, 2, 3, 0]  # no class is forgotten as a whole
    assert next_kept(3, [2]) == [2, 2, 2]


def test_random_draws_among_kept_classes_anew_in_each_step() -> None:
    drawn = others_of("random")
    assert set(drawn) == {0, 1, 2}
    assert max(abs(drawn.count(each) - 133.3) for each in range(3)) < 5 * (400 * 2 / 9) ** 0.5
    assert others_of("random") == drawn != others_of("random", step=1) != others_of("random", seed=1)


def test_rl_on_a_generator_is_pseudo_with_random_conditions() -> None:
    models = make_denoiser(), make_denoiser()
    unlearn_generator(RL, models[0], values={"steps": 3})
    unlearn_generator(PSEUDO, models[1], values={"steps": 3, "pseudo": "random"})
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, two)


def test_salun_moves_the_salient_half_and_adam_knows_nothing_of_the_others() -> None:
    model = make_denoiser()
    before = parameters_of(model)
    unlearn_generator(SALUN, model, values={"steps": 5, "step_size": 1e-2, "density": 0.5})
    moved = torch.cat([each.flatten() for each in changed(before, model).values()])
    rows = model.class_embedding.weight.numel()
    assert 0.3 * len(moved) < int(moved.sum()) <= len(moved) // 2
    assert rows > 0


def test_salun_with_a_full_mask_is_pseudo_and_with_none_nothing() -> None:
    models = [make_denoiser() for _ in range(3)]
    before = parameters_of(models[2])
    unlearn_generator(SALUN, models[0], values={"steps": 3, "density": 1.0})
    unlearn_generator(PSEUDO, models[1], values={"steps": 3})
    unlearn_generator(SALUN, models[2], values={"steps": 3, "density": 0.0})
    assert all(torch.equal(*pair) for pair in zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert not any(each.any() for each in changed(before, models[2]).values())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pseudo": "prompt: "}, "names no prompt"),
        ({"pseudo": "nextt"}, "must be next"),
        ({"order": "alternate"}, "order"),
    ],
)
def test_settings_that_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        unlearn_generator(PSEUDO, make_denoiser(), values=values)


def test_a_prompt_is_refused_where_classes_are_asked_for() -> None:
    with pytest.raises(UsageError, match="asked by classes"):
        unlearn_generator(PSEUDO, make_denoiser(), values={"pseudo": "prompt:a dog"})
