"""What a model needs that others do not, found once by trying it on a few images: layout, copies, precision, logits.

Models of the package and of libraries take images in channels-last layout, leave them as they are and answer with
logits. Code of the user's may call `.view`, write into its input, compute in float64 or return an object; such a model
is served through hooks, which travel with its copies and leave the names of its weights alone. What cannot be served is
refused with the model's own exception and where it was raised.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from unlearn_audit.errors import MeasurementError
from unlearn_audit.models.answers import Logits, complaint, what_logits_are
from unlearn_audit.models.building import is_code
from unlearn_audit.models.denoisers import Denoiser
from unlearn_audit.streams import derive_seed
from unlearn_audit.user_code import raised

TRIED = 4  # images; one that is cut off tells whether an answer depends on the rest of the batch
CLOSE = 1e-3  # of the largest output: what rounding may make of another order of sums
FAR = 0.05  # of the largest output: what even bfloat16 does not make of it
SMALL = 0.01  # an output below which differences are not looked at relatively
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Handed:
    """A hook before the forward pass: how images are handed to a model."""

    layout: torch.memory_format = torch.channels_last
    copied: bool = False
    dtype: torch.dtype | None = None

    def __call__(self, model: nn.Module, given: tuple[Any, ...]) -> Any:
        """Return what the model's forward gets."""
        images, *others = given
        handed = images.to(self.dtype or images.dtype)
        if self.layout == torch.contiguous_format:  # of one channel, `contiguous()` would leave the strides as they are
            handed = handed.clone(memory_format=torch.contiguous_format)
        elif self.copied and handed is images:
            handed = images.clone()
        return (handed, *others)


def _current(model: nn.Module) -> _Handed:
    handed = [hook for hook in model._forward_pre_hooks.values() if isinstance(hook, _Handed)]
    return handed[-1] if handed else _Handed()


def layout_of(model: nn.Module) -> torch.memory_format:
    """Return the layout of a model's weights: channels-last, the faster one, unless the model cannot take it."""
    return _current(model).layout


def _hand(model: nn.Module, handed: _Handed) -> None:
    """Hand images to a model this way from now on, its weights in the same layout."""
    before = layout_of(model)
    for key in [key for key, hook in model._forward_pre_hooks.items() if isinstance(hook, _Handed)]:
        del model._forward_pre_hooks[key]
    if handed != _Handed():
        model.register_forward_pre_hook(handed)
    if before == handed.layout:
        return
    model.to(memory_format=handed.layout)
    for weights in (*model.parameters(), *model.buffers()):
        if weights.dim() == 4 and handed.layout == torch.contiguous_format:
            weights.data = weights.data.clone(memory_format=handed.layout)


def materialise(model: nn.Module, images: Tensor, *, spec: str) -> None:
    """Let lazy layers take their shapes from a pass over a few images; their weights are drawn then.

    Args:
        model: left as it is where it has no lazy layers.
        images: normalised images [N, C, H, W] on the model's device.
        spec: the model's name, for the message.

    Raises:
        MeasurementError: the model cannot take the images.
    """
    if not any(isinstance(each, UninitializedParameter) for each in (*model.parameters(), *model.buffers())):
        return
    try:
        with evaluating(model), torch.no_grad():
            model(images[:TRIED])
    except Exception as problem:
        raise MeasurementError(_cannot_take(spec, images, raised(problem))) from problem


def adapt(model: nn.Module, images: Tensor, *, spec: str, classes: int | None = None) -> tuple[str, ...]:
    """Make sure that a model turns such images into one row of logits each, and serve it as it needs.

    Args:
        model: the model, on its device; its training mode is put back afterwards. Hooks are added where it needs them.
        images: normalised images [N, C, H, W] on the model's device, two or more; a few are used.
        spec: the model's name, for the message; the user's own code is tried more thoroughly than a library's.
        classes: the columns that the output must have; None accepts any number.

    Returns:
        What was found and done, in plain words; nothing for a model that is like the others.

    Raises:
        MeasurementError: the model cannot take the images, or answers with something other than logits; an exception
            of the model's own is told with the place where it was raised.
    """
    few = images[:TRIED]
    if isinstance(model, Denoiser):
        with evaluating(model), torch.no_grad():
            _try_denoiser(model, few, spec=spec)
        return ()
    with evaluating(model), _same_draws(few):
        if not is_code(spec):
            return _adapt_known(model, few, spec=spec, classes=classes)
        notes = _settle_precision(model)
        notes += _settle_layout(model, few, spec=spec)
        notes += _settle_answer(model, few, spec=spec, classes=classes)
    return notes


def _try_denoiser(model: Denoiser, images: Tensor, *, spec: str) -> None:
    """Ask a generator of images under classes once; what text-to-image takes is made elsewhere."""
    if model.conditioning != "class":
        return
    try:
        answer = model(model.asked(images))
    except Exception as problem:
        raise MeasurementError(_cannot_take(spec, images, raised(problem))) from problem
    if answer.shape != images.shape:
        raise MeasurementError(
            f"model '{spec}' answers images {list(images.shape)} with {list(answer.shape)}; a denoiser answers in the "
            "shape of what it is given"
        )


def _adapt_known(model: nn.Module, images: Tensor, *, spec: str, classes: int | None) -> tuple[str, ...]:
    """Try a library's model once; the other layout where it does not take this one."""
    tried = _tried(model, images, _Handed(), gradient=False)
    notes: tuple[str, ...] = ()
    if (problem := tried.problem) is not None:
        tried = _tried(model, images, _Handed(torch.contiguous_format), gradient=False)
        if tried.problem is not None:
            _hand(model, _Handed())
            raise MeasurementError(_cannot_take(spec, images, raised(problem))) from problem
        notes = (_contiguous(raised(problem)),)
    key, more = what_logits_are(tried.answer, len(images), classes)
    if key is not None:
        model.register_forward_hook(Logits(key))
    told = complaint(Logits.taken(tried.answer, key), len(images), classes)
    if told:
        raise MeasurementError(_wrong_answer(spec, images, told))
    return notes + more


class _Trial(NamedTuple):
    """What became of a pass: the answer, or the exception; whether the images were written into."""

    answer: object = None
    problem: Exception | None = None
    written: bool = False
    backward: Exception | None = None


def _tried(model: nn.Module, images: Tensor, handed: _Handed, *, gradient: bool) -> _Trial:
    """Hand images to a model this way; with a backward pass where the answer has a gradient."""
    _hand(model, handed)
    layout = torch.channels_last if images.dim() == 4 else torch.contiguous_format
    given = images.clone(memory_format=layout)
    try:
        with torch.set_grad_enabled(gradient):
            answer: object = model(given)
    except Exception as problem:
        return _Trial(problem=problem)
    written = not torch.equal(given, images)
    return _Trial(answer, None, written, _backward(model, answer) if gradient else None)


def _backward(model: nn.Module, answer: object) -> Exception | None:
    """Return what a backward pass from an answer ends with."""
    tensors = [each for each in _tensors_in(answer) if each.requires_grad]
    if not tensors:
        return RuntimeError("the answer does not depend on the weights")
    try:
        torch.autograd.backward(torch.stack([each.double().logsumexp(dim=-1).sum() for each in tensors]).sum())
    except Exception as problem:
        return problem
    finally:
        model.zero_grad(set_to_none=True)
    return None


def _tensors_in(answer: object) -> Iterator[Tensor]:
    """Yield the tensors of an answer, whatever holds them."""
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, Mapping | list | tuple):
        for each in answer.values() if isinstance(answer, Mapping) else answer:
            yield from _tensors_in(each)
    elif isinstance(getattr(answer, "logits", None), Tensor):
        yield answer.logits  # type: ignore[attr-defined]


def _settle_precision(model: nn.Module) -> tuple[str, ...]:
    """Compute in float64 what is float64, and in float32 what has fewer bits; return a note of either."""
    kinds = {each.dtype for each in (*model.parameters(), *model.buffers()) if each.is_floating_point()}
    if kinds & {*HALF}:
        model.float()
        return (f"weights of {_names(kinds & {*HALF})} are computed with in float32",)
    if kinds == {torch.float64}:
        _hand(model, _Handed(dtype=torch.float64))
        return ("the model computes in float64, and images are handed to it so",)
    return ()


def _names(kinds: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))


def _settle_layout(model: nn.Module, images: Tensor, *, spec: str) -> tuple[str, ...]:
    """Choose the layout by trying both on a copy, in evaluation and in training mode; notice what is written into."""
    try:
        trial = copy.deepcopy(model)
    except Exception as problem:
        raise MeasurementError(
            f"model '{spec}' cannot be copied, which relearning and unlearning need: {raised(problem)}"
        ) from problem
    kept = _current(model)
    fast, plain = (
        _tried(trial, images, replace(kept, layout=layout), gradient=True)
        for layout in (torch.channels_last, torch.contiguous_format)
    )
    if plain.problem is not None and fast.problem is not None:
        told = _cannot_take(spec, images, raised(plain.problem), **_in_training_mode(trial, images, kept))
        raise MeasurementError(told) from plain.problem
    why = _why_contiguous(fast, plain) or _why_in_training(trial, images, kept)
    _hand(model, replace(kept, layout=torch.contiguous_format if why else torch.channels_last, copied=fast.written))
    notes: tuple[str, ...] = (_contiguous(why),) if why else ()
    notes += ("the model writes into the images that it is given, so it gets copies",) if fast.written else ()
    lost = plain.backward if why else fast.backward
    notes += (f"the model cannot relearn or unlearn: its backward pass ends with {raised(lost)}",) if lost else ()
    return notes


def _why_contiguous(fast: _Trial, plain: _Trial) -> str:
    """Say why a model needs contiguous images, if it does."""
    if plain.problem is not None:
        return ""
    if fast.problem is not None:
        return raised(fast.problem)
    if fast.backward is not None and plain.backward is None:
        return f"in the backward pass, {raised(fast.backward)}"
    pairs = zip(_tensors_in(fast.answer), _tensors_in(plain.answer), strict=False)
    return "" if all(_alike(one, other) for one, other in pairs) else "it answers otherwise, without an exception"


def _why_in_training(trial: nn.Module, images: Tensor, kept: _Handed) -> str:
    """Say why a model needs contiguous images in training mode, if only there."""
    trial.train()
    tried = [
        _tried(trial, images, replace(kept, layout=layout), gradient=True)
        for layout in (torch.channels_last, torch.contiguous_format)
    ]
    trial.eval()
    ended = [one.problem or one.backward for one in tried]
    return f"in training mode, {raised(ended[0])}" if ended[0] is not None and ended[1] is None else ""


def _in_training_mode(trial: nn.Module, images: Tensor, kept: _Handed) -> dict[str, str]:
    """Say whether a model that raises in evaluation mode does so in training mode, too."""
    trial.train()
    works = _tried(trial, images, replace(kept, layout=torch.contiguous_format), gradient=False).problem is None
    return {"more": "; in training mode it answers"} if works else {}


def _settle_answer(model: nn.Module, images: Tensor, *, spec: str, classes: int | None) -> tuple[str, ...]:
    """Find the logits in what a model answers; refuse probabilities and answers that depend on the batch."""
    with torch.inference_mode():
        whole: object = model(images)
        key, notes = what_logits_are(whole, len(images), classes)
        if key is not None:
            model.register_forward_hook(Logits(key))
        noises = [torch.randn_like(images) * scale for scale in (1, 100)]
        answers = [Logits.taken(whole, key), *(_or_nothing(model, noise) for noise in noises)]
        told = complaint(answers[0], len(images), classes, *answers[1:])
        if told:
            raise MeasurementError(_wrong_answer(spec, images, told))
        alone = _or_nothing(model, images[:1])
    found = answers[0]
    if not isinstance(found, Tensor):
        return notes
    if not isinstance(alone, Tensor) or alone.shape != found[:1].shape:
        return (*notes, "the model takes no single image, so that a batch of one would stop it")
    if not _alike(found[:1], alone, within=FAR):
        raise MeasurementError(
            f"model '{spec}' answers an image otherwise where other images stand beside it (BatchNorm without running "
            "statistics, perhaps), so that no number over a set would be its own; in evaluation mode an answer must "
            "depend on its image alone"
        )
    if bool((found.float().logsumexp(dim=1).abs() < CLOSE).all()) and bool((found <= 0).all()):
        notes += ("the model answers with log-probabilities; as logits they mean the same",)
    return notes


def _or_nothing(model: nn.Module, images: Tensor) -> object:
    try:
        return model(images)
    except Exception:  # what it was given is not what it will be asked
        return None


def _alike(one: Tensor, other: Tensor, *, within: float = CLOSE) -> bool:
    """Return whether two answers differ by little of the largest output; broken values are told elsewhere."""
    if one.shape != other.shape:
        return False
    first, second = one.detach().double(), other.detach().double()
    if not bool(torch.isfinite(first).all() and torch.isfinite(second).all()):
        return True
    scale = max(SMALL, float(first.abs().max())) if first.numel() else SMALL
    return bool(((first - second).abs() <= within * scale).all())


def _contiguous(why: str) -> str:
    return f"images are handed to the model in contiguous layout, as it cannot take channels-last ({why})"


def _given(images: Tensor) -> str:
    if images.ndim != 4:
        return f"shape {list(images.shape)}, not [N, C, H, W]"
    return f"{images.shape[1]} channels, {images.shape[2]} x {images.shape[3]} pixels"


def _cannot_take(spec: str, images: Tensor, told: str, more: str = "") -> str:
    """Say that a model raised; of the user's code, that the exception is its own."""
    if is_code(spec):
        shape = ", ".join(["N", *map(str, images.shape[1:])])
        return (
            f"model '{spec}' raised an exception of its own in evaluation mode: {told}{more}; "
            f"it is given images [{shape}] of any N, as the data has them"
        )
    return (
        f"model '{spec}' cannot take these images ({_given(images)}): {told}; "
        "give it data of the size and channels that it was trained on (--data), or another --model"
    )


def _wrong_answer(spec: str, images: Tensor, told: str) -> str:
    return f"model '{spec}' answers images ({_given(images)}) with {told}"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode, and leave every module in the mode that it had.

    Yields:
        Nothing.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _same_draws(images: Tensor) -> Iterator[None]:
    """Leave the global random streams as they were."""
    with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
        torch.manual_seed(derive_seed(0, "probe"))
        yield
