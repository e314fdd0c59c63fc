"""The FID graph's Inception against torch-fidelity's, which is another hand's, on random weights."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from unlearn_audit.engine import Device
from unlearn_audit.errors import CheckpointError, UsageError
from unlearn_audit.judges import Judge, open_judge
from unlearn_audit.judges.inception import FidInception, resized_as_tensorflow_1

COMPUTE = Device(torch.device("cpu"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random weights, statistics included, under a name that ends in their digest."""
    torch.manual_seed(0)
    network = FidInception()
    for name, each in network.state_dict().items():
        if name.endswith("running_mean"):
            each.normal_(0, 0.1)
        elif name.endswith(("running_var", "bn.weight")):
            each.uniform_(0.5, 1.5)
        elif name.endswith("conv.weight"):  # as He et al., so that nothing dies out on the way
            each.normal_(0, (2 / each[0].numel()) ** 0.5)
    folder = tmp_path_factory.mktemp("inception")
    torch.save(network.state_dict(), folder / "weights.pth")
    digest = sha256((folder / "weights.pth").read_bytes()).hexdigest()
    return (folder / "weights.pth").rename(folder / f"pt_inception-2015-12-05-{digest[:8]}.pth")


@pytest.fixture(scope="module")
def judge(weights: Path) -> Judge:
    return open_judge(f"inception:{weights}", compute=COMPUTE)


def images(n: int = 2, channels: int = 3, height: int = 40, width: int = 23) -> torch.Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=draws)


def test_features_are_torch_fidelitys(weights: Path, judge: Judge) -> None:
    pytest.importorskip("torch_fidelity", reason="pip install 'unlearn-audit[test]'")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    (wanted,) = theirs(images())
    grey = images(1, channels=1)
    found = judge.features(images())
    assert found is not None
    assert found.shape == (2, 2048)
    assert np.abs(found[0] - found[1]).max() > 1e-2  # they tell images apart at all
    assert np.abs(found - wanted.numpy()).max() < 1e-4 * float(wanted.abs().max())
    assert judge.labels(images()) is None
    assert judge.notes == ()
    assert np.array_equal(judge.features(grey), judge.features(grey.expand(-1, 3, -1, -1)))  # type: ignore[arg-type]


def test_the_digest_in_the_name_is_checked(weights: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    wrong.hardlink_to(weights)
    with pytest.raises(UsageError, match="begins with 6726825d"):
        open_judge(f"inception:{wrong}", compute=COMPUTE)
    unnamed = tmp_path / "inception.pth"
    unnamed.hardlink_to(weights)
    (note,) = open_judge(f"inception:{unnamed}", compute=COMPUTE).notes
    assert "no digest" in note


def test_other_weights_and_no_file_are_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1, 1, 1, 1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="do not fit"):
        open_judge(f"inception:{tmp_path / 'other.pth'}", compute=COMPUTE)
    with pytest.raises(CheckpointError, match="not found"):
        open_judge(f"inception:{tmp_path / 'none.pth'}", compute=COMPUTE)


@pytest.mark.parametrize("size", [(40, 23), (8, 8), (400, 299)])
def test_resizing_reads_where_tensorflow_1_did(size: tuple[int, int]) -> None:
    ramp = torch.arange(size[0], dtype=torch.float32).view(1, 1, -1, 1).expand(1, 1, *size)
    found = resized_as_tensorflow_1(ramp, 299)
    assert found.shape == (1, 1, 299, 299)
    at = torch.arange(299) * size[0] / 299
    assert torch.allclose(found[0, 0, :, 0], at.clamp(max=size[0] - 1), atol=1e-4)  # no shift by half a pixel


def test_floats_are_refused(judge: Judge) -> None:
    with pytest.raises(UsageError, match="uint8"):
        judge.features(torch.rand(1, 3, 8, 8))
