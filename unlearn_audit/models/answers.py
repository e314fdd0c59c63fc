"""What a model answers with: logits, something that holds logits, or something that only looks like them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CLOSE = 1e-3
NAME = "logits"
RETURN_LOGITS = "leave out the last softmax or sigmoid, and return the logits"


@dataclass(frozen=True)
class Logits:
    """A hook after the forward pass: take the logits out of what a model answers."""

    key: str | int

    def __call__(self, model: nn.Module, given: tuple[Any, ...], answer: Any) -> Any:
        """Return what the model's caller gets."""
        return Logits.taken(answer, self.key)

    @staticmethod
    def taken(answer: object, key: str | int | None) -> object:
        """Return the entry of an answer that is named or numbered so; a tensor as it is."""
        if key is None or isinstance(answer, Tensor):
            return answer
        if isinstance(key, str) and not isinstance(answer, Mapping):
            return getattr(answer, key, None)
        try:
            return answer[key]  # type: ignore[index]
        except (LookupError, TypeError):
            return None


def what_logits_are(answer: object, rows: int, classes: int | None) -> tuple[str | int | None, tuple[str, ...]]:
    """Find the logits in an answer that is no tensor.

    They are what is called `logits`; else the only tensor that has their shape.

    Args:
        answer: what the model returned.
        rows: how many images it was given.
        classes: columns of logits; None for any number.

    Returns:
        The name or number of the entry, with a note; None and no note for a tensor and where nothing can be told.
    """
    if isinstance(answer, Tensor):
        return None, ()
    kind = type(answer).__name__
    if isinstance(Logits.taken(answer, NAME), Tensor):
        return NAME, (f"of the {kind} that the model returns, '{NAME}' is read",)
    fitting = [key for key, entry in _entries(answer) if not complaint(entry, rows, classes)]
    if len(fitting) != 1:
        return None, ()
    shown = repr(fitting[0]) if isinstance(fitting[0], str) else f"entry {fitting[0]}"
    return fitting[0], (f"of the {kind} that the model returns, {shown} is read: no other has the shape of logits",)


def _entries(answer: object) -> Iterator[tuple[str | int, object]]:
    """Yield the entries of a mapping, list or tuple."""
    if isinstance(answer, Mapping):
        yield from answer.items()
    elif isinstance(answer, list | tuple):
        yield from enumerate(answer)


def complaint(answer: object, rows: int, classes: int | None, *of_noise: object) -> str:
    """Return what an answer is instead of logits [rows, classes], and what to do; nothing for logits.

    Probabilities are told by their values: rows in [0, 1] that sum to 1, or stay in [0, 1] whatever the images.

    Args:
        answer: what the model returned for real images.
        rows: how many there were.
        classes: columns of logits; None for any number.
        of_noise: what it returned for images of noise, ever stronger; without any, values are not looked at.
    """
    columns = "classes" if classes is None else str(classes)
    if not isinstance(answer, Tensor):
        return _no_tensor(answer, rows, columns)
    if answer.ndim == 2 and answer.shape == (rows, 1) and classes is not None and classes > 1:
        return (
            f"one column ({list(answer.shape)}), a score of one class perhaps; two classes need two columns of logits: "
            "torch.cat([torch.zeros_like(score), score], dim=1), where score is taken before the sigmoid"
        )
    if answer.ndim == 2 and answer.shape[0] == rows and answer.is_floating_point():
        if classes is not None and answer.shape[1] != classes:
            return f"{answer.shape[1]} columns ({list(answer.shape)}); the data has {classes} classes"
        return _probabilities([answer, *of_noise]) if of_noise else ""
    return (
        f"a tensor {list(answer.shape)} of {answer.dtype} instead of logits [{rows}, {columns}]; "
        "a classifier with one row of logits per image is needed"
    )


def _no_tensor(answer: object, rows: int, columns: str) -> str:
    """Say what an answer that is no tensor holds."""
    held = [
        f"{key!r}: {list(entry.shape) if isinstance(entry, Tensor) else type(entry).__name__}"
        for key, entry in _entries(answer)
    ]
    holds = f" that holds {', '.join(held[:6])}" if held else ""
    return (
        f"a {type(answer).__name__} instead of a tensor [{rows}, {columns}]{holds}; "
        "return the logits alone, or under the name 'logits'"
    )


def _probabilities(answers: list[object]) -> str:
    """Say that answers are probabilities, if they are."""
    found = [each.detach().double() for each in answers if isinstance(each, Tensor) and each.ndim == 2]
    values = torch.cat(found)
    if values.shape[1] < 2 or not bool(torch.isfinite(values).all()):
        return ""
    if not bool(((values >= -(CLOSE**2)) & (values <= 1 + CLOSE**2)).all()):
        return ""
    if bool(((values.sum(dim=1) - 1).abs() < CLOSE).all()):
        return (
            "probabilities: every row lies in [0, 1] and sums to 1, where logits are needed (a second softmax would "
            f"flatten them, and where they are 0 or 1 the logits are lost); {RETURN_LOGITS}"
        )
    if len(found) == len(answers) > 1 and bool((values.std(dim=0) > CLOSE).any()):
        return (
            f"values between 0 and 1 whatever the images, as a sigmoid gives, where logits are needed; {RETURN_LOGITS}"
        )
    return ""
