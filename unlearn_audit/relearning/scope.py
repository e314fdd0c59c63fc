"""Which parameters relearn: all, the classifier alone on cached features, or those whose names match a pattern."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from unlearn_audit.engine import Device, Inputs, chunks, trainable
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.relearning.run import Run


@dataclass(frozen=True)
class Features:
    """Images as stored -> what the classifier sees, [N, D], float64; the body is fixed and in evaluation mode."""

    body: nn.Module
    classifier: nn.Linear
    transform: Inputs
    compute: Device

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of the images, computed in float32 chunk by chunk and widened."""
        found = []
        with torch.no_grad(), _inputs_of(self.classifier) as seen:
            for part in chunks(len(images), self.compute.chunk):
                self.body(self.transform(images[part].to(self.compute.device)))
                found.append(seen.pop().double())
        return torch.cat(found)


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a module is called with.

    Yields:
        The list that grows by one input for each call.
    """
    seen: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        hook.remove()


def scoped(run: Run, scope: str, *, compute: Device, weight_decay: float = 0.0) -> Run:
    """Return the run with the parameters that take part in relearning.

    Args:
        run: over the whole model.
        scope: "all"; "head", the last linear layer on cached features in float64; or a pattern of parameter names with
            * and ?, several with commas between.
        compute: where features are computed.
        weight_decay: of the algorithm, part of the head's curvature.

    Raises:
        UsageError: no parameter matches the pattern.
        MeasurementError: the model does not end in a linear layer.
    """
    if scope == "all":
        return run
    if scope == "head":
        return head_run(run, compute=compute, weight_decay=weight_decay)
    model = copy.deepcopy(run.model)
    patterns = scope.split(",")
    names = {name for name in trainable(model) if any(fnmatchcase(name, pattern) for pattern in patterns)}
    if not names:
        known = ", ".join(list(trainable(model))[:6])
        raise UsageError(f"--scope {scope} matches no parameter; the model has {known}, …; or use all or head")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return run._replace(model=model)


def head_run(run: Run, *, compute: Device, weight_decay: float = 0.0) -> Run:
    """Return the run of the model's last linear layer alone, on features of the fixed body, in float64.

    The objective is then multinomial logistic regression: convex, strongly convex with weight decay, and its Hessian
    is bounded everywhere by beta = 1/2·lambda_max(A'A/n) + weight decay, A the features with a column of ones for the
    bias (Boehning 1992), so that 1/beta is a safe step.

    Raises:
        MeasurementError: the model does not end in a linear layer.
    """
    model = compute.to_device(copy.deepcopy(run.model)).eval()
    classifier = last_linear(model, run, compute)
    features = Features(model, classifier, run.transform, compute)
    head = nn.Linear(classifier.in_features, classifier.out_features, bias=classifier.bias is not None).double()
    head.load_state_dict(classifier.state_dict())
    bound = smoothness_of_softmax(features(run.examples.images), bias=classifier.bias is not None) + weight_decay
    return run._replace(model=head.requires_grad_(True), transform=features, smoothness=bound)


def features_of(run: Run, images: Tensor, compute: Device) -> Tensor:
    """Return what the model's last linear layer is given for each image, [N, D], float64.

    Args:
        run: whose model it is, on the device and in evaluation mode, with its transform.
        images: as stored.
        compute: where.

    Raises:
        MeasurementError: the model does not end in a linear layer.
    """
    return Features(run.model, last_linear(run.model, run, compute), run.transform, compute)(images)


class NoHeadError(MeasurementError):
    """The model does not end in a linear layer."""


def last_linear(model: nn.Module, run: Run, compute: Device) -> nn.Linear:
    """Return the linear layer whose output is the model's.

    Args:
        model: on the device, in evaluation mode.
        run: whose first examples it is tried on.
        compute: where.

    Raises:
        NoHeadError: the model does not end in a linear layer.
    """
    images = run.transform(run.examples.images[:2].to(compute.device))
    outputs: dict[nn.Linear, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda layer, _, output: outputs.update({layer: output}))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        logits = model(images)
    for hook in hooks:
        hook.remove()
    for layer, output in outputs.items():
        if output.shape == logits.shape and torch.equal(output, logits):
            return layer
    raise NoHeadError("the model does not end in a linear layer, so it has no head to relearn; use --scope PATTERN")


def smoothness_of_softmax(features: Tensor, *, bias: bool = True) -> float:
    """Return Boehning's bound on the Hessian of mean cross-entropy of a linear classifier: 1/2·lambda_max(A'A/n).

    Args:
        features: [N, D], float64.
        bias: whether the classifier has one, which adds a column of ones.
    """
    matrix = features.detach().cpu().double().numpy()
    if bias:
        matrix = np.column_stack([matrix, np.ones(len(matrix))])
    return 0.5 * float(np.linalg.norm(matrix, 2) ** 2) / len(matrix)
