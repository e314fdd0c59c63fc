"""What an audit of generators asks for where nothing is said, and what it cannot ask: they have losses, no classes."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from unlearn_audit.audit.context import DRAWS, AuditContext
from unlearn_audit.audit.measurement import measurement
from unlearn_audit.audit.section import SectionResult
from unlearn_audit.catalogue import METRICS
from unlearn_audit.config import RcdSettings
from unlearn_audit.errors import UsageError
from unlearn_audit.report import Measurement

NO_ACCURACY = "a generator has no accuracy; see generation.*"
NO_CLASSES = "a generator has no class probabilities"
STEPS, GRADIENT_DRAWS = 40, 4  # of relearning; see the guide to generators for what they were measured with

# Sections that no generator can be asked -> why.
CANNOT: Mapping[str, str] = {
    "twosample": f"the two-sample test needs log-odds: {NO_CLASSES}",
    "outputs": f"divergences of answers need class probabilities: {NO_CLASSES}; generation.* looks at samples",
    "detectable": f"plants are answers of the original in retrained models: {NO_CLASSES}",
    "resurgence": f"what comes back is counted as forget accuracy: {NO_ACCURACY}",
    "layers": "layers are looked at in classifiers alone",
}


def asked_of_generators(context: AuditContext) -> AuditContext:
    """Return the context with what generators relearn by where nobody said otherwise; a classifier's as it is.

    Adam, since plain gradient descent hardly moves a diffusion model at a step that none diverges at (Tran & Woo 2026,
    section 6.2, take Adam, too); K = 40; gradients on four fresh draws an example; the floor is the original's own
    curve where one is among the subjects. `draws = "fixed"` is for plain gradient descent.
    """
    settings = context.config.rcd
    if not context.of_generators or settings is None:
        return context
    given = settings.model_fields_set
    wanted = {
        "optimizer": "gd" if settings.draws == "fixed" else "adam",
        "steps": STEPS,
        "floor": "original" if context.with_role("original") else "zero",
        "draws": DRAWS,
        "gradient_draws": None if settings.draws == "fixed" else GRADIENT_DRAWS,
    }
    if settings.steps == "auto":  # which takes the fitted floor where none is named
        del wanted["floor"]
    missing = {name: value for name, value in wanted.items() if name not in given}
    return replace(context, config=context.config.model_copy(update={"rcd": settings.model_copy(update=missing)}))


def check_relearning(settings: RcdSettings, *, generators: bool) -> None:
    """Refuse what only makes sense of the other kind of model.

    Args:
        settings: of relearning, as they were asked for.
        generators: whether the subjects are some.

    Raises:
        UsageError: which option, and why.
    """
    given = settings.model_fields_set
    if not generators:
        for name in ("draws", "gradient_draws"):
            if getattr(settings, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} is of generators: a classifier has no noise to draw")
        return
    fixed = settings.draws == "fixed"
    refusals = (
        (fixed and settings.optimizer != "gd", "--draws fixed requires --optimizer gd: an adaptive optimiser learns "
         "the noise that it is measured on, and not the set"),
        (fixed and settings.gradient_draws is not None, "--gradient-draws cannot be combined with --draws fixed, "
         "which takes gradients on the measured draws"),
        (fixed and settings.minibatch is not None, "--minibatch cannot be combined with --draws fixed, which takes "
         "gradients of the whole set, on the measured draws"),
        (fixed and settings.augment, "--augment cannot be combined with --draws fixed, which takes gradients on the "
         "measured images and draws"),
        (settings.scope == "head", "--scope head is of classifiers: a generator ends in no linear layer; name "
         "parameters"),
        (settings.match_difficulty, "--match-difficulty is of classifiers: it matches cross-entropies under other "
         "labels"),
        (settings.bn == "train", "--bn train is of classifiers: a denoiser has no BatchNorm"),
        ("accuracies" in given, f"--accuracies is of classifiers: {NO_ACCURACY}"),
        (not fixed and settings.steps == "auto", "--steps auto requires --draws fixed of a generator: on fresh draws "
         "no tail is exponential"),
        (not fixed and settings.floor == "fit", "--floor fit requires --draws fixed of a generator: fresh draws have "
         "no one function to minimise"),
        (not fixed and settings.step_size == "lambda", "--step-size lambda requires --draws fixed of a generator: the "
         "curvature is that of one function"),
    )  # fmt: skip
    for wrong, text in refusals:
        if wrong:
            raise UsageError(text)


def without_numbers(context: AuditContext, section: str) -> SectionResult:
    """Return a section that no generator can be asked, as nulls with the reason.

    Args:
        context: of generators.
        section: one of `CANNOT`.

    Raises:
        UsageError: the section was named by itself.
    """
    why = CANNOT[section]
    if context.alone:
        raise UsageError(f"{section} is of classifiers: {why}")
    return SectionResult(tuple(nulls(context, section, why)))


def nulls(context: AuditContext, section: str, why: str) -> Iterator[Measurement]:
    """Yield every measurement of a section without a value.

    Args:
        context: of generators.
        section: whose metrics.
        why: the reason.

    Yields:
        Measurements, model by model.
    """
    names = [info.name for info in METRICS.values() if info.section == section]
    for candidate in context.subjects:
        for name in names:
            yield measurement(name, candidate, None, why, n=0, method="not measured of generators")
