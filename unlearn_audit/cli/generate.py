"""`unlearn-audit generate`: images from a generator."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from unlearn_audit.cli.console import message, progress_bars
from unlearn_audit.cli.flags import Force, Quiet, Shared, resolved
from unlearn_audit.errors import UsageError

COUNT = 10  # images of a class
SHEET = 640  # pixels that the longer side of a sheet of small images has, about


def _generate(
    checkpoint: Annotated[str, typer.Argument(metavar="CKPT", help="A generator: a pipeline's folder.")],
    classes: Annotated[
        str | None, typer.Option("--class", metavar="N,…", help="Classes to draw; default: each of them.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help=f"Images of each class. Default {COUNT}.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="CSV with a column prompt: an image a line. evaluation_seed, evaluation_guidance, sd_image_width, "
            "sd_image_height and case_number are obeyed.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to make: PNG files and index.csv.")] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="One picture of the first images of each class.")
    ] = None,
    sampler: Annotated[
        Literal["ddim", "ddpm", "folder"] | None,
        typer.Option(help="folder: the scheduler that the folder names. Default ddim; for prompts folder."),
    ] = None,
    sampling_steps: Annotated[
        int | None, typer.Option(min=1, help="Passes for each image. Default 25; for prompts 50.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, max=1000, help="1 is none. Default 1; for prompts 7.5.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Data spec, which says how many classes there are; default: as the folder says."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Pipeline whose U-Net a file's weights are put over.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file; flags take precedence.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 (default), tf32 or bf16.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows in a pass; guidance takes two an image.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed of the noise that images begin with.")] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    r"""Draw images from a generator, each from noise of its own.

    Image m under a condition begins with the same noise in every call with the
    same seed, for every model, on every device: images of two models can be
    compared one by one.

    [bold]Examples[/bold]

      unlearn-audit generate unlearned/ --class 3 --count 100 --out images/

      unlearn-audit generate original/ --grid sheet.png

      unlearn-audit generate sd14/ --prompts i2p.csv --out nude/
    """
    if out is None and grid is None:
        raise UsageError("nothing would be kept: name --out FOLDER, --grid FILE.png or both")
    if prompts is not None and (classes is not None or count is not None):
        raise UsageError("--prompts draws one image for each line; leave out --class and --count")
    shared = Shared(
        data=data, base=base, config=config, device=device, precision=precision, batch_size=batch_size, seed=seed
    )
    request = resolved([checkpoint], shared)
    from unlearn_audit.files import check_output
    from unlearn_audit.generation.image_folder import check_image_folder

    if out is not None:
        check_image_folder(out, force=force)
    if grid is not None:
        if grid.suffix.lower() != ".png":
            raise UsageError(f"--grid {grid}: the picture is a PNG; name it FILE.png")
        check_output(grid, force=force)
    from unlearn_audit.engine import setup_device
    from unlearn_audit.generation.sampling import usual_sampling

    compute = setup_device(request.config.device, request.config.precision, request.config.batch_size)
    with progress_bars(quiet=quiet) as progress:
        pipeline, sha256, notes = _opened(request, compute)
        kind = pipeline.denoiser.conditioning
        sampling = usual_sampling(kind, sampler=sampler, steps=sampling_steps, guidance=guidance)
        wanted, more = _wanted(pipeline, classes, count, prompts)
        for text in (*notes, *more):
            message(f"note: {text}", quiet=quiet)
        shown = _draw(
            pipeline, wanted, sampling, out, sha256=sha256, seed=request.config.seed, compute=compute, progress=progress
        )
    if getattr(pipeline.conditions, "cut", None):
        length, cut = pipeline.conditions.length, len(pipeline.conditions.cut)
        message(f"note: {cut} prompts have more than {length} tokens, of which the rest is not read", quiet=quiet)
    how = f"{sampling.sampler}, {sampling.steps} steps, guidance {sampling.guidance:g}"
    if out is not None:
        message(f"wrote {out} ({len(wanted)} images, {how})", quiet=quiet)
    if grid is not None:
        _write_grid(grid, wanted, shown)
        message(f"wrote {grid} ({len(shown)} of {len(wanted)} images, {how})", quiet=quiet)


def _opened(request: Any, compute: Any) -> tuple[Any, str, tuple[str, ...]]:
    """Return the generator on the device, its digest, and what is to be said of it."""
    from unlearn_audit.checkpoints import check_finite
    from unlearn_audit.generation.pipelines import open_pipeline
    from unlearn_audit.inputs import read_entry

    checkpoint = read_entry(request.config, request.config.checkpoint[0])
    check_finite(checkpoint)
    pipeline = open_pipeline(checkpoint, classes=_classes_of_data(request, checkpoint))
    compute.to_device(pipeline.denoiser)
    never = (
        [name for name in checkpoint.pipeline.passed_over if name == "safety_checker"] if checkpoint.pipeline else []
    )
    said = ["the folder's safety checker is not run: it would answer for the model"] if never else []
    return pipeline, checkpoint.sha256, (*pipeline.notes, *said)


def _classes_of_data(request: Any, checkpoint: Any) -> int | None:
    """Return how many classes the data have that were named for a generator of classes; None: as it says itself."""
    from unlearn_audit.config import outranks_metadata
    from unlearn_audit.inputs import resolve_data

    config, origins = request
    recorded = checkpoint.metadata is not None and checkpoint.metadata.classes is not None
    if checkpoint.pipeline is None or checkpoint.pipeline.is_text_to_image or not config.data:
        return None
    if recorded and not outranks_metadata(origins.get("data", "default")):
        return None
    found: int = resolve_data(config, origins, [checkpoint]).dataset.classes
    return found


def _wanted(
    pipeline: Any, classes: str | None, count: int | None, prompts: Path | None
) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Return what is drawn, and what is to be said of it."""
    from unlearn_audit.generation.image_folder import of_classes
    from unlearn_audit.generation.prompts import read_prompts
    from unlearn_audit.generation.sampling import of_prompts

    if pipeline.denoiser.conditioning == "text":
        if prompts is None:
            raise UsageError("this generator draws what a text says; name its prompts with --prompts FILE")
        file = read_prompts(prompts)
        return of_prompts(file), tuple(_of_file(file))
    if prompts is not None:
        raise UsageError("this generator draws classes and takes no prompts; name classes with --class")
    numbers = _numbers(classes) if classes is not None else list(range(pipeline.conditions.classes))
    unknown = next((c for c in numbers if c >= pipeline.conditions.classes), None)
    if unknown is not None:
        most = pipeline.conditions.classes - 1
        raise UsageError(f"--class {unknown}: this generator has classes 0 to {most}")
    return of_classes(numbers, count or COUNT), ()


def _of_file(file: Any) -> list[str]:
    obeyed = f"obeyed beside prompt: {', '.join(file.obeyed)}" if file.obeyed else "no column beside prompt is obeyed"
    return [f"{file.path}: {len(file.prompts)} prompts, {obeyed}; SHA-256 {file.sha256[:12]}…"]


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise typer.BadParameter(f"'{text}' is no class number, nor several with commas between", param_hint="--class")
    return [int(part) for part in parts]


def _draw(
    pipeline: Any,
    wanted: Any,
    sampling: Any,
    out: Path | None,
    *,
    sha256: str,
    seed: int,
    compute: Any,
    progress: Any,
) -> Mapping[int, Any]:
    """Draw all images into the folder, or those of the sheet where none was named; return the latter by place."""
    from unlearn_audit.generation.image_folder import write_image_folder
    from unlearn_audit.generation.sampling import images

    shown: dict[int, Any] = {}
    places = _in_sheet(wanted)
    if out is None:
        chosen = [wanted[place] for place in places]
        for index, image in images(pipeline, chosen, sampling, seed=seed, compute=compute, progress=progress):
            shown[places[index]] = image
        return shown

    def seen(place: int, image: Any) -> None:
        if place in places:
            shown[place] = image

    write_image_folder(
        out, pipeline, wanted, sampling, generator=sha256, seed=seed, compute=compute, seen=seen, progress=progress
    )
    return shown


def _in_sheet(wanted: Any) -> list[int]:
    """Return the places of the images that a sheet shows: the first ones of each of the first classes."""
    from unlearn_audit.audit.generated.sheets import OF_EACH, OF_ONE_CLASS, ROWS

    by_class: dict[int, list[int]] = {}
    for place, group in enumerate(_groups(wanted)):
        by_class.setdefault(group, []).append(place)
    most = OF_ONE_CLASS if len(by_class) == 1 else OF_EACH
    return sorted(place for group in list(by_class.values())[:ROWS] for place in group[:most])


def _groups(wanted: Any) -> list[int]:
    """Return the class of each image; all prompts are one."""
    return [one.condition if isinstance(one.condition, int) else -1 for one in wanted]


def _write_grid(path: Path, wanted: Any, shown: Mapping[int, Any]) -> None:
    import numpy as np

    from unlearn_audit.audit.generated.sheets import sheet
    from unlearn_audit.files import atomic_write
    from unlearn_audit.render.png import png

    places = sorted(shown)
    groups = np.array(_groups([wanted[place] for place in places]))
    page = sheet([shown[place] for place in places], groups)
    larger = max(1, SHEET // max(page.shape[:2]))  # of 8 x 8 pixels nobody sees anything
    atomic_write(path, png(page.repeat(larger, axis=0).repeat(larger, axis=1)))


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("generate")(_generate)
