"""What each metric is: a new one is one entry here, the code that measures it and a test."""

from collections.abc import Mapping

from unlearn_audit.catalogue.entries import ALTERATIONS, ATTACKS, GENERATOR_ATTACKS
from unlearn_audit.catalogue.generation_metrics import GENERATION_METRICS
from unlearn_audit.catalogue.metric import COMPARE, DOWN, NONE, NOT_SMALL, UP, ZERO, MetricInfo
from unlearn_audit.catalogue.output_metrics import OUTPUT_METRICS

LOSS_CURVATURE, RELATIVE_CURVATURE = "nats per squared weight", "nats per squared relative change"
FEW_FALSE = "true positive rate of the {} attack at {} false positives, forget set against its unseen twin"
TWIN = "the forget set's unseen twin"
ONCE = "the same for every subject; it stands below the table, and under each number that it is about"
ATTACK = "the {} attack"

# What is measured of every attack, whose name takes the place of {}: ending of the metric's name -> what it is.
ATTACK_METRICS: Mapping[str, MetricInfo] = {
    info.name.rpartition(".")[2]: info
    for info in (
        MetricInfo("mia.{}.auc", "{} attack AUC", "mia", "probability", COMPARE, 3,
                   "AUC of the {} attack, forget set against its unseen twin", leak=True,
                   form_of=ATTACK, scale="AUC"),
        MetricInfo("mia.{}.tpr_at_fpr_1e-2", "{} TPR at 1 % FPR", "mia", "fraction", COMPARE, 3,
                   FEW_FALSE.format("{}", "1 %"), leak=True, form_of=ATTACK),
        MetricInfo("mia.{}.tpr_at_fpr_1e-3", "{} TPR at 0.1 % FPR", "mia", "fraction", COMPARE, 3,
                   FEW_FALSE.format("{}", "0.1 %"), leak=True, form_of=ATTACK),
        MetricInfo("mia.{}.accuracy", "{} attack accuracy", "mia", "fraction", COMPARE, 3,
                   "balanced accuracy of the {} attack, forget set against its unseen twin", leak=True,
                   form_of=ATTACK),
        MetricInfo("mia.{}.base_rate", "{} base rate", "mia", "fraction", NONE, 3,
                   "share of members among the attacked of the {} attack, forget set against its unseen twin",
                   hidden="the same for every attack and subject; a note below the table has it", form_of=ATTACK),
    )
}  # fmt: skip

_BELOW = "a table of its own has it, before and after"

# What is measured of every alteration, likewise: its name takes the place of {}, what it is that of {what}.
_ALTERATION_METRICS: tuple[MetricInfo, ...] = (
    MetricInfo("resurgence.{}", "back by {}", "resurgence", "fraction", ZERO, 3,
               "forget accuracy that comes back after {what}, beyond what comes back to retrained models",
               signed=True, leak=True, sets=("forget",)),
    MetricInfo("resurgence.{}.gap", "gap forget {}", "resurgence", "fraction", ZERO, 3,
               "forget accuracy after {what} minus that of retrained models after the same",
               signed=True, leak=True, hidden=_BELOW, sets=("forget",)),
    MetricInfo("resurgence.{}.twosample_p", "two-sample p {}", "resurgence", "probability", NOT_SMALL, 3,
               "the two-sample test's p after {what}, given retrained models after the same",
               leak=True, hidden=_BELOW, p_value=True),
    MetricInfo("resurgence.{}.rcd_ratio", "RCD ratio {}", "resurgence", "ratio", COMPARE, 3,
               "RCD on the forget set / RCD on its unseen twin after {what}", leak=True, scale="log ratio"),
)  # fmt: skip


def _of_attack(info: MetricInfo, attack: str) -> MetricInfo:
    written = {field: getattr(info, field).format(attack) for field in ("name", "title", "what", "form_of")}
    return info._replace(**written)


def _of_alteration(info: MetricInfo, name: str) -> MetricInfo:
    what = ALTERATIONS[name].what
    written = {field: getattr(info, field).format(name, what=what) for field in ("name", "title", "what")}
    return info._replace(**written)


# Every metric of ours, in the order in which a table shows them; a policy that names anything else is refused.
METRICS: Mapping[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo("accuracy.retain", "accuracy retain", "gaps", "fraction", UP, 3,
                   "share of correct predictions on the retain set",
                   form_of="retain accuracy", sets=("retain",), scale="fraction"),
        MetricInfo("accuracy.forget", "accuracy forget", "gaps", "fraction", COMPARE, 3,
                   "share of correct predictions on the forget set", leak=True,
                   form_of="forget accuracy", sets=("forget",), scale="fraction"),
        MetricInfo("accuracy.test", "accuracy test", "gaps", "fraction", UP, 3,
                   "share of correct predictions on the test set",
                   form_of="test accuracy", sets=("test",), scale="fraction"),
        MetricInfo("accuracy.unseen", "accuracy unseen", "gaps", "fraction", COMPARE, 3,
                   f"share of correct predictions on {TWIN}",
                   form_of="unseen accuracy", sets=("unseen",), scale="fraction"),
        MetricInfo("loss.retain", "loss retain", "gaps", "nats", DOWN, 2,
                   "mean cross-entropy on the retain set", form_of="retain loss", sets=("retain",), scale="nats"),
        MetricInfo("loss.forget", "loss forget", "gaps", "nats", COMPARE, 2,
                   "mean cross-entropy on the forget set", leak=True,
                   form_of="forget loss", sets=("forget",), scale="nats"),
        MetricInfo("loss.test", "loss test", "gaps", "nats", DOWN, 2,
                   "mean cross-entropy on the test set", form_of="test loss", sets=("test",), scale="nats"),
        MetricInfo("loss.unseen", "loss unseen", "gaps", "nats", COMPARE, 2,
                   f"mean cross-entropy on {TWIN}", form_of="unseen loss", sets=("unseen",), scale="nats"),
        MetricInfo("accuracy.adjacent", "accuracy adjacent", "gaps", "fraction", UP, 3,
                   "share of correct predictions on the adjacent set: what is retained and close to the forget set",
                   form_of="adjacent accuracy", sets=("adjacent",), scale="fraction"),
        MetricInfo("accuracy.remote", "accuracy remote", "gaps", "fraction", UP, 3,
                   "share of correct predictions on the rest of the retain set",
                   form_of="remote accuracy", sets=("remote",), scale="fraction"),
        MetricInfo("loss.adjacent", "loss adjacent", "gaps", "nats", DOWN, 2,
                   "mean cross-entropy on the adjacent set", form_of="adjacent loss", sets=("adjacent",), scale="nats"),
        MetricInfo("loss.remote", "loss remote", "gaps", "nats", DOWN, 2,
                   "mean cross-entropy on the rest of the retain set",
                   form_of="remote loss", sets=("remote",), scale="nats"),
        MetricInfo("gap.retain", "gap retain", "gaps", "fraction", ZERO, 3,
                   "accuracy on retain minus the retrained models' mean", signed=True,
                   form_of="retain accuracy", sets=("retain",)),
        MetricInfo("gap.forget", "gap forget", "gaps", "fraction", ZERO, 3,
                   "accuracy on forget minus the retrained models' mean", signed=True, leak=True,
                   form_of="forget accuracy", sets=("forget",)),
        MetricInfo("gap.test", "gap test", "gaps", "fraction", ZERO, 3,
                   "accuracy on test minus the retrained models' mean", signed=True,
                   form_of="test accuracy", sets=("test",)),
        MetricInfo("gap.adjacent", "gap adjacent", "gaps", "fraction", ZERO, 3,
                   "accuracy on the adjacent set minus the retrained models' mean", signed=True,
                   form_of="adjacent accuracy", sets=("adjacent",)),
        MetricInfo("gap.remote", "gap remote", "gaps", "fraction", ZERO, 3,
                   "accuracy on the rest of the retain set minus the retrained models' mean", signed=True,
                   form_of="remote accuracy", sets=("remote",)),
        MetricInfo("gap.average", "average |gap|", "gaps", "fraction", DOWN, 3,
                   "mean of the absolute gaps", sets=("retain", "forget", "test")),
        MetricInfo("change.retain", "change retain", "gaps", "fraction", UP, 3,
                   "accuracy on retain minus the original's", signed=True, rests_on_original=True, sets=("retain",)),
        MetricInfo("change.test", "change test", "gaps", "fraction", UP, 3,
                   "accuracy on the test examples of classes that are kept minus the original's",
                   signed=True, rests_on_original=True, sets=("test",)),
        MetricInfo("change.adjacent", "change adjacent", "gaps", "fraction", UP, 3,
                   "accuracy on the adjacent set minus the original's",
                   signed=True, rests_on_original=True, sets=("adjacent",)),
        MetricInfo("change.remote", "change remote", "gaps", "fraction", UP, 3,
                   "accuracy on the rest of the retain set minus the original's",
                   signed=True, rests_on_original=True, sets=("remote",)),
        MetricInfo("rcd.raw", "RCD raw", "rcd", "nats x steps", COMPARE, 1,
                   "area under the relearning curve on the forget set", leak=True, within_one_run=True),
        MetricInfo("rcd.ratio_to_unseen", "RCD / unseen", "rcd", "ratio", COMPARE, 3,
                   "RCD on the forget set / RCD on its unseen twin", leak=True, scale="log ratio"),
        MetricInfo("rcd.ratio_to_retrained", "RCD / retrained", "rcd", "ratio", COMPARE, 3,
                   "RCD / the retrained models' geometric mean RCD; above the original's curve, their mean",
                   leak=True),
        MetricInfo("rcd.scaled", "RCD x step", "rcd", "nats x step size x steps", COMPARE, 4,
                   "RCD times the step size, comparable at equal step x K", leak=True),
        MetricInfo("rcd.normalised", "RCD normalised", "rcd", "ratio", COMPARE, 3,
                   "RCD / ((K + 1) x initial excess over the floor)", leak=True),
        MetricInfo("rcd.steps_to_relearn", "steps to relearn", "rcd", "steps", COMPARE, 0,
                   "steps until the forget set is predicted right again to a given share, or a generator's loss is the "
                   "original's",
                   leak=True, within_one_run=True),
        MetricInfo("rcd.anamnesis_index", "anamnesis index", "rcd", "ratio", COMPARE, 3,
                   "steps to the original's forget accuracy / the retrained models' mean",
                   leak=True, rests_on_original=True),
        MetricInfo("truncation.verdict", "truncation error", "truncation", "verdict", NONE, 0,
                   "how the excess over the floor decays: exponential, slower, not converged, diverged"),
        MetricInfo("truncation.rate", "decay per step", "truncation", "1 / step", NONE, 5,
                   "decay of the log excess per step at the end of a long trajectory"),
        MetricInfo("truncation.half_life", "half-life, steps", "truncation", "steps", NONE, 1,
                   "steps in which the excess over the floor halves"),
        MetricInfo("truncation.relative_error", "error at K / sum", "truncation", "fraction of the whole sum", DOWN, 4,
                   "part of the whole sum, tail included, beyond K"),
        MetricInfo("truncation.steps_for_1_percent", "K for 1 % error", "truncation", "steps", NONE, 0,
                   "K whose truncation error is 1 % of the whole sum"),
        MetricInfo("spectrum.lambda_max", "lambda max", "spectrum", LOSS_CURVATURE, COMPARE, 3,
                   "largest eigenvalue of the Hessian on the forget set"),
        MetricInfo("spectrum.relative_lambda_max", "lambda max relative", "spectrum", RELATIVE_CURVATURE, COMPARE, 3,
                   "largest curvature per relative change of a filter"),
        MetricInfo("spectrum.lambda_min", "lambda min", "spectrum", LOSS_CURVATURE, COMPARE, 3,
                   "algebraically smallest eigenvalue of the Hessian on the forget set"),
        MetricInfo("spectrum.lambda_ratio_10", "lambda max / 10th", "spectrum", "ratio", COMPARE, 2,
                   "lambda_max / the tenth largest eigenvalue"),
        MetricInfo("spectrum.trace", "trace", "spectrum", LOSS_CURVATURE, COMPARE, 2,
                   "trace of the Hessian on the forget set"),
        MetricInfo("spectrum.concentration", "lambda max x d / tr", "spectrum", "ratio", COMPARE, 1,
                   "lambda_max x parameters / trace"),
        MetricInfo("spectrum.effective_rank", "effective rank", "spectrum", "ratio", COMPARE, 2,
                   "trace / lambda_max"),
        MetricInfo("spectrum.condition_number", "condition number", "spectrum", "ratio", COMPARE, 1,
                   "lambda_max / lambda_min where the objective is convex"),
        MetricInfo("layers.sigma_max", "largest layer sigma", "layers", "norm out / norm in", COMPARE, 3,
                   "largest singular value of the linear part of any linear layer or convolution", sets=()),
        MetricInfo("twosample.p", "two-sample p", "twosample", "probability", NOT_SMALL, 3,
                   "probability of log-odds that differ as much between forget set and unseen twin, given the "
                   "retrained models', if the model saw neither", leak=True, p_value=True),
        MetricInfo("twosample.auc", "two-sample AUC", "twosample", "probability", COMPARE, 3,
                   "AUC at which forget set and unseen twin are told apart by residual and difficulty, given the "
                   "retrained models' log-odds", leak=True),
        *OUTPUT_METRICS,
        *(
            _of_attack(info, attack)
            for info in ATTACK_METRICS.values()
            for attack in dict.fromkeys((*ATTACKS, *GENERATOR_ATTACKS))
        ),
        MetricInfo("detectable.share", "detectable share", "detectable", "fraction", DOWN, 3,
                   "smallest share of the forget set that, had it been kept, would have been told from the retrained "
                   "models by forget accuracy, the loss attack, or a two-sample p below .01",
                   rests_on_original=True, hidden=ONCE),
        MetricInfo("detectable.dose", "detectable dose", "detectable", "fraction", DOWN, 3,
                   "smallest part of the way back to the original on every forget example that would have been told "
                   "likewise",
                   rests_on_original=True, hidden=ONCE),
        MetricInfo("mia.svc.efficacy", "svc MIA-efficacy", "mia", "fraction", COMPARE, 3,
                   "share of the forget set that an SVC of the field's tables takes for non-members", leak=True,
                   form_of=ATTACK.format("svc"), sets=("forget", "retain", "test")),
        MetricInfo("nn.tv", "NN total variation", "mia", "fraction", COMPARE, 3,
                   "total variation of mean answers on a forgotten class's test examples from the retrained models'",
                   form_of="MIA-NN", sets=("test",)),
        MetricInfo("nn.auc", "NN told apart (B)", "mia", "probability", COMPARE, 3,
                   "AUC at which answers on a forgotten class's test examples are told from the retrained models'",
                   form_of="MIA-NN", sets=("test",)),
        MetricInfo("nn.accept", "NN accepted (A)", "mia", "fraction", COMPARE, 3,
                   "share of a forgotten class's test examples that are taken for its nearest class by a classifier of "
                   "the retrained models' answers",
                   form_of="MIA-NN", sets=("test",)),
        *(
            _of_alteration(info, alteration)
            for info in _ALTERATION_METRICS
            for alteration in ALTERATIONS
        ),
        *GENERATION_METRICS,
    )
}  # fmt: skip


def metric_choices() -> list[dict[str, str]]:
    """Return every metric's name as JSON Schema has it, with its title and what it is."""
    return [{"const": info.name, "title": info.title, "description": info.what} for info in METRICS.values()]


def metric_info(name: str) -> MetricInfo:
    """Return what a metric is, also one of an attack of the user's own.

    Raises:
        KeyError: it is none of ours.
    """
    family, _, rest = name.partition(".")
    attack, _, ending = rest.rpartition(".")
    if name in METRICS or family != "mia" or not attack:
        return METRICS[name]
    return _of_attack(ATTACK_METRICS[ending], attack)


def info_or_name(name: str) -> MetricInfo:
    """Return what a metric is; one that only another version of this tool knows is called by its name."""
    try:
        return metric_info(name)
    except KeyError:
        return MetricInfo(name, name, "", "", NONE, 3, "")
