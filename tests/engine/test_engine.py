"""The ways a model meets data: chunks, batches, full-batch gradients, predictions and the descent."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit import curvature
from unlearn_audit.curvature import Curvature
from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import (
    Batches,
    Descent,
    Device,
    FullBatch,
    Hooks,
    StepHook,
    Term,
    TermGradients,
    Terms,
    all_at_once,
    chunks,
    crop_and_flip,
    derive_seed,
    descend,
    one_thread,
    passes,
    predict,
    setup_device,
    trainable,
)
from unlearn_audit.engine import batches as engine_batches
from unlearn_audit.engine import task as tasks
from unlearn_audit.engine.device import _of_rank, packed, room
from unlearn_audit.engine.task import Task
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.models.small import small_cnn

Noise = Callable[..., Examples]
HALF = Transform((0.5,), (0.25,))


def cpu(chunk: int = 128, precision: str = "fp32") -> Device:
    return Device(torch.device("cpu"), precision, chunk)


def make_net(seed: int = 0) -> nn.Module:
    """A small CNN whose BatchNorm statistics are those of some data, so that they matter."""
    torch.manual_seed(seed)
    net = small_cnn(classes=4, channels=1)
    net.train()
    for _ in range(3):
        net(torch.randn(16, 1, 4, 4) * 2 + 1)
    return net


class Wide(nn.Module):
    """A network in double precision."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.double()

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images.double())  # type: ignore[no-any-return]


# ----- chunks and seeds


@given(some.integers(1, 3000), some.integers(1, 500))
def test_chunks_are_the_fewest_consecutive_and_nearly_equal(n: int, largest: int) -> None:
    parts = list(chunks(n, largest))
    sizes = [part.stop - part.start for part in parts]
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(n))
    assert len(parts) == -(-n // largest)
    assert max(sizes) <= largest
    assert max(sizes) - min(sizes) <= 1


def test_no_examples_make_no_chunk() -> None:
    assert list(chunks(0, 10)) == []


@given(some.lists(some.one_of(some.integers(), some.text()), min_size=1, max_size=4))
def test_a_derived_seed_is_63_bits_and_depends_on_all_parts(parts: list[object]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    assert seed == derive_seed(*parts)
    assert seed != derive_seed(*parts, 0)


def test_derived_seeds_do_not_collide() -> None:
    assert len({derive_seed(seed, name, step) for seed in range(10) for name in "ab" for step in range(500)}) == 10_000
    assert derive_seed("a", "b") != derive_seed("ab")


# ----- batches


def numbered(noise: Noise, n: int) -> Examples:
    """Examples whose label is their place."""
    place = torch.arange(n)
    return Examples(noise(n).images, place, place.clone())


def test_every_example_comes_once_an_epoch(noise: Noise) -> None:
    batches = Batches(numbered(noise, 23), HALF, 5, 0, "train", cpu())
    assert batches.per_epoch == 5
    orders = []
    for epoch in range(3):
        labels = [batches.at(step)[1] for step in range(5 * epoch, 5 * epoch + 5)]
        assert [len(each) for each in labels] == [5, 5, 5, 5, 3]
        orders.append(torch.cat(labels).tolist())
        assert sorted(orders[-1]) == list(range(23))
    assert orders[0] != orders[1] != orders[2]


def test_images_and_labels_stay_together_and_are_transformed(noise: Noise) -> None:
    examples = numbered(noise, 9)
    images, labels = Batches(examples, HALF, 4, 0, "train", cpu()).at(1)
    assert torch.equal(images, HALF(examples.images[labels]))


def test_the_batch_of_a_step_depends_on_seed_name_and_step_alone(noise: Noise) -> None:
    def batch(seed: int, name: str, steps: list[int]) -> list[int]:
        batches = Batches(numbered(noise, 40), HALF, 7, seed, name, cpu())
        return [batches.at(step)[1].tolist() for step in steps][-1]

    assert batch(0, "train", [13]) == batch(0, "train", [0, 20, 5, 13])
    torch.manual_seed(99)
    assert batch(0, "train", [13]) == batch(0, "train", list(range(14)))
    assert len({tuple(batch(*who, [13])) for who in ((0, "train"), (1, "train"), (0, "forget"))}) == 3


def test_augmentation_depends_on_seed_name_and_step_alone(noise: Noise) -> None:
    def shake(images: Tensor, generator: torch.Generator) -> Tensor:
        return images + torch.rand(len(images), 1, 1, 1, generator=generator)

    def batch(seed: int, steps: list[int]) -> Tensor:
        batches = Batches(noise(12), HALF, 12, seed, "train", cpu(), shake)
        return [batches.at(step)[0] for step in steps][-1]

    assert torch.equal(batch(0, [4]), batch(0, [1, 2, 4]))
    assert not torch.equal(batch(0, [4]), batch(1, [4]))
    assert not torch.equal(batch(0, [4]).sum(), batch(0, [5]).sum())


def test_a_batch_larger_than_the_set_is_the_set(noise: Noise) -> None:
    batches = Batches(numbered(noise, 6), HALF, 64, 0, "train", cpu())
    assert batches.per_epoch == 1
    assert sorted(batches.at(0)[1].tolist()) == sorted(batches.at(7)[1].tolist()) == list(range(6))


def test_how_many_examples_a_number_of_steps_takes(noise: Noise) -> None:
    batches = Batches(numbered(noise, 23), HALF, 5, 0, "train", cpu())
    for steps in range(12):
        assert batches.taken(steps) == sum(len(batches.at(step)[1]) for step in range(steps))


# ----- full batches


def gradient(net: nn.Module, batch: FullBatch) -> Tensor:
    batch.forward_backward(net)
    return torch.cat([p.grad.reshape(-1) for p in trainable(net).values() if p.grad is not None])


@pytest.mark.parametrize(("wide", "tolerance"), [(True, 1e-12), (False, 1e-5)])
def test_chunked_gradient_equals_the_unchunked_one(noise: Noise, wide: bool, tolerance: float) -> None:
    net = make_net()
    net = (Wide(net) if wide else net).eval()
    examples = noise(57)
    whole = FullBatch(examples, HALF, compute=cpu(1000))
    loss = tasks.losses(net(HALF(examples.images)), examples.labels).mean()
    reference = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(trainable(net).values()))])
    for chunk in (1000, 57, 20, 8, 1):
        found = gradient(net, FullBatch(examples, HALF, compute=cpu(chunk)))
        assert (found - reference).abs().max() <= tolerance * reference.abs().max()
        assert (found - gradient(net, whole)).abs().max() <= tolerance * reference.abs().max()


def test_a_pass_tells_losses_and_errors_in_order(noise: Noise) -> None:
    net, examples = make_net().eval(), noise(30)
    with torch.no_grad():
        logits = net(HALF(examples.images))
    for batch in (FullBatch(examples, HALF, compute=cpu(7)), FullBatch(examples, HALF, compute=cpu())):
        for found in (batch.forward(net), batch.forward_backward(net)):
            assert found.losses.dtype == found.errors.dtype == np.float64
            np.testing.assert_allclose(found.losses, tasks.losses(logits, examples.labels), rtol=1e-5)
            np.testing.assert_array_equal(found.errors, tasks.errors(logits, examples.labels))


def test_a_set_that_is_brought_chunk_by_chunk_gives_the_same_bits_and_is_never_there_as_a_whole(noise: Noise) -> None:
    net, examples = make_net().eval(), noise(30)
    seen: list[int] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(len(images))
        return HALF(images)

    batch = FullBatch(examples, watched, compute=cpu(8), resident=False)
    assert not seen
    for _ in range(2):
        assert torch.equal(gradient(net, batch), gradient(net, FullBatch(examples, HALF, compute=cpu(8))))
    assert seen == [8, 8, 7, 7] * 2


def test_gradients_do_not_pile_up_from_pass_to_pass(noise: Noise) -> None:
    net, batch = make_net().eval(), FullBatch(noise(30), HALF, compute=cpu(7))
    assert torch.equal(gradient(net, batch), gradient(net, batch))


def test_a_forward_pass_leaves_no_gradient(noise: Noise) -> None:
    net = make_net().eval()
    FullBatch(noise(30), HALF, compute=cpu()).forward(net)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_full_batch_takes_another_task(noise: Noise) -> None:
    squares = Task(
        lambda outputs, labels: outputs.square().sum(1), lambda outputs, labels: 7.0 * torch.ones(len(labels))
    )
    net, examples = make_net().eval(), noise(10)
    found = FullBatch(examples, HALF, compute=cpu(4), task=squares).forward(net)
    with torch.no_grad():
        np.testing.assert_allclose(found.losses, net(HALF(examples.images)).square().sum(1), rtol=1e-5)
    assert found.errors.tolist() == [7.0] * 10


def test_a_classifier_has_the_losses_and_the_gradient_of_the_loop_written_by_hand_bit_for_bit(noise: Noise) -> None:
    examples, net = noise(30), make_net().eval()
    batch = FullBatch(examples, HALF, compute=cpu(7))
    found, slopes = batch.forward_backward(net), gradient(net, batch)
    net.zero_grad(set_to_none=True)
    images, losses, wrong = packed(HALF(examples.images)), [], []
    for part in chunks(30, 7):
        logits = net(images[part])
        each = functional.cross_entropy(logits, examples.labels[part], reduction="none")
        (each.sum() / 30).backward()
        losses.append(each.detach())
        wrong.append((logits.argmax(dim=1) != examples.labels[part]).float())
    assert found.losses.tolist() == torch.cat(losses).double().tolist()
    assert found.errors.tolist() == torch.cat(wrong).double().tolist()
    assert torch.equal(slopes, torch.cat([p.grad.reshape(-1) for p in net.parameters() if p.grad is not None]))


def test_the_rows_of_a_classifier_are_its_batch(noise: Noise) -> None:
    batches = Batches(noise(12), HALF, 5, 0, "train", cpu(), crop_and_flip)
    images, labels = batches.at(3)
    found = batches.rows_at(3)
    assert torch.equal(found.inputs, images)
    assert torch.equal(found.target, labels)
    assert found.owner is None


# ----- predictions


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_predict_equals_a_direct_forward_pass_in_evaluation_mode(noise: Noise, chunk: int) -> None:
    net, examples = make_net(), noise(31)
    net.train()
    statistics = copy.deepcopy(dict(net.named_buffers()))
    logits = predict(net, examples.images, HALF, compute=cpu(chunk))
    assert not any(module.training for module in net.modules())
    assert logits.dtype == np.float32
    assert logits.shape == (31, 4)
    with torch.no_grad():
        np.testing.assert_allclose(logits, net(HALF(examples.images)), rtol=1e-4, atol=1e-5)
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, statistics[name]), name


def test_predict_is_full_float32_whatever_the_precision(noise: Noise) -> None:
    net, examples, seen = make_net(), noise(9), []

    def look(*_: object) -> None:
        backends = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        seen.append((*backends, torch.is_autocast_enabled("cpu")))

    net.register_forward_hook(look)
    plain = predict(net, examples.images, HALF, compute=setup_device("cpu"))
    for precision in ("tf32", "bf16"):
        compute = setup_device("cpu", precision)
        assert np.array_equal(plain, predict(net, examples.images, HALF, compute=compute))
        allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        assert allowed == ((precision == "tf32"),) * 2
    setup_device("cpu")
    assert seen == [(False, False, False)] * 3


def test_bf16_passes_of_a_full_batch_are_autocast(noise: Noise) -> None:
    net, kinds = make_net().eval(), []
    net.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    found = FullBatch(noise(9), HALF, compute=cpu(precision="bf16")).forward_backward(net)
    assert kinds == [torch.bfloat16]
    assert found.losses.dtype == np.float64


def test_no_images_predict_nothing() -> None:
    assert predict(make_net(), torch.zeros(0, 1, 4, 4), HALF, compute=cpu()).shape[0] == 0


# ----- the descent


def one_weight(start: float = 1.0, step_size: float = 0.1) -> tuple[nn.Linear, torch.optim.Optimizer]:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, start)
    return model, torch.optim.SGD(model.parameters(), lr=step_size)


def test_the_descent_sums_terms_follows_the_schedule_and_calls_hooks_between_gradient_and_step() -> None:
    model, optimizer = one_weight()
    expected, seen = [1.0], []

    def hook(step: int) -> None:
        assert model.weight.grad is not None
        seen.append((step, model.weight.item(), model.weight.grad.item()))
        model.weight.mul_(0.5)

    descend(
        model,
        lambda step: {"a": Term(model.weight.sum(), 3.0), "b": Term(model.weight.square().sum())},
        optimizer,
        steps=4,
        schedule=lambda step: step / 2,
        hooks=[Hooks(mix=hook)],
    )
    for step in range(4):
        slope = 3 + 2 * expected[-1]
        assert seen[step] == pytest.approx((step, expected[-1], slope), rel=1e-12)
        expected.append(0.5 * expected[-1] - 0.1 * step / 2 * slope)
    assert model.weight.item() == pytest.approx(expected[-1], rel=1e-12)
    assert model.training


@pytest.mark.parametrize("bad", [0, 5, 19, 20, 29])
def test_divergence_stops_the_descent_naming_the_step(bad: int) -> None:
    model, optimizer = one_weight()
    steps = []

    def terms(step: int) -> Terms:
        steps.append(step)
        return {"loss": Term(model.weight.sum() * (float("inf") if step >= bad else 1.0))}

    with pytest.raises(MeasurementError, match=rf"^testing diverged at step {bad}: loss (inf|-inf|nan); use a smaller"):
        descend(model, terms, optimizer, steps=30, task="testing")
    assert len(steps) == (20 if bad < 20 else 30)  # found out at the next look, and nothing after it is wasted


def test_the_descent_tells_its_progress_with_the_mean_losses_since_the_last_look() -> None:
    model, optimizer = one_weight(step_size=1e-9)
    told: list[tuple[object, ...]] = []

    def terms(step: int) -> Terms:
        found = {"retain": Term(float(step) * model.weight.sum(), 7.0)}
        return found | ({"forget": Term(model.weight.sum(), -1.0)} if step >= 20 else {})

    descend(model, terms, optimizer, steps=25, progress=lambda *news: told.append(news), task="testing")
    assert told == [("testing", 20, 25, "retain 9.500"), ("testing", 25, 25, "retain 22.000, forget 1.000")]


def with_dropout(seed: int, *, first: int = 0, start: Any = None, steps: int = 4) -> dict[str, Any]:
    """Train a linear layer under dropout, whatever was drawn from torch's own state before; return its weights."""
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(20, 1))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    if start:
        model.load_state_dict(start)
    inputs = torch.ones(1, 20)

    class From:
        def start(self, *_: object) -> int:
            return first

        def keep(self, done: int) -> None:
            pass

    def terms(step: int) -> dict[str, Term]:
        return {"loss": Term((model(inputs) - 1).square().mean())}

    before = torch.get_rng_state()
    descend(model, terms, torch.optim.SGD(model.parameters(), lr=0.01), steps=steps, seed=seed, resumable=From())
    assert torch.equal(torch.get_rng_state(), before)
    return model.state_dict()


def test_a_set_beyond_its_room_streams_to_the_same_bits(noise: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more images than a chunk, or a batch, are ever made ready at once."""
    largest: list[int] = []

    class Watched(Transform):
        def __call__(self, images: Tensor) -> Tensor:
            largest.append(len(images))
            return super().__call__(images)

    def computed() -> list[Tensor]:
        net, transform = make_net().eval(), Watched((0.5,), (0.25,))
        batch = FullBatch(noise(30), transform, compute=cpu(7))
        found = batch.forward_backward(net), batch.forward(net)
        gradients = [each.grad for each in net.parameters() if each.grad is not None]
        batches = Batches(noise(30), transform, 8, 0, "train", cpu())
        made = len(largest)
        hessian = Curvature(net, batch)
        assert len(largest) == made  # what a product takes is brought when it is taken
        product = hessian @ torch.ones(hessian.size)
        losses = [torch.from_numpy(each.losses) for each in found]
        return [*gradients, *losses, *(batches.at(n)[0] for n in range(5)), product]

    monkeypatch.setattr(curvature, "FEWEST_IMAGES", 3)  # so that a product cuts each chunk once more
    held = computed()
    assert max(largest) == 30
    largest.clear()
    monkeypatch.setattr(engine_batches, "READY", 0)
    for module in (engine_batches, passes):
        monkeypatch.setattr(module, "room", lambda device: 479)  # bytes; the images are 480, and four times that ready
    streamed = computed()
    assert max(largest) == 8
    assert len(held) == len(streamed) > 10
    assert all(torch.equal(one, other) for one, other in zip(held, streamed, strict=True))


def test_the_room_of_a_set_is_a_part_of_the_memory() -> None:
    assert 2**26 < room(torch.device("cpu")) < 2**50


def test_what_a_model_draws_in_a_step_is_what_torch_draws_after_its_seed() -> None:
    """As it was when `torch.manual_seed` seeded every device that there is: no weights of any run have changed."""
    drawn: list[Tensor] = []
    weight = nn.Parameter(torch.zeros(3))

    def terms(step: int) -> dict[str, Term]:
        drawn.append(torch.rand(3))
        return {"loss": Term((weight * drawn[-1]).sum())}

    descend(nn.ParameterList([weight]), terms, torch.optim.SGD([weight], lr=0.1), steps=2, seed=5)
    for step in range(2):
        torch.manual_seed(derive_seed(5, "dropout", step))
        assert torch.equal(drawn[step], torch.rand(3))


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_all_tensors_in_one_call_come_to_the_same_bits(optimizer: Any) -> None:
    ends = []
    for foreach in (False, all_at_once([torch.zeros(1)])):
        torch.manual_seed(0)
        net = cpu().to_device(small_cnn(classes=4, channels=3))
        momentum = {"momentum": 0.9, "nesterov": True} if optimizer is torch.optim.SGD else {}
        stepper = optimizer(net.parameters(), lr=0.1, weight_decay=1e-2, foreach=foreach, **momentum)
        for _ in range(5):
            stepper.zero_grad()
            net(torch.rand(8, 3, 6, 6)).square().sum().backward()
            stepper.step()
        ends.append(net.state_dict())
    assert foreach
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_set_that_is_kept_ready_gives_the_bits_of_its_batches(
    noise: Noise, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = Transform((0.4,) * channels, (0.3,) * channels)

    def batch() -> Tensor:
        return Batches(noise(9, channels=channels), transform, 4, 0, "train", cpu()).at(3)[0]

    ready = batch()
    monkeypatch.setattr(engine_batches, "READY", 0)
    made = batch()
    assert torch.equal(ready, made)
    assert ready.stride() == made.stride()


def test_what_a_model_draws_depends_on_seed_and_step_alone() -> None:
    """Torch's own state begins alike in every process, for every seed, and is not where it was after a kill."""
    one = with_dropout(1)
    torch.rand(7)
    assert torch.equal(with_dropout(1)["1.weight"], one["1.weight"])
    assert not torch.equal(with_dropout(2)["1.weight"], one["1.weight"])
    resumed = with_dropout(1, first=2, start=with_dropout(1, steps=2))
    assert torch.equal(resumed["1.weight"], one["1.weight"])


def test_a_stop_ends_the_descent_at_a_look() -> None:
    model, optimizer = one_weight()

    def stop(means: Mapping[str, float]) -> str | None:
        return "low enough" if means["loss"] < 0.5 else None

    def terms(step: int) -> Terms:
        return {"loss": Term(model.weight.square().sum())}

    assert descend(model, terms, optimizer, steps=100, stop=stop) == Descent(20, "low enough")
    assert model.weight.item() == pytest.approx(0.8**20)


def test_hooks_run_in_their_order_and_see_each_terms_gradient_where_one_asks() -> None:
    model, optimizer = one_weight()
    seen: list[tuple[str, float]] = []

    def gradient(step: int, parts: TermGradients) -> None:
        seen.extend((name, part.gradients[0].item()) for name, part in parts.items())
        assert model.weight.grad is not None
        seen.append(("sum", model.weight.grad.item()))
        model.weight.grad.fill_(1.0)

    def note(name: str) -> StepHook:
        return lambda step: seen.append((name, model.weight.item()))

    def terms(step: int) -> Terms:
        square = model.weight.square().sum()  # two terms may share a graph
        other = torch.ones((), requires_grad=True)
        return {"retain": Term(square), "forget": Term(3 * square, -0.5), "elsewhere": Term(other)}

    hooks = [
        Hooks(gradient=gradient, hold=note("hold"), after=note("after"), parts=True),
        Hooks(mix=lambda step: model.weight.mul_(0.5)),
    ]
    descend(model, terms, optimizer, steps=1, hooks=hooks)
    assert seen == [
        ("retain", 2.0), ("forget", -3.0), ("elsewhere", 0.0), ("sum", -1.0), ("hold", 0.5),
        ("after", pytest.approx(0.4)),
    ]  # fmt: skip


# ----- where


def test_cuda_that_is_absent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda", "cuda:0", "mps"):
        with pytest.raises(UsageError, match=f"^--device {device}: no .* use --device cpu") as caught:
            setup_device(device)
        assert caught.value.exit_code == 2
    assert setup_device("auto").device == torch.device("cpu")


def test_a_cuda_device_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=r"^--device cuda:2: there are only 2 CUDA devices \(cuda:0 to cuda:1\)"):
        setup_device("cuda:2")


@pytest.mark.parametrize(
    ("device", "local", "says"),
    [("cuda:0", "0", "one card for all"), ("cuda", None, "LOCAL_RANK must say"), ("cuda", "2", "with 2 CUDA devices")],
)
def test_each_process_of_a_run_has_a_card_of_its_own(
    device: str, local: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=says):
        _of_rank(torch.device(device))


def test_chunk_and_precision_are_as_asked() -> None:
    assert setup_device("cpu", chunk=5).chunk == 5
    assert setup_device("cpu").chunk > 1
    setup_device("cpu", "tf32")
    assert torch.backends.cuda.matmul.allow_tf32
    setup_device("cpu")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_one_thread_puts_the_number_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert torch.get_num_threads() == before


def test_tied_parameters_take_part_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert list(trainable(model)) == ["0.weight", "0.bias", "1.bias"]
