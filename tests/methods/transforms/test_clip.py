"""Clipping: the bound by the dense matrix at the end, what is left alone, rounds in a run, kills, and training."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_problems import CPU, make_context, make_small_splits, same
from torch import Tensor, nn

from unlearn_audit.data import Examples, Splits, load_data, make_splits
from unlearn_audit.errors import ConfigError, UsageError
from unlearn_audit.layers import Layer, affine_layers, power_qr, start_vectors
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.methods.ft import FT, FtSettings
from unlearn_audit.methods.resume import StateFile
from unlearn_audit.methods.retrain import RetrainSettings, run_retrain
from unlearn_audit.methods.transforms.clip import CLIP, Clip, ClipSettings, clip_directions, clip_matrix, matrix_norm
from unlearn_audit.step_transforms import Course, parse_extras
from unlearn_audit.training import SMALL, differing, pick_recipe, recorded_recipe, train

Noise = Callable[..., Examples]
SAMPLE = torch.zeros(1, 1, 4, 4)


@pytest.fixture(scope="module")
def splits(noise: Noise) -> Splits:
    return make_small_splits(noise, n=60)


def spectral_norm(layer: Layer) -> float:
    """The largest singular value of M, written out with the layer itself."""
    layer.norm and layer.norm.eval()
    size = int(torch.tensor(layer.shape).prod())
    dtype = layer.weight.dtype
    with torch.no_grad():
        given = torch.cat([torch.eye(size), torch.zeros(1, size)]).to(dtype).reshape(-1, *layer.shape)
        found = layer.module(given)
        found = found if layer.norm is None else layer.norm(found)
    return float(torch.linalg.matrix_norm((found[:-1] - found[-1]).flatten(1).double(), 2))


def conv(make: Callable[[], nn.Module], factor: float = 4.0, shape: tuple[int, ...] = (2, 6, 6)) -> Layer:
    torch.manual_seed(0)
    layer = Layer("layer", make().double(), shape)
    layer.weight.data *= factor
    return layer


class One(nn.Module):
    """A network of one convolution and a mean."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer, self.norm = layer.module, layer.norm

    def forward(self, images: Tensor) -> Tensor:
        found = self.layer(images.double().expand(-1, 2, -1, -1))
        return (found if self.norm is None else self.norm(found)).mean((2, 3))  # type: ignore[no-any-return]


class Context:
    """What `Clip` needs of a context, for one network."""

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        self.model, self.sample, self.compute, self.seed, self.count_only = model, sample, CPU, 0, False
        self.memory: dict[str, Tensor] = {}
        self.progress = lambda *_: None


def ended(layer: Layer, **settings: Any) -> Clip:
    """Clip a network of one layer at the end alone."""
    clip = Clip(Context(One(layer), torch.zeros(1, 1, *layer.shape[1:])), ClipSettings(**settings))  # type: ignore[arg-type]
    with torch.no_grad():
        clip.finish()
    return clip


# ----- one layer


KINDS: dict[str, Callable[[], nn.Module]] = {
    "zeros": lambda: nn.Conv2d(2, 4, 3, padding=1),
    "strided": lambda: nn.Conv2d(2, 4, 3, padding=1, stride=2),
    "circular": lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
    "reflect": lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
    "grouped": lambda: nn.Conv2d(2, 4, 3, padding=1, groups=2),
    "dilated": lambda: nn.Conv2d(2, 4, 3, padding=2, dilation=2),
    "pointwise": lambda: nn.Conv2d(2, 4, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_after_the_end_every_convolution_is_within_the_bound_and_its_answer_to_zero_the_same_bits(kind: str) -> None:
    layer = conv(KINDS[kind])
    before, at_zero = spectral_norm(layer), layer.module(torch.zeros(1, *layer.shape).double())
    assert before > 2
    clip = ended(layer, c=0.8)
    assert 0.7 < spectral_norm(layer) <= 1.02 * 0.8
    assert torch.equal(layer.module(torch.zeros(1, *layer.shape).double()), at_zero)
    figures = clip.figures()
    assert figures["clip.sigma_max"] == pytest.approx(spectral_norm(layer), rel=0.01)
    assert figures["clip.sigma_max_before_end"] == pytest.approx(before, rel=0.01)
    assert (figures["clip.layers"], figures["clip.layers_clipped"]) == (1, 1)


def test_a_convolution_with_its_batchnorm_is_within_the_bound_and_the_batchnorm_left_alone() -> None:
    layer = replace(conv(KINDS["zeros"]), norm=nn.BatchNorm2d(4).double())
    layer.norm.weight.data = torch.tensor([0.5, 1.0, 2.0, 3.0]).double()
    layer.norm.running_var = torch.tensor([0.2, 1.0, 2.0, 0.1]).double()
    norm = copy.deepcopy(layer.norm.state_dict())
    assert spectral_norm(layer) > 5
    ended(layer, c=1, on="conv-bn")
    assert spectral_norm(layer) <= 1.02
    assert all(torch.equal(tensor, norm[name]) for name, tensor in layer.norm.state_dict().items())


def test_a_linear_layer_is_clipped_at_once_and_its_other_values_and_vectors_stay() -> None:
    torch.manual_seed(0)
    layer = Layer("linear", nn.Linear(20, 12).double(), (20,))
    left, before, right = torch.linalg.svd(layer.weight.detach().clone(), full_matrices=False)
    c = float(before[3]) * 1.01
    assert clip_matrix(layer, c)
    assert torch.linalg.svdvals(layer.weight.detach()) == pytest.approx(before.clamp(max=c), abs=1e-12)
    assert layer.weight.detach() == pytest.approx(left @ torch.diag(before.clamp(max=c)) @ right, abs=1e-12)
    assert matrix_norm(layer) == pytest.approx(c)
    unmoved = layer.weight.detach().clone()
    assert not clip_matrix(layer, c * (1 + 1e-9))
    assert torch.equal(layer.weight, unmoved)


def test_what_is_within_the_bound_stays_bit_for_bit() -> None:
    layer = conv(KINDS["zeros"], 0.1)
    weight = layer.weight.detach().clone()
    clip = ended(layer, c=1)
    assert torch.equal(layer.weight, weight)
    assert clip.told() == []
    assert clip.figures()["clip.layers_clipped"] == 0


def test_one_round_brings_a_direction_near_the_bound() -> None:
    layer = conv(KINDS["zeros"])
    found = power_qr(layer, start_vectors(layer, 1, seed=0), k=1, iterations=100)
    before = layer.times(found.vectors)
    assert clip_directions(layer, found, 1.0)
    target = before / float(found.values[0])
    assert target.norm() == pytest.approx(1)
    assert (layer.times(found.vectors) - target).norm() < 0.15 * (before - target).norm()


def test_two_sided_raises_a_convolution_and_never_a_linear_layer() -> None:
    layer = conv(KINDS["zeros"], 0.5)
    assert spectral_norm(layer) < 0.9
    ended(layer, c=1)
    assert spectral_norm(layer) < 0.9
    ended(layer, c=1, two_sided=True)
    assert 0.94 < spectral_norm(layer) <= 1.02
    linear = Layer("linear", nn.Linear(4, 4).double(), (4,))
    linear.weight.data = 0.1 * torch.eye(4).double()
    clip = Clip(Context(nn.Sequential(linear.module), torch.zeros(1, 4).double()), ClipSettings(two_sided=True))  # type: ignore[arg-type]
    clip.finish()
    assert matrix_norm(linear) == pytest.approx(0.1)


def test_the_end_says_when_it_moved_a_layer_far_and_when_it_did_not_suffice() -> None:
    layer = conv(KINDS["zeros"])
    (told,) = ended(layer, c=1).told()
    assert told.startswith("clip: the rounds at the end moved the largest singular value of 1 of 1 layers by over 20%")
    assert ended(layer, c=0.9).told() == []
    (told,) = ended(layer, c=0.5, rounds=0).told()
    assert told.startswith("clip: 1 of 1 layers are above 1.02 c after 0 rounds at the end (layer: ")


def test_without_a_layer_that_moves_there_is_nothing_to_clip() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].weight.requires_grad_(False)
    with pytest.raises(UsageError, match="clip has nothing to clip"):
        Clip(Context(model, torch.zeros(1, 4)), ClipSettings()).finish()  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["c=0", "c=nan", "k=0", "every=0", "on=bn", "two_sided=true,on=conv-bn", "rounds=-1"])
def test_settings_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--with clip"):
        parse_extras([f"clip:{text}"])


# ----- in a run


class Tiny(nn.Module):
    """A convolution with BatchNorm and a linear layer, for images of 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(48, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(images)).relu().flatten(1))  # type: ignore[no-any-return]


def tiny(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Tiny()


def fine_tuned(splits: Splits, extras: str, **more: Any) -> tuple[nn.Module, Any]:
    model = tiny(1)
    settings = FtSettings(steps=12, batch_size=16, step_size=0.05)
    done = FT.run(make_context(model, splits, extras=parse_extras([extras]) if extras else (), **more), settings)
    return model, done


def test_in_a_run_every_layer_ends_within_the_bound(splits: Splits) -> None:
    model, done = fine_tuned(splits, "clip:c=0.4,every=3,k=4")
    assert max(spectral_norm(layer) for layer in affine_layers(model, SAMPLE)) <= 1.02 * 0.4
    assert done.figures["clip.sigma_max"] <= 1.02 * 0.4
    assert (done.steps, done.figures["clip.layers"]) == (12, 2)


def test_a_round_is_done_every_so_many_steps_and_the_bound_that_nothing_reaches_changes_nothing(splits: Splits) -> None:
    plain, _ = fine_tuned(splits, "")
    idle, done = fine_tuned(splits, "clip:c=1000,every=1")
    assert same(plain, idle)
    assert done.figures["clip.layers_clipped"] == 0
    seen: list[int] = []
    hooks = CLIP.make(make_context(tiny(0), splits), ClipSettings(every=5), Course(12, int))
    clip = hooks.after.__self__  # type: ignore[union-attr]
    clip._round = lambda layer, step: seen.append(step) or False
    for step in range(12):
        hooks.after(step)  # type: ignore[misc]
    assert sorted(set(seen)) == [4, 9]


def test_a_run_that_was_killed_comes_to_the_same_bits_and_figures(splits: Splits, tmp_path: Path) -> None:
    class Killed(StateFile):
        """A file that is written once, after which the run is killed."""

        def keep(self, done: int) -> None:
            super().keep(done)
            self.write()
            raise KeyboardInterrupt

    spec, settings = parse_extras(["clip:c=0.4,every=4"]), FtSettings(steps=24, batch_size=16)
    whole = tiny(1)
    expected = FT.run(make_context(whole, splits, extras=spec), settings)
    memory: dict[str, Tensor] = {}
    kept = Killed(tmp_path / "state", {}, resume=False, every=0, memory=memory)
    with pytest.raises(KeyboardInterrupt):
        FT.run(make_context(tiny(1), splits, extras=spec, resumable=kept, memory=memory), settings)
    other, again = tiny(2), {}
    going_on = StateFile(tmp_path / "state", {}, resume=True, every=1e9, memory=again)
    done = FT.run(make_context(other, splits, extras=spec, resumable=going_on, memory=again), settings)
    assert going_on.resumed_at == 20
    assert same(whole, other)
    assert done == expected


# ----- in training


def test_training_is_clipped_and_says_so(splits: Splits) -> None:
    recipe = replace(SMALL, epochs=3, batch_size=16, transforms=("clip:c=0.4,every=2,k=4",))
    rows = splits.retain
    found = train(Tiny, splits.dataset, rows, recipe, seed=3, compute=CPU)
    layers = affine_layers(found.model, SAMPLE)
    assert max(spectral_norm(layer) for layer in layers) <= 1.02 * 0.4
    assert found.outcome.figures["clip.layers_clipped"] == 2
    plain = train(Tiny, splits.dataset, rows, replace(recipe, transforms=()), seed=3, compute=CPU)
    assert max(spectral_norm(layer) for layer in affine_layers(plain.model, SAMPLE)) > 0.8
    idle = train(Tiny, splits.dataset, rows, replace(recipe, transforms=("clip:c=1000",)), seed=3, compute=CPU)
    assert same(plain.model, idle.model)


def test_retraining_repeats_what_joined_the_training_as_the_metadata_record_it(splits: Splits) -> None:
    recipe = replace(SMALL, epochs=2, batch_size=16, transforms=("clip:c=0.4,every=2,k=4",))
    recorded = json.loads(json.dumps(recipe.settings()))
    assert recorded_recipe(recorded) == recipe
    model = tiny(5)
    done = run_retrain(make_context(model, splits, 4, spec=Tiny, recipe=recorded), RetrainSettings())
    found = train(Tiny, splits.dataset, splits.retain, recipe, seed=4, compute=CPU)
    assert same(model, found.model)
    assert done.figures == found.outcome.figures
    assert done.recipe == recorded
    assert differing(recorded, replace(recipe, transforms=()).settings()).startswith("transforms ['clip:c=0.4")


def test_a_recipe_without_transforms_is_written_as_it_always_was() -> None:
    assert list(SMALL.settings()) == [
        "name", "epochs", "batch_size", "step_size", "momentum", "weight_decay", "augment",
    ]  # fmt: skip
    assert pick_recipe("small", "") is SMALL


def test_what_cannot_join_training_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="mask cannot join training, where there is nothing to forget; .*l1.*clip can"):
        pick_recipe("small", "", transforms=["mask"])
    with pytest.raises(ConfigError, match="recorded recipe: transforms: mask cannot join training"):
        recorded_recipe(SMALL.settings() | {"transforms": ["mask"]})
    with pytest.raises(ConfigError, match="recorded recipe: transforms: --with clip: c"):
        recorded_recipe(SMALL.settings() | {"transforms": ["clip:c=-1"]})


# ----- on digits


@pytest.mark.slow
def test_on_digits_three_layers_within_one_keep_most_of_the_accuracy_and_clipping_at_the_end_alone_warns() -> None:
    """A trained small network: accuracy .975 before, .85 after 10 epochs of clipping every 2 steps."""
    splits = make_splits(load_data("digits"), "random:0.1:0")
    dataset = splits.dataset
    images = dataset.transform(dataset.test.images)

    def tuned(model: nn.Module, epochs: int, *extras: str) -> tuple[float, Any]:
        settings = FtSettings(epochs=epochs, step_size=0.05, batch_size=64, momentum=0)
        context = UnlearningContext(model, dataset.transform, splits, CPU, 0, extras=parse_extras(extras))
        done = FT.run(context, settings)
        with torch.no_grad():
            return float((model.eval()(images).argmax(1) == dataset.test.labels).float().mean()), done

    torch.manual_seed(0)
    original = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip
    before, _ = tuned(original, 30)
    assert before > 0.95
    assert max(spectral_norm(layer) for layer in affine_layers(original, images[:1])) > 4
    for cadence, warns in (("every=2,k=8", False), ("every=100000", True)):
        model = copy.deepcopy(original)
        accuracy, done = tuned(model, 10, f"clip:c=1,{cadence}")
        assert max(spectral_norm(layer) for layer in affine_layers(model, images[:1])) <= 1.02
        assert any("train on, clipping oftener" in note for note in done.notes) is warns
        assert warns or accuracy >= 0.8
