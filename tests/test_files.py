"""Outputs are whole or absent, whatever happens while they are written; digests are those of sha256sum."""

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unlearn_audit.errors import CheckpointError, ConfigError, DataError, OutputError
from unlearn_audit.files import (
    atomic_write,
    check_input,
    check_output,
    check_output_folder,
    expanded,
    make_output_folder,
    make_subfolder,
    only_process,
    read_input,
    sha256_of_bytes,
    sha256_of_file,
    without_ending,
)

unless_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; permission bits do not bind it")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_digests_are_those_of_sha256(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest() == sha256_of_bytes(b"a", b"bc")
    assert sha256_of_bytes() == empty


def test_a_good_input_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    assert check_input(path, "index file", DataError) == path


def test_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"index file not found: .*nowhere"):
        check_input(tmp_path / "nowhere", "index file", DataError)


def test_a_folder_for_an_input(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a directory; a checkpoint file is needed"):
        check_input(tmp_path, "checkpoint", CheckpointError)


def test_an_empty_input(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(DataError, match="is empty"):
        check_input(tmp_path / "f", "index file", DataError)


def test_a_name_that_no_file_can_have_as_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read index file"):
        check_input(tmp_path / ("n" * 300), "index file", DataError)


@unless_root
def test_an_unreadable_input(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "f").chmod(0)
    with pytest.raises(DataError, match="cannot read index file"):
        check_input(tmp_path / "f", "index file", DataError)


def test_a_free_output_is_returned_and_nothing_is_left_by_the_check(tmp_path: Path) -> None:
    assert check_output(tmp_path / "out", force=False) == tmp_path / "out"
    assert names(tmp_path) == []


def test_an_existing_output_needs_force(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(OutputError, match=r"exists already; use --force"):
        check_output(tmp_path / "out", force=False)
    assert check_output(tmp_path / "out", force=True).read_bytes() == b"old"


def test_a_folder_for_an_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a directory"):
        check_output(tmp_path, force=True)


def test_an_output_in_a_missing_folder_makes_it_when_it_is_written(tmp_path: Path) -> None:
    path = check_output(tmp_path / "new" / "er" / "out", force=False)
    assert names(tmp_path) == []
    atomic_write(path, b"there")
    assert path.read_bytes() == b"there"


def test_an_output_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(OutputError, match="f is a file, not a folder"):
        check_output(tmp_path / "f" / "out", force=False)


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="a device or a pipe"):
        check_output(tmp_path / "pipe", force=True)


def test_a_name_that_no_file_can_have_as_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        check_output(tmp_path / ("n" * 300), force=False)


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    atomic_write(check_output(path, force=False), b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize(
    "check", [lambda f: check_output(f / "out", force=False), lambda f: atomic_write(f / "o", b"")]
)
def test_a_folder_that_refuses_new_files(
    check: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, mode: int = 0o666, exist_ok: bool = True) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(OutputError, match="cannot write .*: Permission denied"):
        check(tmp_path)


@unless_root
def test_a_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        check_output(tmp_path / "out", force=False)
    with pytest.raises(OutputError, match="Permission denied"):
        check_output_folder(tmp_path / "new", force=False, owned=())


def test_checking_an_output_folder_does_not_make_it(tmp_path: Path) -> None:
    assert check_output_folder(tmp_path / "a" / "b", force=False, owned=("report.json",)) == tmp_path / "a" / "b"
    assert names(tmp_path) == []


def test_an_output_folder_is_made(tmp_path: Path) -> None:
    folder = make_output_folder(tmp_path / "a" / "b", force=False, owned=("report.json",))
    assert folder.is_dir()
    assert names(folder) == []
    (folder / "report.json").touch()
    with pytest.raises(OutputError, match=r"report\.json exists already; use --force"):
        make_output_folder(folder, force=False, owned=("report.json",))


def test_an_output_folder_with_an_owned_file_needs_force(tmp_path: Path) -> None:
    (tmp_path / "report.json").touch()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"report\.json exists already; use --force"):
        check_output_folder(tmp_path, force=False, owned=("report.json",))
    assert check_output_folder(tmp_path, force=True, owned=("report.json",)) == tmp_path
    assert check_output_folder(tmp_path, force=False, owned=("arrays.npz",)) == tmp_path


def test_a_file_for_an_output_folder(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(OutputError, match="is a file"):
        check_output_folder(tmp_path / "f", force=True, owned=())
    with pytest.raises(OutputError, match="cannot write into"):
        check_output_folder(tmp_path / "f" / "below", force=True, owned=())


def test_bytes_and_writers_write_and_leave_nothing_else(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", b"one")
    atomic_write(tmp_path / "b", lambda path: path.write_text("two"))
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "b").read_bytes() == b"two"
    assert names(tmp_path) == ["a", "b"]


def test_permissions_are_those_of_an_ordinary_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    atomic_write(tmp_path / "ours", b"x")

    def replaced(path: Path) -> None:
        path.unlink()
        path.touch(mode=0o600)

    atomic_write(tmp_path / "theirs", replaced)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours", "theirs")}
    assert len(modes) == 1


@pytest.mark.parametrize("problem", [KeyboardInterrupt, SystemExit, MemoryError, ValueError])
@pytest.mark.parametrize("before", [None, b"old"])
def test_interrupted_while_writing(problem: type[BaseException], before: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "out"
    if before is not None:
        path.write_bytes(before)

    def write(target: Path) -> None:
        target.write_bytes(b"half")
        raise problem

    with pytest.raises(problem):
        atomic_write(path, write)
    assert (path.read_bytes() if path.exists() else None) == before
    assert names(tmp_path) == ([] if before is None else ["out"])


def test_interrupted_while_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "out", b"x")
    assert names(tmp_path) == []


def test_no_space_is_an_output_error_and_leaves_nothing(tmp_path: Path) -> None:
    def write(target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="cannot write .*out: No space left on device"):
        atomic_write(tmp_path / "out", write)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("part-0.05-0.safetensors", "part-0.05-0"),
        ("runs/v1.2/lr.1e-3.pt", "lr.1e-3"),
        ("checkpoint.best.pth.tar", "checkpoint.best"),
        ("model.safetensors.index.json", "model"),
        ("pytorch_model.bin.index.json", "pytorch_model"),
        ("model-00001-of-00003.safetensors", "model-00001-of-00003"),
        ("last.CKPT", "last"),
        ("v1.0", "v1.0"),
        ("epoch=3-loss=0.12.ckpt", "epoch=3-loss=0.12"),
        (".pt", ".pt"),
        ("..safetensors", "..safetensors"),
        ("u", "u"),
        ("", ""),
    ],
)
def test_only_endings_that_are_known_are_no_part_of_a_name(path: str, kept: str) -> None:
    assert without_ending(path) == without_ending(Path(path)) == kept


# ----- what is read


def test_an_input_is_read_whole_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    assert read_input(tmp_path / "f", "policy", ConfigError, most=100) == b"x" * 100
    with pytest.raises(ConfigError, match=r"f is larger than 0 KiB, the limit for a policy; it was not read"):
        read_input(tmp_path / "f", "policy", ConfigError, most=99)


def test_a_sparse_input_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as stream:
        stream.truncate(3 << 30)
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        read_input(tmp_path / "f", "policy", ConfigError, most=1 << 20)


def test_a_pipe_and_a_device_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    for path in (tmp_path / "f", Path("/dev/zero")):
        with pytest.raises(DataError, match="is a device or a pipe"):
            read_input(path, "report", DataError, most=100)


def test_a_name_with_a_null_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="report"):
        read_input(tmp_path / "a\x00b", "report", DataError, most=100)


def test_home_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert expanded("~/x", DataError) == Path("/h/x")
    with pytest.raises(DataError, match="no user of that name has a home folder here"):
        expanded("~no-such-person/x", DataError)


# ----- one process at a time

HOLD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from unlearn_audit.files import only_process
with only_process(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def held(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    # A process that works in the folder until it is told to end.
    package = Path(__file__).parents[1]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), str(package)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "in\n"
    yield holder
    holder.kill()
    holder.wait()


def test_a_second_process_is_refused_or_waits(held: subprocess.Popen[str], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"another process is writing .*; wait for it, or name another file"):  # noqa: SIM117
        with only_process(tmp_path):
            pass
    said: list[str] = []

    def busy() -> None:
        said.append("busy")
        assert held.stdin is not None
        held.stdin.write("end\n")
        held.stdin.flush()

    with only_process(tmp_path, busy=busy):
        assert said == ["busy"]
        assert held.wait(timeout=600) == 0
    assert list(tmp_path.iterdir()) == []


def test_who_is_killed_holds_nothing(held: subprocess.Popen[str], tmp_path: Path) -> None:
    held.kill()
    held.wait()
    with only_process(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write .*missing/.a.safetensors.lock"):  # noqa: SIM117
        with only_process(tmp_path / "missing" / "a.safetensors"):
            pass


def test_a_lock_beside_what_is_replaced_makes_their_folder(tmp_path: Path) -> None:
    with only_process(tmp_path / "new" / "a.safetensors", replaced=True):
        assert (tmp_path / "new").is_dir()


def test_a_folder_inside_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "owned").mkdir()
    assert make_subfolder(tmp_path / "owned", "models") == tmp_path / "owned" / "models"
    (tmp_path / "owned" / "signals").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="owned/signals is a link to .*elsewhere; nothing is written outside"):
        make_subfolder(tmp_path / "owned", "signals")
    (tmp_path / "owned" / "state").symlink_to("models")
    assert make_subfolder(tmp_path / "owned", "state").is_dir()  # a link that stays inside is the user's affair
