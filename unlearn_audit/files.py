"""Reading and writing files safely: digests, outputs that are whole or absent."""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from unlearn_audit.errors import AuditError, OutputError

# Endings of files with weights, longest first: of other formats, too, since such a file may be named by mistake.
WEIGHTS = (
    ".index.json", ".safetensors", ".msgpack", ".pickle", ".keras", ".ckpt", ".onnx", ".json", ".pth", ".bin", ".pkl",
    ".tar", ".npz", ".npy", ".pt", ".th", ".h5",
)  # fmt: skip


def without_ending(path: str | Path) -> str:
    """Return the name of a file without its endings; a point within a name, as in "part-0.05", ends nothing.

    >>> without_ending("runs/part-0.05-0.safetensors"), without_ending("model.safetensors.index.json")
    ('part-0.05-0', 'model')
    """
    name = Path(path).name
    kept = name
    while ending := next((ending for ending in WEIGHTS if kept.lower().endswith(ending)), None):
        kept = kept[: -len(ending)]
    return kept if kept.strip(".") else name  # a file that is called ".pt" has a name all the same


def sha256_of_bytes(*parts: bytes) -> str:
    """Return the hex SHA-256 of the parts, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file, as `sha256sum` prints it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_input(path: Path, kind: str, error: type[AuditError]) -> Path:
    """Return `path` if it is a readable, non-empty file.

    Args:
        path: the file asked for.
        kind: what it should be, for the message ("checkpoint", "index file").
        error: the error to raise.

    Raises:
        AuditError: `error`, when the file is missing, a directory, a device or a pipe (which may never end), empty or
            unreadable.
    """
    try:
        if not path.exists():
            raise error(f"{kind} not found: {path}")
        if path.is_dir():
            raise error(f"{path} is a directory; a {kind} file is needed")
        if not path.is_file():
            raise error(f"{path} is a device or a pipe; a {kind} file is needed")
        if path.stat().st_size == 0:  # also what the kernel makes up as it is read, which may never end
            raise error(f"{kind} is empty (0 bytes): {path}")
        with path.open("rb"):
            return path
    except (OSError, ValueError) as problem:  # a name with a null byte in it is a ValueError
        raise error(f"cannot read {kind} {path}: {getattr(problem, 'strerror', None) or problem}") from problem


def read_input(path: Path, kind: str, error: type[AuditError], *, most: int) -> bytes:
    """Return the bytes of a file whose size is looked at before anything of it is read.

    Args:
        path: the file asked for.
        kind: what it should be, for the message.
        error: the error to raise.
        most: bytes that such a file may have.

    Raises:
        AuditError: `error`, as `check_input` does, and when the file is larger than `most`.
    """
    check_input(path, kind, error)
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno())
            content = stream.read(most + 1) if stat.S_ISREG(size.st_mode) and size.st_size <= most else None
    except OSError as problem:
        raise error(f"cannot read {kind} {path}: {problem.strerror or problem}") from problem
    if content is None or len(content) > most:
        raise error(f"{path} is larger than {_size(most)}, the limit for a {kind}; it was not read")
    return content


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def expanded(path: str | Path, error: type[AuditError]) -> Path:
    """Return a path with `~` and `~name` for home folders filled in.

    Raises:
        AuditError: `error`, when no user of that name has a home folder here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as problem:
        raise error(
            f"{path}: no user of that name has a home folder here; write ./{path} for a file so named"
        ) from problem


def check_output(path: Path, *, force: bool) -> Path:
    """Return `path` if a file may be written there; called before any work is done.

    Raises:
        OutputError: it exists (without `force`), is a directory, or its folder cannot be made or written into.
    """
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a directory; name a file to write")
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is a device or a pipe; name a file to write")
        if path.exists() and not force:
            raise OutputError(f"{path} exists already; use --force to replace it")
        nearest = next(place for place in path.parents if place.exists())
        if not nearest.is_dir():
            raise OutputError(f"cannot write {path}: {nearest} is a file, not a folder")
        _probe(nearest)
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror or problem}") from problem
    return path


def check_output_folder(folder: Path, *, force: bool, owned: tuple[str, ...]) -> Path:
    """Return `folder` if the files in `owned` may be written into it; called before any work, it leaves nothing behind.

    A missing folder is fine where it can be made: see `make_output_folder`.

    Raises:
        OutputError: it is a file, cannot be made or written, or holds one of `owned` already (without `force`).
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; --out needs a folder")
        taken = [name for name in owned if (folder / name).exists()]
        if taken and not force:
            raise OutputError(f"{folder / taken[0]} exists already; use --force to replace it, or another --out")
        nearest = next(place for place in (folder, *folder.parents) if place.exists())
        if not nearest.is_dir():
            raise OutputError(f"cannot write into {folder}: {nearest} is a file, not a folder")
        _probe(nearest)
    except OSError as problem:
        raise OutputError(f"cannot write into {folder}: {problem.strerror or problem}") from problem
    return folder


def make_output_folder(folder: Path, *, force: bool, owned: tuple[str, ...]) -> Path:
    """Check `folder` as `check_output_folder` does, create it where it is missing, and return it.

    Raises:
        OutputError: as there.
    """
    check_output_folder(folder, force=force, owned=owned)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise OutputError(f"cannot make folder {folder}: {problem.strerror or problem}") from problem
    return folder


def make_subfolder(folder: Path, name: str) -> Path:
    """Make a folder inside another one that a tool owns, and return it.

    Raises:
        OutputError: no permission, no space, a file is in the way, or a link that leads out of `folder`: whoever hands
            such a folder over would choose where is written.
    """
    path = folder / name
    try:
        path.mkdir(parents=True, exist_ok=True)
        inside = path.resolve().is_relative_to(folder.resolve())
    except OSError as problem:
        raise OutputError(f"cannot make {path}: {problem.strerror or problem}") from problem
    if not inside:
        raise OutputError(f"{path} is a link to {path.resolve()}; nothing is written outside {folder}: remove the link")
    return path


@contextmanager
def only_process(path: Path, *, busy: Callable[[], object] | None = None, replaced: bool = False) -> Iterator[None]:
    """Let one process at a time into the block; the operating system ends the claim of a killed one.

    Args:
        path: what is worked on, a file or a folder that is there; the lock is a hidden file beside the one or in the
            other, which goes away at the end.
        busy: called once where another process is in the block, which is then waited for; None refuses at once.
        replaced: what is worked on is replaced as a whole, so that the lock is beside it also where it is a folder; the
            folder that both are in is made where it is missing.

    Raises:
        OutputError: another process is in the block (without `busy`), or no file can be made there.
    """
    from filelock import FileLock, Timeout

    inside = path.is_dir() and not replaced
    file = path / ".unlearn-audit.lock" if inside else path.with_name(f".{path.name}.lock")
    if not file.parent.is_dir() and not replaced:  # the lock makes it
        raise OutputError(f"cannot write {file}: there is no folder {file.parent}")
    lock = FileLock(file)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if busy is None:
                raise OutputError(f"another process is writing {path}; wait for it, or name another file") from None
            busy()
            lock.acquire()
    except OSError as problem:
        raise OutputError(f"cannot write {file}: {problem.strerror or problem}") from problem
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: who waits for it looks whether it is still the file there
        lock.release()


def _probe(folder: Path) -> None:
    """Create and remove a temporary file, since permission bits alone do not tell (read-only mounts, root)."""
    with _new_file(folder):
        pass


@contextmanager
def _new_file(folder: Path) -> Iterator[Path]:
    """Yield a new empty file with the permissions of the day; whatever happens (Ctrl-C included), it goes away."""
    # The name is chosen before there is a file, so that no interrupt can fall between making it and knowing it.
    temporary = folder / f".unlearn-audit-{secrets.token_hex(8)}.tmp"
    try:
        temporary.touch(mode=0o666, exist_ok=False)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, write: Callable[[Path], object] | bytes) -> None:
    """Write a file that is whole or absent; its folder is made where it is missing.

    Args:
        path: the file to make or replace.
        write: the bytes, or a function that writes the file at the path it is given.

    Raises:
        OutputError: no space, no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _new_file(path.parent) as temporary:
            permissions = temporary.stat().st_mode
            if isinstance(write, bytes):
                temporary.write_bytes(write)
            else:
                write(temporary)
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            temporary.chmod(permissions)  # some writers put a file of their own there, which only its owner may read
            temporary.replace(path)
    except OSError as problem:
        raise OutputError(f"cannot write {path}: {problem.strerror or problem}") from problem


def check_replaced_folder(folder: Path, *, force: bool, stranger_in: Callable[[Path], str | None], kind: str) -> Path:
    """Return `folder` if `atomic_folder` may make or replace it; called before any work is done.

    Args:
        folder: to make or to replace. One that is replaced goes away with all that is in it.
        force: replace one of the same kind.
        stranger_in: a folder -> the name of something in it that is not of this kind; None where there is nothing.
        kind: what is written there, for the message ("a pipeline").

    Raises:
        OutputError: it exists (without `force`), holds anything else, is a file or a link, or cannot be made there.
    """
    try:
        if folder.is_symlink():
            raise OutputError(f"{folder} is a link; name the folder itself")
        if folder.is_dir() and any(folder.iterdir()):
            stranger = stranger_in(folder)
            if stranger is not None:
                raise OutputError(f"{folder} holds {stranger}, which is no part of {kind}; name a folder to be made")
            if not force:
                raise OutputError(f"{folder} exists already; use --force to replace it")
    except OSError as problem:
        raise OutputError(f"cannot write {folder}: {problem.strerror or problem}") from problem
    for place in (folder, folder.parent):
        check_output_folder(place, force=True, owned=())
    return folder


def first_other_file(folder: Path, ours: Set[str]) -> str | None:
    """Return the first name of a file or link below a folder that is not among `ours`, None where there is none.

    Args:
        folder: looked through at every depth; folders that are linked to count as files.
        ours: names of files below it, with "/" between their parts.
    """
    files = (entry for entry in sorted(folder.rglob("*")) if entry.is_symlink() or not entry.is_dir())
    return next((name for name in (file.relative_to(folder).as_posix() for file in files) if name not in ours), None)


def atomic_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Make a folder that is whole or absent; one that stands there goes away once the new one is whole.

    Args:
        folder: the folder to make or replace.
        fill: writes the files into the empty folder that it is given.

    Raises:
        OutputError: no space, no permission.
    """
    temporary = folder.parent / f".unlearn-audit-{secrets.token_hex(8)}.tmp"
    replaced = temporary.with_suffix(".old")
    try:
        try:
            temporary.mkdir(parents=True)
            fill(temporary)
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
            if folder.exists():
                folder.replace(replaced)
            temporary.replace(folder)
        finally:
            if replaced.exists() and not folder.exists():  # interrupted between the two
                replaced.replace(folder)
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)
    except OSError as problem:
        raise OutputError(f"cannot write {folder}: {problem.strerror or problem}") from problem
