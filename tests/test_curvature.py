"""Curvature against dense Hessians in double precision and a public library, and what an audit says of it."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unlearn_audit import curvature as room
from unlearn_audit.audit import run_audit
from unlearn_audit.audit.controls import RANDOM
from unlearn_audit.checkpoints import read_checkpoint
from unlearn_audit.config import AuditConfig
from unlearn_audit.curvature import Curvature, hessian_vector_product, hutchinson, lambda_max, lanczos, spectrum
from unlearn_audit.data import Examples, Transform, load_data, make_splits
from unlearn_audit.engine import Device, FullBatch, trainable
from unlearn_audit.engine import task as tasks
from unlearn_audit.engine.task import Task
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.models.small import SmallCNN, small_cnn
from unlearn_audit.report import AuditReport, Measurement

Noise = Callable[..., Examples]
Cli = Callable[..., Any]
Floats = NDArray[np.float64]
HALF = Transform((0.5,), (0.25,))
CPU = Device(torch.device("cpu"), chunk=10_000)


def wide(images: Tensor) -> Tensor:
    """The transform in double precision."""
    return HALF(images).double()


class Perceptron(nn.Module):
    """Sixteen pixels, five tanh units, three classes, in double precision; one layer that is never used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.hidden = nn.Linear(16, 5, dtype=torch.float64)
        self.unused = nn.Linear(5, 2, dtype=torch.float64)
        self.out = nn.Linear(5, 3, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.hidden(images.double().flatten(1)).tanh())  # type: ignore[no-any-return]


class Convolutional(nn.Module):
    """Two small convolutions with BatchNorm that has seen some data, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 2, bias=False), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)
        self.double()(torch.randn(64, 1, 4, 4, dtype=torch.float64) * 2 + 1)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images.double())).relu()
        return self.fc(self.bn2(self.conv2(x)).relu().flatten(1))  # type: ignore[no-any-return]


def dense_hessian(net: nn.Module, examples: Examples) -> Floats:
    """The whole Hessian of the mean loss, by forward over reverse differentiation of a flat parameter vector."""
    images, parameters = HALF(examples.images), trainable(net)
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()])

    def loss(vector: Tensor) -> Tensor:
        parts = torch.split(vector, [parameter.numel() for parameter in parameters.values()])
        named = {name: part.view_as(like) for part, (name, like) in zip(parts, parameters.items(), strict=True)}
        return tasks.losses(torch.func.functional_call(net, named, (images,)), examples.labels).mean()

    return np.asarray(torch.func.hessian(loss)(flat).numpy())


@pytest.fixture(scope="module")
def examples(noise: Noise) -> Examples:
    return noise(40, classes=3)


@pytest.fixture(scope="module")
def dense(examples: Examples) -> Floats:
    return dense_hessian(Perceptron(), examples)


def test_products_are_those_of_the_dense_hessian(examples: Examples, dense: Floats) -> None:
    net, batch = Perceptron(), FullBatch(examples, HALF, compute=CPU)
    columns = [hessian_vector_product(net, batch, unit) for unit in np.eye(len(dense))]
    np.testing.assert_allclose(np.stack(columns, axis=1), dense, rtol=1e-9, atol=1e-12 * np.abs(dense).max())
    assert (dense[85:97] == 0).all(), "the unused layer has no curvature"


@pytest.mark.parametrize("chunk", [1, 7, 39])
def test_chunks_change_nothing(examples: Examples, dense: Floats, chunk: int) -> None:
    vector = np.random.default_rng(0).standard_normal(len(dense))
    batch = FullBatch(examples, HALF, compute=replace(CPU, chunk=chunk))
    np.testing.assert_allclose(
        hessian_vector_product(Perceptron(), batch, vector), dense @ vector, rtol=1e-9, atol=1e-12
    )


def test_the_product_is_symmetric(noise: Noise) -> None:
    torch.manual_seed(0)
    net = small_cnn(classes=4, channels=1).eval()
    batch = FullBatch(noise(30), HALF, compute=CPU)
    rng = np.random.default_rng(1)
    size = sum(parameter.numel() for parameter in net.parameters())
    u, v = rng.standard_normal((2, size)) / np.sqrt(size)
    left, right = (first @ hessian_vector_product(net, batch, second) for first, second in ((u, v), (v, u)))
    scale = np.linalg.norm(hessian_vector_product(net, batch, v))
    assert left == pytest.approx(right, abs=1e-5 * scale)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_lambda_max_is_the_largest_eigenvalue_of_the_dense_hessian(examples: Examples, dense: Floats) -> None:
    top = np.linalg.eigvalsh(dense)[-1]
    net, batch = Perceptron().train(), FullBatch(examples, HALF, compute=CPU)
    found = lambda_max(net, batch, tolerance=1e-10)
    assert found.value == pytest.approx(top, rel=1e-9)
    assert not net.training
    quick = lambda_max(net, batch)
    assert quick.value == pytest.approx(top, rel=0.01)
    assert 0 < quick.products < found.products
    assert quick == lambda_max(net, batch)


def test_every_product_is_counted(examples: Examples) -> None:
    net, passes = Perceptron(), []
    net.register_forward_hook(lambda *_: passes.append(1))
    assert lambda_max(net, FullBatch(examples, HALF, compute=CPU)).products == len(passes)


def test_it_is_the_largest_and_not_the_largest_in_size(examples: Examples) -> None:
    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(torch.ones(30, dtype=torch.float64))

        def forward(self, images: Tensor) -> Tensor:
            return self.place.expand(len(images), -1)

    slopes = torch.linspace(-9, 2, 30, dtype=torch.float64)
    saddle = Task(lambda place, labels: place.square() @ slopes / 2, lambda place, labels: torch.zeros(len(place)))
    found = lambda_max(Point(), FullBatch(examples, HALF, compute=CPU, task=saddle))
    assert found.value == pytest.approx(2.0, rel=0.01)


def test_attention_has_a_second_derivative(examples: Examples) -> None:
    class Attentive(nn.Module):
        """Rows attend to rows, by the fused kernel where torch has one."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.out = nn.Linear(4, 3)

        def forward(self, images: Tensor) -> Tensor:
            rows = images[:, 0].to(self.out.weight.dtype)
            mixed = self.attention(rows, rows, rows, need_weights=False)[0]
            return self.out(mixed.mean(1))  # type: ignore[no-any-return]

    net = Attentive().double().eval()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        dense = dense_hessian(net, examples)
    found = lambda_max(net, FullBatch(examples, HALF, compute=CPU), tolerance=1e-8)
    assert found.value == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-7)


# ----- both ends, the trace


@pytest.mark.parametrize("make", [Perceptron, Convolutional])
def test_both_ends_are_those_of_the_dense_hessian(examples: Examples, make: Callable[[], nn.Module]) -> None:
    net = make()
    hessian = dense_hessian(net, examples)
    eigenvalues = np.linalg.eigvalsh(hessian)[::-1]
    top = eigenvalues[0]
    found = spectrum(net, FullBatch(examples, HALF, compute=replace(CPU, chunk=7)), k=10, tolerance=1e-7)
    assert found.size == len(eigenvalues)
    for pair, expected in zip(found.ends.largest, eigenvalues, strict=False):
        assert pair.value == pytest.approx(expected, abs=1e-6 * top)
        assert pair.converged
    assert found.ends.smallest.value == pytest.approx(eigenvalues[-1], abs=1e-6 * top)
    assert found.ends.smallest.converged
    for pair, vector in zip(found.ends.largest, found.ends.vectors.numpy(), strict=True):
        residual = np.linalg.norm(hessian @ vector - pair.value * vector)
        assert residual == pytest.approx(pair.residual, abs=1e-9 * top)
    np.testing.assert_allclose(found.ends.vectors @ found.ends.vectors.T, np.eye(10), atol=1e-12)


def test_the_trace_lies_within_its_standard_error(examples: Examples, dense: Floats) -> None:
    net, batch, exact = Perceptron(), FullBatch(examples, HALF, compute=CPU), float(np.trace(dense))
    away = []
    for seed in range(12):
        found = spectrum(net, batch, k=4, probes=12, seed=seed).trace
        assert found.probes == 12
        away.append((found.value - exact) / found.standard_error)
    assert np.abs(away).max() < 4.5
    assert 0.5 < np.sqrt(np.mean(np.square(away))) < 1.7


def test_known_eigenvectors_take_their_part_of_the_trace_out_of_chance() -> None:
    matrix = torch.diag(torch.tensor([100.0, 50.0, *[0.1] * 30], dtype=torch.float64))
    basis = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    matrix = basis @ matrix @ basis.T
    rng = np.random.default_rng(0)
    probes = [torch.from_numpy(rng.choice([-1.0, 1.0], 32)) for _ in range(20)]
    known = lanczos(lambda v: matrix @ v, probes[0], k=2, tolerance=1e-9)
    found = hutchinson(lambda v: matrix @ v, probes, known=known)
    assert found.value == pytest.approx(153.0, abs=4 * found.standard_error)
    plain = [float(probe @ matrix @ probe) for probe in probes]
    assert found.standard_error < 0.01 * np.std(plain) / np.sqrt(20)


def test_weight_decay_shifts_everything_but_the_relative_curvature(examples: Examples) -> None:
    net, batch = Perceptron(), FullBatch(examples, HALF, compute=CPU)
    plain, damped = (spectrum(net, batch, k=3, tolerance=1e-9, weight_decay=decay) for decay in (0.0, 0.25))
    for before, after in zip(plain.ends.largest, damped.ends.largest, strict=True):
        assert after.value == pytest.approx(before.value + 0.25, rel=1e-7)
    assert damped.ends.smallest.value == pytest.approx(plain.ends.smallest.value + 0.25, abs=1e-7)
    assert damped.trace.value == pytest.approx(plain.trace.value + 0.25 * plain.size, rel=1e-9)
    assert damped.relative.value == pytest.approx(plain.relative.value, rel=1e-7)
    assert plain.squared_norm == pytest.approx(sum(float(p.detach().square().sum()) for p in net.parameters()))


def test_chunks_change_no_spectrum(noise: Noise) -> None:
    torch.manual_seed(0)
    net, examples = small_cnn(classes=4, channels=1).eval(), noise(30)
    found = [
        spectrum(net, FullBatch(examples, HALF, compute=replace(CPU, chunk=chunk)), k=3, probes=4)
        for chunk in (10_000, 7)
    ]
    for one, other in zip(found[0].ends.largest, found[1].ends.largest, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4)
    assert found[0].trace.value == pytest.approx(found[1].trace.value, rel=1e-4)


def test_two_runs_agree_bit_for_bit(noise: Noise) -> None:
    torch.manual_seed(0)
    net, batch = small_cnn(classes=4, channels=1), FullBatch(noise(30), HALF, compute=CPU)
    one, other = (spectrum(net, batch, k=2, probes=3, seed=5) for _ in range(2))
    assert (one.ends.largest, one.ends.smallest, one.trace) == (other.ends.largest, other.ends.smallest, other.trace)
    assert one.relative == other.relative


def test_eigenvalues_and_products_are_those_of_a_public_library(noise: Noise) -> None:
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is not installed")
    from scipy.sparse.linalg import eigsh

    torch.manual_seed(0)
    net, examples = small_cnn(classes=10, channels=1).eval(), noise(64, classes=10, size=8)
    data = [(HALF(examples.images), examples.labels)]
    theirs = curvlinops.HessianLinearOperator(
        net, nn.CrossEntropyLoss(), list(net.parameters()), data, check_deterministic=False
    )
    ours = spectrum(net, FullBatch(examples, HALF, compute=replace(CPU, chunk=20)), k=3, probes=2)
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(ours.size).astype(np.float32)
    product = (theirs @ torch.from_numpy(vector)).detach().numpy()
    found = hessian_vector_product(net, FullBatch(examples, HALF, compute=CPU), vector.astype(np.float64))
    assert np.linalg.norm(found - product) <= 1e-4 * np.linalg.norm(product)
    operator, start = theirs.to_scipy(), rng.standard_normal(ours.size).astype(np.float32)
    top = np.sort(eigsh(operator, k=3, which="LA", tol=1e-4, v0=start, return_eigenvectors=False))[::-1]
    low = eigsh(operator, k=1, which="SA", tol=1e-4, v0=start, return_eigenvectors=False)[0]
    np.testing.assert_allclose([pair.value for pair in ours.ends.largest], top, rtol=1e-3)
    assert ours.ends.smallest.value == pytest.approx(low, abs=1e-3 * top[0])


# ----- Lanczos by itself


def diagonal(*values: float) -> Callable[[Tensor], Tensor]:
    """The matrix with these eigenvalues."""
    entries = torch.tensor(values, dtype=torch.float64)
    return lambda vector: entries * vector


def ones(size: int) -> Tensor:
    return torch.ones(size, dtype=torch.float64)


@pytest.mark.parametrize("values", [[3.0], [2.0, -5.0], [1.0, 1.0, 1.0, 1.0], [0.0] * 6, [7.0, 7.0, 2.0, -1.0, -1.0]])
def test_small_and_repeated_spectra_are_exhausted(values: list[float]) -> None:
    found = lanczos(diagonal(*values), ones(len(values)), k=10, tolerance=1e-9)
    np.testing.assert_allclose([pair.value for pair in found.largest], sorted(values, reverse=True), atol=1e-12)
    assert found.smallest.value == pytest.approx(min(values), abs=1e-12)
    assert all(pair.converged and pair.residual < 1e-12 for pair in (*found.largest, found.smallest))
    assert found.products == len(values)


def test_giving_up_is_said() -> None:
    values = np.linspace(-1, 1, 400)
    start = torch.from_numpy(np.random.default_rng(0).standard_normal(400))
    found = lanczos(diagonal(*values), start, k=3, tolerance=1e-9, limit=20)
    assert found.products == 20
    assert not any(pair.converged for pair in (*found.largest, found.smallest))
    for pair, vector in zip(found.largest, found.vectors, strict=True):
        assert pair.residual == pytest.approx(float((diagonal(*values)(vector) - pair.value * vector).norm()), rel=1e-6)
        assert np.abs(values - pair.value).min() <= pair.residual


def test_the_smallest_need_not_be_waited_for() -> None:
    start = torch.from_numpy(np.random.default_rng(0).standard_normal(300))
    matrix = diagonal(*np.linspace(-1, 0, 297), 5.0, 6.0, 9.0)
    quick, both = (lanczos(matrix, start, smallest=waits, tolerance=1e-8) for waits in (False, True))
    assert quick.products < both.products
    assert quick.largest[0].value == pytest.approx(9.0)
    assert both.smallest.value == pytest.approx(-1.0, abs=1e-6)


# ----- the scale that BatchNorm takes away


def test_the_scale_of_weights_before_batchnorm_moves_lambda_max_but_no_prediction(noise: Noise) -> None:
    torch.manual_seed(0)
    net, examples = small_cnn(classes=4, channels=1), noise(40)
    for _ in range(3):
        net(torch.randn(32, 1, 4, 4) * 2 + 1)
    net = net.double().eval()
    twin, shrink = copy.deepcopy(net), torch.linspace(0.02, 0.06, 16, dtype=torch.float64)
    with torch.no_grad():
        twin.conv1.weight *= shrink[:, None, None, None]
        twin.bn1.running_mean *= shrink
        twin.bn1.running_var.copy_((twin.bn1.running_var + twin.bn1.eps) * shrink**2 - twin.bn1.eps)
        torch.testing.assert_close(twin(wide(examples.images)), net(wide(examples.images)))
    before, after = (
        spectrum(model, FullBatch(examples, wide, compute=CPU), k=1, probes=2, tolerance=1e-6) for model in (net, twin)
    )
    assert after.ends.largest[0].value > 2 * before.ends.largest[0].value
    assert after.relative.value == pytest.approx(before.relative.value, rel=1e-6)


def test_filter_norms_are_those_of_rows_and_of_whole_vectors(noise: Noise) -> None:
    net = Convolutional()
    found = Curvature(net, FullBatch(noise(3, classes=3), HALF, compute=CPU)).filter_norms()
    norms = dict(zip(trainable(net), torch.split(found, [p.numel() for p in net.parameters()]), strict=True))
    assert torch.equal(norms["conv2.weight"].reshape(4, -1)[:, 5], net.conv2.weight.flatten(1).norm(dim=1))
    assert torch.equal(norms["fc.bias"], net.fc.bias.norm().expand(3))


# ----- refusals


def test_a_tolerance_below_float32_is_refused(noise: Noise) -> None:
    with pytest.raises(UsageError, match="finer than float32 resolves; give 2e-6 or more, or --scope head"):
        spectrum(small_cnn(classes=4, channels=1), FullBatch(noise(9), HALF, compute=CPU), tolerance=1e-7)


def test_progress_is_told_for_every_product_and_ends(examples: Examples) -> None:
    told: list[tuple[Any, ...]] = []
    batch = FullBatch(examples, HALF, compute=CPU)
    found = spectrum(Perceptron(), batch, k=2, probes=3, progress=lambda *news: told.append(news), task="bending")
    assert [news[1] for news in told[:-1]] == list(range(1, found.products + 1))
    assert told[-1][1] == told[-1][2]
    assert {news[0] for news in told} == {"bending"}


def test_curvature_that_is_not_finite_is_refused(examples: Examples) -> None:
    net = Perceptron()
    nn.init.constant_(net.out.weight, float("nan"))
    with pytest.raises(MeasurementError, match="curvature at the start is not finite; give --step-size a number"):
        lambda_max(net, FullBatch(examples, HALF, compute=CPU))


# ----- the audit

SMALL = {"probes": 4, "eigenvalues": 10}


def audited(folder: Path, *labels: str, sample: int = 40, **settings: Any) -> AuditReport:
    """The curvature of checkpoints of the folder."""
    checkpoints = [{"path": str(folder / f"{label}.safetensors")} for label in labels]
    values = {"checkpoint": checkpoints, "forget": str(folder / "forget.npy"), "device": "cpu", "sample": sample}
    return run_audit(AuditConfig.model_validate(values | {"spectrum": SMALL | settings}))


def of(report: AuditReport, name: str, subject: str) -> Measurement:
    found = report.find(f"spectrum.{name}", subject)
    assert found is not None, (name, subject)
    return found


@pytest.fixture(scope="module")
def report(tiny: Path) -> AuditReport:
    return audited(tiny, "original", "retrained-1", "retrained-2")


@pytest.fixture(scope="module")
def by_hand(tiny: Path) -> tuple[SmallCNN, Examples, Transform]:
    """The original and the sampled forget set."""
    dataset = load_data("digits?mislabel=0.1&seed=0")
    net = small_cnn(classes=10, channels=1)
    net.load_state_dict(dict(read_checkpoint(tiny / "original.safetensors").state))
    assert isinstance(net, SmallCNN)
    splits = make_splits(dataset, str(tiny / "forget.npy"), sample=40, seed=0)
    return net.eval(), splits.measured_examples, dataset.transform


def test_an_audit_reports_the_curvature_of_every_subject_and_control(
    report: AuditReport, by_hand: tuple[SmallCNN, Examples, Transform]
) -> None:
    net, examples, transform = by_hand
    top = lambda_max(net, FullBatch(examples, transform, compute=CPU), tolerance=1e-4).value
    found = of(report, "lambda_max", "original")
    assert found.value == pytest.approx(top, rel=1e-4)
    assert found.n == 40
    eigenvalues = found.details["eigenvalues"]
    assert len(eigenvalues) == 10
    assert all(pair["converged"] and pair["residual"] <= 1e-3 * top for pair in eigenvalues)
    ratio, trace = of(report, "lambda_ratio_10", "original"), of(report, "trace", "original")
    assert ratio.value == pytest.approx(top / eigenvalues[9]["value"], rel=1e-4)
    assert isinstance(trace.value, float)
    assert of(report, "concentration", "original").value == pytest.approx(top * 24_058 / trace.value, rel=1e-4)
    assert of(report, "effective_rank", "original").value == pytest.approx(trace.value / top, rel=1e-4)
    for name in ("trace", "concentration", "effective_rank"):
        one = of(report, name, "original")
        assert one.interval is not None
        assert one.interval.low < one.value < one.interval.high
    assert {m.subject for m in report.measurements} == {"original", "retrained-1", "retrained-2", RANDOM}
    assert of(report, "lambda_max", RANDOM).role == "control"
    reference = found.reference
    assert reference is not None
    levels = [of(report, "lambda_max", f"retrained-{index}").value for index in (1, 2)]
    assert (reference.value, reference.n) == (pytest.approx(np.mean(levels)), 2)


def test_a_network_has_no_condition_number(report: AuditReport) -> None:
    for subject in ("original", RANDOM):
        found = of(report, "condition_number", subject)
        assert found.value is None
        assert (
            found.reason == "the objective is not convex in these parameters; give --scope head with a --weight-decay"
        )
        assert isinstance(of(report, "lambda_min", subject).value, float)


def softmax_hessian(net: SmallCNN, examples: Examples, transform: Transform) -> Floats:
    """The Hessian of the linear classifier alone: the mean of (diag(p) - pp') x aa', a the features and a one."""
    seen: list[Tensor] = []
    hook = net.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = net(transform(examples.images)).double().numpy()
    hook.remove()
    features = np.column_stack([seen[0].double().numpy(), np.ones(len(logits))])
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    blocks = [np.kron(np.diag(q) - np.outer(q, q), np.outer(a, a)) for q, a in zip(p, features, strict=True)]
    return np.asarray(np.mean(blocks, axis=0))


def test_the_condition_number_of_the_regularised_classifier_is_that_of_numpy(
    tiny: Path, by_hand: tuple[SmallCNN, Examples, Transform]
) -> None:
    eigenvalues = np.linalg.eigvalsh(softmax_hessian(*by_hand)) + 1e-3
    found = audited(tiny, "original", scope="head", weight_decay=1e-3, tolerance=1e-8, controls=False)
    condition = of(found, "condition_number", "original")
    assert condition.value == pytest.approx(eigenvalues[-1] / eigenvalues[0], rel=1e-5)
    assert of(found, "lambda_max", "original").value == pytest.approx(eigenvalues[-1], rel=1e-5)
    assert of(found, "lambda_min", "original").value == pytest.approx(1e-3, rel=1e-9)
    trace = of(found, "trace", "original")
    assert trace.value == pytest.approx(eigenvalues.sum(), abs=5 * trace.details["standard_error"])
    assert {m.role for m in found.measurements} == {"original"}
    assert "+ 0.001/2·‖w‖²" in condition.method


def test_without_weight_decay_the_classifier_has_an_infinite_one(tiny: Path) -> None:
    found = of(audited(tiny, "original", scope="head", controls=False), "condition_number", "original")
    assert found.value is None
    assert found.reason is not None
    assert found.reason.startswith("infinite: one vector added to the weights of every class changes no softmax")


def test_too_few_eigenvalues_and_a_part_of_the_parameters(tiny: Path) -> None:
    found = audited(tiny, "original", scope="conv1.*", eigenvalues=3, controls=False)
    ratio = of(found, "lambda_ratio_10", "original")
    assert (ratio.value, ratio.reason) == (None, "only 3 eigenvalues are there; --eigenvalues 10 asks for more")
    assert of(found, "concentration", "original").details["parameters"] == 16 * 9
    assert "conv1.*" in ratio.method


def test_what_did_not_converge_is_no_number(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_STEPS", -2)  # three products for one eigenvalue
    found = audited(tiny, "original", eigenvalues=1, tolerance=1e-5, controls=False)
    for name in ("lambda_max", "lambda_min", "relative_lambda_max", "concentration"):
        one = of(found, name, "original")
        assert one.value is None
        assert one.reason is not None
        assert "did not converge" in one.reason
        assert "raise --tolerance" in one.reason


def test_the_verb_measures_and_refuses(tiny: Path, run: Cli) -> None:
    arguments = ("spectrum", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--sample", 40)
    head = ("--scope", "head", "--weight-decay", 0.01, "--no-controls")
    done = run(*arguments, *head, "--format", "json")
    assert done.code == 0, done.stderr
    measured = {m["name"]: m["value"] for m in json.loads(done.stdout)["measurements"]}
    assert measured["spectrum.condition_number"] == pytest.approx(measured["spectrum.lambda_max"] / 0.01, rel=1e-6)
    shown = run(*arguments, *head)
    assert "condition number" in shown.stdout
    refused = run(*arguments, "--tolerance", 1e-9, "--no-controls")
    assert refused.code == 2
    assert "--tolerance 1e-09 is finer than float32 resolves" in refused.stderr
