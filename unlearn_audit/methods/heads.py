"""The last layer of the model that a method is given."""

from torch import nn

from unlearn_audit.errors import UsageError
from unlearn_audit.methods import UnlearningContext
from unlearn_audit.relearning import NoHeadError, Run, last_linear


def linear_head(context: UnlearningContext, needed: str, otherwise: str = "") -> nn.Linear:
    """Return the linear layer whose output is the model's; the model is left in evaluation mode.

    Args:
        context: the model, and the sets on whose first examples it is tried.
        needed: what the method does with it, for the message.
        otherwise: what to do without one, for its end.

    Raises:
        UsageError: the model does not end in one.
        MeasurementError: it cannot be tried.
    """
    model = context.model.eval()
    try:
        return last_linear(model, Run(model, context.splits.forget_examples, context.transform), context.compute)
    except NoHeadError:
        raise UsageError(f"{needed}, and the model does not end in one{otherwise}") from None
