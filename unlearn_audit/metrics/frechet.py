"""How far two sets of features are apart as Gaussians: the Fréchet distance that, on Inception's features, is FID."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def frechet_distance(ours: Floats, theirs: Floats) -> float | None:
    """Return ‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2(Σ₁^½Σ₂Σ₁^½)^½), lower is closer (Dowson & Landau 1982; Heusel et al. 2017).

    Means and covariances (n - 1) are those of the two sets. Both roots are taken of symmetric matrices by their
    eigenvalues, in float64; nothing is added to a diagonal, so that a set that is too small for its covariance has no
    distance instead of one that depends on what was added.

    It is biased upwards, the more the fewer samples there are for each dimension: compare sets of equal size only.

    >>> points = np.array([[-1.0], [1.0]])
    >>> frechet_distance(points, points + 3)
    9.0

    Args:
        ours: features [n, d].
        theirs: features [m, d].

    Returns:
        The distance, in squared units of the features; None where n <= d or m <= d, where there is no feature, and
        where a feature is not finite.
    """
    width = ours.shape[1]
    if not width or min(len(ours), len(theirs)) <= width or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return None
    first, second = (np.asarray(side, dtype=np.float64) for side in (ours, theirs))
    between = first.mean(axis=0) - second.mean(axis=0)
    spreads = [np.atleast_2d(np.cov(side, rowvar=False)) for side in (first, second)]
    root = _square_root(spreads[0])
    product = root @ spreads[1] @ root
    shared = np.linalg.eigvalsh((product + product.T) / 2)
    overlap = float(np.sqrt(np.clip(shared, 0.0, None)).sum())
    distance = float(between @ between + np.trace(spreads[0]) + np.trace(spreads[1]) - 2 * overlap)
    return max(distance, 0.0)  # of two sets that are equal, rounding may leave less


def _square_root(matrix: Floats) -> Floats:
    """Return the symmetric root of a symmetric matrix without negative eigenvalues but those of rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T)
