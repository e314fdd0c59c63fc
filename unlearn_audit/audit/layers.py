"""By how much each affine layer of a model stretches what it is given: the largest singular values, layer by layer.

They depend on weights and input sizes alone, on no forget set. A model whose training was clipped shows it here.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import measurement
from unlearn_audit.audit.reference import reference_of
from unlearn_audit.audit.section import SearchState, SectionResult
from unlearn_audit.config import LayersSettings
from unlearn_audit.engine import full_float32
from unlearn_audit.inputs import Candidate
from unlearn_audit.layers import Layer, affine_layers, power_qr, squared_frobenius, start_vectors
from unlearn_audit.report import Measurement

ITERATIONS = 100
NONE = "the model has no linear layer and no convolution that a forward pass reaches"
METHOD = (
    "largest singular value of the linear part of each linear layer and convolution: of the weight itself, or by "
    f"PowerQR ({ITERATIONS} iterations, 3 spare vectors, read by Rayleigh and Ritz)"
)


class Stretch(NamedTuple):
    """One layer: its k largest singular values, from the largest down; its stable rank; how sure the first is."""

    name: str
    shape: tuple[int, ...]
    values: tuple[float, ...]
    stable_rank: float | None
    residual: float
    converged: bool


def measure_layers(context: AuditContext, settings: LayersSettings, _search: SearchState) -> SectionResult:
    """Return `layers.sigma_max` of every subject, with each layer's values in its details."""
    return SectionResult(tuple(_measurements(context, settings)))


def _measurements(context: AuditContext, settings: LayersSettings) -> Iterator[Measurement]:
    found = {one.label: layers_of(context, one, settings.k) for one in context.subjects}
    tops = {label: _top(layers) for label, layers in found.items()}
    for candidate in context.subjects:
        others = [tops[other.label] for other in context.references(candidate)]
        top = tops[candidate.label]
        yield measurement(
            "layers.sigma_max",
            candidate,
            top.values[0] if top else None,
            NONE,
            n=max(len(found[candidate.label]), 1),
            reference=reference_of([other.values[0] for other in others if other]),
            method=METHOD,
            details=_details(found[candidate.label]),
        )


def layers_of(context: AuditContext, candidate: Candidate, k: int) -> tuple[Stretch, ...]:
    """Return every layer of a model, in its order.

    Args:
        context: the data, of which one example is passed through.
        candidate: the model.
        k: how many values of each.
    """
    sample = candidate.transform(context.splits.dataset.train.images[:1]).to(context.compute.device)
    layers = affine_layers(candidate.model, sample)
    found = []
    with full_float32():
        for number, layer in enumerate(layers):
            found.append(_stretch(layer, k, context.config.seed))
            context.progress(f"layers of {candidate.label}", number + 1, len(layers), layer.name)
    return tuple(found)


def _stretch(layer: Layer, k: int, seed: int) -> Stretch:
    shape = tuple(layer.weight.shape)
    if layer.is_matrix:
        values, residual, converged = torch.linalg.svdvals(layer.weight.detach())[:k], 0.0, True
    else:
        values, _, _, residual = one = power_qr(layer, start_vectors(layer, k, seed=seed), k=k, iterations=ITERATIONS)
        converged = one.converged
    first, squares = float(values[0]), squared_frobenius(layer)
    rank = None if squares is None or not first else squares / first**2
    return Stretch(layer.name, shape, tuple(float(value) for value in values), rank, residual, converged)


def _top(layers: tuple[Stretch, ...]) -> Stretch | None:
    return max(layers, key=lambda one: one.values[0], default=None)


def _details(layers: tuple[Stretch, ...]) -> dict[str, Any]:
    return {"layers": [{**one._asdict(), "shape": list(one.shape), "values": list(one.values)} for one in layers]}
