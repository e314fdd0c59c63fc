"""One run on several processes: the chunks of a pass are shared out, and summed in the order of one process.

Every rank runs the same program on the same data; what it decides by is the same on all of them, so that they stay in
step without being told. Only passes over chunks are divided: rank r of W takes the chunks r, r + W, r + 2 W, ... What
one process adds up is a sum over chunks in their order, in floating point, where the order decides the last bits. So
no all-reduce, whose order depends on the number of ranks: each rank keeps a W-th of every vector, is sent that part of
each chunk's gradient, and adds in the order of chunks. Bits are those of one process with as many threads as a rank.

With P the bytes of the gradient and C chunks, a pass sends about (C / W + 1) P from each rank and holds 4 P beside the
model's own gradient, whatever C is; an all-reduce would send 2 P. With fewer chunks than ranks some have nothing to do.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.rendezvous import rendezvous

from unlearn_audit.errors import MeasurementError, UsageError

BACKENDS = "cpu:gloo,cuda:nccl"
JOIN_WITHIN = timedelta(minutes=5)  # for all to start in, whose loading torch takes minutes from a busy file system


class RankLostError(MeasurementError):
    """Another rank of this run ended before its time, so that nobody can go on."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; by default the only one."""

    rank: int = 0
    size: int = 1

    def own(self, count: int) -> range:
        """Return which of `count` chunks are this rank's."""
        return range(self.rank, count, self.size)

    def gathered(self, own: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
        """Return the rows of all chunks in their order, [N, width] on the CPU.

        Args:
            own: the rows [B, width] of each of this rank's chunks, of one type.
            sizes: how many rows each of all chunks has.
        """
        rows = torch.cat(list(own)).cpu() if own else torch.zeros(0, 0)
        if self.size == 1:
            return rows
        shape = torch.tensor([rows.shape[1], _TYPES.index(rows.dtype) if own else 0])
        with told_if_lost():
            distributed.all_reduce(shape, distributed.ReduceOp.MAX)
        width, kind = shape.tolist()
        shares = [sizes[rank :: self.size] for rank in range(self.size)]
        most = max(map(sum, shares))
        padded = torch.zeros(most, width, dtype=_TYPES[kind])
        padded[: len(rows), : rows.shape[1]] = rows
        found = [torch.empty_like(padded) for _ in range(self.size)]
        with told_if_lost():
            distributed.all_gather(found, padded)
        cut = [iter(each[: sum(share)].tensor_split(_ends(share))) for each, share in zip(found, shares, strict=True)]
        return torch.cat([next(cut[index % self.size]) for index in range(len(sizes))])

    def summed(self, count: int, vector: Callable[[int], Tensor], *, like: Tensor) -> Tensor:
        """Return the sum over chunks of a vector [d], added in their order: the same bits on any number of ranks.

        Args:
            count: of chunks, at least one.
            vector: which chunk -> its vector, of which only this rank's own are asked for.
            like: a tensor of the type and the device of these vectors, [d].
        """
        if self.size == 1:
            total = vector(0).clone()
            for index in range(1, count):
                total += vector(index)
            return total
        piece = -(-len(like) // self.size)
        sent = like.new_zeros(self.size * piece)
        received, total = torch.empty_like(sent), like.new_zeros(piece)
        for first in range(0, count, self.size):
            if first + self.rank < count:
                sent[: len(like)] = vector(first + self.rank)
            with told_if_lost():
                distributed.all_to_all_single(received, sent)
            for index, part in enumerate(received.view(self.size, piece)[: count - first]):
                total = part.clone() if first + index == 0 else total.add_(part)
        found = list(received.view(self.size, piece))
        with told_if_lost():
            distributed.all_gather(found, total)
        return torch.cat(found)[: len(like)]

    def accumulate(self, model: nn.Module, count: int, backward: Callable[[int], None]) -> None:
        """Leave in `.grad` the sum over chunks of what `backward` adds to it, in the order of chunks.

        Args:
            model: whose gradients are taken; they are removed first.
            count: of chunks, at least one.
            backward: takes the gradient of a chunk, of which only this rank's own are asked for.
        """
        model.zero_grad(set_to_none=True)
        if self.size == 1:
            for index in range(count):
                backward(index)
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        has = torch.zeros(len(parameters), dtype=torch.uint8)

        def flat(index: int) -> Tensor:
            model.zero_grad(set_to_none=True)
            backward(index)
            for place, parameter in enumerate(parameters):
                has[place] |= parameter.grad is not None
            return _flat(parameters)

        like = parameters[0].new_zeros(sum(map(Tensor.numel, parameters)), dtype=_common_type(parameters))
        total = self.summed(count, flat, like=like)
        with told_if_lost():
            distributed.all_reduce(has, distributed.ReduceOp.MAX)
        pieces = total.tensor_split(_ends([parameter.numel() for parameter in parameters]))
        for parameter, piece, there in zip(parameters, pieces, has.tolist(), strict=True):
            # in the parameter's own layout, which sums over a gradient's entries depend on
            like = torch.empty_like(parameter, memory_format=torch.preserve_format)
            parameter.grad = like.detach().copy_(piece.view(parameter.shape)) if there else None


ALONE = Ranks()
_TYPES = (torch.float32, torch.float64)


def _common_type(parameters: Sequence[Tensor]) -> torch.dtype:
    """Return the type of all parameters, in which their gradients are added."""
    kind, *others = {each.dtype: None for each in parameters}
    if others:
        raise UsageError("parameters of several types cannot be shared out among processes; leave --nproc out")
    return kind


def _ends(sizes: Sequence[int]) -> list[int]:
    """Return where to cut so that the pieces have these sizes."""
    return list(accumulate(sizes[:-1]))


def _flat(parameters: Sequence[nn.Parameter]) -> Tensor:
    return torch.cat([
        (torch.zeros_like(each) if each.grad is None else each.grad).reshape(-1) for each in parameters
    ]).detach()  # fmt: skip


@contextmanager
def told_if_lost() -> Iterator[None]:
    """Say in the block's place that another rank is gone, where that is why it failed.

    Yields:
        Nothing.

    Raises:
        RankLostError: a message could not be sent or did not come.
    """
    try:
        yield
    except torch.OutOfMemoryError:  # this rank's own
        raise
    except RuntimeError as problem:  # of the transport, which has no type of its own for all backends
        raise RankLostError(
            f"another process of this run ended before its time, and none can go on without it ({_first_line(problem)})"
        ) from problem


def _first_line(problem: Exception) -> str:
    return next(iter(str(problem).splitlines()), type(problem).__name__)


class Joined(NamedTuple):
    """A run that was joined: one's place in it, and what its processes leave word in."""

    ranks: Ranks
    store: Any  # of torch.distributed

    def say(self, word: str) -> None:
        """Leave word for the others."""
        with suppress(RuntimeError):  # nobody is left who could read it
            self.store.set(word, "")

    def heard(self, word: str, seconds: float) -> bool:
        """Return whether anybody has left that word, or does so within some seconds."""
        try:
            self.store.wait([word], timedelta(seconds=seconds))
        except RuntimeError:
            return False
        return True


def join_ranks(within: timedelta = JOIN_WITHIN) -> Joined:
    """Join the run that the environment names (WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT).

    Args:
        within: how long to wait for the others.

    Raises:
        UsageError: the environment does not name one.
        MeasurementError: the others cannot be reached.
    """
    named = f"WORLD_SIZE={os.environ.get('WORLD_SIZE')}"
    try:
        store, rank, size = next(rendezvous("env://", timeout=within))
        store.set_timeout(default_pg_timeout)  # one that computes is waited for longer than one that starts
        backend = BACKENDS if torch.cuda.is_available() else "cpu:gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    except ValueError as problem:
        raise UsageError(f"{named} is set, but the run cannot be joined: {problem}") from problem
    except RuntimeError as problem:
        raise MeasurementError(
            f"could not join the other processes of this run ({_first_line(problem)}); start all of {named}, as "
            "torchrun does, or unset WORLD_SIZE to run this one alone"
        ) from problem
    return Joined(Ranks(rank, size), store)


def ranks_here() -> Ranks:
    """Return which of how many processes this one is."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return ALONE
    return Ranks(distributed.get_rank(), distributed.get_world_size())
