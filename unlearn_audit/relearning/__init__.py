"""Relearning curves and the relearning convergence delay (RCD).

A copy of the model relearns a set by full-batch descent; RCD_K is the area under its loss curve,
RCD_K = sum over t = 0..K of [Phi(theta_t) - floor] (Tran & Woo 2026, Eq. 4): K + 1 terms, the first one before any
step. Its choices where the paper is silent: full-batch gradient descent with one fixed step, fresh optimiser state,
no weight decay, evaluation-mode BatchNorm (frozen statistics, so that the curve depends on the weights alone), the
evaluation transform, floor zero.
"""

from unlearn_audit.relearning.certificate import Certificate, certificate
from unlearn_audit.relearning.curve import GD, Algorithm, Curve, StepSize, rcd, relearn, status
from unlearn_audit.relearning.floor import Floor, fit_floor, lowest_floor
from unlearn_audit.relearning.run import Run
from unlearn_audit.relearning.scope import (
    NoHeadError,
    features_of,
    head_run,
    last_linear,
    scoped,
    smoothness_of_softmax,
)
from unlearn_audit.relearning.search import (
    HALVINGS,
    HARDLY_MOVED,
    CurveCache,
    CurveSet,
    Start,
    StepSearch,
    Visit,
    hardly_moved,
    relearn_all,
)
from unlearn_audit.relearning.truncation import Precision, Truncation, Verdict, steps_for, truncation, unsettled

__all__ = [
    "GD",
    "HALVINGS",
    "HARDLY_MOVED",
    "Algorithm",
    "Certificate",
    "Curve",
    "CurveCache",
    "CurveSet",
    "Floor",
    "NoHeadError",
    "Precision",
    "Run",
    "Start",
    "StepSearch",
    "StepSize",
    "Truncation",
    "Verdict",
    "Visit",
    "certificate",
    "features_of",
    "fit_floor",
    "hardly_moved",
    "head_run",
    "last_linear",
    "lowest_floor",
    "rcd",
    "relearn",
    "relearn_all",
    "scoped",
    "smoothness_of_softmax",
    "status",
    "steps_for",
    "truncation",
    "unsettled",
]
