"""One common, safe step size for trajectories that will be compared."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

from unlearn_audit.engine import Compute
from unlearn_audit.progress import Progress, silent
from unlearn_audit.relearning.curve import GD, Algorithm, Curve, Run, StepSize, relearn
from unlearn_audit.spectrum import lambda_max

__all__ = ["HALVINGS", "Relearned", "Remember", "Start", "StepSearch", "relearn_all", "take_anew"]

Stop = Callable[[Sequence[float]], bool]
Remember = Callable[[int, object, Callable[[], Curve]], Curve]

ADAM_STEP = 1e-3  # Kingma & Ba 2015, section 2
LARGEST_AUTO_STEP = 1.0  # ours: where the loss is flat, 1 / lambda_max has no meaning
HALVINGS = 8


def take_anew(index: int, step: object, take: Callable[[], Curve]) -> Curve:
    """Remember nothing: take the curve."""
    return take()


class StepSearch(NamedTuple):
    """What finding the step size cost, apart from the curves, and what it rests on.

    Attributes:
        lambda_max: the largest one at the start of any run, or the global bound of the head scope; None if not needed.
        halvings: how often the step was halved.
        forwards: forward passes.
        backwards: backward passes.
    """

    lambda_max: float | None
    halvings: int
    forwards: int
    backwards: int


class Start(NamedTuple):
    """The step size that an earlier search ended at, and how often it had halved it: where another one begins."""

    step_size: float
    halvings: int


class Relearned(NamedTuple):
    """The curves of all runs at one common step size ("lambda" where each follows its own curvature)."""

    curves: tuple[Curve, ...]
    step_size: StepSize
    search: StepSearch


def relearn_all(
    runs: Sequence[Run],
    *,
    steps: int,
    step_size: StepSize | Literal["auto"],
    compute: Compute,
    start: Start | None = None,
    algorithm: Algorithm = GD,
    keep_ends: bool = False,
    stops: Sequence[Stop] | None = None,
    remember: Remember = take_anew,
    progress: Progress = silent,
) -> Relearned:
    """Let every run relearn at one common step size, chosen safely when it is "auto".

    For gradient descent "auto" starts at 1 / (4·L), L the largest lambda_max at the start of any run, since sharpness
    grows while a model relearns; whenever an objective rises by more than 0.1 % in one step the step is halved and all
    runs start again, at most 8 times. Where every run has a global bound on its curvature (head scope) the step is one
    over the largest bound and needs no search. SGD with momentum starts ten times lower, and for it and for Adam, which
    starts at 1e-3, only divergence is judged.

    Args:
        runs: trajectories that will be compared.
        steps: K.
        step_size: a number, "lambda" (see `relearn`) or "auto".
        compute: where.
        start: where the search begins, since other trajectories that these are read beside ended there; default: anew.
        algorithm: how to descend.
        keep_ends: keep the relearned models.
        stops: one for each run, told what it has summed so far; True ends its curve, so that lengths may differ.
        remember: given which run it is, what decides its step and how to take its curve, returns the curve, taken now
            or at another time; not asked where a curve carries its model or ends by its own stop.
        progress: told after every step of every run.

    Returns:
        The curves in the order of the runs, the step size, and what the search cost.
    """
    chosen, search = _start(runs, step_size, start, algorithm, compute, progress)
    while True:
        careful = step_size == "auto" and search.halvings < HALVINGS
        curves: list[Curve] = []
        for index, run in enumerate(runs):
            take = partial(
                relearn,
                run,
                steps=steps,
                step_size=chosen,
                compute=compute,
                algorithm=algorithm,
                stop_when_rising=careful and algorithm.is_plain_descent,
                keep_end=keep_ends,
                stop=stops[index] if stops else None,
                progress=progress,
                task=f"relearning, curve {index + 1} of {len(runs)}",
            )
            curve = take() if keep_ends or stops else remember(index, (chosen, careful), take)
            curves.append(curve)
            if careful and _unsafe(curve, algorithm):
                break
        else:
            products = sum(curve.search_products for curve in curves)
            search = search._replace(forwards=search.forwards + products, backwards=search.backwards + 2 * products)
            return Relearned(tuple(curves), chosen, search)
        chosen = float(chosen) / 2
        search = search._replace(
            halvings=search.halvings + 1,
            forwards=search.forwards + sum(curve.forwards for curve in curves),
            backwards=search.backwards + sum(curve.backwards for curve in curves),
        )


def _unsafe(curve: Curve, algorithm: Algorithm) -> bool:
    return curve.diverged_at is not None or (algorithm.is_plain_descent and curve.rises_from is not None)


def _start(
    runs: Sequence[Run],
    step_size: StepSize | Literal["auto"],
    start: Start | None,
    algorithm: Algorithm,
    compute: Compute,
    progress: Progress,
) -> tuple[StepSize, StepSearch]:
    """Return the first step size to try, and what finding it cost."""
    if step_size != "auto":
        return step_size, StepSearch(None, 0, 0, 0)
    if start is not None:
        return start.step_size, StepSearch(None, start.halvings, 0, 0)
    if algorithm.optimizer == "adam":
        return ADAM_STEP, StepSearch(None, 0, 0, 0)
    patience = 10 if algorithm.optimizer == "sgd" else 1
    bounds = [run.smoothness for run in runs if run.smoothness is not None]
    if len(bounds) == len(runs):
        return 1 / (max(bounds) * patience), StepSearch(max(bounds), 0, 0, 0)
    found = _sharpest(runs, compute, progress)
    largest = float(found.lambda_max or 0.0) + algorithm.weight_decay
    flat = largest <= 1 / (4 * LARGEST_AUTO_STEP)
    return (LARGEST_AUTO_STEP if flat else 1 / (4 * largest)) / patience, found


def _sharpest(runs: Sequence[Run], compute: Compute, progress: Progress) -> StepSearch:
    """Measure lambda_max at the start of every run; a product with the Hessian is one forward, two backward passes."""
    largest, products = 0.0, 0
    for index, run in enumerate(runs):
        found = lambda_max(*run.prepared(compute))
        largest, products = max(largest, found.value), products + found.products
        progress("curvature at the start", index + 1, len(runs), f"lambda_max {largest:.3g}")
    return StepSearch(largest, 0, products, 2 * products)
