"""What to do about a file that is not read: for each situation a sentence, and a command that runs as it stands."""

import json
import shlex
from pathlib import Path

ASK = (
    "ask its maker to re-save the weights with safetensors: "
    "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
)
TRUST = "where you trust the file, re-save the weights with safetensors: "
_INSTALLED = frozenset({"torch", "torchvision", "collections", "builtins", "__builtin__"})
_LOAD = 'torch.load({file}, map_location="cpu", weights_only=False)'
# Copies, since tied weights and views cannot be stored twice; contiguous, since other memory layouts are refused.
_SAVE = "save_file({{k: {value}.clone().contiguous() for k, v in {items} if torch.is_tensor(v)}}, {out})"


def whole_model(path: Path, keys: tuple[str, ...], names: tuple[str, ...]) -> str:
    """Return the way out of a whole pickled model.

    Args:
        path: the file.
        keys: where in the file the model stands.
        names: the classes that it needs; those of a script can only be had in that script.
    """
    loaded = _LOAD.format(file=_text(path)) + "".join(f"[{_text(key)}]" for key in keys)
    code = f"import torch; from safetensors.torch import save_file; model = {loaded}; " + _SAVE.format(
        value="v", items="model.state_dict().items()", out=_text(_beside(path))
    )
    if any(name.startswith("__main__.") for name in names):
        return f"{TRUST}at the end of the script that defines its classes, run {code}"
    plain = all(name.partition(".")[0] in _INSTALLED for name in names)
    return f"{TRUST}python -c {shlex.quote(code)}" + ("" if plain else ", where its classes can be imported")


def filtered(path: Path, keys: tuple[str, ...]) -> str:
    """Return the way out of a dictionary that holds other values beside its tensors; `keys` tell where it stands."""
    loaded = _LOAD.format(file=_text(path)) + "".join(f"[{_text(key)}]" for key in keys)
    return "keep the tensors alone: " + TRUST + _command(path, f"{loaded}.items()")


def arrays(path: Path, keys: tuple[str, ...]) -> str:
    """Return the way out of weights that are NumPy arrays in a file of torch's; `keys` tell where they stand."""
    loaded = _LOAD.format(file=_text(path)) + "".join(f"[{_text(key)}]" for key in keys)
    items = f"((k, torch.as_tensor(a)) for k, a in {loaded}.items())"
    return TRUST + _command(path, items)


def other_tensors(path: Path, keys: tuple[str, ...], kind: str) -> str:
    """Return the way out of tensors of another make: sparse ones, and those of a class of their own."""
    loaded = _LOAD.format(file=_text(path)) + "".join(f"[{_text(key)}]" for key in keys)
    value = "v.to_dense()" if kind == "sparse" else "v.as_subclass(torch.Tensor)"
    return TRUST + _command(path, f"{loaded}.items()", value)


def quantised() -> str:
    """Return the way out of a quantised model, whose weights fit no model that computes in floating point."""
    saved = _SAVE.format(value="v", items="model.state_dict().items()", out='"model.safetensors"')
    return (
        "audit the model in floating point that it was made from: before it is converted, run import torch; "
        f"from safetensors.torch import save_file; {saved}"
    )


def scripted(path: Path) -> str:
    """Return the way out of a TorchScript archive."""
    return "save its weights alone: " + _command(
        path, f'torch.jit.load({_text(path)}, map_location="cpu").state_dict().items()'
    )


def exported(path: Path) -> str:
    """Return the way out of a program that torch.export made."""
    return "save its weights alone: " + _command(path, f"torch.export.load({_text(path)}).state_dict.items()")


def pickled(path: Path) -> str:
    """Return the way out of a pickle that torch did not write, of tensors or NumPy arrays by name."""
    code = (
        "import pickle, torch; from safetensors.torch import save_file; "
        f"save_file({{k: torch.as_tensor(v).clone().contiguous() for k, v in pickle.load(open({_text(path)}, "
        f'"rb")).items()}}, {_text(_beside(path))})'
    )
    return TRUST + f"python -c {shlex.quote(code)}"


def numpy_arrays(path: Path) -> str:
    """Return the way out of weights in an archive of NumPy arrays."""
    code = (
        "import numpy, torch; from safetensors.torch import save_file; "
        f"save_file({{k: torch.from_numpy(v).contiguous() for k, v in numpy.load({_text(path)}).items()}}, "
        f"{_text(_beside(path))})"
    )
    return f"if they are weights, convert them: python -c {shlex.quote(code)}"


def compressed(path: Path) -> str:
    """Return the way out of a compressed archive: the same members, stored as they are."""
    code = (
        f"import zipfile; a = zipfile.ZipFile({_text(path)}); "
        f'b = zipfile.ZipFile({_text(_beside(path, ".pt"))}, "w"); [b.writestr(n, a.read(n)) for n in a.namelist()]; '
        "b.close()"
    )
    return f"where you trust the file, store it uncompressed: python -c {shlex.quote(code)}"


def unpacked(path: Path, program: str) -> str:
    """Return the way out of a file that one of the usual programs has packed."""
    return f"unpack it first: {program} -dc {shlex.quote(str(path))} > {shlex.quote(str(_beside(path, '.unpacked')))}"


def archived(path: Path, *, by_torch: bool) -> str:
    """Return the way out of a tar archive, which the first versions of torch wrote, too."""
    if by_torch:
        return TRUST + _command(path, _LOAD.format(file=_text(path)) + ".items()")
    return f"unpack it first (tar -xf {shlex.quote(str(path))}) and name the checkpoint inside"


def _command(path: Path, items: str, value: str = "v") -> str:
    """Return a command that writes the tensors among `items` beside the file."""
    saved = _SAVE.format(value=value, items=items, out=_text(_beside(path)))
    return f"python -c {shlex.quote(f'import torch; from safetensors.torch import save_file; {saved}')}"


def _text(value: object) -> str:
    """Return text as Python and a shell read it within single quotes."""
    return json.dumps(str(value), ensure_ascii=False)


def _beside(path: Path, ending: str = ".safetensors") -> Path:
    """Return a name beside the file that is not taken."""
    found = path.with_suffix(ending)
    for number in range(2, 1000):
        if not found.exists():
            break
        found = path.with_name(f"{path.stem}-{number}{ending}")
    return found
