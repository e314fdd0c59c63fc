"""An unseen twin matched on difficulty: held-out partners that models which saw neither set find equally hard."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.data import Twin
from unlearn_audit.inputs import Candidate

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Matched(NamedTuple):
    """A twin whose partners are close in loss, under the mean of some models.

    Attributes:
        twin: the same forget examples as the random twin has, with other partners.
        distance: mean absolute difference in loss between partners, in nats.
        random_distance: that of the random twin.
        reference_models: labels of the models.
    """

    twin: Twin
    distance: float
    random_distance: float
    reference_models: tuple[str, ...]


def closest_partners(wanted: Floats, offered: Floats) -> Integers:
    """Give each forget example a held-out one of its own, the sum of absolute differences in loss being the least.

    Args:
        wanted: [n] losses of the forget examples.
        offered: [n, m] losses of the held-out examples under each forget example's observed label, m >= n.

    Returns:
        [n] distinct columns (Hungarian method).

    >>> closest_partners(np.array([1.0, 3.0]), np.array([[2.9, 1.2, 9.0], [2.9, 1.2, 9.0]])).tolist()
    [1, 0]
    """
    rows, columns = linear_sum_assignment(np.abs(offered - wanted[:, None]))
    found = np.empty(len(wanted), dtype=np.int64)
    found[rows] = columns
    return found


def matched_twin(context: AuditContext, reference_models: Sequence[Candidate]) -> Matched:
    """Match every paired forget example with a held-out one of the same true class and observed label, nearest in loss.

    Losses are means over the reference models, which saw neither set; every held-out example is used at most once. The
    forget examples are those of the random twin, so that no hard example loses its partner.

    Args:
        context: whose splits have the random twin and the pool it came from.
        reference_models: at least one retrained model.
    """
    splits, random = context.splits, context.splits.unseen
    labels = splits.dataset.train.labels[torch.from_numpy(random.forget)].numpy()
    classes = splits.dataset.train.true_labels[torch.from_numpy(random.forget)].numpy()
    pool_classes = splits.dataset.test.true_labels.numpy()[splits.pool]
    wanted, offered = _losses(context, reference_models, labels)
    partners = np.empty(len(labels), dtype=np.int64)
    for number in np.unique(classes):
        mine, theirs = np.flatnonzero(classes == number), np.flatnonzero(pool_classes == number)
        partners[mine] = theirs[closest_partners(wanted[mine], offered[np.ix_(labels[mine], theirs)])]
    examples = replace(
        splits.dataset.test.subset(splits.pool[partners]),
        labels=torch.from_numpy(labels),
        numbers=torch.from_numpy(random.forget),
    )
    twin = Twin(random.forget, splits.pool[partners], examples, random.complete, splits.dataset)
    drawn = np.searchsorted(splits.pool, random.unseen)
    return Matched(
        twin,
        float(np.abs(offered[labels, partners] - wanted).mean()),
        float(np.abs(offered[labels, drawn] - wanted).mean()),
        tuple(model.label for model in reference_models),
    )


def _losses(context: AuditContext, reference_models: Sequence[Candidate], labels: Integers) -> tuple[Floats, Floats]:
    """Return mean losses of the paired forget examples [n], and of the pool under every label [classes, p]."""
    wanted, offered = [], []
    for model in reference_models:
        forget = context.paired_forget(model)
        wanted.append(metrics.cross_entropy(forget.logits.astype(np.float64), labels))
        logits = context.signals(model, "test").logits[context.splits.pool].astype(np.float64)
        each = [metrics.cross_entropy(logits, np.full(len(logits), label)) for label in range(logits.shape[1])]
        offered.append(np.stack(each))
    return np.mean(wanted, axis=0), np.mean(offered, axis=0)
