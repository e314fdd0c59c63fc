"""ZRF: whether a model answers forget examples as one that knows nothing would (Chundawat et al. 2023).

Near 1 it is as ignorant as a random network, which a retrained model is not: its own value is what it is read against.
"""

from collections.abc import Mapping
from math import log

import numpy as np
from numpy.typing import NDArray

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.controls import with_control
from unlearn_audit.audit.measurement import interval, measurement
from unlearn_audit.audit.reference import reference_of
from unlearn_audit.engine import derive_seed
from unlearn_audit.inputs import Candidate
from unlearn_audit.report import Measurement

NO_TEACHER = "no randomly initialised network can be made of this architecture"
METHOD = (
    "1 - JS / ln 2 to one randomly initialised network, mean over examples; against a retrained model it would be "
    "1 - outputs.js / ln 2"
)


def measure_ignorance(context: AuditContext) -> tuple[list[Measurement], tuple[str, ...]]:
    """Return `outputs.zrf` of every subject, and why there is none where no random network can be made."""
    models, limitations = with_control(context, wanted=True)
    if limitations:
        none = [
            measurement("outputs.zrf", one, None, NO_TEACHER, n=len(context.splits.measured), method=METHOD)
            for one in context.subjects
        ]
        return none, limitations
    teacher = context.signals(models[-1], "forget").logits
    js = {one.label: metrics.divergences(context.signals(one, "forget").logits, teacher).js for one in context.subjects}
    seed = derive_seed(context.config.seed, "bootstrap")
    return [_of_subject(context, one, js, seed) for one in context.subjects], ()


def _of_subject(
    context: AuditContext, candidate: Candidate, js: Mapping[str, NDArray[np.float64]], seed: int
) -> Measurement:
    ours = js[candidate.label]
    ends = metrics.mean_interval(ours / log(2), seed=seed)
    bounds = None if ends is None else metrics.Bounds(max(0.0, 1 - ends.high), 1 - ends.low)
    levels = [float(metrics.zero_retrain_forgetting(js[other.label]).mean()) for other in context.references(candidate)]
    return measurement(
        "outputs.zrf",
        candidate,
        float(metrics.zero_retrain_forgetting(ours).mean()),
        n=len(ours),
        interval=interval(bounds, metrics.skewed_method(len(ours))),
        reference=reference_of(levels),
        method=METHOD,
    )
