"""A killed run goes on to the same weights, bit for bit, and to nobody else's."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import Run
from forking import Forker
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from small_problems import same

from unlearn_audit.checkpoints import STATE_ENTRY, read_checkpoint
from unlearn_audit.config import Layer, resolve
from unlearn_audit.engine import loop as descent
from unlearn_audit.errors import AuditError, CheckpointError, OutputError, UsageError
from unlearn_audit.files import sha256_of_file
from unlearn_audit.methods import apply as applying
from unlearn_audit.methods import resume as resuming
from unlearn_audit.methods.apply import Applied, apply_method
from unlearn_audit.methods.resume import state_path
from unlearn_audit.progress import Progress, silent

LOOK = descent.CHECK_EVERY


class Killed(BaseException):
    """What nobody catches: as with SIGKILL, only what is on the disk is left."""


@dataclass(frozen=True)
class Case:
    """A method with settings that give it 45 steps or so."""

    method: str
    settings: dict[str, Any]
    extras: tuple[str, ...] = ()
    forget: str = ""


MOMENTUM = {"momentum": 0.9, "weight_decay": 5e-4}
CASES = {
    "ieu": Case("ieu", {"steps": 45, "alpha": 0.99, "c": 0.2, **MOMENTUM, "schedule": "cosine"}),
    "ieu-draws": Case("ieu", {"steps": 45, "alpha": 0.99, "draw": "per_epoch", "augment": "yes"}),
    "scrub": Case("scrub", {"epochs": 3, "step_size": 0.01, "rewind": True}),
    "salun": Case("salun", {"steps": 45, "batch_size": 128}),
    "neggrad-plus": Case("neggrad-plus", {"steps": 45, "optimizer": "adam", "step_size": 1e-3}),
    "ft": Case("ft", {"steps": 45}, ("mask:random", "reinit:draw=fixed", "l1")),
    "two sides": Case("neggrad-plus", {"steps": 45, **MOMENTUM}, ("nash", "feasible:focus-opt,on=step")),
    "trw": Case("trw", {"steps": 45, "batch_size": 32}, forget="class:3"),
    "retrain": Case("retrain", {}),
    "entanglement": Case("entanglement", {"steps": 45, "steps_1": 20, "step_size": 1e-3, "step_size_1": 1e-3,
                                          "limit": 1, "remote_batch_size": 32, "batch_size": 16}, ("mask:saliency",)),
}  # fmt: skip


KEPT = {"entanglement": [None, 40, 40, 60]}  # it is killed three times in its second stage, which begins at 20


def apply(case: Case, folder: Path, tiny: Path, *, seed: int = 0, **more: Any) -> Applied:
    """Run a case; the state is written at every look."""
    asked = {
        "checkpoint": [{"path": str(more.pop("parent", tiny / "original.safetensors"))}],
        "forget": str(more.pop("forget", case.forget or tiny / "forget.npy")),
        "device": "cpu",
        "seed": seed,
    } | ({"batch_size": more.pop("chunk")} if "chunk" in more else {})
    values = {"save_every": 0.0, "clock": None} | more
    request = resolve([Layer("flag", asked)])
    return apply_method(case.method, folder / "u.safetensors", request, case.settings, extras=case.extras, **values)


@contextlib.contextmanager
def killed_at(step: int, how: type[BaseException] = Killed) -> Iterator[None]:
    """Have the run end in the midst of a step: gradients taken, weights not yet edited."""
    original = descent._step

    def fatal(optimizer: Any, hooks: Any, at: int, parts: Any) -> None:
        if at == step:
            raise how
        original(optimizer, hooks, at, parts)

    with patched(descent, "_step", fatal, how):
        yield


@contextlib.contextmanager
def patched(where: ModuleType, name: str, value: object, how: type[BaseException] = Killed) -> Iterator[None]:
    """Replace something that ends the run within the block, and hold that it does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, value)
        try:
            yield
        except how:
            return
    pytest.fail("the run went on to its end")


def kill(*_: object, **__: object) -> None:
    raise Killed


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The digest of what a case writes when nobody kills it; each is run once."""
    known: dict[str, str] = {}

    def run_once(name: str) -> str:
        if name not in known:
            folder = tmp_path_factory.mktemp("whole")
            apply(CASES[name], folder, tiny)
            assert [path.name for path in folder.iterdir()] == ["u.safetensors"]
            known[name] = sha256_of_file(folder / "u.safetensors")
        return known[name]

    return run_once


# ----- the same, bit for bit


@pytest.mark.parametrize("name", list(CASES))
def test_a_run_that_is_killed_again_and_again_comes_to_the_same_file(
    name: str, whole: Callable[[str], str], tiny: Path, tmp_path: Path
) -> None:
    out, case = tmp_path / "u.safetensors", CASES[name]
    done = []
    for step in (5, 27, 29, 40):  # before the first look, between two, soon after going on, right after one
        with killed_at(step):
            apply(case, tmp_path, tiny, resume=True)
        assert not out.exists()
        done.append(read_done(tmp_path))
    assert done == KEPT.get(name, [None, 20, 20, 40])
    with patched(applying, "write_checkpoint", kill):  # at the end, before the result is on the disk
        apply(case, tmp_path, tiny, resume=True)
    applied = apply(case, tmp_path, tiny, resume=True)
    assert applied.resumed_at == applied.done.steps > 40
    assert sha256_of_file(out) == whole(name)
    assert [path.name for path in tmp_path.iterdir()] == ["u.safetensors"]


def read_done(folder: Path) -> int | None:
    """Return how many steps the state in a folder has; None where there is no state."""
    path = state_path(folder / "u.safetensors")
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as stream:
        return int(json.loads(stream.metadata()[STATE_ENTRY])["done"])


def test_the_optimisers_state_matters(whole: Callable[[str], str], tiny: Path, tmp_path: Path) -> None:
    """Without its momentum a run would go elsewhere: what is compared here can tell."""
    with killed_at(27):
        apply(CASES["ieu"], tmp_path, tiny)
    path = state_path(tmp_path / "u.safetensors")
    entry = metadata_of(path)
    tensors = {name: each for name, each in load_file(path).items() if not name.startswith("optimizer/")}
    assert len(tensors) < len(load_file(path))
    save_file(tensors, path, metadata=entry)
    apply(CASES["ieu"], tmp_path, tiny, resume=True)
    assert sha256_of_file(tmp_path / "u.safetensors") != whole("ieu")


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as stream:
        return dict(stream.metadata())


def test_a_kill_while_the_state_is_written_leaves_the_one_before(
    whole: Callable[[str], str], tiny: Path, tmp_path: Path
) -> None:
    writes: list[Path] = []

    def half(tensors: Any, target: Path, **more: Any) -> None:
        writes.append(target)
        if len(writes) == 2:
            target.write_bytes(b"half of it")
            raise Killed
        save_file(tensors, target, **more)

    with patched(resuming, "save_file", half):
        apply(CASES["ieu"], tmp_path, tiny)
    assert read_done(tmp_path) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["u.safetensors.resume"]
    apply(CASES["ieu"], tmp_path, tiny, resume=True)
    assert sha256_of_file(tmp_path / "u.safetensors") == whole("ieu")


@pytest.mark.parametrize("save_every", [0.0, 1e9])
def test_ctrl_c_leaves_a_state_even_if_none_was_due(
    whole: Callable[[str], str], tiny: Path, tmp_path: Path, save_every: float
) -> None:
    with killed_at(33, KeyboardInterrupt):
        apply(CASES["scrub"], tmp_path, tiny, save_every=save_every)
    assert read_done(tmp_path) == 20
    with killed_at(25, KeyboardInterrupt):  # nothing new since: what there was is still there
        apply(CASES["scrub"], tmp_path, tiny, save_every=save_every, resume=True)
    assert read_done(tmp_path) == 20
    apply(CASES["scrub"], tmp_path, tiny, resume=True)
    assert sha256_of_file(tmp_path / "u.safetensors") == whole("scrub")


def stopping(at: int, how: type[BaseException] = KeyboardInterrupt) -> Progress:
    """A progress whose bar is interrupted at a look."""

    def tell(task: str, done: int, total: int, note: str = "") -> None:
        if done == at:
            raise how

    return tell


@pytest.mark.parametrize(("at", "left"), [(20, None), (40, 20), (45, 40)])
def test_ctrl_c_at_a_look_leaves_the_last_state_before_it(
    whole: Callable[[str], str], tiny: Path, tmp_path: Path, at: int, left: int | None
) -> None:
    with pytest.raises(KeyboardInterrupt):
        apply(CASES["neggrad-plus"], tmp_path, tiny, progress=stopping(at), save_every=1e9)
    assert read_done(tmp_path) == left
    applied = apply(CASES["neggrad-plus"], tmp_path, tiny, resume=True)
    assert applied.resumed_at == (left or 0)
    assert sha256_of_file(tmp_path / "u.safetensors") == whole("neggrad-plus")


def test_without_a_state_resuming_starts_from_the_beginning(
    whole: Callable[[str], str], tiny: Path, tmp_path: Path
) -> None:
    assert apply(CASES["ieu"], tmp_path, tiny, resume=True).resumed_at == 0
    assert sha256_of_file(tmp_path / "u.safetensors") == whole("ieu")


def test_a_run_that_a_stop_ended_is_not_gone_on_from(tiny: Path, tmp_path: Path) -> None:
    """Killed between its stop and its end, it comes to the same stop."""
    case = Case("ga", {"steps": 200, "step_size": 1e-3, "stop_forget_loss": 5.0})
    (tmp_path / "whole").mkdir()
    reached = apply(case, tmp_path / "whole", tiny)
    assert reached.done.stopped is not None
    assert 20 < reached.done.steps < 200
    with patched(applying, "write_checkpoint", kill):
        apply(case, tmp_path, tiny)
    again = apply(case, tmp_path, tiny, resume=True)
    assert again.done == reached.done
    assert sha256_of_file(tmp_path / "u.safetensors") == sha256_of_file(tmp_path / "whole" / "u.safetensors")


def test_the_nearest_look_of_a_killed_run_is_not_forgotten(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unlearn_audit.methods.stopping.LIKE_UNSEEN", 2.0)  # never reached
    case = Case("neggrad-plus", {"steps": 60, "stop_at": "unseen"})
    (tmp_path / "whole").mkdir()
    apply(case, tmp_path / "whole", tiny)
    with killed_at(45):
        apply(case, tmp_path, tiny)
    apply(case, tmp_path, tiny, resume=True)
    assert sha256_of_file(tmp_path / "u.safetensors") == sha256_of_file(tmp_path / "whole" / "u.safetensors")
    assert "the least distance was" in str(read_checkpoint(tmp_path / "u.safetensors").metadata)


def test_the_seconds_of_all_parts_are_added_up(tiny: Path, tmp_path: Path) -> None:
    now = [100.0]
    case = Case("ft", {"steps": 60})

    def tick(task: str, done: int, total: int, note: str = "") -> None:
        now[0] += 10

    def clock() -> float:
        return now[0]

    with killed_at(45):
        apply(case, tmp_path, tiny, clock=clock, progress=tick)
    now[0] += 5000  # nobody worked in between
    applied = apply(case, tmp_path, tiny, clock=clock, progress=tick, resume=True)
    assert applied.seconds == 30
    metadata = read_checkpoint(tmp_path / "u.safetensors").metadata
    assert metadata is not None
    assert metadata.wall_seconds == 30


def test_the_state_is_written_as_often_as_asked(tiny: Path, tmp_path: Path) -> None:
    now, seen = [0.0], []

    def tick(task: str, done: int, total: int, note: str = "") -> None:
        seen.append(read_done(tmp_path))  # as the looks before have left it
        now[0] += 10

    apply(Case("ft", {"steps": 140}), tmp_path, tiny, clock=lambda: now[0], progress=tick, save_every=25)
    assert seen == [None, None, None, 60, 60, 60, 120]


# ----- nobody else's


@pytest.fixture(scope="module")
def state(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The state of the first case, killed at step 27."""
    folder = tmp_path_factory.mktemp("state")
    with killed_at(27):
        apply(CASES["ieu"], folder, tiny)
    return state_path(folder / "u.safetensors").read_bytes()


OTHERS: dict[str, dict[str, Any]] = {
    "seed 0, now 1": {"seed": 1},
    "settings alpha 0.99, now 0.5": {"settings": {"alpha": 0.5}},
    "settings steps 45, now 46": {"settings": {"steps": 46}},
    "transforms [], now ['l1']": {"extras": ("l1",)},
    "method 'ieu', now 'ft'": {"case": CASES["ft"]},
    "parent_sha256 '": {"parent": "retrained-1.safetensors"},
    "forget_sha256 '": {"forget": "class:3"},
    "chunk 128, now 64": {"chunk": 64},
}


@pytest.mark.parametrize("says", list(OTHERS))
def test_the_state_of_another_run_is_refused_with_what_differs(
    says: str, state: bytes, tiny: Path, tmp_path: Path
) -> None:
    other = dict(OTHERS[says])
    case = other.pop("case", CASES["ieu"])
    case = Case(case.method, case.settings | other.pop("settings", {}), other.pop("extras", case.extras))
    if "parent" in other:
        other["parent"] = tiny / other["parent"]
    path = state_path(tmp_path / "u.safetensors")
    path.write_bytes(state)
    with pytest.raises(UsageError) as caught:
        apply(case, tmp_path, tiny, resume=True, **other)
    assert f"is the state of another run ({says}" in str(caught.value) or f"; {says}" in str(caught.value)
    assert "use --force without --resume to begin anew" in str(caught.value)
    assert caught.value.exit_code == 2
    assert path.read_bytes() == state
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> None:
    """Change the tensors or the description of a state."""
    tensors, about = load_file(path), json.loads(metadata_of(path)[STATE_ENTRY])
    change(tensors, about)
    save_file(tensors, path, metadata={STATE_ENTRY: json.dumps(about)})


def name_of(tensors: dict[str, torch.Tensor], kind: str) -> str:
    return next(name for name, each in tensors.items() if name.startswith(kind) and each.dim() == 4)


BROKEN: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights\n" * 100),
    "no description": lambda path: save_file(load_file(path), path),
    "no JSON": lambda path: save_file(load_file(path), path, metadata={STATE_ENTRY: "{"}),
    "a list": lambda path: save_file(load_file(path), path, metadata={STATE_ENTRY: "[1]"}),
    "another schema": lambda path: rewritten(path, lambda _, about: about.update(schema=99)),
    "no steps": lambda path: rewritten(path, lambda _, about: about.pop("done")),
    "no identity": lambda path: rewritten(path, lambda _, about: about.pop("identity")),
    "a weight is missing": lambda path: rewritten(path, lambda found, _: found.pop("weights/fc.weight")),
    "a weight too many": lambda path: rewritten(path, lambda found, _: found.update({"weights/x": torch.ones(1)})),
    "a weight's shape": lambda path: rewritten(
        path, lambda found, _: found.update({name_of(found, "weights/"): torch.ones(2, 3)})
    ),
    "a momentum's shape": lambda path: rewritten(
        path, lambda found, _: found.update({name_of(found, "optimizer/"): torch.ones(2, 3)})
    ),
    "a momentum of nothing": lambda path: rewritten(
        path, lambda found, _: found.update({"optimizer/99/momentum_buffer": torch.ones(2, 3)})
    ),
    "a momentum's name": lambda path: rewritten(
        path, lambda found, _: found.update({"optimizer/first/momentum_buffer": torch.ones(2, 3)})
    ),
}


@pytest.mark.parametrize("wrong", list(BROKEN))
def test_a_state_that_cannot_be_read_or_does_not_fit_is_refused_with_a_way_out(
    wrong: str, state: bytes, whole: Callable[[str], str], tiny: Path, tmp_path: Path
) -> None:
    path = state_path(tmp_path / "u.safetensors")
    path.write_bytes(state)
    BROKEN[wrong](path)
    before = path.read_bytes()
    assert before != state
    with pytest.raises(CheckpointError) as caught:
        apply(CASES["ieu"], tmp_path, tiny, resume=True)
    message = str(caught.value)
    assert message.startswith(f"cannot go on with {path}: ")
    assert message.endswith("; use --force without --resume to begin anew")
    assert "\n" not in message
    assert caught.value.exit_code == 3
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {path.name: before}


def test_the_way_out_works(state: bytes, whole: Callable[[str], str], tiny: Path, tmp_path: Path) -> None:
    path = state_path(tmp_path / "u.safetensors")
    path.write_bytes(state[:1000])
    apply(CASES["ieu"], tmp_path, tiny, force=True)
    assert not path.exists()
    assert sha256_of_file(tmp_path / "u.safetensors") == whole("ieu")


def test_a_state_is_neither_gone_on_from_nor_lost_unasked(state: bytes, tiny: Path, tmp_path: Path) -> None:
    path = state_path(tmp_path / "u.safetensors")
    path.write_bytes(state)
    with pytest.raises(
        UsageError, match="holds the state of an interrupted run; add --resume to continue, or --force"
    ) as caught:
        apply(CASES["ieu"], tmp_path, tiny)
    assert caught.value.exit_code == 2
    refused: list[dict[str, Any]] = [{"parent": tiny / "nothing.safetensors"}, {"forget": "class:99"}]
    for request in refused:  # what is refused for another reason leaves it alone, too
        with pytest.raises(AuditError):
            apply(CASES["ieu"], tmp_path, tiny, force=True, **request)
    assert path.read_bytes() == state


def test_a_folder_in_the_place_of_the_state_is_refused(tiny: Path, tmp_path: Path) -> None:
    state_path(tmp_path / "u.safetensors").mkdir()
    for flags in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(OutputError, match=r"u\.safetensors\.resume is a directory"):
            apply(CASES["ieu"], tmp_path, tiny, **flags)


@pytest.mark.parametrize(
    "problem", [SafetensorError("No space left on device"), OSError(28, "No space left on device")]
)
def test_a_full_disk_is_said_and_leaves_the_state_before(tiny: Path, tmp_path: Path, problem: Exception) -> None:
    def full(tensors: Any, target: Path, **more: Any) -> None:
        if read_done(tmp_path) == 20:
            raise problem
        save_file(tensors, target, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming, "save_file", full)
        with pytest.raises(OutputError, match=r"^cannot write .*u\.safetensors\.resume: No space left on device$"):
            apply(CASES["ieu"], tmp_path, tiny)
    assert read_done(tmp_path) == 20
    assert [each.name for each in tmp_path.iterdir()] == ["u.safetensors.resume"]


def test_an_output_that_is_there_is_not_replaced_by_going_on(state: bytes, tiny: Path, tmp_path: Path) -> None:
    state_path(tmp_path / "u.safetensors").write_bytes(state)
    (tmp_path / "u.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already; use --force"):
        apply(CASES["ieu"], tmp_path, tiny, resume=True)
    assert (
        apply(CASES["ieu"], tmp_path, tiny, resume=True, force=True).resumed_at == 20
    )  # --resume goes on all the same


# ----- from the command line


def flags(case: Case) -> list[str]:
    """A case as it is typed."""
    found = [f"--with={text}" for text in case.extras]
    for name, value in case.settings.items():
        flag = f"--{name.replace('_', '-')}"
        found += [flag] if value is True else [flag, str(value)]
    return found


def test_ctrl_c_ends_with_130_and_the_next_command_says_how_to_go_on(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "u.safetensors"
    command = ["apply", "ieu", tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--out", out,
               "--device", "cpu", *flags(CASES["ieu"])]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("unlearn_audit.cli.apply.progress_bars", lambda quiet: contextlib.nullcontext(stopping(40)))
        done = run(*command)
    assert (done.code, done.stdout) == (130, "")
    assert done.stderr.endswith("interrupted\n")
    assert not out.exists()
    looked_at = run("inspect", state_path(out))
    assert looked_at.code == 3
    assert "is not a checkpoint but the state of an interrupted run" in looked_at.stderr
    refused = run(*command)
    assert refused.code == 2
    assert "add --resume to continue, or --force to start again" in refused.stderr
    resumed = run(*command, "--resume")
    assert resumed.code == 0
    assert "(45 steps, taken up at step 20, " in resumed.stderr
    assert not state_path(out).exists()
    broken = state_path(tmp_path / "v.safetensors")
    broken.write_bytes(b"nothing")
    refused = run(*command, "--out", tmp_path / "v.safetensors", "--resume")
    assert refused.code == 3
    assert refused.stderr.startswith("error: cannot go on with ")


LONG = {
    "ieu": Case("ieu", {"steps": 120, "alpha": 0.99, "c": 0.2, "momentum": 0.9}),
    "scrub": Case("scrub", {"epochs": 14, "step_size": 0.01, "rewind": True}),
    "retrain": Case("retrain", {"epochs": 12}),
}


@pytest.mark.parametrize(
    "name", ["ieu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("scrub", "retrain"))]
)
def test_a_process_that_is_really_killed_is_gone_on_with(name: str, tiny: Path, tmp_path: Path, forker: Forker) -> None:
    case, out = LONG[name], tmp_path / "u.safetensors"
    command = ["apply", case.method, tiny / "original.safetensors", "--forget", tiny / "forget.npy", "--out", out,
               "--device", "cpu", "--save-every", 0, "--quiet", *flags(case)]  # fmt: skip
    process, deadline = forker.start(*command), time.monotonic() + 600
    while not state_path(out).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    done = read_done(tmp_path)
    assert done is not None
    resumed = apply(case, tmp_path, tiny, resume=True)
    assert resumed.resumed_at == done
    (tmp_path / "whole").mkdir()
    steps = apply(case, tmp_path / "whole", tiny, progress=silent).done.steps
    assert 0 < done < steps
    one, two = (read_checkpoint(folder / "u.safetensors") for folder in (tmp_path, tmp_path / "whole"))
    assert same(dict(one.state), dict(two.state))
    assert sha256_of_file(out) == sha256_of_file(tmp_path / "whole" / "u.safetensors")
