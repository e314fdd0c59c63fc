"""The relearning curve of one model in memory."""

from typing import Literal

from unlearn_audit.data import IndexSet, Twin
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import UsageError
from unlearn_audit.in_memory.models import Model, Moments, as_candidate
from unlearn_audit.progress import Progress, silent
from unlearn_audit.relearning import GD, Algorithm, Curve, Run, StepSize, relearn_all


def relearn(
    model: Model,
    examples: IndexSet | Twin,
    *,
    steps: int = 100,
    step_size: StepSize | Literal["auto"] = "auto",
    algorithm: Algorithm = GD,
    mean: Moments = None,
    std: Moments = None,
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int | None = None,
    progress: Progress = silent,
) -> Curve:
    """Let a copy of a model relearn a set by full-batch descent, and return the curve, of which `rcd` is the area.

    The sums of two curves compare only at one step size, and the automatic one is that of this model and this set:
    hand `curve.step_sizes[0]` of the one with the smaller step to the other, or let `audit` choose a common one.

    Args:
        model: a module, or what `train` or `unlearn` returned; left as it is.
        examples: what is relearned: `splits.forget`, or `splits.unseen`, the held-out examples to compare it with.
        steps: K; the curve has K + 1 losses, and costs K + 1 forward and K backward passes over the set.
        step_size: a number; "auto", a quarter of 1 / lambda_max at the start, halved until the loss never rises; or
            "lambda", 1 / lambda_max measured again every 10 steps.
        algorithm: gradient descent, or another optimiser, minibatches, BatchNorm in training mode.
        mean: of inputs in [0, 1] as the model was trained, see `audit`; default: what is known of it, else the data's.
        std: likewise.
        device: "auto" (cuda, else mps, else cpu), "cpu", "cuda", "cuda:N" or "mps".
        precision: "fp32", "tf32" or "bf16".
        batch_size: images in one forward pass; changes no result but for rounding.
        progress: progress callback, called after each step.

    Returns:
        Losses in nats [K + 1], errors, gradient norms, distances, and each example's own area [N].

    Raises:
        UsageError: no set of a data set, or a model that cannot be trained.
        MeasurementError: the model does not fit the data.
    """
    if not isinstance(examples, IndexSet | Twin) or examples.dataset is None:
        raise UsageError(
            f"relearn takes splits.forget or splits.unseen, not {type(examples).__name__}; for other training "
            "examples: make_splits(data, forget=indices).forget"
        )
    compute = setup_device(device, precision, batch_size)
    candidate = as_candidate(model, examples.dataset, compute, mean=mean, std=std)
    run = Run(candidate.model, examples.examples, candidate.transform)
    found = relearn_all(
        [run], steps=steps, step_size=step_size, compute=compute, algorithm=algorithm, progress=progress
    )
    return found.curves[0]
