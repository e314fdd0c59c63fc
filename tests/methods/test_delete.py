"""DELETE: its target and one step of it by hand, and what it looks at."""

import torch
from small_problems import Plain, batches_of, difference, make_context, parameters_of, slopes, watch_inputs
from torch import Tensor

from unlearn_audit.data import Splits
from unlearn_audit.methods.delete import DeleteSettings, masked_softmax, run_delete


def test_the_target_is_a_softmax_without_the_label() -> None:
    logits, labels = torch.tensor([[1.0, 2.0, 3.0], [1e10, 0.0, 0.0]]), torch.tensor([2, 0])
    found = masked_softmax(logits, labels)
    torch.testing.assert_close(found[0], torch.tensor([*torch.tensor([1.0, 2.0]).softmax(dim=0), 0.0]))
    assert found[1].tolist() == [0.0, 0.5, 0.5]
    torch.testing.assert_close(  # as the published code masks
        masked_softmax(logits[:1], labels[:1]), torch.tensor([[1.0, 2.0, -1e10]]).softmax(dim=1)
    )


def test_steps_are_those_of_the_formula(splits: Splits) -> None:
    """Any forget set will do: each example leaves out its own label."""
    model, eta = Plain(), 0.2
    teacher, theta = Plain(), parameters_of(model)
    forget = batches_of(splits, "forget", 3, size=4)

    def loss(weights: dict[str, Tensor], step: int) -> Tensor:
        images, labels = forget.at(step)
        target = masked_softmax(teacher(images).detach(), labels)
        told = torch.func.functional_call(model, weights, (images,)).log_softmax(dim=1)
        return (target * (target.clamp(min=1e-300).log() - told)).sum(dim=1).mean()

    for step in range(4):
        slope = slopes(lambda weights, step=step: loss(weights, step), theta)
        theta = {name: each - eta * slope[name] for name, each in theta.items()}
    done = run_delete(
        make_context(model, splits, seed=3), DeleteSettings(step_size=eta, momentum=0, steps=4, batch_size=4)
    )
    assert difference(model, theta) < 1e-12
    assert done.gradient_evaluations == forget.taken(4)


def test_only_forget_examples_are_looked_at(splits: Splits) -> None:
    model = Plain()
    seen = watch_inputs(model)
    assert run_delete(make_context(model, splits), DeleteSettings()).steps == 20
    assert [len(batch) for batch in seen if len(batch) != 10] == []
