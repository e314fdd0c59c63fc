"""AMUN: what is mixed under which labels, the four ablations, and the adversarial set that is kept and found again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_problems import CPU, HALF, Plain, cross_entropy, make_context, make_net, parameters_of, same, slopes
from torch import Tensor

from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.data import Splits, Transform
from unlearn_audit.errors import AuditError, DataError, MeasurementError, UsageError
from unlearn_audit.files import sha256_of_file
from unlearn_audit.methods import Unlearned, UnlearningContext
from unlearn_audit.methods.adversarial_sets import AdversarialSet, adversarial_set, content_of
from unlearn_audit.methods.amun import AmunSettings, run_amun
from unlearn_audit.methods.apply import apply_method
from unlearn_audit.methods.ft import FtSettings
from unlearn_audit.methods.pixel_attacks import Search, pixels
from unlearn_audit.step_transforms import parse_extras

SEARCH = Search()
QUICK = {"steps": 3, "batch_size": 16}


@pytest.fixture(scope="module")
def found(splits: Splits) -> AdversarialSet:
    """The adversarial set of the small problem's network."""
    return adversarial_set(make_context(Plain(), splits), SEARCH)


class Seen(NamedTuple):
    """What a step of the whole mixture was given."""

    images: Tensor
    labels: Tensor


def step_on(splits: Splits, monkeypatch: pytest.MonkeyPatch, seed: int = 0, **settings: Any) -> Seen:
    """Take one step of a full batch and return what it was on."""
    from unlearn_audit.methods import amun

    seen: list[Seen] = []
    taken = amun.example_losses

    def watched(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(Seen(batches[-1], labels))
        return taken(logits, labels)

    batches: list[Tensor] = []
    model = Plain()
    model.register_forward_pre_hook(lambda module, given: batches.append(given[0].detach().clone()))
    monkeypatch.setattr(amun, "example_losses", watched)
    run_amun(make_context(model, splits, seed), AmunSettings(steps=1, batch_size="full", **settings))
    monkeypatch.undo()
    return seen[-1]


def rows_of(images: Tensor) -> set[bytes]:
    return {row.float().numpy().tobytes() for row in images.flatten(1)}


# ----- what is mixed


@pytest.mark.parametrize("variant", ["amun", "advonly"])
@pytest.mark.parametrize("retain_free", [False, True])
def test_the_mixture_has_the_sets_of_the_variant_each_under_its_labels(
    splits: Splits, found: AdversarialSet, monkeypatch: pytest.MonkeyPatch, variant: str, retain_free: bool
) -> None:
    seen = step_on(splits, monkeypatch, variant=variant, retain_free=retain_free)
    parts = [(HALF(found.images), found.labels)]
    if variant == "amun":
        parts.append((HALF(splits.forget_examples.images), splits.forget_examples.labels))
    if not retain_free:
        parts.append((HALF(splits.retain_examples.images), splits.retain_examples.labels))
    expected = sorted(
        (image.numpy().tobytes(), int(label))
        for images, labels in parts
        for image, label in zip(images, labels, strict=True)
    )
    assert sorted((i.numpy().tobytes(), int(k)) for i, k in zip(seen.images, seen.labels, strict=True)) == expected


def test_a_step_descends_the_mean_cross_entropy_of_the_mixture(splits: Splits, found: AdversarialSet) -> None:
    model = Plain()
    before = parameters_of(model)
    own, forget = splits.retain_examples, splits.forget_examples
    images = torch.cat([HALF(each) for each in (own.images, forget.images, found.images)])
    labels = torch.cat([own.labels, forget.labels, found.labels])
    slope = slopes(lambda weights: cross_entropy(model, weights, (images, labels)), before)
    settings = AmunSettings(steps=1, batch_size="full", step_size=0.1, momentum=0, weight_decay=0.01)
    done = run_amun(make_context(model, splits), settings)
    for name, parameter in model.named_parameters():
        expected = before[name] - 0.1 * (slope[name] + 0.01 * before[name])
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-10, atol=1e-12)
    assert done.gradient_evaluations == len(labels) + found.gradients
    distances = (found.images - pixels(forget.images)).flatten(1).norm(dim=1)
    assert done.figures == {
        "adversarial.solved": 1,
        "adversarial.misclassified": int((distances == 0).sum()) / 10,
        "adversarial.median_distance": pytest.approx(float(distances.median())),
        "adversarial.largest_distance": pytest.approx(float(distances.max())),
    }


def test_the_data_are_augmented_and_the_adversarial_set_is_not(
    splits: Splits, found: AdversarialSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn_audit.methods import loop

    monkeypatch.setattr(loop, "crop_and_flip", lambda images, generator: images + 5)
    settings = AmunSettings(steps=1, batch_size="full", augment="yes")
    model, batches = Plain(), []
    model.register_forward_pre_hook(lambda module, given: batches.append(given[0].detach().clone()))
    run_amun(make_context(model, splits), settings)
    moved = (batches[-1].flatten(1).mean(dim=1) > 3).sum()
    assert int(moved) == 100
    assert rows_of(HALF(found.images)) <= rows_of(batches[-1])


def test_ablations_take_the_images_or_the_labels_away(
    splits: Splits, found: AdversarialSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = splits.dataset.train.subset(found.indices)
    images = {"clean": HALF(clean.images), "adversarial": HALF(found.images)}
    for which, of in (("advl", "clean"), ("rl", "clean"), ("arl", "adversarial")):
        seen = step_on(splits, monkeypatch, variant="advonly", retain_free=True, set=which)
        assert rows_of(seen.images) == rows_of(images[of])
        for image, label in zip(seen.images, seen.labels, strict=True):
            row = next(n for n, one in enumerate(images[of]) if torch.equal(one, image))
            if which == "advl":
                assert label == found.labels[row]
            else:
                assert label not in (found.labels[row], clean.labels[row])


def test_random_labels_are_uniform_over_the_classes_that_are_left() -> None:
    from unlearn_audit.methods.amun import _other_labels

    own, adversarial = torch.full((6000,), 3), torch.full((6000,), 1)
    drawn = _other_labels(0, own, adversarial, 5)
    counts = torch.bincount(drawn, minlength=5)
    assert counts[[1, 3]].tolist() == [0, 0]
    assert bool(((counts[[0, 2, 4]] - 2000).abs() < 4 * (6000 * 2 / 9) ** 0.5).all())
    assert torch.equal(drawn, _other_labels(0, own, adversarial, 5))
    assert not torch.equal(drawn, _other_labels(1, own, adversarial, 5))
    with pytest.raises(UsageError, match="with two classes there is none"):
        _other_labels(0, own, adversarial, 2)


def test_a_random_direction_is_as_long_as_the_adversarial_one_until_it_is_clamped() -> None:
    from unlearn_audit.methods.amun import _moved_at_random

    clean = torch.full((50, 1, 4, 4), 0.5)
    adversarial = clean + 0.01 * torch.linspace(0.1, 1, 50).view(-1, 1, 1, 1)
    moved = _moved_at_random(0, clean, adversarial) - clean
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), (adversarial - clean).flatten(1).norm(dim=1))
    directions = torch.nn.functional.normalize(moved.flatten(1))
    assert float(directions.mean(dim=0).norm()) < 4 / 50**0.5
    assert float(_moved_at_random(0, torch.ones(9, 1, 4, 4), torch.zeros(9, 1, 4, 4)).max()) == 1


def test_a_saliency_mask_and_published_settings_join_it(splits: Splits) -> None:
    model = Plain()
    before = parameters_of(model)
    context = make_context(model, splits, extras=parse_extras(["mask:saliency,density=0.25"]))
    run_amun(context, AmunSettings(**QUICK))
    moved = sum(int((parameter.detach() != before[name]).sum()) for name, parameter in model.named_parameters())
    assert 0 < moved <= sum(each.numel() for each in before.values()) / 4


# ----- the kept set


def asked(tiny: Path, **more: Any) -> Any:
    values = {"checkpoint": [{"path": str(tiny / "original.safetensors")}], "forget": str(tiny / "forget.npy")}
    return resolve([Layer("flag", values | {"device": "cpu"} | more)])


def test_the_set_is_kept_beside_the_output_and_found_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn_audit.methods import adversarial_sets

    first = apply_method("amun", tmp_path / "a.safetensors", asked(tiny), QUICK, clock=None)
    (kept,) = tmp_path.glob("adversarial-*.safetensors")
    content = kept.read_bytes()
    monkeypatch.setattr(adversarial_sets, "nearest_wrong", lambda *given, **more: pytest.fail("searched again"))
    apply_method("amun", tmp_path / "b.safetensors", asked(tiny), QUICK, clock=None)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    apply_method("amun", tmp_path / "c.safetensors", asked(tiny), QUICK | {"adversarial": str(kept)}, clock=None)
    one, two = (read_checkpoint(tmp_path / f"{name}.safetensors") for name in "ac")
    assert same(one.state, two.state)
    assert kept.read_bytes() == content
    assert any(f"the adversarial set is kept as {kept.name}" in note for note in first.limitations)
    assert two.metadata is not None
    assert (
        f"the adversarial set is {kept.name} (sha256 {sha256_of_file(kept)[:12]}); it was made for these weights"
        in two.metadata.notes
    )


def test_other_weights_other_sets_and_other_searches_have_sets_of_their_own(splits: Splits, tmp_path: Path) -> None:
    context = make_context(Plain(), splits, artefacts=tmp_path)
    other = Plain()
    with torch.no_grad():
        next(other.parameters()).add_(1e-6)
    fewer = replace(splits, forget=replace(splits.forget, indices=splits.forget.indices[:9]))
    names = [
        adversarial_set(each, search).name
        for each, search in (
            (context, SEARCH),
            (replace(context, model=other), SEARCH),
            (replace(context, splits=fewer), SEARCH),
            (replace(context, transform=Transform((0.5,), (0.26,))), SEARCH),
            (context, Search(tries=49)),
            (replace(context, spec="small-cnn"), SEARCH),
            (replace(context, compute=replace(CPU, chunk=7)), SEARCH),
        )
    ]
    assert len(set(names)) == len(list(tmp_path.iterdir())) == 7
    again = adversarial_set(replace(context, model=Plain()), SEARCH)
    assert again.name == names[0]


def test_a_kept_file_that_is_something_else_is_refused(splits: Splits, tmp_path: Path) -> None:
    context = make_context(Plain(), splits, artefacts=tmp_path)
    name = adversarial_set(context, SEARCH).name
    assert name is not None
    path = tmp_path / name
    tensors = load_file(path)
    save_file(tensors, path, metadata={"unlearn_audit_adversarial_set": json.dumps({"identity": {}})})
    with pytest.raises(DataError, match="something else; remove it, and it is made anew"):
        adversarial_set(context, SEARCH)
    path.write_bytes(b"no header")
    with pytest.raises(DataError, match="remove it, and it is made anew"):
        adversarial_set(context, SEARCH)


# ----- a set that somebody brings


def arrays(found: AdversarialSet) -> dict[str, Any]:
    return {"indices": found.indices, "images": found.images.numpy(), "labels": found.labels.numpy()}


def test_a_set_of_somebodys_own_is_read_by_index_whatever_its_order(
    splits: Splits, found: AdversarialSet, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(len(found.indices))
    np.savez(tmp_path / "a.npz", **{name: array[order] for name, array in arrays(found).items()})
    context = make_context(Plain(), splits)
    brought = adversarial_set(context, SEARCH, str(tmp_path / "a.npz"))
    assert np.array_equal(brought.indices, found.indices)
    assert torch.equal(brought.images, found.images)
    assert torch.equal(brought.labels, found.labels)
    digest = sha256_of_file(tmp_path / "a.npz")
    assert content_of(AmunSettings(adversarial=str(tmp_path / "a.npz"))) == {"adversarial_sha256": digest}
    assert content_of(AmunSettings()) == content_of(FtSettings()) == {}
    assert brought.brought == f"the adversarial set is a.npz (sha256 {digest[:12]}); it does not say how it was made"
    one, two = Plain(), Plain()
    searched = run_amun(make_context(one, splits), AmunSettings(**QUICK)).figures
    given = run_amun(make_context(two, splits), AmunSettings(**QUICK, adversarial=str(tmp_path / "a.npz"))).figures
    assert same(one, two)
    assert found.wrong is not None
    assert searched == {**given, "adversarial.misclassified": found.wrong / 10}
    assert "adversarial.misclassified" not in given, "of a set that was brought nobody knows it"


def test_a_set_that_was_made_for_another_model_says_so(splits: Splits, tmp_path: Path) -> None:
    name = adversarial_set(make_context(make_net(3), splits, artefacts=tmp_path), SEARCH).name
    assert name is not None
    done = run_amun(make_context(Plain(), splits), AmunSettings(**QUICK, adversarial=str(tmp_path / name)))
    assert any("it was made for other weights: a transferred set" in note for note in done.notes)


BREAK: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no labels": (lambda a: a.pop("labels"), "no labels"),
    "another forget set": (lambda a: a.update(indices=a["indices"] + 50), "belongs to another one"),
    "twice": (lambda a: a.update(indices=np.repeat(a["indices"][:1], 10)), "belongs to another one"),
    "own label": (lambda a: a.update(labels=np.zeros(10, dtype=np.int64)), "or the example's own"),
    "no class": (lambda a: a.update(labels=np.full(10, 4)), "is no class"),
    "outside": (lambda a: a.update(images=a["images"] + 1), "leave"),
    "not finite": (lambda a: a["images"].__setitem__((0, 0, 0, 0), np.nan), "leave"),
    "another size": (lambda a: a.update(images=a["images"][..., :3]), "does not hold"),
    "objects": (lambda a: a.update(labels=np.array([{}] * 10, dtype=object)), "never loaded"),
    "too few": (lambda a: a.update({k: v[:9] for k, v in a.items()}), "only 9 of 10"),
}


@pytest.mark.parametrize("how", BREAK)
def test_a_file_that_is_no_adversarial_set_of_these_examples_is_refused(
    splits: Splits, found: AdversarialSet, tmp_path: Path, how: str
) -> None:
    change, says = BREAK[how]
    broken = {name: array.copy() for name, array in arrays(found).items()}
    change(broken)
    np.savez(tmp_path / "a.npz", **broken)
    with pytest.raises(AuditError, match=says):
        adversarial_set(make_context(Plain(), splits), SEARCH, str(tmp_path / "a.npz"))


@pytest.mark.parametrize("name", ["missing.npz", "other.pt"])
def test_a_file_that_is_missing_or_of_another_format_is_refused(splits: Splits, tmp_path: Path, name: str) -> None:
    if "other" in name:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="adversarial set"):
        adversarial_set(make_context(Plain(), splits), SEARCH, str(tmp_path / name))


def test_a_run_that_began_with_another_content_of_the_file_is_not_gone_on_with(tiny: Path, tmp_path: Path) -> None:
    apply_method("amun", tmp_path / "a.safetensors", asked(tiny), QUICK, clock=None)
    (kept,) = tmp_path.glob("adversarial-*.safetensors")
    kept.rename(tmp_path / "mine.safetensors")
    given = {"steps": 21, "batch_size": 16, "adversarial": str(tmp_path / "mine.safetensors")}

    def killed(task: str, done: int, *shown: object) -> None:
        if done == 21:  # a look after the one that kept a state
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply_method("amun", tmp_path / "b.safetensors", asked(tiny), given, clock=None, progress=killed)
    content = load_file(tmp_path / "mine.safetensors")
    save_file(content | {"images": content["images"].flip(3).contiguous()}, tmp_path / "mine.safetensors")
    with pytest.raises(UsageError, match="adversarial_sha256"):
        apply_method("amun", tmp_path / "b.safetensors", asked(tiny), given, clock=None, resume=True)


# ----- refusals


def test_too_few_solved_are_refused(splits: Splits) -> None:
    with pytest.raises(MeasurementError, match=r"forget examples have an adversarial example within 12 levels of 1 st"):
        adversarial_set(make_context(Plain(), splits), Search(first=1e-9, tries=1))


def test_data_without_a_box_are_refused_before_any_search(splits: Splits) -> None:
    train = splits.dataset.train
    floats = replace(splits, dataset=replace(splits.dataset, train=replace(train, images=HALF(train.images))))
    with pytest.raises(DataError, match="nobody knows between which values a pixel may lie"):
        run_amun(make_context(Plain(), floats), AmunSettings(**QUICK))
    inside = replace(splits, dataset=replace(splits.dataset, train=replace(train, images=pixels(train.images))))
    one, two = Plain(), Plain()
    run_amun(make_context(one, splits), AmunSettings(**QUICK))
    run_amun(make_context(two, inside), AmunSettings(**QUICK))
    assert same(one, two)


def test_a_transform_that_weighs_two_sides_is_refused_before_any_search(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlearn_audit.methods import adversarial_sets

    monkeypatch.setattr(adversarial_sets, "nearest_wrong", lambda *given, **more: pytest.fail("searched"))
    context = make_context(Plain(), splits, extras=tuple(parse_extras(["ascent", "nash"])))
    with pytest.raises(UsageError, match=r"--with nash .* nor of the retain side \(its terms: mixture\)"):
        run_amun(context, AmunSettings(**QUICK))


def test_what_a_run_takes_is_told_but_for_the_length_of_its_search(splits: Splits, found: AdversarialSet) -> None:
    def done(**more: Any) -> Unlearned:
        context = UnlearningContext(Plain(), HALF, splits, CPU, 0, **more)
        return run_amun(context, AmunSettings(epochs=2, batch_size=16))

    told, taken = done(count_only=True), done()
    assert told.steps == taken.steps == 2 * 7
    assert taken.gradient_evaluations - found.gradients == told.gradient_evaluations - 200 * 10
