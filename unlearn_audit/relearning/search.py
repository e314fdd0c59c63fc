"""One common, safe step size for trajectories that will be compared."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from unlearn_audit.curvature import lambda_max
from unlearn_audit.engine import Device
from unlearn_audit.progress import Progress, silent
from unlearn_audit.relearning.curve import GD, Algorithm, Curve, StepSize, relearn
from unlearn_audit.relearning.rises import rises_over_its_start
from unlearn_audit.relearning.run import Run

Stop = Callable[[Sequence[float]], bool]
Visit = Callable[[int, nn.Module], None]
CurveCache = Callable[[int, object, Callable[[], Curve]], Curve]

ADAM_STEP = 1e-3  # Kingma & Ba 2015, section 2
LARGEST_AUTO_STEP = 1.0  # ours: where the loss is flat, 1 / lambda_max has no meaning
HALVINGS = 8
HARDLY_MOVED = 0.05  # a loss that fell by less leaves RCD at (K + 1) x initial loss, to within that share
FITTED = 1e-3  # nats: a loss that begins below has next to nothing to lose


def no_cache(index: int, step: object, take: Callable[[], Curve]) -> Curve:
    """Take the curve; nothing is cached."""
    return take()


class StepSearch(NamedTuple):
    """What finding the step size cost, apart from the curves, and what it rests on.

    Attributes:
        lambda_max: the largest one at the start of any run, or the global bound of the head scope; None if not needed.
        halvings: how often the step was halved.
        forwards: forward passes.
        backwards: backward passes.
        left_behind: owners of runs that had no say, since the step that they need moves nobody else.
    """

    lambda_max: float | None
    halvings: int
    forwards: int
    backwards: int
    left_behind: tuple[str, ...] = ()


class Start(NamedTuple):
    """Where an earlier search ended and another one begins: the step size, how often it was halved, without whom."""

    step_size: float
    halvings: int
    left_behind: tuple[str, ...] = ()


class CurveSet(NamedTuple):
    """The curves of all runs at one common step size ("lambda" where each follows its own curvature)."""

    curves: tuple[Curve, ...]
    step_size: StepSize
    search: StepSearch


def relearn_all(
    runs: Sequence[Run],
    *,
    steps: int,
    step_size: StepSize | Literal["auto"],
    compute: Device,
    start: Start | None = None,
    owners: Sequence[str | None] = (),
    judged: Collection[int] | None = None,
    algorithm: Algorithm = GD,
    keep_ends: bool = False,
    stops: Sequence[Stop] | None = None,
    visits: Sequence[Visit | None] | None = None,
    curve_cache: CurveCache = no_cache,
    progress: Progress = silent,
) -> CurveSet:
    """Let every run relearn at one common step size, chosen safely when it is "auto".

    For gradient descent "auto" starts at 1 / (4·L), L the largest lambda_max at the start of any run, since sharpness
    grows while a model relearns; whenever an objective rises by more than 0.1 % in one step the step is halved and all
    runs start again, at most 8 times. Where every run has a global bound on its curvature (head scope) the step is one
    over the largest bound and needs no search. SGD with momentum starts ten times lower, and for it and for Adam, which
    starts at 1e-3, only divergence is judged. Where gradients come from other draws than the curve, it is whether a
    running mean of five measurements comes to lie 5 % above the start, since no step need be a descent.

    One model that is far sharper than all others, a wrecked one above all, would set a step at which nobody moves.
    Where the owner of the run that decided is known, and the loss of no other owner falls by 5 %, that owner loses its
    say: the step is chosen anew without it, and its own curves go as they go. Where gradients come from other draws
    nobody does: an original that relearns what it knows hardly moves, and is what the step is judged by.

    Args:
        runs: trajectories that will be compared.
        steps: K.
        step_size: a number, "lambda" (see `relearn`) or "auto".
        compute: where.
        start: where the search begins, since other trajectories that these are read beside ended there; default: anew.
        owners: whose each run is; None for one that does not count as somebody who has to move. Default: nobody is
            left behind.
        judged: which runs' curves must not rise, where gradients come from other draws; None judges all.
        algorithm: how to descend.
        keep_ends: keep the relearned models.
        stops: one per run, called with the sum so far; True ends the curve, so that lengths may differ.
        visits: one per run, see `relearn`; those of curves that only served the search come to nothing, since each
            curve that is taken anew begins again at step 0.
        curve_cache: given which run it is, what decides its step and how to take its curve, returns the curve, taken
            now or at another time; not asked where a curve carries its model or ends by its own stop.
        progress: callback, called after each step of each run.

    Returns:
        The curves in the order of the runs, the step size, and what the search cost.
    """
    sharpness, search = _measured(runs, step_size, start=start, algorithm=algorithm, compute=compute, progress=progress)
    chosen, decided = _first_step(runs, sharpness, step_size=step_size, start=start, algorithm=algorithm)
    while True:
        careful = step_size == "auto" and search.halvings < HALVINGS
        curves: list[Curve] = []
        for index, run in enumerate(runs):
            heard = careful and _owner(owners, index) not in search.left_behind
            take = partial(
                relearn,
                run,
                steps=steps,
                step_size=chosen,
                compute=compute,
                algorithm=algorithm,
                stop_when_rising=heard and algorithm.is_plain_descent,
                keep_end=keep_ends,
                visit=visits[index] if visits else None,
                stop=stops[index] if stops else None,
                progress=progress,
                task=f"relearning, curve {index + 1} of {len(runs)}",
            )
            curve = (
                take()
                if keep_ends or stops or (visits and visits[index])
                else curve_cache(index, (chosen, heard), take)
            )
            curves.append(curve)
            if heard and _unsafe(curve, algorithm, judged=judged is None or index in judged):
                break
        else:
            products = sum(curve.search_products for curve in curves)
            search = search._replace(forwards=search.forwards + products, backwards=search.backwards + 2 * products)
            asks = step_size == "auto" and not start and algorithm.gradient_draws is None
            alone = _moves_nobody_else(owners, decided, curves, search) if asks else None
            if alone is None:
                return CurveSet(tuple(curves), chosen, search)
            search = _spent(search, curves)._replace(halvings=0, left_behind=(*search.left_behind, alone))
            heard_now = [index for index in range(len(runs)) if _owner(owners, index) not in search.left_behind]
            chosen, decided = _first_step(
                runs, sharpness, step_size=step_size, start=None, algorithm=algorithm, heard=heard_now
            )
            continue
        chosen, decided = float(chosen) / 2, len(curves) - 1
        search = _spent(search, curves)._replace(halvings=search.halvings + 1)


def _spent(search: StepSearch, curves: Sequence[Curve]) -> StepSearch:
    """Add the passes of curves that served the search alone."""
    return search._replace(
        forwards=search.forwards + sum(curve.forwards for curve in curves),
        backwards=search.backwards + sum(curve.backwards for curve in curves),
    )


def _owner(owners: Sequence[str | None], index: int) -> str | None:
    return owners[index] if owners else None


def _moves_nobody_else(
    owners: Sequence[str | None], decided: int | None, curves: Sequence[Curve], search: StepSearch
) -> str | None:
    """Return the owner of the run that decided on the step, if no loss of another owner falls by 5 %; else None."""
    owner = None if decided is None else _owner(owners, decided)
    others = [
        curve
        for index, curve in enumerate(curves)
        if _owner(owners, index) not in (None, owner, *search.left_behind)
        and curve.diverged_at is None
        and curve.loss[0] >= FITTED
    ]
    return owner if owner is not None and others and all(map(hardly_moved, others)) else None


def hardly_moved(curve: Curve) -> bool:
    """Return whether a loss fell by less than 5 % in all steps, and it had something to lose."""
    if curve.diverged_at is not None or len(curve.loss) < 2 or not curve.loss[0] >= FITTED:
        return False
    return abs(float(1 - curve.loss[-1] / curve.loss[0])) < HARDLY_MOVED


def _unsafe(curve: Curve, algorithm: Algorithm, *, judged: bool) -> bool:
    if algorithm.gradient_draws is not None:
        return curve.diverged_at is not None or (judged and rises_over_its_start(curve.loss))
    return curve.diverged_at is not None or (algorithm.is_plain_descent and curve.rises_from is not None)


def _measured(
    runs: Sequence[Run],
    step_size: StepSize | Literal["auto"],
    *,
    start: Start | None,
    algorithm: Algorithm,
    compute: Device,
    progress: Progress,
) -> tuple[Sequence[float], StepSearch]:
    """Return how sharp each run is at its start, where the step size is to be chosen by that, and what it cost.

    A product with the Hessian is one forward, two backward passes.
    """
    if step_size == "auto" and start is not None:
        return (), StepSearch(None, start.halvings, 0, 0, start.left_behind)
    if step_size != "auto" or algorithm.optimizer == "adam":
        return (), StepSearch(None, 0, 0, 0)
    bounds = [run.smoothness for run in runs if run.smoothness is not None]
    if len(bounds) == len(runs):
        return bounds, StepSearch(max(bounds), 0, 0, 0)
    found, products = [], 0
    for index, run in enumerate(runs):
        one = lambda_max(*run.prepared(compute))
        found.append(one.value)
        products += one.products
        progress("curvature at the start", index + 1, len(runs), f"lambda_max {max(found):.3g}")
    return found, StepSearch(max(found), 0, products, 2 * products)


def _first_step(
    runs: Sequence[Run],
    sharpness: Sequence[float],
    *,
    step_size: StepSize | Literal["auto"],
    start: Start | None,
    algorithm: Algorithm,
    heard: Sequence[int] | None = None,
) -> tuple[StepSize, int | None]:
    """Return the first step size to try, and the run that decided on it; `heard` are the runs that have a say."""
    if step_size != "auto":
        return step_size, None
    if start is not None:
        return start.step_size, None
    if algorithm.optimizer == "adam":
        return ADAM_STEP, None
    patience = 10 if algorithm.optimizer == "sgd" else 1
    decided = max(range(len(runs)) if heard is None else heard, key=lambda index: sharpness[index])
    if all(run.smoothness is not None for run in runs):
        return 1 / (sharpness[decided] * patience), decided
    largest = sharpness[decided] + algorithm.weight_decay
    flat = largest <= 1 / (4 * LARGEST_AUTO_STEP)
    return (LARGEST_AUTO_STEP if flat else 1 / (4 * largest)) / patience, decided
