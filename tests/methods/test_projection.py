"""What is left of a vector without its part in the span of two others."""

import pytest
import torch
from torch import Tensor

from unlearn_audit.methods.projection import dot, length, projected


def vectors(*scales: float, dtype: torch.dtype = torch.float64) -> list[list[Tensor]]:
    """Three random vectors in three tensors each."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3), (5,), (2, 2, 2))
    return [[scale * torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes] for scale in scales]


def cosine(one: list[Tensor], two: list[Tensor]) -> float:
    return float(dot(one, two) / (length(one) * length(two)))


@pytest.mark.parametrize("scales", [(1, 1, 1), (1, 1e-6, 1e-6), (1, 1e6, 1e-6), (1e-8, 1e3, 1)])
def test_nothing_is_left_along_either_whatever_their_lengths(scales: tuple[float, float, float]) -> None:
    velocity, first, second = vectors(*scales)
    left = projected(velocity, [first, second])
    assert max(abs(cosine(left, each)) for each in (first, second)) < 1e-7
    flat = torch.cat([each.reshape(-1) for each in velocity])
    span = torch.stack([torch.cat([each.reshape(-1) for each in one]) / length(one) for one in (first, second)], dim=1)
    wanted = flat - span @ torch.linalg.lstsq(span, flat).solution
    torch.testing.assert_close(
        torch.cat([each.reshape(-1) for each in left]), wanted, rtol=1e-9, atol=1e-12 * scales[0]
    )


def test_float32_keeps_its_type_and_is_summed_up_in_float64() -> None:
    velocity, first, second = vectors(1, 1e-4, 1e-4, dtype=torch.float32)
    left = projected(velocity, [first, second])
    assert {each.dtype for each in left} == {torch.float32}
    assert max(abs(cosine(left, each)) for each in (first, second)) < 1e-6


def test_a_vector_of_zeros_takes_nothing_out_and_collinear_ones_take_out_their_line() -> None:
    velocity, first, _ = vectors(1, 1, 1)
    nothing = [torch.zeros_like(each) for each in first]
    for spanning in ([first, nothing], [nothing, first], [first, [-3 * each for each in first]], [first, first]):
        left = projected(velocity, spanning)
        assert abs(cosine(left, first)) < 1e-7
        share = dot(velocity, first) / dot(first, first)
        for found, before, along in zip(left, velocity, first, strict=True):
            torch.testing.assert_close(found, before - share * along, rtol=1e-6, atol=1e-7)
    for found, before in zip(projected(velocity, [nothing, nothing]), velocity, strict=True):
        assert torch.equal(found, before)
