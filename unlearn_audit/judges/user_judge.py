"""Judges of the user's own; the caller has already decided that this code may run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.judges.images import check_stored, judging
from unlearn_audit.user_code import call_user_code, sha256_of_code


@dataclass(frozen=True, eq=False)
class UserJudge:
    """A judge that `package.module:callable` made, whose answers are checked.

    Attributes:
        made: what it returned, with `labels` or `features` or both.
        name: the spec.
        notes: what is to be said beside its numbers.
    """

    made: Any
    name: str
    notes: tuple[str, ...] = ()

    @property
    def details(self) -> Mapping[str, Any]:
        """What it is."""
        return {"judge": self.name, "sha256": sha256_of_code(self.name)}

    def labels(self, images: Tensor) -> NDArray[np.int64] | None:
        """Return the label of each image, [N]; None where it gives none.

        Args:
            images: uint8 [N, C, H, W].

        Raises:
            MeasurementError: it fails, or gives something other than a whole number for each image.
        """
        given = self._asked("labels", images)
        if given is None:
            return None
        if given.shape != (len(images),) or given.dtype.kind not in "iub":
            raise MeasurementError(
                f"judge {self.name} gave labels of shape {given.shape} and type {given.dtype} for {len(images)} "
                "images; one whole number each is needed"
            )
        return given.astype(np.int64)

    def features(self, images: Tensor) -> NDArray[np.float64] | None:
        """Return the features of each image, [N, d]; None where it gives none.

        Args:
            images: uint8 [N, C, H, W].

        Raises:
            MeasurementError: it fails, or gives something other than as many finite numbers for each image.
        """
        given = self._asked("features", images)
        if given is None:
            return None
        if given.ndim != 2 or len(given) != len(images) or given.dtype.kind not in "iuf":
            raise MeasurementError(f"judge {self.name} gave features of shape {given.shape} for {len(images)} images")
        if not np.isfinite(given).all():
            raise MeasurementError(f"judge {self.name} gave features that are not finite")
        return given.astype(np.float64)

    def _asked(self, what: str, images: Tensor) -> NDArray[Any] | None:
        """Return what the judge's function of that name gives, as an array on the CPU."""
        check_stored(images)
        function = getattr(self.made, what, None)
        if function is None:
            return None
        with judging(self.name):
            given = function(images)
            if given is None:
                return None
            return np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)


def judge_from_code(spec: str) -> UserJudge:
    """Return the judge that `package.module:callable` makes.

    Args:
        spec: the callable, called without arguments; what it returns has `labels(images)`, `features(images)` or both,
            which take uint8 images [N, C, H, W].

    Raises:
        UsageError: the import or the call fails, or what comes back has neither.
    """
    made = call_user_code("judge", spec)
    if not any(callable(getattr(made, what, None)) for what in ("labels", "features")):
        raise UsageError(f"{spec} returned {type(made).__name__}; a judge has labels(images), features(images) or both")
    return UserJudge(made, spec)
