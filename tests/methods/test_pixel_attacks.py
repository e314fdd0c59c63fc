"""Adversarial examples: exact distances on linear models, the box, growing balls, whatever the normalisation."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_problems import CPU, make_net
from torch import Tensor, nn

from unlearn_audit.data import Examples, Transform
from unlearn_audit.errors import DataError, MeasurementError
from unlearn_audit.methods.pixel_attacks import Attacked, Search, check_box, nearest_wrong, one_signed_step, pixels

Noise = Callable[..., Examples]
IDENTITY = Transform((0.0,), (1.0,))
WIDE = Search(first=0.04, tries=50, levels=12)


class Linear(nn.Module):
    """A linear model in double precision, whose distance to a boundary is known."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.double())

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).double() @ self.weights.T


def inside(n: int, seed: int = 0) -> Tensor:
    """Images well inside the box, so that nothing is clamped."""
    generator = torch.Generator().manual_seed(seed)
    return (0.5 + 0.02 * torch.randn(n, 1, 4, 4, generator=generator)).clamp(0, 1)


def labelled(model: nn.Module, images: Tensor) -> Examples:
    """Examples under the labels that the model gives them."""
    labels = model(images).argmax(dim=1)
    return Examples(images, labels, labels.clone())


def distances(found: Attacked, images: Tensor) -> Tensor:
    return (found.images - pixels(images)).double().flatten(1).norm(dim=1)


def attack(model: nn.Module, examples: Examples, search: Search = WIDE, transform: Transform = IDENTITY) -> Attacked:
    return nearest_wrong(model, examples, transform, search, compute=CPU)


def test_two_classes_of_a_linear_model_are_left_at_the_exact_distance_in_the_exact_direction() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(2, 16, generator=generator)
    weights -= weights.mean(dim=1, keepdim=True)  # on grey images both logits are near each other
    model, images = Linear(weights), inside(200)
    examples = labelled(model, images)
    found = attack(model, examples)
    logits = model(images)
    gap = (weights[0] - weights[1]).double()
    margin = (logits[:, 0] - logits[:, 1]).abs() / gap.norm()
    moved = (found.images - images).double().flatten(1)
    assert bool(found.solved.all())
    assert len(examples.labels.unique()) == 2
    excess = (moved.norm(dim=1) - margin) / (found.radii.double() / 10)
    assert float(excess.min()) > 0  # beyond the boundary,
    assert float(excess.max()) <= 1 + 1e-4  # by less than a step
    cosines = (moved @ gap).abs() / (moved.norm(dim=1) * gap.norm())
    assert float(cosines.min()) > 1 - 1e-5  # images are float32
    levels = torch.log2(found.radii / 0.04)
    assert torch.equal(levels, levels.round())
    assert len(found.radii.unique()) > 1


def test_among_five_classes_the_nearest_boundary_is_a_lower_bound() -> None:
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(5, 16, generator=generator)
    weights -= weights.mean(dim=1, keepdim=True)
    model, images = Linear(weights), inside(100, seed=3)
    examples = labelled(model, images)
    found = attack(model, examples)
    logits, wide = model(images).detach(), weights.double()
    rows, y = torch.arange(100), examples.labels
    between = (wide[y][:, None] - wide[None]).norm(dim=2)
    exact = (logits[rows, y][:, None] - logits) / between
    exact[rows, y] = torch.inf
    ratio = distances(found, images) / exact.amin(dim=1)
    assert float(ratio.min()) > 1
    assert 1.0 < float(ratio.median()) < 1.5
    assert bool((found.labels != y).all())


def test_every_image_stays_in_the_box_and_within_its_radius_and_is_called_what_the_model_says(noise: Noise) -> None:
    model = make_net().eval()
    examples, half = noise(40), Transform((0.5,), (0.25,))
    found = attack(model, examples, transform=half)
    assert bool(found.solved.all())
    assert float(found.images.min()) >= 0
    assert float(found.images.max()) <= 1
    assert bool((distances(found, examples.images) <= found.radii * (1 + 1e-6)).all())
    assert {round(float(radius) / 0.04) for radius in found.radii} <= {2**level for level in range(12)}
    assert torch.equal(found.labels, model(half(found.images)).argmax(dim=1))
    assert bool((found.labels != examples.labels).all())
    as_they_are = model(half(examples.images)).argmax(dim=1) != examples.labels
    assert bool(as_they_are.any())
    assert torch.equal(found.images[as_they_are], pixels(examples.images[as_they_are]))


def test_where_the_normalisation_is_folded_into_makes_no_difference(noise: Noise) -> None:
    class Normalising(nn.Module):
        def __init__(self, inner: nn.Module, transform: Transform) -> None:
            super().__init__()
            self.inner, self.transform = inner, transform

        def forward(self, images: Tensor) -> Tensor:
            return self.inner(self.transform(images))  # type: ignore[no-any-return]

    examples, transform = noise(24), Transform((0.3,), (0.2,))
    floats = replace(examples, images=pixels(examples.images))
    outside = attack(make_net(), examples, transform=transform)
    folded = attack(Normalising(make_net(), transform), floats)
    for one, two in zip(outside, folded, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(two))


def test_a_search_goes_on_between_levels_and_looks_at_its_last_step() -> None:
    """A boundary at .035 takes nine steps of .004, all of the first level; one of .055 needs the second."""
    model = Linear(torch.tensor([[1.0, *[0.0] * 15], [-1.0, *[0.0] * 15]]))
    images = torch.full((2, 1, 4, 4), 0.5)
    centred = Transform((0.5,), (1.0,))
    images[:, 0, 0, 0] += torch.tensor([0.035, 0.055])
    examples = Examples(images, torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    found = attack(model, examples, Search(tries=9, levels=1), centred)
    assert found.solved.tolist() == [True, False]  # the ninth step, looked at after the end of the level
    assert float(found.radii[0]) == pytest.approx(0.04)
    assert found.gradients == 2 * 10
    found = attack(model, examples, Search(tries=9, levels=2), centred)
    assert found.solved.tolist() == [True, True]
    assert found.radii.tolist() == pytest.approx([0.04, 0.08])
    # nine steps of .004, one that ends beyond .036 at .044, two more of .008: looked at before each and at the end
    assert found.gradients == 10 + 13


def test_a_saturated_cross_entropy_does_not_end_the_search() -> None:
    weights = torch.zeros(3, 16)
    weights[0, 0], weights[1, 1] = 4000.0, 1000.0
    images = torch.full((1, 1, 4, 4), 0.5)
    examples = Examples(images, torch.tensor([0]), torch.tensor([0]))
    found = attack(Linear(weights), examples)
    assert found.solved.tolist() == [True]
    assert found.labels.tolist() == [1]


def test_what_cannot_be_solved_says_so_and_no_example_is_none() -> None:
    model = Linear(torch.stack([torch.full((16,), 1.0), torch.full((16,), -1.0)]))
    images = torch.full((1, 1, 4, 4), 0.5)  # with pixels of at least 0 the first class always wins
    found = attack(model, Examples(images, torch.tensor([0]), torch.tensor([0])), Search(tries=5))
    assert found.solved.tolist() == [False]
    assert found.gradients == 5 * len(WIDE.radii(16)) + 1
    nothing = Examples(images[:0], torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
    assert len(attack(model, nothing).solved) == 0


def test_levels_end_at_the_diameter_of_the_box() -> None:
    assert Search().radii(64)[-1] == pytest.approx(5.12)
    assert Search().radii(3072)[-1] == pytest.approx(40.96)
    assert len(Search().radii(10**9)) == 12
    assert Search(first=100.0).radii(16) == [100.0]


def test_the_training_mode_of_a_model_has_no_part_in_it(noise: Noise) -> None:
    one, two = make_net().train(), make_net().eval()
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    assert torch.equal(attack(one, noise(10)).images, attack(two, noise(10)).images)
    assert all(torch.equal(before[name], tensor) for name, tensor in one.state_dict().items())
    assert all(parameter.grad is None for parameter in one.parameters())


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_floats_outside_of_the_unit_box_are_refused(value: float, noise: Noise) -> None:
    examples = noise(3)
    check_box(examples)
    floats = pixels(examples.images)
    check_box(replace(examples, images=floats))
    floats[1, 0, 2, 2] = value
    with pytest.raises(DataError, match="between which values a pixel may lie"):
        check_box(replace(examples, images=floats))


def test_one_signed_step_moves_every_pixel_by_its_length_on_the_grid_of_bytes() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 16, generator=generator)
    seen: list[Tensor] = []

    class Watched(Linear):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.detach().clone())
            return super().forward(images)

    model = Watched(weights)
    bytes_ = torch.randint(0, 256, (5, 1, 4, 4), generator=generator, dtype=torch.uint8)
    examples = Examples(bytes_, torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 1, 2, 0, 1]))
    logits = one_signed_step(model, examples, IDENTITY, length=0.1, compute=CPU)
    x = pixels(bytes_)
    p = torch.softmax(x.flatten(1) @ weights.T, dim=1)
    slope = (p - torch.eye(3)[examples.labels]) @ weights
    expected = torch.round((x + 0.1 * slope.sign().view_as(x)).clamp(0, 1) * 255) / 255
    torch.testing.assert_close(seen[-1], expected)
    torch.testing.assert_close(logits, (expected.flatten(1) @ weights.T), rtol=1e-5, atol=1e-5)


def test_an_exception_of_the_model_is_told_as_its_own(noise: Noise) -> None:
    class Broken(Linear):
        def forward(self, images: Tensor) -> Tensor:
            raise ValueError("no")

    with pytest.raises(MeasurementError, match="search for adversarial examples"):
        attack(Broken(torch.zeros(2, 16)), noise(3, classes=2))
