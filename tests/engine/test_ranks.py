"""Passes that several processes share: the same bits as one process's, and what happens when one of them is gone."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn

from unlearn_audit.curvature import Curvature
from unlearn_audit.data import Examples, Transform
from unlearn_audit.engine import Device, FullBatch, RankLostError, Ranks, join_ranks, predict
from unlearn_audit.engine.ranks import told_if_lost
from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.models.small import small_cnn
from unlearn_audit.relearning import Run, relearn

Noise = Callable[..., Examples]
HALF = Transform((0.5,), (0.25,))
ONE = Device(torch.device("cpu"), chunk=8)


def on(size: int, work: Callable[[Ranks], Any], folder: Path) -> list[Any]:
    """What each of so many forked processes makes of its place among them; None of one that ended without."""

    def run(rank: int) -> None:
        store = distributed.FileStore(str(folder / f"store{size}"), size)
        distributed.init_process_group("cpu:gloo", store=store, rank=rank, world_size=size)
        torch.save(work(Ranks(rank, size)), folder / f"{size}-{rank}.pt")
        os._exit(0)

    processes = [multiprocessing.get_context("fork").Process(target=run, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    files = [folder / f"{size}-{rank}.pt" for rank in range(size)]
    return [torch.load(file) if file.exists() else None for file in files]


class Odd(nn.Module):
    """A network in channels-last layout, with a weight that takes no part and one that is not to be trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.idle, self.fixed = small_cnn(classes=10, channels=1), nn.Linear(2, 2), nn.Linear(10, 10)
        self.fixed.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fixed(self.net(images))


def looked_at(examples: Examples, ranks: Ranks) -> dict[str, Any]:
    """Everything that passes over a set tell."""
    model, compute = Odd(), replace(ONE, ranks=ranks)
    batch = FullBatch(examples, HALF, compute=compute)
    streamed = FullBatch(examples, HALF, compute=compute, resident=False)
    found = batch.forward_backward(compute.to_device(model).eval())
    gradients = {name: each.grad for name, each in model.named_parameters()}
    hessian = Curvature(model, batch)
    curve = relearn(Run(model, examples, HALF), steps=4, step_size=0.1, compute=compute)
    return {
        "losses": torch.from_numpy(found.losses),
        "errors": torch.from_numpy(found.errors),
        "streamed": torch.from_numpy(streamed.forward(model).losses),
        "gradients": gradients,
        "strides": {name: each.stride() for name, each in gradients.items() if each is not None},
        "product": hessian @ torch.ones(hessian.size),
        "logits": torch.from_numpy(predict(model, examples.images, HALF, compute=compute)),
        "curve": [torch.from_numpy(column) for column in (curve.loss, curve.gradient_norm, curve.areas)],
    }


@pytest.mark.parametrize("n", [45, 7], ids=["six chunks", "fewer chunks than processes"])
def test_one_two_and_four_processes_come_to_the_same_bits(noise: Noise, tmp_path: Path, n: int) -> None:
    examples = noise(n)
    alone = looked_at(examples, Ranks())
    assert not same(alone, looked_at(noise(n, seed=1), Ranks()))
    for size in (2, 4):
        for found in on(size, lambda ranks: looked_at(examples, ranks), tmp_path):
            assert same(found, alone), size


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal in every bit, the sign of zero included."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.detach().numpy().tobytes() == other.detach().numpy().tobytes()
    return bool(one == other)


def test_the_order_of_the_sum_is_that_of_the_chunks(tmp_path: Path) -> None:
    values = torch.tensor([1e8, 1.0, -1e8, 1.0])  # any other order has another sum in float32
    in_order = ((values[0] + values[1]) + values[2]) + values[3]

    def total(ranks: Ranks) -> float:
        return float(ranks.summed(4, lambda index: values[index].expand(3), like=torch.zeros(3))[0])

    assert [total(Ranks()), *on(3, total, tmp_path)] == [float(in_order)] * 4


def test_where_one_is_gone_the_others_say_so(noise: Noise, tmp_path: Path) -> None:
    def told(ranks: Ranks) -> str:
        if ranks.rank == 1:
            os._exit(9)
        try:
            looked_at(noise(45), ranks)
        except RankLostError as problem:
            return str(problem)
        return ""

    first, second = on(2, told, tmp_path)
    assert "another process of this run ended before its time" in first
    assert first.endswith(")")  # with what the transport says
    assert second is None


def test_memory_that_ends_here_is_not_taken_for_a_lost_one() -> None:
    with pytest.raises(torch.OutOfMemoryError), told_if_lost():
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RankLostError, match=r"without it \(Connection closed by peer\)$"), told_if_lost():
        raise RuntimeError("Connection closed by peer\nframe #0")


def test_one_that_nobody_else_joins_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port = one.getsockname()[1]
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MeasurementError, match=r"could not join .*1/2 clients joined.*unset WORLD_SIZE"):
        join_ranks(within=timedelta(seconds=1))


def test_weights_of_several_types_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(UsageError, match="several types"):
        Ranks(0, 2).accumulate(model, 2, lambda index: None)


def test_chunks_go_round() -> None:
    assert [list(Ranks(rank, 3).own(7)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert np.sum([len(Ranks(rank, 3).own(2)) for rank in range(3)]) == 2
