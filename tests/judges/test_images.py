"""Images as judges take them: uint8 alone, in colour, of another size."""

import pytest
import torch

from unlearn_audit.errors import DataError, MeasurementError, UsageError
from unlearn_audit.judges.images import as_stored, check_stored, in_colour, judging, resized


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(2, 3, 4, 4) * 2 - 1,
        torch.rand(2, 1, 4, 4),
        torch.zeros(2, 3, 4, 4, dtype=torch.int64),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
        torch.zeros(2, 4, 4, 3, dtype=torch.uint8),
    ],
    ids=["floats in -1 to 1", "floats in 0 to 1", "int64", "one image", "channels last"],
)
def test_whatever_is_not_uint8_n_c_h_w_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="uint8"):
        check_stored(images)


def test_uint8_passes_as_it_is() -> None:
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    assert check_stored(images) is images
    assert as_stored(images) is images


def test_real_floats_are_rounded_to_256_levels_and_not_cast() -> None:
    levels = torch.arange(17).view(17, 1, 1, 1) / 16  # of the embedded digits
    assert as_stored(levels).flatten().tolist() == [round(255 * k / 16) for k in range(17)]
    assert len(as_stored(levels).unique()) == 17


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_real_floats_beyond_0_to_1_are_refused(value: float) -> None:
    with pytest.raises(DataError, match="floats in"):
        as_stored(torch.tensor([0.5, value]).view(1, 1, 1, 2))


def test_grey_becomes_colour_and_colour_stays() -> None:
    grey = torch.randint(0, 256, (2, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(in_colour(grey), torch.cat([grey] * 3, dim=1))
    assert in_colour(in_colour(grey)).shape == (2, 3, 3, 3)


def test_another_size_keeps_flat_images_flat_and_means_where_they_are() -> None:
    assert (resized(torch.full((1, 1, 8, 8), 77, dtype=torch.uint8), (13, 5)) == 77).all()
    checker = (torch.arange(64).view(8, 8) % 2 * 255).to(torch.uint8).view(1, 1, 8, 8)
    assert abs(float(resized(checker, (4, 4)).float().mean()) - 127.5) < 2  # antialiased: no grid of black or white
    assert resized(checker, (8, 8)) is checker
    assert resized(checker[:0], (4, 4)).shape == (0, 1, 4, 4)


def test_what_somebody_elses_code_raises_is_a_failure_of_that_judge() -> None:
    with pytest.raises(MeasurementError, match="judge mine failed: KeyError"), judging("mine"):
        {}["x"]
    with pytest.raises(MeasurementError, match="judge mine failed: SystemExit"), judging("mine"):
        raise SystemExit(0)
    with pytest.raises(UsageError, match="as it is"), judging("mine"):
        raise UsageError("as it is")
