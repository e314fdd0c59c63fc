"""Fleets on Ray: what a cluster is given to do, and that a node which is killed loses nothing."""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from conftest import Run
from small_fleets import contents, plan_small

from unlearn_audit.errors import MeasurementError, UsageError
from unlearn_audit.shadows import FleetContext, open_fleet_context, run_on_ray, verify, work

EPOCHS = 40  # a step each: long enough to be killed in the midst of it


@pytest.fixture
def empty(target: Path, tmp_path: Path) -> FleetContext:
    """A fleet of four models, each of which is also unlearned, with nothing done yet."""
    plan_small(tmp_path / "s", target, epochs=EPOCHS)
    return open_fleet_context(tmp_path / "s")


def test_without_ray_the_extra_is_named(empty: FleetContext, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"--backend ray needs Ray: pip install 'unlearn-audit\[ray\]'"):
        run_on_ray(empty)
    assert run("shadows", "run", empty.folder.path, "--backend", "ray").code == 2


def test_ray_is_given_workers_and_the_folder_says_what_they_did(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster that does each piece of work when it is asked how far it is."""
    plan_small(tmp_path / "s", target)
    context = open_fleet_context(tmp_path / "s")
    asked: dict[str, Any] = {"down": 0}

    def remote(**needs: Any) -> Any:
        asked.update(needs)
        return lambda function: SimpleNamespace(remote=lambda *given: (function, given))

    def wait(waiting: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        asked["workers"] = max(asked.get("workers", 0), num_returns)
        return waiting[:1], waiting[1:]

    def get(reference: Any) -> Any:
        function, given = reference
        return function(*given)

    fake = SimpleNamespace(
        init=lambda **settings: asked.update(settings),
        remote=remote,
        wait=wait,
        get=get,
        cluster_resources=lambda: {"CPU": 3.0},
        shutdown=lambda: asked.update(down=asked["down"] + 1),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    outcome = run_on_ray(context, address="head:6379")
    assert (outcome.done, outcome.reused, outcome.waiting) == (8, 0, 0)
    assert (asked["address"], asked["workers"], asked["num_cpus"], asked["num_gpus"], asked["down"]) == (
        "head:6379",
        3,
        1,
        0,
        1,
    )
    assert run_on_ray(context).reused == 8
    assert asked["down"] == 1  # nothing to do: no cluster is bothered


def test_workers_of_a_cluster_that_only_die_are_given_up(empty: FleetContext, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def broken(*_: Any) -> Any:
        raise RuntimeError("a traceback\nRuntimeError: no such folder on this node")

    fake = SimpleNamespace(
        init=lambda **_: None,
        remote=lambda **_: lambda function: SimpleNamespace(remote=lambda *given: begun.append(1) or given),
        wait=lambda waiting, **_: (waiting, []),
        get=broken,
        cluster_resources=dict,
        shutdown=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    with pytest.raises(MeasurementError, match="the last error: RuntimeError: no such folder on this node$"):
        run_on_ray(empty, workers=2)
    assert len(begun) < 12
    with pytest.raises(UsageError, match="must be at least 1"):
        run_on_ray(empty, workers=0)


def test_an_address_without_ray_is_refused(empty: FleetContext, run: Run) -> None:
    ran = run("shadows", "run", empty.folder.path, "--address", "auto")
    assert ran.code == 2
    assert "--address is of a Ray cluster: add --backend ray" in ran.stderr


class Cluster(NamedTuple):
    """Two nodes of a real cluster on this machine, each with one core."""

    address: str
    lose_one: Callable[[], None]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster whose second node can be lost; a node loads this package from this checkout.

    Yields:
        the cluster.
    """
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'unlearn-audit[ray]'")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default, which waits for whatever else a machine does
    made = import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = made.add_node(num_cpus=1)
    yield Cluster(made.address, lambda: made.remove_node(second, allow_graceful=False))
    made.shutdown()


@pytest.mark.slow
def test_a_node_of_a_real_cluster_that_is_killed_loses_nothing(
    target: Path, tmp_path: Path, empty: FleetContext, cluster: Cluster
) -> None:
    """It is killed some time after both nodes have begun to work: at a moment that nobody chose."""
    ended = threading.Event()

    def lose() -> None:
        while not ended.is_set() and len(list(empty.folder.path.glob("claims/*.json"))) < 2:
            time.sleep(0.02)
        time.sleep(random.Random().uniform(0, 1))
        cluster.lose_one()

    loser = threading.Thread(target=lose)
    loser.start()
    outcome = run_on_ray(empty, address=cluster.address)
    ended.set()
    loser.join()
    assert (outcome.done, outcome.failed, outcome.waiting) == (8, (), 0)
    assert import_module("ray").is_initialized() is False
    plan_small(tmp_path / "undisturbed", target, epochs=EPOCHS)
    assert work(open_fleet_context(tmp_path / "undisturbed")) == 8
    assert contents(empty.folder.path) == contents(tmp_path / "undisturbed")
    assert verify(empty) == []
