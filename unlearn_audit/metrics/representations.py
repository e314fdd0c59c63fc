"""Whether two models see the same examples alike: centred kernel alignment of their features, with a linear kernel."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FEWEST_ROWS = 4  # of which the unbiased estimator is defined


def linear_cka(ours: Floats, theirs: Floats) -> float | None:
    """Return ‖Y'X‖² / (‖X'X‖·‖Y'Y‖) of centred features (Kornblith et al. 2019): 1 up to rotation and scale.

    It is biased upwards where there are not many more examples than features: independent normal features, 100 of 512
    dimensions each, give .84. `unbiased_cka` is not.

    Args:
        ours: [n, d].
        theirs: [n, e], of the same examples.

    Returns:
        A number in [0, 1]; None where a side does not vary or is empty.
    """
    if not len(ours):
        return None
    x, y = (side - side.mean(axis=0) for side in (ours.astype(np.float64), theirs.astype(np.float64)))
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale > 0 else None


def unbiased_cka(ours: Floats, theirs: Floats) -> float | None:
    """Return HSIC1(K, L) / sqrt(HSIC1(K, K)·HSIC1(L, L)) of linear kernels, HSIC1 unbiased (Song et al. 2012, eq. 5).

    With K~ and L~ the kernels with zero diagonals,

        HSIC1 = [tr(K~L~) + 1'K~1·1'L~1 / ((n - 1)(n - 2)) - 2·1'K~L~1 / (n - 2)] / (n(n - 3)),

    all of whose terms follow from the features without a matrix of [n, n]. It is 1 up to rotation and scale, as
    `linear_cka` is, and about 0 for independent features, which it may fall below.

    Args:
        ours: [n, d].
        theirs: [n, e], of the same examples.

    Returns:
        The number; None below four examples, and where a side varies so little that its own HSIC1 is not positive.
    """
    if len(ours) < FEWEST_ROWS:
        return None
    x, y = (side - side.mean(axis=0) for side in (ours.astype(np.float64), theirs.astype(np.float64)))
    ours_too, theirs_too = _hsic(x, x), _hsic(y, y)
    if min(ours_too, theirs_too) <= 0:
        return None
    return float(_hsic(x, y) / np.sqrt(ours_too * theirs_too))


def _hsic(x: Floats, y: Floats) -> float:
    """Return the unbiased estimator, times n(n - 3), of centred features (it does not depend on where they lie)."""
    n = len(x)
    of_x, of_y = (x * x).sum(axis=1), (y * y).sum(axis=1)
    rows_x, rows_y = x @ x.sum(axis=0) - of_x, y @ y.sum(axis=0) - of_y
    trace = np.linalg.norm(x.T @ y) ** 2 - of_x @ of_y
    return float(trace + rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2)) - 2 * rows_x @ rows_y / (n - 2))
