"""How far a subject's samples are from real images, in named features: KID with its interval, and FID beside it."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import compared, comparison_of, reference_of
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Comparison, Measurement, Reference

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]
LEAST_DEVIATION = 1e-6  # of a feature over real images; one that varies less is dropped
MANY = 10  # samples for each dimension, below which a Fréchet distance is mostly bias


class FeatureSpace(NamedTuple):
    """Real images' features as distances are taken in them.

    Attributes:
        real: [m, d], standardised by mean and deviation of the real images of kept classes unless they are taken raw.
        classes: [m] which each was drawn for.
        place: [D] what is taken off.
        scale: [D] what is divided by.
        used: [D] which features vary over the real images.
    """

    real: Floats
    classes: Classes
    place: Floats
    scale: Floats
    used: NDArray[np.bool_]

    def of(self, features: Floats) -> Floats:
        """Return other features, [n, D], in this space: [n, d]."""
        return np.asarray((features[:, self.used] - self.place[self.used]) / self.scale[self.used])

    def around(self, real: Floats, classes: Classes) -> "FeatureSpace":
        """Return the same space around other real images, [m, D]."""
        return self._replace(real=self.of(real), classes=classes)

    @property
    def dropped(self) -> int:
        """How many features do not vary over the real images."""
        return int((~self.used).sum())


def feature_space(real: Floats, classes: Classes, *, raw: bool) -> FeatureSpace:
    """Return the space of real images' features, [m, D].

    Args:
        real: of one real image or more.
        classes: [m] which each was drawn for.
        raw: leave features as they are, as published distances in Inception's features do.
    """
    place, scale = real.mean(axis=0), real.std(axis=0, ddof=1) if len(real) > 1 else np.zeros(real.shape[1])
    used = np.ones(len(place), dtype=bool) if raw else scale > LEAST_DEVIATION
    if raw:
        place, scale = np.zeros_like(place), np.ones_like(scale)
    safe = np.where(used, scale, 1.0)
    space = FeatureSpace(real, classes, place, safe, used)
    return space._replace(real=space.of(real))


class Told(NamedTuple):
    """How the distances of one side are told.

    Attributes:
        side: "" for kept classes, "_forgotten" for the forgotten ones: the ending of the metrics' names.
        reason: why there are none at all; None where there are.
        method: in words.
        details: features, layer, resizer: what is the same for every subject.
        classes: [n] which each sample was drawn for; -1 for a prompt.
        held_out: features [h, D] and classes of real held-out images, whose distance is the floor; None without any.
    """

    side: str
    reason: str | None
    method: str
    details: Mapping[str, Any]
    classes: Classes
    held_out: tuple[Floats, Classes] | None = None


def measure_distances(
    context: AuditContext, features: Mapping[str, Floats | None], space: FeatureSpace | None, told: Told
) -> Iterator[Measurement]:
    """Yield KID and FID of one side of every subject.

    Args:
        context: the subjects.
        features: of each subject's samples, [n, D], by label.
        space: of the real images; None where there are none.
        told: how.
    """
    silent = "this judge has no features" if any(found is None for found in features.values()) else None
    reason = told.reason or silent or ("there are no real images to compare with" if space is None else None)
    placed: dict[str, Floats] = {}
    if reason is None and space is not None:
        placed = {label: space.of(found) for label, found in features.items() if found is not None and len(found)}
    kids = {label: _kernel_distance(found, told.classes, space) for label, found in placed.items() if space}
    fids = {label: metrics.frechet_distance(found, space.real) for label, found in placed.items() if space}
    floors = _Floors(space, told.held_out) if space is not None else None
    for candidate in context.subjects:
        found = features.get(candidate.label)
        n = 0 if found is None else len(found)
        why = reason or (None if n else "no sample was drawn")
        yield _kid(context, candidate, kids, told, n=n, why=why, space=space, floors=floors)
        yield _fid(context, candidate, fids, told, n=n, why=why, space=space, floors=floors)


def _kernel_distance(found: Floats, classes: Classes, space: FeatureSpace) -> metrics.KernelDistance | None:
    return metrics.kernel_distance(found, space.real, strata=(classes, space.classes))


class _Floors:
    """Distances of real held-out images from the real ones, at the size that samples have."""

    def __init__(self, space: FeatureSpace, held_out: tuple[Floats, Classes] | None) -> None:
        self.space = space
        self.held_out = None if held_out is None else (space.of(held_out[0]), held_out[1])

    def details(self, n: int, kind: str) -> dict[str, Any]:
        """Return the floor at n samples, or at as many as there are; nothing where there is none."""
        if self.held_out is None:
            return {}
        part, classes = self.held_out[0][:n], self.held_out[1][:n]
        if kind == "fid":
            value = metrics.frechet_distance(part, self.space.real)
        else:
            found = _kernel_distance(part, classes, self.space)
            value = None if found is None else found.value
        return {"real_vs_real": value, "real_vs_real_n": len(part)}


def _kid(
    context: AuditContext,
    candidate: Candidate,
    kids: Mapping[str, metrics.KernelDistance | None],
    told: Told,
    *,
    n: int,
    why: str | None,
    space: FeatureSpace | None,
    floors: _Floors | None,
) -> Measurement:
    found = kids.get(candidate.label)
    peers = [kids.get(one.label) for one in context.references(candidate)]
    others = [one for one in peers if one is not None]
    return measurement(
        f"generation.kid{told.side}",
        candidate,
        None if found is None else found.value,
        why or f"it takes {metrics.FEWEST_SAMPLES} samples and real images of each class, and features that vary",
        n=n,
        interval=None if found is None else interval(found.interval(), "delete-one jackknife, normal"),
        reference=_reference(context, candidate, {label: one.value for label, one in kids.items() if one is not None}),
        comparison=None if found is None else _compared(found, others),
        method=f"unbiased MMD², kernel (x·y/d + 1)³, classes by their share; {told.method}",
        details={**told.details, **_sizes(space), **(floors.details(n, "kid") if floors and found else {})},
    )


def _fid(
    context: AuditContext,
    candidate: Candidate,
    fids: Mapping[str, float | None],
    told: Told,
    *,
    n: int,
    why: str | None,
    space: FeatureSpace | None,
    floors: _Floors | None,
) -> Measurement:
    value = fids.get(candidate.label)
    sizes = _sizes(space)
    width, real = sizes.get("features_used", 0), sizes.get("real_images", 0)
    few = (
        f"{min(n, real)} {'samples' if n <= real else 'real images'} in {width} dimensions: a covariance takes more of "
        "them than dimensions; see KID, or draw more"
    )
    note = {
        "bias_note": f"{min(n, real)} images in {width} dimensions: below {MANY} for each it is mostly bias; real "
        "against real at the same n says how much, and KID has none"
    }
    return measurement(
        f"generation.fid{told.side}",
        candidate,
        value,
        why or _why_no_distance(few if min(n, real) <= width else None, width),
        n=n,
        reference=_reference(context, candidate, {label: one for label, one in fids.items() if one is not None}),
        method=f"Fréchet distance of means and covariances, no epsilon, no interval; {told.method}",
        details={
            **told.details,
            **sizes,
            **(floors.details(n, "fid") if floors and value is not None else {}),
            **(note if value is not None and min(n, real) < MANY * width else {}),
        },
    )


def _why_no_distance(few: str | None, width: int) -> str:
    if not width:
        return "no feature varies over the real images"
    return few or "the judge's features of some sample are not finite"


def _sizes(space: FeatureSpace | None) -> dict[str, int]:
    if space is None:
        return {}
    return {"real_images": len(space.real), "features_used": space.real.shape[1], "features_dropped": space.dropped}


def _reference(context: AuditContext, candidate: Candidate, values: Mapping[str, float]) -> Reference | None:
    """Return the retrained models' mean; without one the original's, which is no reference for itself."""
    found = reference_of([values[one.label] for one in context.references(candidate) if one.label in values])
    if found is not None or candidate.role == "original":
        return found
    levels = [values[one.label] for one in context.with_role("original") if one.label in values]
    return Reference(role="original", value=float(np.mean(levels)), n=len(levels)) if levels else None


def _compared(found: metrics.KernelDistance, others: list[metrics.KernelDistance]) -> Comparison | None:
    """Compare with the retrained models, paired by the samples' noise and by real images."""
    if len(others) < 2 or any(len(one.ours) != len(found.ours) for one in others):
        return None
    sides = [
        (found.ours, np.stack([one.ours for one in others])),
        (found.theirs, np.stack([one.theirs for one in others])),
    ]
    return comparison_of(compared(found.value, [one.value for one in others], sides), "MMD²")
