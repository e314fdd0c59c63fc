"""--probe: samples of the model as it is at a step, judged; steps that are not there and judges that know nothing."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from analytic_denoisers import denoiser, generators, small_splits

from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.rcd import probes
from unlearn_audit.audit.rcd.curves import relearn_models
from unlearn_audit.audit.rcd.probes import Probe
from unlearn_audit.config import RcdSettings
from unlearn_audit.errors import UsageError
from unlearn_audit.generation.sampling import usual_sampling
from unlearn_audit.models.denoisers import Denoiser


@dataclass
class Drawer:
    """Stands for a pipeline."""

    denoiser: Denoiser


class Judge:
    """Takes a sample for class 1 where it is bright."""

    name = "bright"

    def labels(self, images: torch.Tensor) -> np.ndarray[Any, Any]:
        return (images.flatten(1).float().mean(dim=1) > 100).long().numpy()


class Judged:
    def __init__(self, reason: str | None = None) -> None:
        self.judge, self.reason, self.of_concept = Judge(), reason, False


def _images(pipeline: Drawer, wanted: Any, sampling: Any, **_: Any) -> Any:
    """The first k of ten samples are bright, k the factor of the denoiser in tenths."""
    bright = round(10 * pipeline.denoiser.get_parameter("weight").item())
    return [(index, torch.full((1, 2, 2), 200 if index < bright else 0, dtype=torch.uint8))
            for index in range(len(wanted))]  # fmt: skip


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> AuditContext:
    made = generators(small_splits("class:1"), {"generation": {"samples": 10}}, original=("original", denoiser(0.4)),
                      u=("unlearned", denoiser(0.1)))  # fmt: skip
    monkeypatch.setattr(probes, "images", _images)
    monkeypatch.setattr(probes, "open_judging", lambda *_: Judged())
    subjects = tuple(replace(one, pipeline=Drawer(one.model)) for one in made.subjects)  # type: ignore[arg-type]
    return replace(made, subjects=subjects)


def settings(*steps: int) -> RcdSettings:
    return RcdSettings(steps=3, step_size=0.1, optimizer="adam", gradient_draws=2, controls=False, probe=steps,
                       resamples=100)  # fmt: skip


def test_samples_are_those_of_the_model_at_each_step(context: AuditContext) -> None:
    found = relearn_models(context, settings(0, 3)).probes
    assert list(found) == ["original", "u"]
    details = found["u"].details
    (first, last), reason = details["rates"], details["reason"]
    assert (first[0], first[1], last[0], reason) == (0, 0.1, 3, None)
    assert last[1] > 0.1  # Adam moves the factor by a tenth in each step
    assert first[2][0] < 0.1 < first[2][1]
    assert (details["judge"], details["samples"]) == ("bright", 10)
    assert list(found["u"].sheets) == ["generation/u/relearned-0", "generation/u/relearned-3"]
    assert found["u"].sheets["generation/u/relearned-0"].shape == (4, 31)  # ten images of 2 x 2, white between them


def test_curves_are_the_same_with_a_probe_and_without(context: AuditContext) -> None:
    looked, plain = (relearn_models(context, each) for each in (settings(0, 2), settings()))
    assert plain.probes == {}
    np.testing.assert_array_equal(looked.taken[1].forget.loss, plain.taken[1].forget.loss)


def test_a_judge_that_does_not_know_gives_no_rates(context: AuditContext) -> None:
    plan = probes.plan_of(context, context.config.generation)  # type: ignore[arg-type]
    one = Probe(context, context.subjects[0], [0], plan=plan, judging=Judged("wrong too often"))  # type: ignore[arg-type]
    one(0, context.subjects[0].model)
    one(0, context.subjects[0].model)  # a trajectory that begins again
    assert len(one.rows) == 1
    assert one.details["rates"] == []
    assert one.details["reason"] == "wrong too often"


def test_steps_that_are_not_taken_are_refused(context: AuditContext) -> None:
    with pytest.raises(UsageError, match="--probe 9 lies beyond the last step, K = 3"):
        relearn_models(context, settings(0, 9))


def test_without_a_condition_there_is_nothing_to_draw(context: AuditContext) -> None:
    other = replace(context, splits=small_splits("range:0-5"))
    with pytest.raises(UsageError, match="--probe has nothing to draw"):
        relearn_models(other, settings(0))


def test_sampling_is_the_usual_one(context: AuditContext) -> None:
    plan = probes.plan_of(context, context.config.generation)  # type: ignore[arg-type]
    assert plan.sampling == usual_sampling("class")
