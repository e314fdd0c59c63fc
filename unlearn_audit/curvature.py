"""The curvature of a loss over a whole set: Hessian-vector products, both ends of the spectrum, its trace.

One Krylov space serves both ends, which takes half the products of two runs of an implicitly restarted method
(measured with ARPACK on a small CNN, ten largest and the smallest: 48 products against 90); the price is the memory of
its whole basis, one vector of the model's size for each product.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unlearn_audit.engine import FullBatch, chunks, full_float32, trainable
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.models import models_own
from unlearn_audit.progress import Progress, silent
from unlearn_audit.streams import generator

Floats = NDArray[np.float64]
Product = Callable[[Tensor], Tensor]

FEWEST_IMAGES = 128  # of a product's chunk; larger chunks are cut in four, since its graph is that much larger
FLAT = 1e-9  # ours: residuals below it count as zero, whatever the largest eigenvalue
FEWEST_STEPS = 16  # ours: before that a pair that looks converged may still be a lower one than the top
MOST_STEPS = 100  # before Lanczos gives up; five more for each eigenvalue asked


class TopEigenvalue(NamedTuple):
    """The largest eigenvalue of the Hessian of the mean loss and what it cost, in passes over the set."""

    value: float
    products: int


class Eigenpair(NamedTuple):
    """An eigenvalue, the norm of H·v - value·v for its unit vector v, and whether that is within the tolerance.

    Some eigenvalue lies within `residual` of `value`, which itself is no smaller than the smallest eigenvalue and no
    larger than the largest. The tolerance of the smallest eigenvalue is read against its own size here, although
    Lanczos only waits until its residual is small beside the eigenvalue that is largest in size.
    """

    value: float
    residual: float
    converged: bool


class Ends(NamedTuple):
    """Both ends of a spectrum.

    Attributes:
        largest: the k largest, in falling order; of an eigenvalue that occurs several times Lanczos may see one only.
        smallest: the algebraically smallest.
        vectors: [k, d], orthonormal, those of `largest`.
        products: what it cost.
    """

    largest: tuple[Eigenpair, ...]
    smallest: Eigenpair
    vectors: Tensor
    products: int


class Trace(NamedTuple):
    """An estimate of a trace, its standard error, and the number of random probes behind it."""

    value: float
    standard_error: float
    probes: int


@dataclass(frozen=True)
class Spectrum:
    """What a number of products with a Hessian tell of it.

    Attributes:
        ends: the eigenvalues, of the loss's Hessian plus weight_decay on its diagonal.
        trace: of the same matrix.
        size: d, the number of parameters.
        relative: the largest eigenvalue of D·H·D without weight decay, D the norm of each weight's filter: the
            curvature per relative change of a filter, the same for all weights that BatchNorm makes equivalent.
        squared_norm: ‖w‖² of the parameters.
        products: passes over the set, each of one forward and two backward.
    """

    ends: Ends
    trace: Trace
    size: int
    relative: Eigenpair
    squared_norm: float
    products: int


class Curvature:
    """The Hessian of the mean loss over a set, as something that multiplies vectors [d].

    Args:
        model: put into evaluation mode.
        batch: the whole set.
        tell: called with the number of products after each of them.

    Attributes:
        size: d, the number of parameters, in the order of `engine.trainable`.
        products: how many were taken.
    """

    def __init__(self, model: nn.Module, batch: FullBatch, *, tell: Callable[[int], None] = lambda count: None) -> None:
        self.model, self.batch, self.tell = model.eval(), batch, tell
        self.parameters = list(trainable(model).values())
        largest = max(batch.compute.chunk // 4, FEWEST_IMAGES)
        rows_each = batch.row_count // max(batch.n, 1)
        self.parts = [  # a chunk's number and a part of its rows, which are brought when their turn comes
            (index, rows) for index, size in enumerate(batch.sizes) for rows in chunks(size * rows_each, largest)
        ]
        self.size, self.products = sum(parameter.numel() for parameter in self.parameters), 0

    @property
    def dtype(self) -> torch.dtype:
        """Return float64 where any parameter is, else float32."""
        wide = any(parameter.dtype == torch.float64 for parameter in self.parameters)
        return torch.float64 if wide else torch.float32

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Return H·v [d] by differentiating the gradient's product with v, in full float32 at least.

        Zero where a parameter takes no part in the loss. Costs one forward and two backward passes over the set.

        Raises:
            MeasurementError: the curvature is not finite.
        """
        directions = self._split(vector)

        def of_part(index: int) -> Tensor:
            chunk, rows = self.parts[index]
            inputs, target, _ = self.batch.parts[chunk].part(rows)
            with models_own("the curvature cannot be taken"):
                loss = self.batch.task.losses(self.model(inputs), target).sum() / self.batch.row_count
                slopes = _gradients(loss, self.parameters, create_graph=True)
                along = torch.stack([(g * v).sum() for g, v in zip(slopes, directions, strict=True)]).sum()
                return self._flat(_gradients(along, self.parameters))

        # The fused attention kernels have no second derivative.
        with full_float32(), sdpa_kernel(SDPBackend.MATH):
            like = torch.empty(self.size, dtype=self.dtype, device=vector.device)
            total = self.batch.compute.ranks.summed(len(self.parts), of_part, like=like)
        self.products += 1
        self.tell(self.products)
        if not bool(torch.isfinite(total).all()):
            raise MeasurementError("the curvature at the start is not finite")
        return total

    def filter_norms(self) -> Tensor:
        """Return [d]: for each entry of a weight the norm of its filter (row), for a vector's the vector's own."""
        found = []
        for parameter in self.parameters:
            rows = parameter.detach().reshape(len(parameter) if parameter.dim() > 1 else 1, -1)
            found.append(torch.linalg.vector_norm(rows, dim=1, keepdim=True).expand_as(rows))
        return self._flat(found)

    def draw(self, stream: np.random.Generator, *, signs: bool = False) -> Tensor:
        """Return a random vector on the device: standard normal entries, or random signs."""
        drawn = 2.0 * stream.integers(0, 2, self.size) - 1 if signs else stream.standard_normal(self.size)
        return torch.from_numpy(drawn).to(self.parameters[0].device, self.dtype)

    def _flat(self, parts: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        return torch.cat([part.reshape(-1).to(self.dtype) for part in parts])

    def _split(self, vector: Tensor) -> list[Tensor]:
        """Cut a flat vector into tensors like the parameters."""
        parts = torch.split(vector, [parameter.numel() for parameter in self.parameters])
        return [part.reshape(like.shape).to(like.dtype) for part, like in zip(parts, self.parameters, strict=True)]


def _gradients(value: Tensor, parameters: list[nn.Parameter], *, create_graph: bool = False) -> tuple[Tensor, ...]:
    """Differentiate, with zeros for parameters that the value does not depend on."""
    return torch.autograd.grad(value, parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True)


def hessian_vector_product(model: nn.Module, batch: FullBatch, vector: Floats) -> Floats:
    """Return H·v for the Hessian of the mean loss over the set.

    Args:
        model: put into evaluation mode.
        batch: the whole set.
        vector: [d], in the order of `engine.trainable`.

    Returns:
        [d], float64.
    """
    hessian = Curvature(model, batch)
    there = torch.from_numpy(np.array(vector)).to(hessian.parameters[0].device, hessian.dtype)
    return np.asarray((hessian @ there).double().cpu().numpy())


def lanczos(
    product: Product, start: Tensor, *, k: int = 1, smallest: bool = True, tolerance: float, limit: int | None = None
) -> Ends:
    """Return the k largest eigenvalues of a symmetric matrix and its smallest (Lanczos 1950).

    Every new vector is orthogonalised twice against all earlier ones. With T the tridiagonal matrix after m steps, the
    residual of the pair (theta, s) of T is |beta_m·s_m|.

    Args:
        product: v [d] -> H·v [d], the matrix.
        start: [d], not zero; a random one meets every eigenvector.
        k: how many of the largest; d of them where there are no more.
        smallest: whether to wait for the smallest one as well, and to read the tolerance against the eigenvalue that
            is largest in size instead of the largest.
        tolerance: largest residual over that eigenvalue's size at which a pair counts as converged.
        limit: products at which to give up, at least k; by default 100 + 5 k.

    Returns:
        The eigenvalues with their residuals, converged or not.
    """
    from scipy.linalg import eigh_tridiagonal  # who trains or unlearns need not wait for it to load

    size = len(start)
    k = min(k, size)
    basis = [start / torch.linalg.vector_norm(start)]
    diagonal: list[float] = []
    off: list[float] = []
    while True:
        image = product(basis[-1])
        diagonal.append(float(basis[-1] @ image))
        rest, length = _new_direction(image, basis)
        values, weights = eigh_tridiagonal(np.array(diagonal), np.array(off))
        residuals = length * np.abs(weights[-1])
        scale = max(abs(values[-1]), abs(values[0]) if smallest else 0.0)
        good = residuals <= max(tolerance * scale, FLAT)
        seen = len(diagonal) >= max(2 * k + 1, FEWEST_STEPS) and good[-k:].all() and (good[0] or not smallest)
        if seen or len(diagonal) == min(size, limit or MOST_STEPS + 5 * k):
            break
        off.append(length)
        basis.append(rest)
    pairs = [Eigenpair(float(v), float(r), bool(g)) for v, r, g in zip(values, residuals, good, strict=True)]
    lowest = pairs[0]._replace(converged=pairs[0].residual <= max(tolerance * abs(pairs[0].value), FLAT))
    vectors = torch.stack([_combined(basis, weights[:, index]) for index in range(-1, -k - 1, -1)])
    return Ends(tuple(reversed(pairs[-k:])), lowest, vectors, len(diagonal))


def _new_direction(image: Tensor, basis: list[Tensor]) -> tuple[Tensor, float]:
    """Return the unit vector of what is new in H·v, and its length; a random one and 0 where nothing is new."""
    rest, norm = _orthogonal(image, basis), float(torch.linalg.vector_norm(image))
    length = float(torch.linalg.vector_norm(rest))
    if len(basis) == len(image):
        return rest, 0.0
    if length > 10 * torch.finfo(rest.dtype).eps * norm:
        return rest / length, length
    drawn = generator("lanczos restart", len(basis)).standard_normal(len(image))
    rest = _orthogonal(torch.from_numpy(drawn).to(image), basis)
    return rest / torch.linalg.vector_norm(rest), 0.0


def _orthogonal(vector: Tensor, basis: list[Tensor]) -> Tensor:
    """Return what is left of a vector without its parts along an orthonormal basis, taken out twice."""
    rest = vector.clone()
    for known in basis * 2:
        rest -= (known @ rest) * known
    return rest


def _combined(basis: list[Tensor], weights: Floats) -> Tensor:
    """Return the sum of weights times basis vectors."""
    total = torch.zeros_like(basis[0])
    for weight, known in zip(weights.tolist(), basis, strict=True):
        total += weight * known
    return total


def lambda_max(model: nn.Module, batch: FullBatch, *, seed: int = 0, tolerance: float = 0.01) -> TopEigenvalue:
    """Return the largest eigenvalue of the Hessian of the mean loss.

    Args:
        model: put into evaluation mode.
        batch: the whole set.
        seed: of the start vector.
        tolerance: residual over the eigenvalue.

    Raises:
        MeasurementError: Lanczos did not converge, or the curvature is not finite.
    """
    hessian = Curvature(model, batch)
    start = hessian.draw(generator("lanczos", seed))
    try:
        found = lanczos(hessian.__matmul__, start, smallest=False, tolerance=tolerance)
    except MeasurementError as problem:
        raise MeasurementError(f"{problem}; give --step-size a number") from problem
    if not found.largest[0].converged:
        raise MeasurementError("lambda_max did not converge; give --step-size a number")
    return TopEigenvalue(found.largest[0].value, hessian.products)


def spectrum(
    model: nn.Module,
    batch: FullBatch,
    *,
    k: int = 10,
    probes: int = 30,
    tolerance: float = 1e-3,
    weight_decay: float = 0.0,
    flat: Tensor | None = None,
    seed: int = 0,
    progress: Progress = silent,
    task: str = "curvature",
) -> Spectrum:
    """Measure both ends of the spectrum of H + weight_decay·I, its trace, and the largest relative curvature.

    The trace is the sum of the k largest eigenvalues plus Hutchinson's estimate (1990) of the rest, z'Hz for random
    signs z without their parts along the k eigenvectors: unbiased, with far less variance than on all of H.

    Args:
        model: put into evaluation mode.
        batch: the whole set.
        k: how many of the largest eigenvalues.
        probes: of the trace, at least 2.
        tolerance: largest residual at which an eigenvalue counts as converged, over the one that is largest in size.
        weight_decay: lambda of the objective loss + lambda/2·‖w‖².
        flat: [d], a direction in which the smallest eigenvalue is known to lie, so that Lanczos need not look for it.
        seed: of the random vectors.
        progress: callback, called after each product.
        task: its name in the progress.

    Raises:
        UsageError: float32 does not resolve the tolerance.
        MeasurementError: the curvature is not finite.
    """
    expected = 2 * MOST_STEPS + 5 * (k + 1) + probes
    hessian = Curvature(model, batch, tell=lambda count: progress(task, min(count, expected - 1), expected, "products"))
    if tolerance < 10 * torch.finfo(hessian.dtype).eps:
        raise UsageError(
            f"--tolerance {tolerance:g} is finer than float32 resolves; give 2e-6 or more, or --scope head (float64)"
        )
    stream = generator("lanczos", seed)

    ends = lanczos(hessian.__matmul__, hessian.draw(stream), k=k, smallest=flat is None, tolerance=tolerance)
    if flat is not None:
        ends = ends._replace(smallest=_pair(hessian.__matmul__, flat, tolerance * abs(ends.largest[0].value)))
    signs = (hessian.draw(stream, signs=True) for _ in range(probes))
    trace = hutchinson(hessian.__matmul__, signs, known=ends)
    norms = hessian.filter_norms()

    def scaled(vector: Tensor) -> Tensor:
        return norms * (hessian @ (norms * vector))

    relative = lanczos(scaled, hessian.draw(stream), smallest=False, tolerance=tolerance).largest[0]
    progress(task, expected, expected, "")
    squared_norm = float(sum(float(p.detach().double().square().sum()) for p in hessian.parameters))
    trace = trace._replace(value=trace.value + weight_decay * hessian.size)
    return Spectrum(_shifted(ends, weight_decay), trace, hessian.size, relative, squared_norm, hessian.products)


def _shifted(ends: Ends, by: float) -> Ends:
    """Return the ends of the matrix with a number added on its diagonal; residuals stay."""
    largest = tuple(pair._replace(value=pair.value + by) for pair in ends.largest)
    return ends._replace(largest=largest, smallest=ends.smallest._replace(value=ends.smallest.value + by))


def _pair(product: Product, vector: Tensor, tolerance: float) -> Eigenpair:
    """Return the Rayleigh quotient of a vector with its residual."""
    unit = vector / torch.linalg.vector_norm(vector)
    image = product(unit)
    value = float(unit @ image)
    residual = float(torch.linalg.vector_norm(image - value * unit))
    return Eigenpair(value, residual, residual <= tolerance)


def hutchinson(product: Product, probes: Iterable[Tensor], *, known: Ends) -> Trace:
    """Return the trace: the known eigenvalues' sum plus the mean of z'Hz over probes z without their known parts.

    Args:
        product: v [d] -> H·v [d].
        probes: random signs [d], at least two.
        known: eigenvalues with orthonormal vectors, whose part of the trace needs no estimate.
    """
    samples = []
    for probe in probes:
        rest = probe - known.vectors.T @ (known.vectors @ probe)
        samples.append(float(rest @ product(rest)))
    captured = sum(pair.value for pair in known.largest)
    return Trace(captured + float(np.mean(samples)), float(np.std(samples, ddof=1) / len(samples) ** 0.5), len(samples))
