"""The flags that every measuring verb shares, and how they become a configuration."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

DATA, RUN, OUTPUT = "What to measure on", "How to compute", "Output"

Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no messages.", rich_help_panel=OUTPUT)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.", rich_help_panel=OUTPUT)]


def _option(panel: str, help_text: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help_text, rich_help_panel=panel, metavar=metavar)


Checkpoints = Annotated[
    list[str] | None, typer.Argument(metavar="[CKPT]...", help="Checkpoints; their metadata tells their role.")
]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Their values; None means that the flag was not given."""

    original: Annotated[list[str] | None, _option(DATA, "Checkpoint trained on everything.", metavar="CKPT")] = None
    retrained: Annotated[
        list[str] | None, _option(DATA, "Checkpoint trained without the forget set; repeatable.", metavar="CKPT")
    ] = None
    unlearned: Annotated[
        list[str] | None, _option(DATA, "Checkpoint after unlearning; repeatable.", metavar="CKPT")
    ] = None
    forget: Annotated[
        str | None,
        _option(DATA, "Forget set: idx.npy, .txt, .csv, .json, class:3, random:0.1:0, range:0-99, mislabelled."),
    ] = None
    unseen: Annotated[str | None, _option(DATA, "Held-out examples that the unseen twin is drawn from.")] = None
    retain: Annotated[str | None, _option(DATA, "Retain set; default: the rest of the training set.")] = None
    adjacent: Annotated[
        str | None,
        _option(DATA, "Part of retain that gaps and audit look at apart: like --forget, or neighbours (of it)."),
    ] = None
    data: Annotated[
        str | None, _option(DATA, "Data spec, e.g. digits?mislabel=0.1&seed=0, idx:DIR, npz:FILE, folder:DIR.")
    ] = None
    model: Annotated[str | None, _option(DATA, "Model spec, e.g. resnet20, torchvision:resnet18, my.module:make.")] = (
        None
    )
    weights: Annotated[
        str | None, _option(DATA, "Which of several sets of weights in a file: model, model_ema, …", metavar="KEY")
    ] = None
    base: Annotated[
        str | None, _option(DATA, "Pipeline whose U-Net a file's weights are put over.", metavar="FOLDER")
    ] = None
    mean: Annotated[str | None, _option(DATA, "Normalisation: one number, or one per channel: 0.5,0.5,0.5.")] = None
    std: Annotated[str | None, _option(DATA, "Normalisation, like --mean.")] = None
    sample: Annotated[int | None, _option(DATA, "Measure on a seeded sample of the forget set.", metavar="N")] = None
    retain_sample: Annotated[
        int | None, _option(DATA, "Measure on a seeded sample of the retain set, by class.", metavar="N")
    ] = None
    download: Annotated[bool, _option(DATA, "Allow torchvision: data to be downloaded.", "--download")] = False
    config: Annotated[Path | None, _option(RUN, "Configuration file; flags take precedence.")] = None
    device: Annotated[str | None, _option(RUN, "auto, cpu, cuda, cuda:N or mps.")] = None
    precision: Annotated[str | None, _option(RUN, "fp32 (default), tf32 or bf16.")] = None
    batch_size: Annotated[int | None, _option(RUN, "Images per forward pass.")] = None
    seed: Annotated[int | None, _option(RUN, "Random seed of sampling, twin, controls and resampling.")] = None
    format: Annotated[Literal["table", "json", "markdown"], _option(OUTPUT, "Format of stdout.", "--format")] = "table"
    out: Annotated[Path | None, _option(OUTPUT, "Folder for report.json.")] = None
    force: Force = False
    quiet: Quiet = False
    verbose: Verbose = False


def measuring(function: Callable[..., None]) -> Callable[..., None]:
    """Give a verb all shared flags, gathered in its keyword argument `shared`."""
    hints = get_type_hints(Shared, include_extras=True)
    own = [
        parameter
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
        if name != "shared"
    ]
    names = [entry.name for entry in fields(Shared)]
    common = [
        inspect.Parameter(
            entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=hints[entry.name]
        )
        for entry in fields(Shared)
    ]

    @functools.wraps(function)
    def verb(**values: Any) -> None:
        shared = Shared(**{name: values.pop(name) for name in names})
        function(**values, shared=shared)

    verb.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + common
    )
    verb.__annotations__ = {}
    return verb


def channel_values(text: str | None, flag: str) -> list[float] | None:
    """Return "0.5,0.5" as numbers."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a number or numbers with commas between", param_hint=flag) from None


def flag_values(checkpoints: Sequence[str], shared: Shared, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the flags say, nested like a config file; flags that were not given are left out."""
    entries = [{"path": path} for path in checkpoints]
    for role in ("original", "retrained", "unlearned"):
        entries += [{"path": path, "role": role} for path in getattr(shared, role) or ()]
    named = ("forget", "unseen", "retain", "adjacent", "data", "model", "weights", "base", "sample", "retain_sample")
    ran = ("device", "precision", "batch_size", "seed")
    found: dict[str, Any] = {name: getattr(shared, name) for name in (*named, *ran)}
    found |= {"mean": channel_values(shared.mean, "--mean"), "std": channel_values(shared.std, "--std")}
    found |= {"checkpoint": entries or None, "download": shared.download or None}
    found |= {
        name: {key: value for key, value in values.items() if value is not None} for name, values in section.items()
    }
    return {key: value for key, value in found.items() if value is not None}


def config_layers(flags: Mapping[str, Any], named: Path | None) -> list[Any]:
    """Return the layers of the configuration by precedence: flags, environment, the named config, one found."""
    from unlearn_audit.config import Layer, environment_layer, file_layer, find_config

    layers = [Layer("flag", flags, "command line"), environment_layer(os.environ)]
    if named is not None:
        layers.append(file_layer(named, origin="config"))
    else:
        found = find_config(Path.cwd())
        layers += [file_layer(found, origin="found")] if found else []
    return layers


def resolved(checkpoints: Sequence[str], shared: Shared, **section: Mapping[str, Any]) -> Any:
    """Return the configuration of a measuring verb: its own section and nothing else that a file asks for.

    Args:
        checkpoints: the positional ones.
        shared: the shared flags.
        section: the verb's section with its flags, None where not given.
    """
    from unlearn_audit.config import SECTIONS, resolve
    from unlearn_audit.config.early import refuse_early

    layers = config_layers(flag_values(checkpoints, shared, section), shared.config)
    others = [name for name in SECTIONS if name not in section and name != "checkpoint"]
    if checkpoints or shared.original or shared.retrained or shared.unlearned:
        others.append("checkpoint")
    kept = [layers[0]] + [
        layer._replace(values={key: value for key, value in layer.values.items() if key not in others})
        for layer in layers[1:]
    ]
    request = resolve(kept)
    refuse_early(request.config)
    return request
