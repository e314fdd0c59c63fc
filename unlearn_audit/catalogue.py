"""What there is, by name: dict literals name -> "module:attribute"; nothing is imported until it is used.

A new model, data source, method, transform or attack is one file (or function), one line here and one test file.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from unlearn_audit.errors import UsageError, unknown_name

__all__ = [
    "ATTACKS",
    "DATA_SOURCES",
    "METHODS",
    "METRICS",
    "MODELS",
    "RECIPES",
    "WEIGHT_TRANSFORMS",
    "load",
]

MODELS: Mapping[str, str] = {
    "small-cnn": "unlearn_audit.models.small:small_cnn",
    "resnet20": "unlearn_audit.models.cifar:resnet20",
    "resnet32": "unlearn_audit.models.cifar:resnet32",
    "resnet44": "unlearn_audit.models.cifar:resnet44",
    "resnet56": "unlearn_audit.models.cifar:resnet56",
    "cifar-resnet18": "unlearn_audit.models.cifar:cifar_resnet18",
    "cifar-resnet50": "unlearn_audit.models.cifar:cifar_resnet50",
}

DATA_SOURCES: Mapping[str, str] = {
    "digits": "unlearn_audit.data.sources:digits",
    "idx": "unlearn_audit.data.sources:idx",
    "npz": "unlearn_audit.data.sources:npz",
    "folder": "unlearn_audit.data.sources:folder",
    "torchvision": "unlearn_audit.data.sources:torchvision_dataset",
}

RECIPES: Mapping[str, str] = {
    "small": "unlearn_audit.recipes:SMALL",
    "resnet": "unlearn_audit.recipes:RESNET",
}

METHODS: Mapping[str, str] = {
    "ieu": "unlearn_audit.methods.ieu:IEU",
}

WEIGHT_TRANSFORMS: Mapping[str, str] = {
    "reinit": "unlearn_audit.methods.reinit:Reinit",
}

ATTACKS: Mapping[str, str] = {
    "loss": "unlearn_audit.attacks.population:loss",
}

# Name of a measurement -> what it is; a policy that names anything else is refused.
METRICS: Mapping[str, str] = {
    "accuracy.retain": "share of correct predictions on the retain set",
    "accuracy.forget": "share of correct predictions on the forget set",
    "accuracy.test": "share of correct predictions on the test set",
    "accuracy.unseen": "share of correct predictions on the forget set's unseen twin",
    "loss.retain": "mean cross-entropy on the retain set",
    "loss.forget": "mean cross-entropy on the forget set",
    "loss.test": "mean cross-entropy on the test set",
    "loss.unseen": "mean cross-entropy on the forget set's unseen twin",
    "gap.retain": "accuracy on retain minus the retrained models' mean",
    "gap.forget": "accuracy on forget minus the retrained models' mean",
    "gap.test": "accuracy on test minus the retrained models' mean",
    "gap.average": "mean of the absolute gaps",
    "rcd.raw": "area under the relearning curve on the forget set",
    "rcd.ratio_to_unseen": "RCD on the forget set / RCD on its unseen twin",
    "rcd.scaled": "RCD times the step size, comparable at equal step x K",
    "rcd.normalised": "RCD / ((K + 1) x initial excess over the floor)",
    "rcd.ratio_to_retrained": "RCD / the retrained models' mean RCD",
    "rcd.steps_to_relearn": "steps until the forget set is predicted right again to a given share",
    "rcd.anamnesis_index": "steps to the original's forget accuracy / the retrained models' mean",
    "truncation.verdict": "how the excess over the floor decays: exponential, slower, not converged, diverged",
    "truncation.rate": "decay of the log excess per step at the end of a long trajectory",
    "truncation.half_life": "steps in which the excess over the floor halves",
    "truncation.relative_error": "part of the whole sum, tail included, beyond K",
    "truncation.steps_for_1_percent": "K whose truncation error is 1 % of the whole sum",
    "spectrum.lambda_max": "largest eigenvalue of the Hessian on the forget set",
    "spectrum.relative_lambda_max": "largest curvature per relative change of a filter",
    "spectrum.lambda_min": "algebraically smallest eigenvalue of the Hessian on the forget set",
    "spectrum.lambda_ratio_10": "lambda_max / the tenth largest eigenvalue",
    "spectrum.trace": "trace of the Hessian on the forget set",
    "spectrum.concentration": "lambda_max x parameters / trace",
    "spectrum.effective_rank": "trace / lambda_max",
    "spectrum.condition_number": "lambda_max / lambda_min where the objective is convex",
    "mia.loss.auc": "AUC of the loss attack, forget set against its unseen twin",
}


def load(kind: str, table: Mapping[str, str], name: str) -> Any:
    """Import and return what `table` has under `name`.

    Args:
        kind: what the table holds, for the message ("model", "attack").
        table: one of the dict literals of this module.
        name: the key asked for.

    Raises:
        UsageError: the name is not in the table; the message has the nearest match and the list.
    """
    if name not in table:
        raise UsageError(unknown_name(kind, name, table))
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
