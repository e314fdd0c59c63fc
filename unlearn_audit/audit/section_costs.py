"""What measuring a section takes, in gradients of single examples: what `--plan` tells of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unlearn_audit.audit.context import DRAWS, MOST_NOISED
from unlearn_audit.audit.generators import GRADIENT_DRAWS, STEPS
from unlearn_audit.config import NEIGHBOURS, AuditConfig, GenerationSettings, RcdSettings, SpectrumSettings
from unlearn_audit.data import Splits
from unlearn_audit.engine.estimates import SharedRun
from unlearn_audit.generation.prompts import read_prompts
from unlearn_audit.generation.sampling import of_prompts, usual_sampling

SEARCH = 64  # gradients of each example that it usually takes to find the step size of relearning
FORWARD = 1 / 3  # of a gradient
PRODUCT = 3  # gradients that a product with the Hessian takes, with what Lanczos does beside it
LANCZOS, LANCZOS_MORE = 30, 5  # such products that eigenvalues usually take, and for each that is asked for


class Step(NamedTuple):
    """One piece of an audit: what it is, whether it is there already, and what it takes.

    Attributes:
        name: "train original", "rcd".
        there: whether it is finished; None where it may be, if nothing that it depends on has changed.
        gradients: of single examples; None where none is taken, or where that is not known beforehand.
        flop: 2 a multiply-add, forward and backward; None where it is not known beforehand.
        seconds: on this device, from one timed step; None where that is not known beforehand.
        at_most: whether it ends by itself, mostly long before: then gradients, FLOP and seconds are the most.
        took: seconds that it took, where it is there and says so.
        shared: how it can be shared out among processes; None where it cannot, or where that is not known.
    """

    name: str
    there: bool | None
    gradients: int | None = None
    flop: float | None = None
    seconds: float | None = None
    at_most: bool = False
    took: float | None = None
    shared: SharedRun | None = None


class Price(NamedTuple):
    """FLOP and seconds of one example's gradient."""

    flop: float
    seconds: float


def priced(name: str, there: bool | None, each: int, prices: Sequence[Price], *, part: float = 1) -> Step:
    """Return a step that takes `each` gradients, or `part` of them, of models with these prices."""
    flop, seconds = (sum(each * part * number for number in column) for column in zip(*prices, strict=True))
    return Step(name, there, each * len(prices) if part == 1 else None, flop, seconds)


def section_step(name: str, *, config: AuditConfig, splits: Splits, prices: Sequence[Price]) -> Step:
    """Return what measuring a section takes; a curvature's number of passes is not known beforehand."""
    rcd = config.rcd or RcdSettings()
    forget, twin = len(splits.measured), len(splits.unseen.forget)
    everything = forget + twin + len(splits.measured_retain) + len(splits.dataset.test)
    if name == "gaps":
        # features of one model, the original
        neighbours = (len(splits.forget) + len(splits.retain)) // len(prices) if config.adjacent == NEIGHBOURS else 0
        return priced(name, False, everything + neighbours, prices, part=FORWARD)
    if name == "outputs" and config.outputs is not None:
        features = forget + (len(splits.dataset.test) if config.outputs.probe else 0)
        return priced(name, False, everything + features, prices, part=FORWARD)
    if name in ("mia", "twosample"):
        return priced(name, False, 2 * twin, prices, part=FORWARD)
    steps = rcd.steps if isinstance(rcd.steps, int) else rcd.max_steps
    auto = not isinstance(rcd.steps, int)
    if name == "rcd":
        sets = forget + twin + (0 if splits.unseen.complete else twin)
        sizes = len(rcd.step_size) if isinstance(rcd.step_size, tuple) else 1
        search = SEARCH if isinstance(rcd.step_size, str) else 0
        taken = priced(name, False, sets * (steps * sizes + search), [*prices, *prices[: int(rcd.controls)]])
        return taken._replace(at_most=auto)
    if name == "truncation" and config.truncation is not None:
        reference = config.truncation.reference_steps
        taken = priced(name, False, forget * (reference or max(100, 10 * steps)), prices)
        return taken._replace(at_most=auto and not reference)
    if name == "spectrum" and config.spectrum is not None:
        return _spectrum(config.spectrum, forget, prices)
    return Step(name, there=False)


def _spectrum(settings: SpectrumSettings, examples: int, prices: Sequence[Price]) -> Step:
    """Return what the curvature takes, by how many products with the Hessian it usually comes to."""
    products = settings.probes + LANCZOS + LANCZOS_MORE * settings.eigenvalues
    return priced("spectrum", False, products * PRODUCT * examples, [*prices, *prices[: int(settings.controls)]])


def section_of_generators(name: str, *, config: AuditConfig, splits: Splits, prices: Sequence[Price]) -> Step:
    """Return what measuring a section of generators takes, where every example is several draws of noise."""
    rcd = config.rcd or RcdSettings()
    pairs = len(splits.measured) + len(splits.unseen.forget)
    measured = rcd.draws if isinstance(rcd.draws, int) else DRAWS
    if name == "gaps":
        rest = min(len(splits.measured_retain), MOST_NOISED) + min(len(splits.dataset.test), MOST_NOISED)
        return priced(name, False, (pairs + rest) * measured, prices, part=FORWARD)
    if name == "rcd" and isinstance(rcd.steps, int):
        steps = rcd.steps if "steps" in rcd.model_fields_set else STEPS
        gradients = measured if rcd.draws == "fixed" else rcd.gradient_draws or GRADIENT_DRAWS
        each = steps * (len(rcd.step_size) if isinstance(rcd.step_size, tuple) else 1)
        looks = 0.0 if rcd.draws == "fixed" else FORWARD * measured  # else the gradient's own pass is the look
        models = [*prices, *prices[: int(rcd.controls)]]
        taken = priced(name, False, pairs * each * gradients, models)
        share = 1 + looks / gradients
        return taken._replace(flop=(taken.flop or 0) * share, seconds=(taken.seconds or 0) * share)
    if name == "spectrum" and config.spectrum is not None:
        return _spectrum(config.spectrum, len(splits.measured) * measured, prices)
    if name == "generation" and config.generation is not None:
        return priced(name, False, _passes(config.generation, splits), prices, part=FORWARD)
    return Step(name, there=False)


def _passes(settings: GenerationSettings, splits: Splits) -> int:
    """Return how many passes through one generator its samples take; of the judge's own there is no account."""
    files = [Path(path) for path in (settings.prompts, settings.kept_prompts) if path]
    if files:
        images = sum(len(of_prompts(read_prompts(path))) for path in files)
    else:
        gone = len(splits.forgotten_classes)
        images = settings.samples * gone + settings.kept_samples * (splits.dataset.classes - gone)
    kind = "text" if files else "class"
    sampling = usual_sampling(kind, steps=settings.sampling_steps, guidance=settings.guidance)
    return images * sampling.steps * (1 if sampling.guidance == 1 else 2)
