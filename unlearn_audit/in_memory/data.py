"""Data and sets for a notebook: what the caller names may be code, and sets may be given by their indices."""

from unlearn_audit.data import Dataset
from unlearn_audit.data import load_data as load_spec


def load_data(spec: str, *, download: bool = False) -> Dataset:
    """Return the data set that a spec names.

    Args:
        spec: `digits`, `idx:DIR`, `npz:FILE`, `folder:DIR`, `torchvision:NAME`, or `package.module:callable`, which is
            imported and called; options follow a `?`, as in `digits?mislabel=0.1&seed=0`.
        download: whether missing torchvision data may be fetched.

    Returns:
        Training and test examples (images [N, C, H, W], uint8 or float32; labels int64 [N]), mean and std per channel.

    Raises:
        DataError: the spec is malformed, or what it names is missing, damaged or unfit.

    >>> load_data("digits").train.images.shape
    torch.Size([1437, 1, 8, 8])
    """
    return load_spec(spec, allow_code=True, download=download)
