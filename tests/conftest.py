"""Fixtures that several test files share."""

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from forking import Forker
from hypothesis import HealthCheck, settings

from unlearn_audit.report import (
    AuditReport,
    Comparison,
    CouldSee,
    Data,
    Interval,
    Measurement,
    SetSummary,
    Subject,
    Tool,
)

if TYPE_CHECKING:
    from unlearn_audit.data import Examples, Splits
    from unlearn_audit.shadows import FleetContext


# Small networks and matrices are fastest on one thread, the more so with several test processes side by side; this is
# heeded when torch and the linear algebra are loaded, here and in what tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What tests start would otherwise compile every module of the tool anew: a second of each process with torch.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Typer draws for a terminal wherever it finds itself on certain build machines; here it never is one.
os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"


# Limits in tests are for hangs: a property that is slow on a busy machine is no failure.
settings.register_profile("patient", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


class Ran(NamedTuple):
    """What one run of the command line left."""

    code: int
    stdout: str
    stderr: str


Run = Callable[..., Ran]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small networks are fastest, and the numbers repeatable, on one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _made_only_once() -> None:
    """What every run of the command line in this process makes anew, to the same: its commands, the digits as text."""
    import sklearn.datasets
    import typer.main

    typer.main.get_command = cache(typer.main.get_command)
    sklearn.datasets.load_digits = cache(sklearn.datasets.load_digits)


def _in_process(*args: object) -> Ran:
    from unlearn_audit.cli import main

    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["unlearn-audit", *map(str, args)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = argv
    return Ran(int(code or 0) if not isinstance(code, str) else 1, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], ModuleType]:
    """Load a script of tests/benchmarks as a module: load_benchmark("bench_step")."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "benchmarks" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def run() -> Run:
    """Run the command line in this process, through its `main`: run("rcd", path, ...) -> code, stdout, stderr."""
    return _in_process


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, 80 columns, and no settings from outside."""
    for name in [name for name in os.environ if name.startswith("UNLEARN_AUDIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _contents(folder: Path) -> dict[str, bytes | None]:
    """Return every file below a folder, hidden ones included, with its bytes; folders with None."""
    found = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in found}


def _said(stderr: str) -> str:
    """Return the message: one line of ours (a list of problems may follow), or what stands in Typer's usage box."""
    first, *rest = stderr.splitlines()
    if first.startswith("Usage: "):
        assert "─ Error ─" in stderr
        return " ".join(line.strip("│ ") for line in stderr.splitlines() if line.startswith("│"))
    assert first.startswith("error: "), stderr
    assert all(line.startswith("  - ") for line in rest), stderr
    return stderr


Refused = Callable[..., None]


@pytest.fixture
def refused(here: Path) -> Refused:
    """Hold a refusal to its rules: refused("rcd", path, ..., code=2, says=[...]), with the current folder unchanged.

    One line on stderr with every text of `says`, nothing on stdout, no traceback, no file made, changed or removed.
    """

    def check(*args: object, code: int, says: Sequence[str]) -> None:
        before = _contents(here)
        ran = _in_process(*args)
        assert ran.code == code, ran
        assert ran.stdout == ""
        assert "Traceback" not in ran.stderr
        message = _said(ran.stderr)
        assert [text for text in says if text not in message] == [], message
        assert _contents(here) == before

    return check


@pytest.fixture(scope="session")
def run_process() -> Run:
    """Run the command line in a process of its own, in the folder `cwd`."""

    def start(*args: object, cwd: Path | None = None, timeout: float = 600) -> Ran:
        code = "import sys; sys.argv[0] = 'unlearn-audit'; from unlearn_audit.cli import main; main()"
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, args)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            timeout=timeout,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return start


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    """Start the command line in processes of their own that need not load torch.

    Yields:
        what starts them: forker.start("rcd", ...).
    """
    one = Forker()
    yield one
    one.close()


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
    """Return a folder that `make` filled and its answer, as JSON; test processes that work side by side share one."""
    from filelock import FileLock

    shared = factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder, answer = shared / f"{name}-of-all", shared / f"{name}-of-all.json"
    with FileLock(shared / f"{name}-of-all.lock"):
        if not answer.exists():
            folder.mkdir(exist_ok=True)
            answer.write_text(json.dumps(make(folder)))
    return folder, json.loads(answer.read_text())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with original, retrained-1, retrained-2 and unlearned.safetensors and forget.npy.

    The small CNN after three epochs on mislabelled digits: quick to make, not well trained.
    """
    return _made_once(tmp_path_factory, "tiny", _make_tiny)[0]


def _make_tiny(folder: Path) -> None:
    import numpy as np

    from unlearn_audit.data import load_data, read_training_indices
    from unlearn_audit.engine import setup_device
    from unlearn_audit.training import pick_recipe, train_checkpoint

    dataset = load_data("digits?mislabel=0.1&seed=0")
    forget = read_training_indices("mislabelled", dataset)
    np.save(folder / "forget.npy", forget.indices)
    recipe, compute = pick_recipe("small", "small-cnn", epochs=3), setup_device("cpu")
    for seed, name in enumerate(("original", "retrained-1", "retrained-2")):
        without = forget if seed else None
        path = folder / f"{name}.safetensors"
        train_checkpoint(path, "small-cnn", dataset, recipe, without=without, seed=seed, compute=compute)
    done = _in_process(
        "apply", "ieu", folder / "original.safetensors", "--forget", folder / "forget.npy",
        "--out", folder / "unlearned.safetensors", "--steps", 10, "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.stderr


@pytest.fixture(scope="session")
def tiny_fleet(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four shadow models of `tiny`'s recipe, each also unlearned as its unlearned model was."""
    folder, _ = _made_once(tmp_path_factory, "tiny-fleet", lambda folder: make_fleet(folder / "shadows", tiny))
    return folder / "shadows"


def make_fleet(where: Path, of: Path, count: int = 4, **more: Any) -> None:
    """Make a fleet after the original and the unlearned model of a folder."""
    from unlearn_audit.config import Layer, resolve
    from unlearn_audit.shadows import open_fleet_context, plan_fleet, work

    entries = [{"path": str(of / f"{name}.safetensors")} for name in ("original", "unlearned")]
    asked = {"checkpoint": entries, "forget": str(of / "forget.npy"), "device": "cpu"} | more
    plan_fleet(where, resolve([Layer("flag", asked, "test")]), count=count)
    assert work(open_fleet_context(where)) == 2 * count


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few digits, a forget set, and an original and an unlearned model for small fleets."""
    from small_fleets import make_target

    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="session")
def finished(target: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of four models of `target`, trained and unlearned by one undisturbed worker; not to be changed."""
    from small_fleets import plan_small

    from unlearn_audit.shadows import open_fleet_context, work

    folder = tmp_path_factory.mktemp("finished") / "shadows"
    plan_small(folder, target)
    assert work(open_fleet_context(folder)) == 8
    return folder


@pytest.fixture
def whole(finished: Path, tmp_path: Path) -> "FleetContext":
    """A copy of the finished fleet, to be changed at will."""
    import shutil

    from unlearn_audit.shadows import open_fleet_context

    shutil.copytree(finished, tmp_path / "s")
    return open_fleet_context(tmp_path / "s")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """The folder that the whole demo wrote, and what it printed; takes most of a minute, so use `tiny` if it serves."""
    folder, ran = _made_once(tmp_path_factory, "demo", lambda folder: _in_process("demo", "--out", folder / "demo"))
    return folder / "demo", Ran(*ran)


@pytest.fixture(scope="session")
def audited_demo(
    demo: tuple[Path, Ran], run_process: Run, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Ran]:
    """The folder that the README's audit of the demo wrote, from a process of its own, and what it printed."""
    words = ("audit", "demo/unlearn-audit.toml", "--out", "report/")
    _, ran = _made_once(tmp_path_factory, "audited-demo", lambda _: run_process(*words, cwd=demo[0].parent))
    return demo[0].parent / "report", Ran(*ran)


@pytest.fixture(scope="session")
def noise() -> Callable[..., "Examples"]:
    """Make n examples of random images and labels: noise(n, classes=4, channels=1, size=4, seed=0)."""
    import torch

    from unlearn_audit.data import Examples

    def make(n: int, *, classes: int = 4, channels: int = 1, size: int = 4, seed: int = 0) -> Examples:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, classes, (n,), generator=generator)
        return Examples(images, labels, labels.clone())

    return make


@pytest.fixture(scope="session")
def splits(noise: Callable[..., "Examples"]) -> "Splits":
    """A hundred training examples of random images, ten of them to be forgotten."""
    from small_problems import make_small_splits

    return make_small_splits(noise)


def comparison(value: float, low: float, high: float, scale: Any = "fraction", df: float | None = None) -> Comparison:
    """Make up a comparison with the retrained models."""
    return Comparison(
        scale=scale, difference=value, interval=Interval(low=low, high=high, method="made up"), df=df,
        seen=low > 0 or high < 0, blind_below=(high - low) / 2,
    )  # fmt: skip


def could_see(share: float | None = 0.03, dose: float | None = 0.05, **values: Any) -> CouldSee:
    """Make up how small a leak would have been seen."""
    reason = None if share and dose else "not even the original is seen"
    return CouldSee(**{"share": share, "dose": dose, "runs": 18, "seen_when": "made up", "reason": reason, **values})


@pytest.fixture(scope="session")
def make_measurement() -> Callable[..., Measurement]:
    """Make up a measurement: make_measurement("rcd.raw", "unlearned", value=1.0, interval=(0.5, 1.5), ...)."""

    def make(name: str = "accuracy.test", subject: str = "unlearned", **values: Any) -> Measurement:
        if isinstance(values.get("interval"), tuple):
            low, high = values["interval"]
            values["interval"] = Interval(low=low, high=high, method="made up")
        defaults: dict[str, Any] = {
            "role": subject if subject in ("original", "retrained", "unlearned") else "subject",
            "value": 0.9,
            "unit": "fraction",
            "direction": "none",
            "n": 100,
            "method": "made up",
        }
        if any(part is not None and part.blind for part in map(values.get, ("comparison", "could_see"))):
            values["flags"] = (*values.get("flags", ()), "blind")
        return Measurement(name=name, subject=subject, **defaults | values)

    return make


@pytest.fixture(scope="session")
def make_report() -> Callable[..., AuditReport]:
    """Make up a report around measurements; its subjects are those that the measurements speak of, but no controls."""

    def make(*measurements: Measurement, **values: Any) -> AuditReport:
        roles = {entry.subject: entry.role for entry in measurements if entry.role != "control"}
        first = "unlearned" if "unlearned" in roles else next(iter(roles), "")
        sets = {name: SetSummary(spec=name, sha256="a" * 64, n=10) for name in ("forget", "retain", "test", "unseen")}
        defaults: dict[str, Any] = {
            "tool": Tool(version="0"),
            "created_at": "2026-01-01T00:00:00Z",
            "subjects": tuple(
                Subject(label=label, role=role, path=f"{label}.safetensors", model="small-cnn",
                        sha256="b" * 64 if label == first else sha256(label.encode("utf-8", "replace")).hexdigest(),
                        parameters=1, flop_per_image=2)
                for label, role in roles.items()
            ),
            "data": Data(source="digits", sha256="c" * 64, **sets),
            "measurements": measurements,
            "settings": {},
            "environment": {},
        }  # fmt: skip
        return AuditReport(**defaults | values)

    return make


@pytest.fixture(scope="session")
def stable_diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion with random weights, as diffusers writes it; only to be read."""
    from tiny_pipelines import write_stable_diffusion

    return write_stable_diffusion(tmp_path_factory.mktemp("stable-diffusion") / "sd")
