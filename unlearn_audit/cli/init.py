"""`unlearn-audit init`: a first config and a first policy."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unlearn_audit.cli.console import message
from unlearn_audit.cli.flags import Force, Quiet, channel_values

if TYPE_CHECKING:
    from unlearn_audit.checkpoints import Metadata
    from unlearn_audit.cli.init_templates import StarterFiles

Given = tuple[Path, str | None]  # a checkpoint and the role that its flag gives it
ROLES = ("original", "retrained", "unlearned")


def _role(what: str) -> Any:
    return typer.Option(help=what, metavar="CKPT")


def _init(
    checkpoints: Annotated[
        list[Path] | None, typer.Argument(metavar="CKPT...", help="Checkpoints; roles from their metadata.")
    ] = None,
    original: Annotated[list[Path] | None, _role("Checkpoint trained on everything.")] = None,
    retrained: Annotated[list[Path] | None, _role("Checkpoint trained without the forget set; repeatable.")] = None,
    unlearned: Annotated[list[Path] | None, _role("Checkpoint after unlearning; repeatable.")] = None,
    forget: Annotated[str | None, typer.Option(help="Forget set: idx.npy, class:3, random:0.1:0, …")] = None,
    data: Annotated[str | None, typer.Option(help="Data spec, if the checkpoints do not record it.")] = None,
    model: Annotated[str | None, typer.Option(help="Model spec, if it cannot be recognised from the weights.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="KEY", help="Which of several sets of weights in a file.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation, if the checkpoints do not record it.")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation, like --mean.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for unlearn-audit.toml and policy.toml.")] = Path(),
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a commented config and policy for checkpoints, to be read, changed and used.

    Each checkpoint is read once, for what it says of itself; nothing in it is executed.

    [bold]Example[/bold]

      unlearn-audit init o.safetensors --unlearned u.pt --forget idx.npy
    """
    from unlearn_audit.cli.init_templates import POLICY_NAME, StarterFiles, starting_config, starting_policy
    from unlearn_audit.config import CONFIG_NAME
    from unlearn_audit.files import atomic_write, check_output_folder, make_output_folder

    roles = (None, *ROLES)
    given = [
        (path, role)
        for role, paths in zip(roles, (checkpoints, original, retrained, unlearned), strict=True)
        for path in paths or ()
    ]
    check_output_folder(out, force=force, owned=(CONFIG_NAME, POLICY_NAME))
    asked = StarterFiles((), forget, None, data, model, weights, _moments(mean, "--mean"), _moments(std, "--std"))
    start = _start(given, asked, out)
    texts = {CONFIG_NAME: starting_config(start), POLICY_NAME: starting_policy(generators=start.generators)}
    make_output_folder(out, force=force, owned=(CONFIG_NAME, POLICY_NAME))
    for name, text in texts.items():
        atomic_write(out / name, text.encode())
        message(f"wrote {out / name}", quiet=quiet)
    for line in _left_to_do(start):
        message(line, quiet=quiet)


def _start(given: Sequence[Given], asked: "StarterFiles", out: Path) -> "StarterFiles":
    """Read the checkpoints and return what is known, with paths as a file in `out` has to name them."""
    from unlearn_audit.cli.init_templates import StartingCheckpoint
    from unlearn_audit.config import anchored_data_spec
    from unlearn_audit.errors import UsageError
    from unlearn_audit.pipeline_folder import is_pipeline_folder

    forget, data, weights = asked.forget, asked.data, asked.weights

    if not given:
        raise UsageError("no checkpoint is given; name those that belong together, as in: init CKPT... --forget SPEC")
    said = [_said(path, weights) for path, _ in given]
    found = [
        StartingCheckpoint(_from(out, path), role or _known_role(meta))
        if meta is None
        else StartingCheckpoint(
            _from(out, path), role or _known_role(meta), meta.data, meta.model, meta.mean, meta.std, bool(meta.recipe)
        )
        for (path, role), meta in zip(given, said, strict=True)
    ]
    elsewhere = out.resolve() != Path.cwd()
    data = anchored_data_spec(data, Path.cwd()) if data is not None and elsewhere else data
    spec, source = (_checked(forget), None) if forget is not None else _agreed(given, said)
    forget = None if spec is None else _spec_from(out, spec)
    generators = is_pipeline_folder(given[0][0])
    return asked._replace(checkpoints=found, forget=forget, forget_from=source, data=data, generators=generators)


def _said(path: Path, weights: str | None) -> "Metadata | None":
    """Return what a checkpoint says of itself; a key that is given for all concerns the files that have keys."""
    from unlearn_audit.checkpoints import OneSetOfWeights, read_checkpoint

    try:
        return read_checkpoint(path, weights=weights).metadata
    except OneSetOfWeights:
        return read_checkpoint(path).metadata


def _moments(text: str | None, flag: str) -> tuple[float, ...] | None:
    found = channel_values(text, flag)
    return None if found is None else tuple(found)


def _known_role(metadata: "Metadata | None") -> str | None:
    return metadata.role if metadata is not None and metadata.role in ROLES else None


def _checked(forget: str) -> str:
    """Return the forget set's spec; a file that is not there would leave a config that is not valid."""
    from unlearn_audit.config.layers import is_index_words
    from unlearn_audit.errors import DataError

    if not is_index_words(forget) and not Path(forget).is_file():
        raise DataError(f"--forget: no such file: {forget}")
    return forget


def _agreed(given: Sequence[Given], said: "Sequence[Metadata | None]") -> tuple[str | None, str | None]:
    """Return the forget set that the checkpoints agree on, if it can be found here, and one that says it."""
    from unlearn_audit.config.layers import is_index_words

    told = [
        (path, meta)
        for (path, _), meta in zip(given, said, strict=True)
        if meta is not None and meta.forget and not _drawn_otherwise_now(meta)
    ]
    if len({meta.forget_sha256 or meta.forget for _, meta in told}) == 1:
        for path, meta in told:
            if meta.forget and (is_index_words(meta.forget) or Path(meta.forget).is_file()):
                return meta.forget, path.name
    return None, None


def _drawn_otherwise_now(metadata: "Metadata") -> bool:
    """Return whether a random forget set was drawn by a version that drew other examples for the same spec."""
    by = metadata.tool_version or ""
    return bool(metadata.forget) and str(metadata.forget).startswith("random:") and f"{by}.".startswith("0.1.")


def _spec_from(out: Path, spec: str) -> str:
    from unlearn_audit.config.layers import is_index_words

    return spec if is_index_words(spec) else _from(out, Path(spec))


def _from(out: Path, path: Path) -> str:
    """Return a path as a file in `out` has to name it."""
    return Path(os.path.relpath(path.absolute(), out.resolve())).as_posix()


def _left_to_do(start: "StarterFiles") -> Iterator[str]:
    """Yield what the person still has to fill in."""
    roles = [checkpoint.role for checkpoint in start.checkpoints]
    if start.forget is None:
        yield "to do: say in unlearn-audit.toml what is to be forgotten (forget = ...)"
    if start.data is None and not all(checkpoint.data for checkpoint in start.checkpoints):
        yield "to do: say in unlearn-audit.toml what data the checkpoints belong to (data = ...)"
    if not start.generators and start.mean is None and not all(checkpoint.mean for checkpoint in start.checkpoints):
        yield "to do: say in unlearn-audit.toml how inputs are normalised (mean = ..., std = ...), or it is assumed"
    if "unlearned" not in roles:
        yield 'to do: no checkpoint is "unlearned", which the policy speaks of; give a role, or gate with --subject'
    if "retrained" not in roles:
        yield "note: without a retrained model the policy cannot pass; `audit --retrain 3` makes three"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("init")(_init)
