"""Bad teacher: answer like a random network on forget, like the original on retain (Chundawat et al. 2023).

Forget and retain examples are shuffled together; with T the network with fresh weights on a forget example, the
original on a retain example, both in evaluation mode, a step descends the mean over its batch of
KL(softmax(T/tau) || softmax(theta/tau)). A random network answers almost alike everywhere, so that the forget set comes
out as less known than data that were never seen: a retrained model does not answer like that.
"""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from unlearn_audit.data import Examples
from unlearn_audit.engine import MixedSet, Term, Terms, derive_seed
from unlearn_audit.engine.task import widened
from unlearn_audit.errors import UsageError
from unlearn_audit.methods import Method, Unlearned, UnlearningContext
from unlearn_audit.methods.fresh import fresh_network
from unlearn_audit.methods.generators import NEEDS_CLASSES
from unlearn_audit.methods.loop import LoopSettings, Objective, Share, Size, Step, logits_of, run_composition
from unlearn_audit.methods.mixtures import mixed, mixture_of


class BadTeacherSettings(LoopSettings):
    """Settings of the bad teacher: the defaults of the released code (Adam .01, 10 epochs, batch 256, tau 1).

    Its experiments take one epoch with Adam 1e-4, and SGD in the hands of others. The released loss is divided by the
    number of classes: Adam does not see that, with SGD divide a published step size by it.
    """

    PUBLISHED: ClassVar[Mapping[str, Any] | None] = {}

    retain_share: Share = Field(default=0.3, description="random part of the retain set that is learned from; 0: none")
    temperature: Step = Field(default=1.0, description="tau, of both softmaxes")
    optimizer: Literal["sgd", "adam"] = Field(default="adam", description="sgd or adam")
    step_size: Step = Field(default=0.01, description="learning rate")
    epochs: float | None = Field(default=10, gt=0, le=1e6, description="passes over forget set and part of retain set")
    batch_size: Size = Field(default=256, description="examples of both sets in one step; full: all of them")


def divergences(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Return KL(softmax(teacher/tau) || softmax(student/tau)) of each example [B] in nats, lower is more alike.

    Args:
        teacher: logits [B, classes].
        student: logits [B, classes], with their graph.
        temperature: tau.
    """
    wanted, given = (functional.log_softmax(widened(each) / temperature, dim=1) for each in (teacher, student))
    return (wanted.exp() * (wanted - given)).sum(dim=1)


def part_of_retain(context: UnlearningContext, share: float) -> Examples:
    """Return a random part of the retain set, at least one example of it unless the share is 0.

    Raises:
        UsageError: the retain set is empty and a part of it is asked for.
    """
    splits = context.splits
    if share > 0 and not len(splits.retain):
        raise UsageError("the retain set is empty; this method needs something to keep, but for --retain-share 0")
    generator = torch.Generator().manual_seed(derive_seed(context.seed, "retain", "bad-teacher"))
    count = max(int(share * len(splits.retain)), 1) if share > 0 else 0
    chosen = torch.randperm(len(splits.retain), generator=generator)[:count].sort().values
    return splits.dataset.train.subset(splits.retain[chosen.numpy()])


def taught(
    context: UnlearningContext, settings: BadTeacherSettings, random: nn.Module, original: nn.Module
) -> Objective:
    """Return the objective: the mean divergence from each example's teacher, as one term for each set.

    Args:
        context: the model and the sets.
        settings: of the method.
        random: the teacher of the forget set, in evaluation mode.
        original: the teacher of the retain set, likewise.
    """
    sets = [MixedSet(context.splits.forget_examples), MixedSet(part_of_retain(context, settings.retain_share))]
    mixture = mixture_of(context, sets, settings)

    def terms(step: int) -> Terms:
        batch = mixture.at(step)
        student = logits_of(context, batch.images)
        with torch.no_grad(), context.compute.autocast():  # both see all rows: to tell them apart a GPU would wait
            wanted = torch.where(batch.sets[:, None] == 0, random(batch.images), original(batch.images))
        apart = divergences(wanted, student, settings.temperature)
        forget, retain = ((apart * (batch.sets == place)).sum() / len(apart) for place in (0, 1))
        return {
            "divergence on forget": Term(forget, side="forget"),
            "divergence on retain": Term(retain, side="retain"),
        }

    return mixed(mixture, terms)


def run_bad_teacher(context: UnlearningContext, settings: BadTeacherSettings) -> Unlearned:
    """Learn from a network with fresh weights on forget and from the original on a part of retain."""
    original = copy.deepcopy(context.model).eval().requires_grad_(False)
    random = fresh_network(context, "bad-teacher").eval().requires_grad_(False)
    return run_composition(context, taught(context, settings, random, original), settings, task="bad teacher")


BAD_TEACHER = Method(
    "bad-teacher",
    "Chundawat et al. 2023; defaults of the released code",
    BadTeacherSettings,
    run_bad_teacher,
    deviations=("the divergence is added up over classes; the released code divides it by their number",),
    on=NEEDS_CLASSES,
)
