"""Going on where a killed run stopped: a file beside the output with weights, optimiser state and the step."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unlearn_audit.checkpoints import STATE_ENTRY
from unlearn_audit.errors import CheckpointError, OutputError, UsageError
from unlearn_audit.files import atomic_write, check_input
from unlearn_audit.strict_json import parse_object

SCHEMA = 1


def state_path(out: Path) -> Path:
    """Return where the state of a run that writes `out` is kept."""
    return out.with_name(f"{out.name}.resume")


class SavedState(NamedTuple):
    """A state between two steps, on the device: steps done, and tensors "weights/…", "optimizer/…", "memory/…"."""

    done: int
    tensors: dict[str, Tensor]


class StateFile:
    """What makes `apply` resumable: the last good state in memory, and in a file every so many seconds.

    Args:
        path: the file.
        identity: everything that the run's result depends on; a state of another run is refused.
        resume: go on with the file where there is one.
        every: seconds between two writes.
        memory: what the method must remember; restored in place.
        clock: tells seconds.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        *,
        resume: bool,
        every: float,
        memory: dict[str, Tensor],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path, self.identity, self.resume, self.every = path, json.loads(json.dumps(identity)), resume, every
        self.memory, self.clock = memory, clock
        self.last: SavedState | None = None
        self.resumed_at = 0
        self._kept: SavedState | None = None  # of the file, once it is read
        self._model: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._began = self._written = clock()
        self._before = 0.0  # seconds that earlier runs took

    @property
    def seconds(self) -> float:
        """Seconds of work so far, those before a kill up to the last write included."""
        return self._before + self.clock() - self._began

    def recall(self, model: nn.Module) -> int:
        """Restore the memory alone, ahead of `start`: a method of several stages prepares one by what stands there.

        Args:
            model: on whose device it goes.

        Returns:
            How many steps are done.

        Raises:
            UsageError: as `start`.
            CheckpointError: as `start`.
        """
        kept = self._of_file()
        if kept is None:
            return 0
        self._recall(kept, model)
        return kept.done

    def start(self, model: nn.Module, optimizer: torch.optim.Optimizer, *, since: int = 0) -> int:
        """Restore the file's state where one is asked for and there, and return how many steps are done.

        Args:
            model: whose weights are restored and kept.
            optimizer: whose state is restored and kept.
            since: steps that stages before have taken: a state of theirs is left alone.

        Raises:
            UsageError: it belongs to another run.
            CheckpointError: it cannot be read, or does not fit.
        """
        self._model, self._optimizer = model, optimizer
        kept = self._of_file()
        if kept is None or (since and kept.done <= since):
            return since
        self._restore(kept)
        self.last, self.resumed_at = kept, kept.done
        return kept.done

    def _of_file(self) -> SavedState | None:
        """Return what the file holds where it is to be gone on with, read once."""
        if self._kept is None and self.resume and self.path.exists():
            self._kept = self._read()
        return self._kept

    def _recall(self, kept: SavedState, model: nn.Module) -> None:
        device = next(model.parameters()).device
        for name, tensor in kept.tensors.items():
            if name.startswith("memory/"):
                self.memory[name.removeprefix("memory/")] = tensor.to(device)

    def keep(self, done: int) -> None:
        """Keep the state after `done` steps, and write it when it is time."""
        self.last = SavedState(done, self._state())
        if self.clock() - self._written >= self.every:
            self.write()

    def write(self) -> bool:
        """Write the last state, whole or not at all; return whether there is one.

        Raises:
            OutputError: no space, no permission.
        """
        if self.last is None:
            return False
        about = {"schema": SCHEMA, "identity": self.identity, "done": self.last.done, "seconds": self.seconds}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.last.tensors.items()}
        entry = {STATE_ENTRY: json.dumps(about, sort_keys=True)}
        try:
            atomic_write(self.path, lambda target: save_file(tensors, target, metadata=entry))
        except SafetensorError as problem:
            raise OutputError(f"cannot write {self.path}: {problem}") from problem
        self._written = self.clock()
        return True

    def remove(self) -> None:
        """Remove the file once the result is written, or is of no use."""
        self._kept = None
        self.path.unlink(missing_ok=True)

    def weights(self) -> dict[str, Tensor]:
        """Return the state dict of the last good state, {} before there is one."""
        return _weights(self.last) if self.last else {}

    def _state(self) -> dict[str, Tensor]:
        found = {f"memory/{name}": tensor for name, tensor in self.memory.items()}
        if self._model is not None:
            found |= {f"weights/{name}": tensor.clone() for name, tensor in self._model.state_dict().items()}
        if self._optimizer is not None:
            for index, values in self._optimizer.state_dict()["state"].items():
                found |= {
                    f"optimizer/{index}/{key}": value.clone()
                    for key, value in values.items()
                    if isinstance(value, Tensor)
                }
        return found

    def _read(self) -> SavedState:
        try:
            check_input(self.path, "state file", CheckpointError)
            with safe_open(self.path, framework="pt") as stream:
                about = parse_object((stream.metadata() or {}).get(STATE_ENTRY, "null"))
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            if about["schema"] != SCHEMA:
                raise ValueError(f"schema {about['schema']!r:.40} where this version reads {SCHEMA}")
            identity, done, seconds = dict(about["identity"]), int(about["done"]), float(about["seconds"])
        except (CheckpointError, SafetensorError, OSError, ValueError, TypeError, KeyError) as problem:
            raise self._unreadable(str(problem)) from problem
        was, now = _flat(identity), _flat(self.identity)
        other = [key for key in {**now, **was} if now.get(key) != was.get(key)]
        if other:
            told = "; ".join(f"{key} {was.get(key)!r:.60}, now {now.get(key)!r:.60}" for key in other)
            raise UsageError(
                f"{self.path} is the state of another run ({told}); repeat that one's command to go on with it, or use "
                "--force without --resume to begin anew"
            )
        self._before = seconds
        return SavedState(done, tensors)

    def _restore(self, kept: SavedState) -> None:
        """Put a state into the model, the optimiser and the memory."""
        if self._model is None or self._optimizer is None:
            return
        state: dict[int, dict[str, Tensor]] = {}
        self._recall(kept, self._model)
        try:
            for name, tensor in kept.tensors.items():
                kind, _, rest = name.partition("/")
                if kind == "optimizer":
                    index, _, key = rest.partition("/")
                    state.setdefault(int(index), {})[key] = tensor.clone()  # the optimiser goes on in its own copy
            groups = self._optimizer.state_dict()["param_groups"]
            self._model.load_state_dict(_weights(kept))
            self._check_shapes(state)
            self._optimizer.load_state_dict({"state": state, "param_groups": groups})
        except (RuntimeError, ValueError, KeyError) as problem:
            raise self._unreadable(str(problem).splitlines()[0]) from problem

    def _check_shapes(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Refuse an optimiser's state that is not of its parameters; torch would find out in the midst of a step."""
        groups = self._optimizer.param_groups if self._optimizer else []
        parameters = [parameter for group in groups for parameter in group["params"]]
        for index, values in state.items():
            for key, value in values.items():
                if value.dim() and (index >= len(parameters) or value.shape != parameters[index].shape):
                    raise ValueError(f"optimizer/{index}/{key} has the shape {tuple(value.shape)} of no such parameter")

    def _unreadable(self, why: str) -> CheckpointError:
        return CheckpointError(f"cannot go on with {self.path}: {why}; use --force without --resume to begin anew")


def _weights(kept: SavedState) -> dict[str, Tensor]:
    """Return the state dict that a state holds."""
    return {name.removeprefix("weights/"): each for name, each in kept.tensors.items() if name.startswith("weights/")}


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity with each setting under a key of its own, so that the one that differs can be named."""
    parts = {key: value if isinstance(value, Mapping) else {"": value} for key, value in identity.items()}
    return {f"{key} {inner}".rstrip(): value for key, inside in parts.items() for inner, value in inside.items()}
