"""The adversarial set of a forget set: made once for a model, kept beside what needed it, found again by its content.

It is rows of (training index, image, wrong label): by index, never by position, so that no order has to be remembered.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from unlearn_audit.checkpoints import digest_of_state
from unlearn_audit.checkpoints.safetensors_files import load_safetensors
from unlearn_audit.data import Examples, digest_of, rows_digest
from unlearn_audit.data.formats.array_files import read_npz
from unlearn_audit.errors import AuditError, DataError, MeasurementError, OutputError
from unlearn_audit.files import atomic_write, check_input, sha256_of_bytes, sha256_of_file
from unlearn_audit.methods import Settings, UnlearningContext
from unlearn_audit.methods.pixel_attacks import Search, check_box, nearest_wrong, pixels
from unlearn_audit.models import name_of
from unlearn_audit.strict_json import parse_object

VERSION = 1  # counted up when the search would find others
ENTRY = "unlearn_audit_adversarial_set"
ENOUGH = 0.95  # of the forget set: what the source calibrates its search to
ARRAYS = ("indices", "images", "labels")


@dataclass(frozen=True, eq=False)
class AdversarialSet:
    """For each forget example that has one, its nearest adversarial example.

    Attributes:
        indices: [m] training indices, ascending.
        images: [m, C, H, W] float32 in [0, 1].
        labels: [m] the class that the attacked model says, never the example's own.
        radii: [m] float32, an upper bound of each distance; NaN where nobody said.
        asked: how many examples were attacked.
        wrong: how many of them the model misclassified as they are; None where nobody said.
        gradients: of single examples that the search took; 0 for a set that somebody brought.
        name: of the file that it is kept in, None where it is not.
        brought: what is to be said of a set that somebody brought; None for one that was made here.
    """

    indices: NDArray[np.int64]
    images: Tensor
    labels: Tensor
    radii: Tensor
    asked: int
    wrong: int | None
    gradients: int
    name: str | None = None
    brought: str | None = None


def content_of(settings: Settings) -> dict[str, str]:
    """Return what tells a method's adversarial set from others where its settings bring one: the file's SHA-256.

    A result depends on what the file holds, which may change under its name.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    named = getattr(settings, "adversarial", None)
    return {} if named is None else {"adversarial_sha256": sha256_of_file(_file(Path(named)))}


def adversarial_set(context: UnlearningContext, search: Search, given: str | None = None) -> AdversarialSet:
    """Return the adversarial set of a context's forget set for its model as it stands.

    Args:
        context: the model, not yet changed; where the set is kept; the sets.
        search: how it is looked for.
        given: a file that holds one.

    Raises:
        DataError: the images lie in no known box, or the file is no such set of these examples.
        MeasurementError: too few examples have one.
    """
    check_box(context.splits.dataset.train)
    if given is not None:
        found = _brought(context, Path(given))
    else:
        identity = _identity(context, search)
        name = f"adversarial-{sha256_of_bytes(_text(identity).encode())[:12]}.safetensors"
        path = context.artefacts / name if context.artefacts else None
        kept = _kept(context, path, identity) if path else None
        found = kept or _made(context, search, name if path else None)
        if path and not kept:
            _write(path, found, identity)
    if len(found.indices) < ENOUGH * found.asked:
        raise MeasurementError(
            f"only {len(found.indices)} of {found.asked} forget examples have an adversarial example"
            f"{'' if given else f' within {search.levels} levels of {search.tries} steps'}; at least {ENOUGH:.0%} are "
            "needed: begin with a larger --first-radius, or take more --attack-steps"
        )
    return found


def _identity(context: UnlearningContext, search: Search) -> dict[str, Any]:
    """Return everything that the set depends on."""
    train, indices = context.splits.dataset.train, context.splits.forget.indices
    return {
        "version": VERSION,
        "model": name_of(context.spec),  # the same weights may be in another network: other strides, another activation
        "weights": digest_of_state(context.model.state_dict()),
        "forget": digest_of(indices),
        "rows": rows_digest(train, indices),
        "mean": list(context.transform.mean),
        "std": list(context.transform.std),
        "search": asdict(search),
        "device": context.compute.device.type,
        "chunk": context.compute.chunk,
        "torch": torch.__version__,
    }


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)


def _made(context: UnlearningContext, search: Search, name: str | None) -> AdversarialSet:
    """Search."""
    forget = context.splits.forget_examples
    found = nearest_wrong(
        context.model, forget, context.transform, search, compute=context.compute, progress=context.progress
    )
    if not bool(torch.isfinite(found.images).all()):
        raise MeasurementError("the search for adversarial examples came to pixels that are not finite")
    rows = found.solved
    images, labels, radii = found.images[rows], found.labels[rows], found.radii[rows]
    as_it_is = (images == pixels(forget.images[rows])).flatten(1).all(dim=1)
    indices = context.splits.forget.indices[rows.numpy()]
    return AdversarialSet(indices, images, labels, radii, len(forget), int(as_it_is.sum()), found.gradients, name)


def _write(path: Path, found: AdversarialSet, identity: Mapping[str, Any]) -> None:
    """Keep a set under its name."""
    tensors = {
        "indices": torch.from_numpy(np.ascontiguousarray(found.indices)),
        "images": found.images.contiguous(),
        "labels": found.labels.contiguous(),
        "radii": found.radii.contiguous(),
    }
    about = {"identity": identity, "asked": found.asked, "wrong": found.wrong, "gradients": found.gradients}
    try:
        atomic_write(path, lambda target: save_file(tensors, target, metadata={ENTRY: _text(about)}))
    except SafetensorError as problem:
        raise OutputError(f"cannot write {path}: {problem}") from problem


def _kept(context: UnlearningContext, path: Path, identity: Mapping[str, Any]) -> AdversarialSet | None:
    """Return the set that is kept in a file, None where there is none; a file that is something else is refused."""
    if not path.exists():
        return None
    try:
        tensors, about = _read(path)
        if about.get("identity") != identity:
            raise DataError(f"{path} is the adversarial set of something else")
        asked, wrong, gradients = (_count(path, about.get(key)) for key in ("asked", "wrong", "gradients"))
        if asked != len(context.splits.forget):
            raise DataError(
                f"{path} says that {asked} examples were attacked, and there are {len(context.splits.forget)}"
            )
        indices, images, labels = _checked(context, path, tensors)
        radii = tensors.get("radii")
        if radii is None or radii.dtype != torch.float32 or radii.shape != labels.shape:
            raise DataError(f"{path}: 'radii' is not one float32 for each example")
    except AuditError as problem:
        raise type(problem)(f"{problem}; remove it, and it is made anew") from problem
    return AdversarialSet(indices, images, labels, radii, asked, wrong, gradients, path.name)


def _count(path: Path, value: object) -> int:
    if type(value) is not int or value < 0:
        raise DataError(f"{path} does not say how many examples were attacked, and what that took")
    return value


def _brought(context: UnlearningContext, path: Path) -> AdversarialSet:
    """Return the set of a file that somebody named, and what is to be said of it."""
    tensors, about = _read(path)
    indices, images, labels = _checked(context, path, tensors)
    identity = about.get("identity")
    made_for = identity.get("weights") if isinstance(identity, Mapping) else None
    if made_for is None:
        told = "it does not say how it was made"
    elif made_for == digest_of_state(context.model.state_dict()):
        told = "it was made for these weights"
    else:
        told = "it was made for other weights: a transferred set, which the source finds weaker"
    radii, asked = torch.full((len(labels),), torch.nan), len(context.splits.forget)
    brought = f"the adversarial set is {path.name} (sha256 {sha256_of_file(path)[:12]}); {told}"
    return AdversarialSet(indices, images, labels, radii, asked, None, 0, None, brought)


def _file(path: Path) -> Path:
    return check_input(path, "adversarial set", DataError)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file by name and what it says of itself; no pickle is loaded.

    Raises:
        DataError: it is missing, damaged, or neither .safetensors nor .npz.
    """
    with _file(path).open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped:
        arrays = read_npz(path, ARRAYS)
        plain = {name: array for name, array in arrays.items() if array.dtype.kind in _WIDE}
        return {
            name: torch.from_numpy(np.array(array, dtype=_WIDE[array.dtype.kind])) for name, array in plain.items()
        }, {}
    try:
        loaded = load_safetensors(path)
        about = parse_object(loaded.entries.get(ENTRY, "{}"))
    except (AuditError, ValueError) as problem:
        wanted = f"a .safetensors or .npz file with {', '.join(ARRAYS)} is needed"
        raise DataError(f"cannot read the adversarial set {path}: {problem}; {wanted}") from problem
    return loaded.tensors, about


_WIDE = {"i": np.int64, "u": np.int64, "f": np.float32}  # what indices, labels and images become, by NumPy's kind


def _checked(
    context: UnlearningContext, path: Path, tensors: Mapping[str, Tensor]
) -> tuple[NDArray[np.int64], Tensor, Tensor]:
    """Return indices (ascending), images and labels of a file, if they are an adversarial set of the forget set."""
    dataset, forget = context.splits.dataset, context.splits.forget.indices
    missing = [name for name in ARRAYS if name not in tensors]
    if missing:
        raise DataError(f"{path} has no {' and no '.join(missing)}; {', '.join(ARRAYS)} are needed")
    indices, images, labels = (tensors[name] for name in ARRAYS)
    count, shape = len(indices) if indices.ndim == 1 else -1, tuple(dataset.train.images.shape[1:])
    whole = all(each.dtype == torch.int64 and each.shape == (count,) for each in (indices, labels))
    if not whole or images.dtype != torch.float32 or tuple(images.shape) != (count, *shape):
        wanted = f"float32 images [m, {', '.join(map(str, shape))}] in [0, 1]"
        raise DataError(f"{path} does not hold m whole indices, m whole labels and {wanted}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise DataError(f"{path}: images leave [0, 1]")
    rows = indices.numpy()
    if len(np.unique(rows)) < count or not np.isin(rows, forget).all():
        raise DataError(f"{path}: its indices are not different examples of the forget set: it belongs to another one")
    own = dataset.train.labels[indices]
    if not bool(((labels >= 0) & (labels < dataset.classes) & (labels != own)).all()):
        raise DataError(f"{path}: a label is no class, or the example's own")
    order = np.argsort(rows)
    return rows[order], images[order], labels[order]


def clean_examples(context: UnlearningContext, found: AdversarialSet) -> Examples:
    """Return the forget examples that have an adversarial one, in its order, as they are stored."""
    return context.splits.dataset.train.subset(found.indices)
