"""The models of an audit on a cluster: each its own task, in the order that parents ask for, to the same bytes."""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Run

from unlearn_audit.audit.build_models import make_models
from unlearn_audit.audit.models_apart import make_models_on_ray
from unlearn_audit.config import Resolved, file_layer, resolve
from unlearn_audit.errors import MeasurementError, OutputError

CONFIG = """
schema_version = 1
data = "{data}"
forget = "{forget}"
model = "small-cnn"
device = "cpu"

[[train]]
label = "original"
epochs = 1

[[train]]
label = "retrained"
without = true
seeds = [1, 2]
epochs = 1

[[apply]]
label = "ieu"
method = "ieu"
to = "original"
settings = {{ steps = [1, 2] }}

[[apply]]
label = "tuned"
method = "ft"
to = "ieu-steps-1"
settings = {{ steps = 1 }}

[gaps]
"""
FIRST, THEN, LAST = ["original", "retrained-1", "retrained-2"], ["ieu-steps-1", "ieu-steps-2"], ["tuned"]


@pytest.fixture
def config(target: Path, tmp_path: Path) -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(CONFIG.format(data=f"npz:{target / 'data.npz'}", forget=target / "forget.npy"))
    return path


@pytest.fixture
def request_of(config: Path) -> Resolved:
    return resolve([file_layer(config, origin="config")])


class Nodes:
    """A cluster that does each task when it is asked whether it has ended, the one that was given last first."""

    def __init__(self, broken: str | None = None) -> None:
        self.done, self.most, self.broken, self.asked = list[str](), 0, broken, dict[str, Any]()
        self.face = SimpleNamespace(
            init=lambda **settings: self.asked.update(settings),
            remote=self.remote, wait=self.wait, get=self.get, shutdown=lambda: None,
            cluster_resources=lambda: {"CPU": 2.0},
        )  # fmt: skip

    def remote(self, **needs: Any) -> Callable[..., Any]:
        self.asked |= needs
        return lambda function: SimpleNamespace(remote=lambda *given: (function, given[0], Given(given)))

    def wait(self, waiting: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        self.most = max(self.most, len(waiting))
        return waiting[-1:], waiting[:-1]

    def get(self, task: Any) -> Any:
        function, given = task[0], task[-1].given
        self.done.append(given[0])
        if given[0] == self.broken:
            raise RuntimeError("a traceback\nRuntimeError: out of memory")
        return function(*given)


class Given:
    """What a task is given, which need not be hashable."""

    def __init__(self, given: tuple[Any, ...]) -> None:
        self.given = given


def models(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "models").glob("*")}


def test_each_model_is_a_task_and_comes_to_the_bytes_of_one_process(
    request_of: Resolved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes()
    monkeypatch.setitem(sys.modules, "ray", nodes.face)
    make_models_on_ray(request_of, tmp_path / "apart", address="head:6379")
    assert [sorted(nodes.done[:3]), sorted(nodes.done[3:5]), nodes.done[5:]] == [FIRST, THEN, LAST]
    assert (nodes.most, nodes.asked["num_cpus"], nodes.asked["num_gpus"]) == (2, 1, 0)
    assert nodes.asked["address"] == "head:6379"
    make_models(request_of, tmp_path / "one")
    assert models(tmp_path / "apart") == models(tmp_path / "one")
    nodes.done.clear()
    make_models_on_ray(request_of, tmp_path / "apart")
    assert nodes.done == []


def test_one_that_cannot_be_made_holds_up_only_what_starts_from_it(
    request_of: Resolved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(broken="ieu-steps-1")
    monkeypatch.setitem(sys.modules, "ray", nodes.face)
    with pytest.raises(MeasurementError, match=r"^ieu-steps-1: RuntimeError: out of memory$"):
        make_models_on_ray(request_of, tmp_path / "apart", workers=1)
    assert sorted(nodes.done) == sorted([*FIRST, *THEN])
    assert nodes.most == 1
    assert len(models(tmp_path / "apart")) == 4


def test_nodes_that_do_not_see_the_folder_are_told_of(
    request_of: Resolved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes()
    monkeypatch.setattr(nodes.face, "get", lambda task: None)
    monkeypatch.setitem(sys.modules, "ray", nodes.face)
    with pytest.raises(MeasurementError, match="original: it is not in .* afterwards: do all nodes see that folder"):
        make_models_on_ray(request_of, tmp_path / "apart")


def test_what_a_task_refuses_is_told_for_each_model(
    request_of: Resolved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", Nodes().face)
    monkeypatch.setattr("unlearn_audit.audit.models_apart.make_models", refuse)
    with pytest.raises(MeasurementError, match=r"^original: no space; retrained-1: no space; retrained-2: no space$"):
        make_models_on_ray(request_of, tmp_path / "apart")


def refuse(*_: Any) -> None:
    raise OutputError("no space")


def test_without_ray_an_audit_names_the_extra(
    config: Path, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = run("audit", config, "--out", here / "out", "--backend", "ray")
    assert ran.code == 2
    assert "--backend ray needs Ray: pip install 'unlearn-audit[ray]'" in ran.stderr
    ran = run("audit", config, "--out", here / "out", "--address", "auto")
    assert ran.code == 2
    assert "--address is of a Ray cluster: add --backend ray" in ran.stderr


@pytest.mark.slow
def test_a_real_ray_makes_the_same_bytes(request_of: Resolved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'unlearn-audit[ray]'")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    make_models_on_ray(request_of, tmp_path / "apart", workers=2)
    assert import_module("ray").is_initialized() is False
    make_models(request_of, tmp_path / "one")
    assert models(tmp_path / "apart") == models(tmp_path / "one")
