"""Sets that version 0.1 drew and that are drawn otherwise now: recognised by their digest, and how to have them again.

Until then `random:`, `train=` and `--sample` drew from the bare seed, as `mislabel=` does, and `test=` from the twin's
stream: `random:0.1:0` was the very set that `mislabel=0.1&seed=0` mislabels.
"""

import re

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.files import sha256_of_bytes

VERSION = "0.1"
RANDOM = re.compile(r"random:(0?\.[0-9]{1,18}|[0-9]{1,18})(?::([0-9]{1,18}))?")


def old_forget_set(spec: str | None, sha256: str | None, size: int) -> str:
    """Return a sentence on a recorded forget set that version 0.1 drew; "" where it is none.

    Args:
        spec: as it was recorded, for example `random:0.1:0`.
        sha256: digest of the recorded indices.
        size: number of training examples.
    """
    match = RANDOM.fullmatch(spec or "")
    if match is None or sha256 is None:
        return ""
    count = round(float(match[1]) * size) if "." in match[1] else int(match[1])
    seed = int(match[2] or 0)
    if not 0 < count <= size:
        return ""
    drawn = np.sort(np.random.default_rng(seed).choice(size, size=count, replace=False))
    if sha256_of_bytes(drawn.astype("<i8").tobytes()) != sha256:
        return ""
    code = (
        f"import numpy as np; np.save('old.npy', np.random.default_rng({seed}).choice({size}, {count}, replace=False))"
    )
    return (
        f"its forget set '{spec}' was drawn by version {VERSION}, where random: drew the set that mislabel= changes; "
        f'to have that set, write it to a file with python3 -c "{code}", and give --forget old.npy'
    )


def old_subset(split: str, size: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Return the sorted rows [wanted] that version 0.1 drew for `train=` or `test=`."""
    stream = np.random.default_rng([seed, 0 if split == "train" else 1])
    return np.sort(stream.permutation(size)[:wanted]).astype(np.int64)
