"""Why a torch file is refused, or holds no weights that can be read: each situation with its own way out."""

import contextlib
import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn_audit.checkpoints import ways_out
from unlearn_audit.checkpoints.entries import (
    described,
    is_key_of_weights,
    is_module,
    is_state,
    is_weight,
    items_of,
    kind_of,
    walked,
)
from unlearn_audit.checkpoints.recognition import one_line
from unlearn_audit.checkpoints.stored import Damaged, Placeholder, StoredTensor
from unlearn_audit.checkpoints.torch_files import TorchFile
from unlearn_audit.checkpoints.unpickling import Unpickler
from unlearn_audit.errors import CheckpointError

# What no object that was merely saved refers to. Nothing of it would be run here; a file that asks for it is no honest
# one, and what else stands in it is not to be believed.
_HOSTILE = re.compile(
    r"(os|posix|nt|subprocess|commands|sys|shutil|socket|ctypes|importlib|runpy|pty|webbrowser|pdb|timeit|urllib2?|ftplib|smtplib"
    r"|marshal|tempfile|gzip|bz2|lzma|zipfile|tarfile|sqlite3|pip|ensurepip|venv|distutils|setuptools|torch\.hub"
    r"|torch\.utils\.cpp_extension|_posixsubprocess)\..*|code\.[iI]nteract.*|(requests|http\.client|httplib)\.[a-z].*"
    r"|(builtins|__builtin__)\.(exec|execfile|eval|compile|open|__import__|breakpoint|input|globals|exit|quit)"
    r"|(io|_io|codecs|numpy|torch|torch\.serialization)\.(open|open_code|FileIO|save|savez\w*|savetxt|load|loadtxt|fromfile|memmap)"
    r"|logging\.FileHandler|logging\.handlers\..*|pathlib\.\w+\..*|(pickle|_pickle|cPickle)\.(loads?|Unpickler)"
)  # fmt: skip
_DEEPEST = 3
_BESIDE = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
_TORCH_IN_PICKLES = ("torch.", "numpy.")


def check_harmless(file: TorchFile) -> None:
    """Refuse a file that asks for what only an attack asks for; nothing of it has been run.

    Raises:
        CheckpointError: it does.
    """
    hostile = [name for name in file.names if _HOSTILE.fullmatch(name)] or list(file.calls_made)
    if hostile:
        raise CheckpointError(
            f"refused: {file.path}: loading it would run code ({listed(hostile)}), as a file of weights never does; "
            f"do not load it; {ways_out.ASK}"
        )


def pickle_refusal(path: Path) -> CheckpointError:
    """Return the error for a pickle that torch.save did not write."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        machine, content = Unpickler(most_bytes=min(len(mapped), 1 << 28)), None
        with contextlib.suppress(Damaged):  # the names that were seen until there are told
            content = machine.load(mapped)
    file = TorchFile(path, content, tuple(machine.names), tuple(machine.calls_made), {})
    try:
        check_harmless(file)
    except CheckpointError as problem:
        return problem
    opening = f"{path} is a pickle that torch.save did not write"
    if any(name.startswith(_TORCH_IN_PICKLES) for name in machine.names) or _arrays(content):
        return CheckpointError(f"{opening}; {ways_out.pickled(path)}")
    return CheckpointError(f"{opening} ({described(content)}), and holds no tensor; name the file of the weights")


def _arrays(content: object) -> bool:
    """Return whether a pickle holds arrays or tensors at its top."""
    values = (items_of(content) or {"": content}).values()
    return any(kind_of(value) in {"numpy.ndarray", "Tensor"} for value in values)


def no_weights(file: TorchFile) -> CheckpointError:
    """Return the error for a file in which no set of weights was found."""
    path, content = file.path, file.content
    model = next(((keys, value) for keys, value in walked(content, _DEEPEST) if is_module(value)), None)
    if model is not None:
        keys, what = model[0], kind_of(model[1])
        names = (what, *(name for name in file.names if name != what))
        where = f"under {'.'.join(keys)!r:.80}, " if keys else ""
        return CheckpointError(
            f"refused: {path}: {where}it is a whole pickled model, and loading it would run code ({listed(names)}); "
            f"{ways_out.whole_model(path, keys, names)}"
        )
    mixed = next((found for found in walked(content, 1) if _is_mixture(found[1])), None)
    if mixed is not None:
        return _mixture(path, mixed[0], items_of(mixed[1]) or {})
    items = items_of(content)
    if isinstance(content, Placeholder) and not items:
        return CheckpointError(f"{path} holds {described(content)} and no weights; {_look_beside(path)}")
    if items is None or isinstance(content, list | tuple):
        return CheckpointError(f"{path} holds a {kind_of(content)}, not a state dict; save model.state_dict()")
    if not items or any(value == {} and is_key_of_weights(key) for key, value in items.items()):
        return CheckpointError(f"{path} holds an empty state dict: there is no tensor in it")
    return _nothing(path, items)


def _nothing(path: Path, items: Mapping[Any, Any]) -> CheckpointError:
    """Say what a file holds instead of weights."""
    held = [f"{_key(key)} ({kind_of(value)})" for key, value in [*items.items()][:5]]
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    opening = f"no state dict in {path}: it holds {', '.join(held)}{more}"
    if "param_groups" in items:
        return CheckpointError(f"{opening}, the state of an optimizer; {_look_beside(path)}")
    arrays = next((keys for keys, value in walked(items, 1) if _are_arrays(value)), None)
    if arrays is not None:
        return CheckpointError(f"{opening}, whose weights are NumPy arrays; {ways_out.arrays(path, arrays)}")
    states = [key for key, value in items.items() if isinstance(key, str) and isinstance(value, dict) and value
              and is_state(value)]  # fmt: skip
    if states:
        return CheckpointError(f"{opening}; if {one_line(states[0], longest=60)!r} are weights, say --weights KEY")
    return CheckpointError(f"{opening}; save model.state_dict(), or {_look_beside(path)}")


def _are_arrays(value: object) -> bool:
    """Return whether names stand for NumPy arrays and for nothing else."""
    items = items_of(value)
    return bool(items) and all(kind_of(entry) == "numpy.ndarray" for entry in (items or {}).values())


def _look_beside(path: Path) -> str:
    """Name the file of weights beside this one, if one of the usual names is there."""
    found = next((path.with_name(name) for name in _BESIDE if path.with_name(name).is_file()), None)
    return f"the weights may be in {found}" if found else "name the file of the weights"


def _is_mixture(value: object) -> bool:
    """Return whether tensors stand among other values."""
    items = items_of(value)
    if not items or "param_groups" in items:
        return False
    return any(isinstance(entry, StoredTensor) for entry in items.values()) and not is_state(items)


def _mixture(path: Path, keys: tuple[str, ...], items: Mapping[Any, Any]) -> CheckpointError:
    """Say which values among the tensors are none."""
    others = [(key, value) for key, value in items.items() if not is_weight(key, value)]
    shown = ", ".join(f"{_key(key)} ({kind_of(value)})" for key, value in others[:5])
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
    where = f", under {'.'.join(keys)!r:.80}," if keys else ""
    packed = next((str(key) for key, _ in others if "_packed_params" in str(key)), None)
    if packed is not None:
        return CheckpointError(
            f"{path} holds the weights of a quantised model ({one_line(packed, longest=80)!r}); {ways_out.quantised()}"
        )
    return CheckpointError(
        f"the state dict in {path}{where} holds values that are not tensors: {shown}{more}; "
        f"{ways_out.filtered(path, keys)}"
    )


def wrong_tensor(path: Path, name: object, stored: StoredTensor, keys: tuple[str, ...]) -> CheckpointError:
    """Return the error for a tensor that cannot be read as ordinary weights."""
    kind = stored.odd.partition(" ")[0]
    if kind == "quantised":
        remedy = ways_out.quantised()
    elif kind == "sparse" or stored.odd.startswith("of a special"):
        remedy = ways_out.other_tensors(path, keys, kind)
    elif "meta" in stored.odd:
        remedy = "it was saved before its values were there; save the model again once its weights are loaded"
    else:
        remedy = "save ordinary dense tensors"
    return CheckpointError(f"{path}: tensor {name!r:.80} is {stored.odd}; {remedy}")


def _key(key: object) -> str:
    """Return a key fit for a message, however long it is."""
    return repr(one_line(key, longest=60)) if isinstance(key, str) else described(key)


def listed(names: object) -> str:
    """Return the first names, fit for one line of a terminal."""
    every = list(names) if isinstance(names, list | tuple) else [str(names)]
    shown = [one_line(name, longest=80) for name in every[:3]]
    return ", ".join(shown) + (f" and {len(every) - 3} more" if len(every) > 3 else "")
