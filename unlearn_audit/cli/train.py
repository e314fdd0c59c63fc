"""`unlearn-audit train`: an original or a retrained checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from unlearn_audit.cli.console import message, progress_bars
from unlearn_audit.cli.flags import Force, Quiet, channel_values
from unlearn_audit.errors import UsageError


def _train(
    data: Annotated[str, typer.Option(help="Data spec, e.g. digits, idx:DIR?train=10000, npz:FILE.")],
    out: Annotated[Path, typer.Option(help="The checkpoint to write (.safetensors; of a generator its folder).")],
    model: Annotated[
        str, typer.Option(help="Model spec, e.g. small-cnn, resnet20, torchvision:resnet18; small-unet is a generator.")
    ] = "small-cnn",
    without: Annotated[
        str | None, typer.Option(help="Leave out this forget set, for a retrained model: idx.npy, class:3, …")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation; default: the data's own. See --mean of rcd.")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation, like --mean.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="small, resnet or diffusion; default: depends on the model.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, instead of the recipe's.", min=1)] = None,
    extras: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="SPEC",
            help="Join a transform, NAME:KEY=VALUE,…; repeatable, and part of the recipe: clip:c=1, l1, reinit.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of initialisation and order.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, tf32 or bf16.")] = "fp32",
    download: Annotated[bool, typer.Option("--download", help="Allow torchvision: data to be downloaded.")] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    r"""Train a model on the data, or on all of it but a forget set.

    A transform is part of the recipe: `retrain` and shadow models repeat it.

    [bold]Examples[/bold]

      unlearn-audit train --data digits --out original.safetensors

      unlearn-audit train --data digits --without i.npy --seed 1 \
        --out r.safetensors

      unlearn-audit train --data digits --with clip:c=1,k=8,every=5 \
        --out c.safetensors

      unlearn-audit train --data digits --model small-unet --out original/
    """
    from unlearn_audit.catalogue import GENERATORS
    from unlearn_audit.config.early import refuse_index_file, refuse_names, refuse_source

    refuse_source(data)
    refuse_names(recipe=recipe, transforms=extras or ())
    if without is not None:
        refuse_index_file(without)
    from unlearn_audit.checkpoints import check_checkpoint_output

    check_checkpoint_output(out, force=force, generator=model in GENERATORS)
    if model in GENERATORS and (mean is not None or std is not None):
        raise UsageError(f"'{model}' makes images in [-1, 1]: mean 0.5, std 0.5; leave out --mean and --std")
    from unlearn_audit.config import Layer, resolve
    from unlearn_audit.data import load_data, read_training_indices
    from unlearn_audit.engine import setup_device
    from unlearn_audit.files import only_process
    from unlearn_audit.normalisation import normalised_as_asked
    from unlearn_audit.training import pick_recipe, train_checkpoint

    asked = {"data": data, "model": model, "device": device, "seed": seed, "precision": precision}
    moments = {"mean": channel_values(mean, "--mean"), "std": channel_values(std, "--std")}
    asked |= {key: value for key, value in moments.items() if value is not None}
    config = resolve([Layer("flag", asked, "command line")]).config
    dataset = normalised_as_asked(load_data(data, allow_code=True, download=download), config)
    left_out = read_training_indices(without, dataset) if without is not None else None
    chosen = pick_recipe(recipe, model, epochs=epochs, transforms=extras or ())
    compute = setup_device(config.device, config.precision)
    with only_process(out, replaced=True), progress_bars(quiet=quiet) as progress:
        made = train_checkpoint(
            out,
            model,
            dataset,
            chosen,
            without=left_out,
            seed=seed,
            compute=compute,
            allow_code=True,
            force=force,
            progress=progress,
        )
    for text in made.notes:
        message(f"note: {text}", quiet=quiet)
    message(f"wrote {out}", quiet=quiet)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("train")(_train)
