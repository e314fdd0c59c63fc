"""What a generator draws while it relearns: samples under the forgotten condition at some of its steps, judged."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unlearn_audit import metrics
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.generated.drawing import Plan, pipeline_of, plan_of
from unlearn_audit.audit.generated.judging import Judging, labelled, open_judging
from unlearn_audit.audit.generated.sheets import sheet
from unlearn_audit.audit.rcd.runs import RelearnPlan
from unlearn_audit.config import GenerationSettings, RcdSettings
from unlearn_audit.errors import UsageError
from unlearn_audit.generation.sampling import images
from unlearn_audit.inputs import Candidate

Row = tuple[int, float, tuple[float, float]]  # step, rate, its Wilson interval


class Probe:
    """Called with the model of each step of one trajectory; draws and judges at the steps that were asked for.

    Args:
        context: seed, and where to compute.
        candidate: whose trajectory it is.
        steps: at which it looks.
        plan: what is drawn under the forgotten condition.
        judging: who says what is on a sample.

    Attributes:
        rows: what was found, in the order of the steps.
        sheets: the first samples of each step, by the name that a report's arrays have them under.
    """

    def __init__(
        self, context: AuditContext, candidate: Candidate, steps: Sequence[int], *, plan: Plan, judging: Judging
    ) -> None:
        self.context, self.pipeline, self.steps = context, pipeline_of(candidate), frozenset(steps)
        self.plan, self.judging, self.label = plan, judging, candidate.label
        self.rows: list[Row] = []
        self.sheets: dict[str, NDArray[np.uint8]] = {}

    def __call__(self, step: int, model: nn.Module) -> None:
        """Draw and judge, if it is one of the steps; a trajectory that begins again is looked at anew."""
        if step == 0:
            self.rows.clear()
            self.sheets.clear()
        if step not in self.steps:
            return
        asked, context = self.plan.forgotten, self.context
        with torch.no_grad():
            found = dict(
                images(
                    replace(self.pipeline, denoiser=model), asked.wanted, self.plan.sampling, seed=context.config.seed,
                    compute=context.compute, progress=context.progress,
                )
            )  # fmt: skip
        samples = [found[place] for place in range(len(asked.wanted))]
        self.sheets[f"generation/{self.label}/relearned-{step}"] = sheet(samples, asked.classes)
        right = labelled(self.judging.judge, samples, None if self.judging.of_concept else asked.classes)
        bounds = metrics.wilson_interval(int(right.sum()), len(right)) if right is not None else None
        if right is not None and bounds is not None:
            self.rows.append((step, float(right.mean()), (bounds.low, bounds.high)))

    @property
    def details(self) -> dict[str, Any]:
        """What was found, with who said so; no rates of a judge that does not know the classes."""
        reason = self.judging.reason
        return {
            "judge": self.judging.judge.name,
            "samples": len(self.plan.forgotten.wanted),
            "sampling": self.plan.how,
            "reason": reason,
            "rates": [] if reason else [[step, rate, list(ends)] for step, rate, ends in self.rows],
        }


def probes_of(context: AuditContext, settings: RcdSettings, planned: Sequence[RelearnPlan]) -> tuple[Probe | None, ...]:
    """Return who looks at each trajectory: at those of subjects on the forget set; () where nobody asked.

    How samples are drawn and judged is what `[generation]` says, else its defaults.

    Raises:
        UsageError: there is no such step, or nothing to draw.
    """
    if not settings.probe:
        return ()
    if not context.of_generators:
        raise UsageError("--probe is of generators: a classifier draws nothing")
    last = settings.steps if isinstance(settings.steps, int) else settings.max_steps
    beyond = [step for step in settings.probe if step > last]
    if beyond:
        raise UsageError(f"--probe {beyond[0]} lies beyond the last step, K = {last}; raise --steps")
    asked = context.config.generation or GenerationSettings()
    plan = plan_of(context, asked)
    if plan.forgotten.reason is not None:
        raise UsageError(f"--probe has nothing to draw: {plan.forgotten.reason}")
    judging = open_judging(context, asked, plan)
    return tuple(
        Probe(context, one.candidate, settings.probe, plan=plan, judging=judging)
        if one.kind == "forget" and one.candidate.role != "control"
        else None
        for one in planned
    )
