"""What a fleet has to say: the finished models' answers, and who of them saw what."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from unlearn_audit.checkpoints import Metadata
from unlearn_audit.data import Pool
from unlearn_audit.errors import MeasurementError
from unlearn_audit.files import sha256_of_file
from unlearn_audit.shadows.folder import FleetFolder
from unlearn_audit.shadows.jobs import signals_key
from unlearn_audit.shadows.plan import FleetPlan, Job, Treatment, all_jobs, members, read_plan


class FleetSignals(NamedTuple):
    """What M models say of a pool of P examples (2 n of them attacked) and of Z held-out ones.

    Attributes:
        plain: [M, P + Z, C] float32 logits on the plain images.
        queried: [M, 2 n, Q, C] float32, on all views of the attacked ones.
        inside: [M, P] whether the model was trained on the example.
        forgotten: [M, P] whether it then unlearned it; all False without a treatment.
        models: [M] job ids.
        sha256s: [M] digests of the checkpoints.
    """

    plain: NDArray[np.float32]
    queried: NDArray[np.float32]
    inside: NDArray[np.bool_]
    forgotten: NDArray[np.bool_]
    models: tuple[str, ...]
    sha256s: tuple[str, ...]


class Fleet:
    """A fleet as it stands, for a pool that the caller has made from its own data."""

    def __init__(self, path: Path) -> None:
        self.folder, self.plan = FleetFolder(path), read_plan(path)

    @property
    def pool_sha256(self) -> str:
        """Digest of the pool that the fleet was planned for."""
        return self.plan.pool_sha256

    def treatment_of(self, metadata: Metadata) -> Treatment | None:
        """Return the treatment that an unlearned checkpoint went through, if the fleet has it."""
        own = treatment_in(metadata)
        return next((each for each in self.plan.treatments if own is not None and each.key == own.key), None)

    def missing(self, pool: Pool) -> int:
        """Return how many planned models are not finished."""
        return sum(not self.folder.finished(job) for job in all_jobs(self.plan, len(pool.examples)))

    def evidence(self, treatment: Treatment | None, pool: Pool) -> FleetSignals:
        """Return what the finished models say.

        Args:
            treatment: of the models asked for; None for those that were only trained.
            pool: the one that the fleet was planned for.

        Raises:
            MeasurementError: nothing is finished, or a file is damaged.
        """
        key = treatment.key if treatment else None
        wanted = [
            job
            for job in all_jobs(self.plan, len(pool.examples))
            if (job.treatment.key if job.treatment else None) == key and self.folder.finished(job)
        ]
        if not wanted:
            kind = f"was put through {treatment.method}" if treatment else "is trained"
            raise MeasurementError(
                f"no shadow model in {self.folder.path} {kind} yet; `unlearn-audit shadows run` goes on"
            )
        digests = tuple(sha256_of_file(self.folder.model(job)) for job in wanted)
        said = [
            read_signals(self.folder.signals(job), self.plan, digest)
            for job, digest in zip(wanted, digests, strict=True)
        ]
        inside = np.stack([_mask(self.plan, job, len(pool.examples)) for job in wanted])
        attacked = np.zeros(len(pool.examples), dtype=bool)
        attacked[pool.targets] = treatment is not None
        return FleetSignals(
            np.stack([each.plain for each in said]),
            np.stack([each.queried for each in said]),
            inside,
            inside & attacked,
            tuple(job.id for job in wanted),
            digests,
        )


def _mask(plan: FleetPlan, job: Job, size: int) -> NDArray[np.bool_]:
    mask = np.zeros(size, dtype=bool)
    mask[members(plan, job.number, size)] = True
    return mask


class Answers(NamedTuple):
    """What one model says: [P + Z, C] and [2 n, Q, C] float32 logits, and a text that everything they depend on is in.

    See `FleetSignals` and `signals_key`.
    """

    plain: NDArray[np.float32]
    queried: NDArray[np.float32]
    key: str


def load_signals(path: Path) -> Answers:
    """Read the answers of a model, whichever it was.

    Raises:
        MeasurementError: the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            key, plain, queried = (arrays[name] for name in ("key", "plain", "queried"))
    except Exception as problem:  # a damaged archive can fail in any way
        told = str(problem).partition("\n")[0] or type(problem).__name__
        raise MeasurementError(f"{path} cannot be read ({told}); {ANEW}") from problem
    if plain.dtype != np.float32 or queried.dtype != np.float32 or plain.ndim != 2 or queried.ndim != 3:
        raise MeasurementError(f"{path} holds arrays of another kind; {ANEW}")
    return Answers(plain, queried, key.tobytes().decode(errors="replace"))


ANEW = "remove it, and `unlearn-audit shadows run` makes it anew"


def read_signals(path: Path, plan: FleetPlan, model_sha256: str) -> Answers:
    """Read the answers of the model that has this digest.

    Raises:
        MeasurementError: the file is damaged, or belongs to another model.
    """
    found = load_signals(path)
    if found.key != signals_key(plan, model_sha256):
        raise MeasurementError(
            f"{path} is what another model said, or models/{path.stem}.safetensors has changed since; remove both, and "
            "`unlearn-audit shadows run` makes them anew"
        )
    return found


def treatment_in(metadata: Metadata) -> Treatment | None:
    """Return the method, settings and transforms that a checkpoint's metadata has; None where it has none."""
    if metadata.method is None:
        return None
    return Treatment(method=metadata.method, settings=dict(metadata.settings), transforms=metadata.transforms)


def open_fleet(folder: Path) -> Fleet:
    """Return the fleet of a folder.

    Raises:
        UsageError: there is no fleet.
        ConfigError: its plan is damaged.
    """
    return Fleet(folder)
