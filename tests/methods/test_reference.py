"""Reference: targets from held-out data that the twin has none of, a pull towards the original, an end at the floor."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_problems import (
    HALF,
    Plain,
    batches_of,
    make_context,
    make_net,
    make_small_splits,
    same,
    snapshot,
    watch_inputs,
)
from torch.nn import functional

from unlearn_audit.data import Splits, make_splits
from unlearn_audit.data.examples import Dataset
from unlearn_audit.errors import UsageError
from unlearn_audit.methods.reference import ReferenceSettings, make_reference, run_reference, shares_of


def mislabelled(splits: Splits) -> Splits:
    """The forget set's labels are the next class; its true classes stay."""
    train = splits.dataset.train
    labels = train.labels.clone()
    rows = torch.from_numpy(splits.forget.indices)
    labels[rows] = (labels[rows] + 1 + rows % 2) % 4
    changed = replace(splits.dataset, train=replace(train, labels=labels, true_labels=train.labels))
    return replace(splits, dataset=changed)


@pytest.mark.parametrize("wrong", [False, True])
def test_targets_are_what_the_original_says_of_held_out_data_of_the_same_process(splits: Splits, wrong: bool) -> None:
    chosen = mislabelled(splits) if wrong else splits
    model = Plain()
    reference = make_reference(make_context(model, chosen), least=5)
    rows = np.setdiff1d(np.arange(60), splits.unseen.unseen)
    test = splits.dataset.test
    said = {int(row): model(HALF(test.images[row : row + 1])).softmax(1)[0].detach().numpy() for row in rows}
    by_class = {c: np.mean([said[int(row)] for row in rows if test.labels[row] == c], axis=0) for c in range(4)}
    forget = chosen.forget_examples
    for label in range(4):
        of_label = forget.true_labels[forget.labels == label].tolist()
        expected = np.mean([by_class[c] for c in of_label], axis=0) if of_label else np.zeros(4)
        np.testing.assert_allclose(reference.targets[label], expected, rtol=1e-5)
        assert reference.targets[label].sum() == pytest.approx(1.0 if of_label else 0.0)
    apart = [
        np.mean([np.sum(t * np.log(t / said[int(row)])) for row in rows if test.labels[row] == c])
        for t, c in (
            (reference.targets[int(y)], int(c)) for y, c in zip(forget.labels, forget.true_labels, strict=True)
        )
    ]
    assert reference.floor == pytest.approx(np.mean(apart), rel=1e-4)
    assert shares_of(chosen).sum() == 10


def test_the_twin_is_never_looked_at_and_what_is_stands_in_the_record(splits: Splits) -> None:
    done = run_reference(make_context(Plain(), splits), ReferenceSettings(least=5, steps=1))
    assert done.looked_at is not None
    assert not set(done.looked_at) & set(splits.unseen.unseen.tolist())
    assert set(done.looked_at) == set(range(60)) - set(splits.unseen.unseen.tolist())
    assert done.notes[0].startswith("targets from 50 held-out examples beside the unseen twin of seed 0: ")


def test_a_step_is_the_formula_and_then_pulled_back_to_the_original(splits: Splits) -> None:
    for pull in (0.0, 2e-3):
        model, eta, weight = Plain(), 0.1, 0.7
        context = make_context(model, splits)
        targets = torch.from_numpy(make_reference(context, least=5).targets)
        (images, labels), (kept, theirs) = batches_of(splits, "forget").at(0), batches_of(splits, "retain").at(0)
        apart = (targets[labels] * (targets[labels].log() - model(images).log_softmax(1))).sum(1).mean()
        loss = apart + weight * functional.cross_entropy(model(kept), theirs)
        before = {name: each.detach().clone() for name, each in model.named_parameters()}
        slopes = dict(zip(before, torch.autograd.grad(loss, list(model.parameters())), strict=True))
        settings = ReferenceSettings(least=5, steps=1, step_size=eta, momentum=0, weight=weight, movement=pull / eta,
                                     batch_size=16)  # fmt: skip
        done = run_reference(context, settings)
        still = 0
        for name, now in model.named_parameters():
            u = -eta * slopes[name]
            expected = before[name] + u.sign() * (u.abs() - pull).clamp(min=0)
            torch.testing.assert_close(now.detach(), expected, rtol=1e-9, atol=1e-12)
            near = u.abs() < 0.999 * pull
            assert torch.equal(now.detach()[near], before[name][near])
            still += int(near.sum())
        if pull:
            assert 0 < still < sum(each.numel() for each in before.values())
            assert done.figures["reference.moved"] == pytest.approx(1 - still / 130, abs=0.05)


def test_without_retain_and_with_an_endless_pull_the_original_comes_back_bit_for_bit(splits: Splits) -> None:
    for model in (Plain(), make_net()):
        before = snapshot(model)
        settings = ReferenceSettings(least=5, weight=0, movement=1e30, steps=30, bn="frozen", to_floor=False)
        done = run_reference(make_context(model, splits), settings)
        assert same(model, before)
        assert done.figures["reference.moved"] == 0
        moved = ReferenceSettings(least=5, weight=0, steps=30, bn="frozen", to_floor=False)
        run_reference(make_context(model, splits), moved)
        assert not same(model, before)


def learnable(noise: Any) -> Splits:
    """Images whose brightest quadrant is their class; five of class 0 are called 1, and are to be forgotten."""
    sides = []
    for n, seed in ((100, 0), (120, 1)):
        examples = noise(n, classes=4, seed=seed)
        classes = torch.arange(n) % 4
        images = examples.images // 3
        for row, number in enumerate(classes.tolist()):
            top, left = divmod(number, 2)
            images[row, :, 2 * top : 2 * top + 2, 2 * left : 2 * left + 2] += 150
        sides.append(replace(examples, images=images, labels=classes, true_labels=classes))
    train, test = sides
    forget = torch.arange(0, 20, 4)
    labels = train.labels.clone()
    labels[forget] = 1
    changed = Dataset("noise", replace(train, labels=labels), test, 4, (0.5,), (0.25,), "0" * 64)
    return make_splits(changed, forget.numpy())


def memorised(splits: Splits) -> Plain:
    """A network that knows each training example."""
    model = Plain()
    images, labels = HALF(splits.dataset.train.images), splits.dataset.train.labels
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(model(images), labels))
        optimizer.step()
    return model


def test_on_a_model_that_remembers_the_divergence_falls_to_the_floor_and_the_run_ends_there(noise: Any) -> None:
    splits = learnable(noise)
    model = memorised(splits)
    settings = ReferenceSettings(steps=2000, step_size=0.05)
    done = run_reference(make_context(copy.deepcopy(model), splits), settings)
    assert done.figures["reference.start"] > 1.5 * done.figures["reference.floor"]
    assert done.figures["reference.divergence"] <= done.figures["reference.floor"]
    assert done.stopped is not None
    assert "is that of held-out examples themselves" in done.stopped
    assert done.steps < 2000
    on = run_reference(make_context(copy.deepcopy(model), splits), replace_settings(settings, steps=60, to_floor=False))
    assert (on.steps, on.stopped, len(on.notes)) == (60, None, 1)
    short = run_reference(make_context(model, splits), replace_settings(settings, steps=1, step_size=1e-9))
    assert short.notes[-1] == "the floor was not reached: the budget is spent"


def test_a_floor_above_what_the_original_has_ends_no_run_and_that_is_said(splits: Splits) -> None:
    """Labels of noise: what is said of held-out examples is as sure and as wrong as can be."""
    done = run_reference(make_context(memorised(splits), splits), ReferenceSettings(least=5, steps=21))
    assert done.figures["reference.start"] <= done.figures["reference.floor"]
    assert "a floor that ends no run" in done.notes[1]
    assert (done.steps, done.stopped, len(done.notes)) == (21, None, 2)


def replace_settings(settings: ReferenceSettings, **more: Any) -> ReferenceSettings:
    return settings.model_copy(update=more)


def test_an_epoch_is_a_pass_over_the_forget_set(splits: Splits) -> None:
    done = run_reference(make_context(Plain(), splits), ReferenceSettings(least=5, epochs=2, batch_size=4))
    assert (done.steps, done.gradient_evaluations) == (6, 2 * 10 + 6 * 4)


def test_what_it_takes_is_told_without_a_look_at_the_model(splits: Splits) -> None:
    model, settings = Plain(), ReferenceSettings(least=5, epochs=2, movement=0.1, to_floor=False)
    seen = watch_inputs(model)
    told = run_reference(make_context(model, splits, count_only=True), settings)
    assert not seen
    done = run_reference(make_context(model, splits), settings)
    assert (told.steps, told.gradient_evaluations) == (done.steps, done.gradient_evaluations)
    with pytest.raises(UsageError, match=r"and 20 are needed"):
        run_reference(make_context(model, splits, count_only=True), ReferenceSettings())


def test_too_few_held_out_examples_are_refused(splits: Splits, noise: Any) -> None:
    with pytest.raises(UsageError, match=r"beside the unseen twin .* 1\d examples for .*, and 20 are needed"):
        run_reference(make_context(Plain(), splits), ReferenceSettings())
    taken = make_small_splits(noise, n=400, forget="range:0-299")
    with pytest.raises(UsageError, match=r"the held-out data has 0 examples for .*, and 1 are needed \(--least\)"):
        run_reference(make_context(Plain(), taken), ReferenceSettings(least=1))
