"""Objectives over sets that are shuffled together: batch sizes, epochs, costs, augmentation as the settings say."""

from dataclasses import replace

import pytest
import torch
from small_problems import Plain, make_context

from unlearn_audit.data import Splits
from unlearn_audit.engine import MixedSet, Term, crop_and_flip
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.loop import LoopSettings, run_composition
from unlearn_audit.methods.mixtures import mixed, mixture_of


def test_the_batch_size_counts_rows_of_all_sets_and_an_epoch_is_a_pass_over_them(splits: Splits) -> None:
    context = make_context(Plain(), splits)
    sets = [MixedSet(splits.retain_examples), MixedSet(splits.forget_examples)]
    objective = mixed(mixture_of(context, sets, LoopSettings(batch_size=30)), lambda step: {})
    assert [objective.length(epochs) for epochs in (1, 0.5, 2)] == [4, 2, 8]
    assert [objective.epoch_of(step) for step in (0, 3, 4)] == [0, 0, 1]
    assert [objective.gradients(steps) for steps in (1, 3, 4, 5)] == [30, 90, 100, 130]
    assert len(mixture_of(context, sets, LoopSettings(batch_size="full")).at(0).labels) == 100


@pytest.mark.parametrize(
    ("augment", "recipe", "does"),
    [("recipe", True, True), ("recipe", False, False), ("yes", False, True), ("no", True, False)],
)
def test_a_mixture_augments_as_the_settings_say(splits: Splits, augment: str, recipe: bool, does: bool) -> None:
    context = replace(make_context(Plain(), splits), recipe={"augment": recipe})
    settings = LoopSettings(augment=augment)  # type: ignore[arg-type]
    assert (mixture_of(context, [MixedSet(splits.forget_examples)], settings).augment is crop_and_flip) is does


def test_a_mixture_of_nothing_and_a_stop_at_a_loss_are_refused(splits: Splits) -> None:
    context = make_context(Plain(), splits)
    nothing = splits.forget_examples.subset(splits.forget.indices[:0])
    with pytest.raises(UsageError, match="all empty"):
        mixture_of(context, [MixedSet(nothing)], LoopSettings())
    mixture = mixture_of(context, [MixedSet(splits.forget_examples)], LoopSettings())
    objective = mixed(mixture, lambda step: {"mixture": Term(torch.zeros(()))})
    with pytest.raises(UsageError, match="stop"):
        run_composition(context, objective, LoopSettings(steps=1, stop_forget_loss=1.0), task="mixing")
