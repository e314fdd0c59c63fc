"""What attacks look at: a target's answers to all queries, and what shadow models say of the same examples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unlearn_audit.attacks import Attack, Denoised, Evidence, Population, Shadows, Signals
from unlearn_audit.audit.context import AuditContext
from unlearn_audit.audit.mia.denoised import denoised
from unlearn_audit.audit.mia.own_models import OwnModels, own_models
from unlearn_audit.audit.parts import Arrays
from unlearn_audit.data import Pool, make_pool, old_forget_set, query, read_training_indices
from unlearn_audit.engine import Inputs, predict
from unlearn_audit.errors import DataError, MeasurementError
from unlearn_audit.inputs import Candidate
from unlearn_audit.shadows import Fleet, FleetSignals, Treatment, open_fleet
from unlearn_audit.training import by_difference


class AttackInputs:
    """Gathers evidence on the pairs of forget examples and partners; what a model said once is kept.

    Attributes:
        pool: the attacked examples and everything else that shadow models may have seen.
        fleet: the shadow models; None where none were named.
        queries: views of an image that a model is asked about.
        of_generators: whether the models are denoisers, which have no logits.
    """

    def __init__(self, context: AuditContext, pool: Pool, fleet: Fleet | None) -> None:
        self.context, self.pool, self.fleet = context, pool, fleet
        self.queries = fleet.plan.queries if fleet else 1
        self.of_generators = context.of_generators
        self._asked: dict[str, NDArray[np.float32]] = {}
        self._population: dict[str, Population] = {}
        self._shadows: dict[str, Shadows] = {}
        self._signals: dict[str, FleetSignals] = {}
        self._explained: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._denoised: dict[str, Denoised] = {}
        self._own: dict[tuple[str, str], OwnModels | None] = {}

    def treatment_of(self, candidate: Candidate) -> Treatment | None:
        """Return the fleet's treatment that the candidate went through, if it knows one."""
        if self.fleet is None or candidate.role != "unlearned" or candidate.metadata is None:
            return None
        return self.fleet.treatment_of(candidate.metadata)

    def evidence(self, candidate: Candidate, attack: Attack, treatment: Treatment | None) -> Evidence:
        """Return what the attack needs to know of a candidate.

        Args:
            candidate: the target.
            attack: whose `needs` decide what is gathered.
            treatment: what the unlearned shadow models went through, for an attack that needs them.

        Raises:
            MeasurementError: a model's outputs are not finite, or the fleet has nothing finished.
        """
        needs, examples = set(attack.needs), self.pool.examples.subset(self.pool.targets)
        if "denoiser" in needs:
            return self._of_denoiser(candidate, examples.labels.numpy())
        splits = "splits" in needs
        return Evidence(
            logits=self._answers(candidate, examples.images),
            labels=examples.labels.numpy(),
            inputs=_rows(candidate, examples.images) if "population" in needs else np.zeros((len(examples), 0), "f4"),
            shadows=self.shadows(None) if "shadows" in needs else None,
            unlearned=self.shadows(treatment) if "unlearned" in needs else None,
            population=self._held_out(candidate) if "population" in needs else None,
            retain=self.context.signals(candidate, "retain") if splits else None,
            test=self.context.signals(candidate, "test") if splits else None,
            seed=self.context.config.seed,
        )

    def _of_denoiser(self, candidate: Candidate, labels: NDArray[np.int64]) -> Evidence:
        """Return a generator's evidence, which has neither logits nor shadow models."""
        if candidate.label not in self._denoised:
            grid = self.context.draws("forget")
            found = denoised(candidate, self.pool, draws=grid, compute=self.context.compute)
            self._denoised[candidate.label] = found
        none = np.zeros((len(labels), 0, 0), np.float32)
        return Evidence(
            none, labels, none.reshape(len(labels), 0), seed=self.context.config.seed,
            denoised=self._denoised[candidate.label],
        )  # fmt: skip

    def explained(self, attack: Attack, candidate: Candidate, treatment: Treatment | None) -> Mapping[str, Any]:
        """Return what an attack estimated from shadow models, which is the same for every target."""
        key = attack.name, treatment.key if treatment else ""
        if key not in self._explained:
            try:
                told = attack.explain(self.evidence(candidate, attack, treatment)) if attack.explain else {}
            except MeasurementError:  # then there are no scores either, and their reason is told
                told = {}
            self._explained[key] = told
        return self._explained[key]

    def own_models(self, attack: Attack, treatment: Treatment | None) -> OwnModels | None:
        """Return what an attack finds of the fleet's own models that went through a treatment; None without them."""
        if treatment is None:
            return None
        key = attack.name, treatment.key
        if key not in self._own:
            labels = self.pool.examples.labels.numpy()[self.pool.targets]
            self._own[key] = own_models(attack, self.shadows(treatment), labels) if self.count(treatment) else None
        return self._own[key]

    def signals(self, treatment: Treatment | None) -> FleetSignals:
        """Return everything that the fleet's finished models say, without or after a treatment."""
        if self.fleet is None:
            raise DataError("no shadow models were named")
        key = treatment.key if treatment else ""
        if key not in self._signals:
            self._signals[key] = self.fleet.evidence(treatment, self.pool)
        return self._signals[key]

    def count(self, treatment: Treatment | None) -> int:
        """Return how many of the fleet's models can be asked."""
        try:
            return len(self.signals(treatment).models)
        except MeasurementError:
            return 0

    @property
    def training(self) -> dict[str, Any]:
        """How the shadow models were trained: the recipe, and on how many examples each."""
        if self.fleet is None:
            return {}
        recipe = {"model": self.fleet.plan.model, **self.fleet.plan.recipe}
        return {"shadow_recipe": recipe, "shadow_training_examples": len(self.pool.examples) // 2}

    def shadows(self, treatment: Treatment | None) -> Shadows:
        """Return the fleet's signals as attacks take them."""
        key = treatment.key if treatment else ""
        if key not in self._shadows:
            self._shadows[key] = as_shadows(self.signals(treatment), self.pool, unlearned=treatment is not None)
        return self._shadows[key]

    def _answers(self, candidate: Candidate, images: Tensor) -> NDArray[np.float32]:
        """Return [N, Q, C] logits of a candidate."""
        if candidate.label not in self._asked:
            views = [self._view(candidate, images, number) for number in range(self.queries)]
            self._asked[candidate.label] = np.stack(views, axis=1)
        return self._asked[candidate.label]

    def _view(self, candidate: Candidate, images: Tensor, number: int) -> NDArray[np.float32]:
        def seen(batch: Tensor) -> Tensor:
            return query(candidate.transform(batch), number)

        return self._logits(candidate, ["attacked", number], images, seen)

    def _logits(self, candidate: Candidate, which: object, images: Tensor, seen: Inputs) -> NDArray[np.float32]:
        """Return [N, C] logits of a candidate on images of the pool, which `which` names."""

        def answers() -> Arrays:
            return {"logits": predict(candidate.model, images, seen, compute=self.context.compute)}

        logits: NDArray[np.float32] = self.context.kept(candidate, ["pool", self.pool.sha256, which], answers)["logits"]
        if not np.isfinite(logits).all():
            raise MeasurementError(f"{candidate.label}: the model's outputs are not finite on some attacked examples")
        return logits

    def _held_out(self, candidate: Candidate) -> Population:
        if candidate.label not in self._population:
            examples = self.pool.population
            logits = self._logits(candidate, "population", examples.images, candidate.transform)
            signals = Signals(logits, examples.labels.numpy())
            self._population[candidate.label] = Population(signals, _rows(candidate, examples.images))
        return self._population[candidate.label]


def as_shadows(found: FleetSignals, pool: Pool, *, unlearned: bool) -> Shadows:
    """Return a fleet's signals as attacks take them.

    Args:
        found: of all its finished models.
        pool: that they were made for.
        unlearned: whether they went through a treatment.
    """
    inside = found.forgotten if unlearned else found.inside
    return Shadows(
        found.queried,
        inside[:, pool.targets],
        ~found.inside[:, pool.targets],
        found.plain[:, pool.rest],
        found.inside[:, pool.rest],
        pool.examples.labels.numpy()[pool.rest],
        found.plain[:, len(pool.examples) :],
    )


def _rows(candidate: Candidate, images: Tensor) -> NDArray[np.float32]:
    """Return images as the model gets them, one a row."""
    rows: NDArray[np.float32] = candidate.transform(images).flatten(1).numpy()
    return rows


def attack_inputs(context: AuditContext, folder: str | None) -> tuple[AttackInputs, list[str]]:
    """Return what attacks look at, with the fleet of a folder where one is named, and what is to be said of it.

    Raises:
        DataError: the fleet was made for other examples.
        AuditError: the folder is no fleet.
    """
    pool = make_pool(context.splits, seed=context.config.seed)
    fleet = open_fleet(Path(folder)) if folder else None
    if fleet is not None and fleet.pool_sha256 != pool.sha256:
        raise DataError(_other_examples(context, str(folder)))
    said = []
    missing = fleet.missing(pool) if fleet else 0
    if missing:
        said.append(
            f"{missing} models of the fleet in {folder} are not finished: membership inference used the others; "
            "`unlearn-audit shadows run` goes on"
        )
    if fleet is not None:
        said += _not_alike(context, fleet)
    return AttackInputs(context, pool, fleet), said


def _other_examples(context: AuditContext, folder: str) -> str:
    """Say that a fleet was made for other examples, and where its forget set is one that is drawn otherwise now."""
    message = (
        f"the shadow models in {folder} were made for other examples than those measured here: data, forget set, "
        "unseen twin, sample and seed must be those of `shadows plan`; plan them anew in another folder"
    )
    try:
        own = read_training_indices(str(Path(folder, "forget.npy").absolute()), context.splits.dataset)
    except DataError:
        return message
    old = old_forget_set(context.config.forget, own.sha256, len(context.splits.dataset.train))
    return f"{message}; {old}" if old else message


def _not_alike(context: AuditContext, fleet: Fleet) -> list[str]:
    """Say which subjects the shadow models do not stand for, since they were trained in another way."""
    own = fleet.plan.recipe | {"model": fleet.plan.model}
    subjects = ((each.label, own, each.training) for each in context.subjects if each.recipe)
    return [
        f"the shadow models were not trained as {', '.join(labels)} ({told}): what they say of an example is not what "
        "such a model would say, and an attack may see less, or more, than there is"
        for told, labels in by_difference(subjects).items()
    ]
