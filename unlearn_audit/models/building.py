"""From a model spec to a freshly initialised network: our own names, three libraries, or the user's code."""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unlearn_audit import catalogue
from unlearn_audit.errors import UsageError, unknown_name
from unlearn_audit.models.answers import Logits
from unlearn_audit.models.hugging_face import TRANSFORMERS, check_classifier, classifier
from unlearn_audit.user_code import call_user_code, raised

RGB = 3
TORCHVISION = "torchvision"
TIMM = "timm"

Scalar = int | float | bool | str
# What a spec may set behind its question mark; everything else is the library's own affair.
OPTIONS: dict[str, tuple[str, ...]] = {
    TORCHVISION: ("channels",),
    TIMM: (
        "img_size", "patch_size", "window_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "global_pool",
        "class_token", "drop_rate", "drop_path_rate", "output_stride", "act_layer", "norm_layer",
    ),
}  # fmt: skip
SCALAR = re.compile(r"[A-Za-z0-9_.+-]{1,32}")

Shapes = dict[str, tuple[int, ...]]
Architecture = str | Callable[[], nn.Module]  # a spec, or what makes the network
ImageSize = tuple[int, int] | None


def is_code(spec: str) -> bool:
    """Return whether a spec names a callable of the user's (`package.module:callable`) and not a known model.

    >>> is_code("my_project.models:make"), is_code("torchvision:resnet18"), is_code("resnet20")
    (True, False, False)
    """
    prefix, colon, _ = spec.partition(":")
    return bool(colon) and prefix not in {TORCHVISION, TIMM, TRANSFORMERS} and not catalogue.is_generator(spec)


def name_of(thing: Architecture | nn.Module) -> str:
    """Return how reports and messages call an architecture: its spec, or `package.module:Name` of a callable or module.

    >>> name_of("small-cnn"), name_of(nn.ReLU), name_of(nn.ReLU())
    ('small-cnn', 'torch.nn.modules.activation:ReLU', 'torch.nn.modules.activation:ReLU')
    """
    if isinstance(thing, str):
        return thing
    named: Any = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{named.__module__}:{named.__qualname__}"


def build(
    spec: Architecture,
    *,
    classes: int,
    channels: int = RGB,
    image_size: ImageSize = None,
    allow_code: bool = False,
) -> nn.Module:
    """Return a freshly initialised model; nothing is downloaded.

    Args:
        spec: a name of `catalogue.MODELS`, `torchvision:NAME`, `timm:NAME`, `transformers:CLASS?settings` (see
            `hugging_face.classifier`), or `package.module:callable`, which is called without arguments, so that
            classes, channels and size are its own affair; or such a callable itself. A library's model takes options:
            `torchvision:resnet18?channels=1`, `timm:NAME?img_size=32&patch_size=4`.
        classes: outputs of the last layer, at least 1.
        channels: channels of the images; torchvision's models take 3, or what their option says.
        image_size: height and width of the images, for the architectures that are built for one size (vision
            transformers); None keeps the size they were published with, which weights from elsewhere need.
        allow_code: whether the spec comes from a flag or a named config, and may therefore choose code to run.

    Returns:
        The model in training mode, on the default device.

    Raises:
        UsageError: unknown name, timm or transformers not installed, code where it is not allowed or cannot be used, or
            an architecture that does not exist for these classes, channels and image size.
    """
    if classes < 1 or channels < 1:
        raise UsageError(f"model '{name_of(spec)}' needs at least 1 class and 1 channel, not {classes} and {channels}")
    if not isinstance(spec, str):
        return _called(name_of(spec), spec)
    if is_code(spec):
        return _from_code(spec, allowed=allow_code)
    if spec.startswith(f"{TRANSFORMERS}:"):
        return classifier(spec, classes=classes, channels=channels, image_size=image_size)
    check_name(spec)
    named, options = options_of(spec)
    library, colon, name = named.partition(":")
    if not colon:
        model: nn.Module = catalogue.load("model", catalogue.MODELS, spec)(classes=classes, channels=channels)
        return model
    make = _from_torchvision if library == TORCHVISION else _from_timm
    return make(name, classes=classes, channels=channels, image_size=image_size, options=options)


def check_name(spec: str) -> None:
    """Refuse the name of a model that nobody has; whether it can be built for some data is another question.

    Raises:
        UsageError: unknown name, or timm or transformers is not installed.
    """
    if is_code(spec):
        return
    if spec.startswith(f"{TRANSFORMERS}:"):
        check_classifier(spec)
        return
    if spec.startswith(catalogue.PIPELINE):
        raise UsageError(
            f"'{spec}' is built from a pipeline's folder alone, with the settings that stand there; to train one anew "
            f"name one of {', '.join(catalogue.GENERATORS)}"
        )
    spec = options_of(spec)[0]
    library, colon, name = spec.partition(":")
    if not colon and spec not in catalogue.MODELS:
        raise UsageError(unknown_name("model", spec, catalogue.MODELS, hint=_elsewhere(spec)))
    if library == TORCHVISION and name not in library_names(TORCHVISION):
        raise UsageError(_unknown(TORCHVISION, name, library_names(TORCHVISION)))
    # Names of other schemes (`hf-hub:`) would reach for the network and are unknown.
    if library == TIMM and not _timm().is_model(name):
        raise UsageError(_unknown(TIMM, name, library_names(TIMM)))


def options_of(spec: str) -> tuple[str, dict[str, Scalar]]:
    """Return a spec without its options, and these: numbers, true or false, or a word.

    >>> options_of("timm:vit_tiny_patch16_224?img_size=32&class_token=false")
    ('timm:vit_tiny_patch16_224', {'img_size': 32, 'class_token': False})

    Raises:
        UsageError: the model takes no such option, or a value is no such thing.
    """
    named, mark, text = spec.partition("?")
    taken = OPTIONS.get(named.partition(":")[0] if ":" in named else "", ())
    options: dict[str, Scalar] = {}
    for part in text.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if key not in taken or key in options or not equals:
            raise UsageError(
                f"model '{spec}': {part!r} is not an option, or is given twice; '{named}' takes "
                f"{', '.join(f'{name}=' for name in taken) or 'none'}"
            )
        if not SCALAR.fullmatch(value):
            raise UsageError(f"model '{spec}': {key} is a number, true, false or a word, not {value!r}")
        options[key] = _scalar(value)
    return named, options


def _scalar(value: str) -> Scalar:
    if value in {"true", "false"}:
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _elsewhere(name: str) -> str:
    """Tell which other kinds of spec there are, and whether torchvision has the name."""
    found = f"torchvision has it: 'torchvision:{name}'. " if name in library_names(TORCHVISION) else ""
    return f"{found}Other specs: torchvision:NAME, timm:NAME, package.module:callable"


def library_names(library: str) -> tuple[str, ...]:
    """Return the image classifiers that `torchvision` or `timm` can build, sorted.

    Raises:
        UsageError: timm is not installed.
    """
    if library == TIMM:
        return tuple(sorted(_timm().list_models()))
    from torchvision import models

    return tuple(sorted(models.list_models(module=models)))


def _timm() -> Any:
    """Import timm, which is optional."""
    try:
        return import_module(TIMM)
    except ModuleNotFoundError as missing:
        raise UsageError("a timm model needs timm: pip install 'unlearn-audit[timm]'") from missing


def _from_torchvision(
    name: str, *, classes: int, channels: int, image_size: ImageSize, options: Mapping[str, Scalar]
) -> nn.Module:
    """Build one of torchvision's classifiers."""
    from torchvision import models

    taken = options.get("channels", RGB)
    if channels != taken:
        raise UsageError(
            f"'torchvision:{name}' takes images of {taken} channels, the data has {channels}; choose "
            f"torchvision:{name}?channels={channels} (another first convolution), one of our own models (small-cnn, "
            "resnet20, cifar-resnet18), timm:NAME, or other data"
        )
    # Both would otherwise warn that their default initialisation is about to change.
    extra: dict[str, Any] = {"init_weights": True} if name in {"googlenet", "inception_v3"} else {}
    if name.startswith("vit_") and image_size is not None:
        height, width = image_size
        if height != width:
            raise UsageError(f"'torchvision:{name}' takes square images, the data is {height} x {width}")
        extra = {"image_size": height}
    model = _call(
        f"torchvision:{name}", lambda: models.get_model(name, weights=None, num_classes=classes, **extra), image_size
    )
    if hasattr(model, "aux_logits"):  # in training mode these answer with the logits of two or three heads
        model.register_forward_hook(Logits("logits"))
    if channels != RGB:
        _take_channels(model, channels, f"torchvision:{name}")
    return model


def _take_channels(model: nn.Module, channels: int, spec: str) -> None:
    """Put another first convolution into a model, drawn as He et al. do; the rest stays."""
    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    name, first = found[0] if found else ("", None)
    if first is None or first.in_channels != RGB or first.groups != 1:
        raise UsageError(f"'{spec}' does not begin with a convolution of {RGB} channels; choose another --model")
    layer = nn.Conv2d(
        channels, first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )  # fmt: skip
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, layer)


def _from_timm(
    name: str, *, classes: int, channels: int, image_size: ImageSize, options: Mapping[str, Scalar]
) -> nn.Module:
    """Build one of timm's models."""
    timm = _timm()
    extra: dict[str, Any] = {} if channels == RGB else {"in_chans": channels}
    config = timm.get_pretrained_cfg(name)
    if image_size is not None and config is not None and config.fixed_input_size:
        extra["img_size"] = image_size
    extra |= options
    return _call(
        f"timm:{name}", lambda: timm.create_model(name, pretrained=False, num_classes=classes, **extra), image_size
    )


def _unknown(library: str, name: str, names: tuple[str, ...]) -> str:
    """Say that a library has no such model, with its nearest names; the whole list would fill the screen."""
    near = get_close_matches(name[:200], names, n=4, cutoff=0.5)
    guess = f"did you mean {', '.join(near)}?" if near else f"it has, for example, {', '.join(names[:4])}"
    return f"{library} has no image classifier '{name}' (of {len(names)}); {guess}"


def _call(spec: str, make: Callable[[], Any], image_size: ImageSize) -> nn.Module:
    """Build, turning a constructor's refusal into one line."""
    size = "" if image_size is None else f" for images of {image_size[0]} x {image_size[1]}"
    try:
        model: nn.Module = make()
    except (
        ArithmeticError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
        AssertionError,
    ) as no:
        raise UsageError(f"'{spec}' cannot be built{size}: {first_line(no)}; choose another --model") from no
    return model


def first_line(problem: BaseException) -> str:
    """Return the kind and the first line of an exception's message."""
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[0]}" if lines else type(problem).__name__


def _from_code(spec: str, *, allowed: bool) -> nn.Module:
    """Import and call the user's callable."""
    if not allowed:
        raise UsageError(
            f"model '{spec}' is code to run, and a checkpoint's metadata or a config that was merely found may not "
            "choose it; if you trust it, name it yourself with --model SPEC or --config FILE"
        )
    return _checked(spec, call_user_code("model", spec))


def _called(spec: str, make: Callable[[], object]) -> nn.Module:
    """Call what makes a network."""
    try:
        model = make()
    except Exception as problem:
        raise UsageError(f"model '{spec}' failed when called without arguments: {raised(problem)}") from problem
    return _checked(spec, model)


def _checked(spec: str, model: object) -> nn.Module:
    """Refuse what is no network."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"model '{spec}' returned {type(model).__name__}; it must return a torch.nn.Module")
    return model


class _WithoutWeights(TorchFunctionMode):
    """Put what `torch.empty` makes, which is where layers keep their weights, on the meta device."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def skeleton(spec: str, *, classes: int, channels: int = RGB) -> Shapes:
    """Return names and shapes of a model's state dict without taking memory for its weights.

    Raises:
        UsageError: as `build` does; code is refused.
    """
    try:
        with _WithoutWeights():
            return shapes_of(build(spec, classes=classes, channels=channels).state_dict())
    except UsageError:  # models that try an image in their constructor need everything on one device
        with torch.device("meta"):
            return shapes_of(build(spec, classes=classes, channels=channels).state_dict())


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Return the shape of each tensor of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
