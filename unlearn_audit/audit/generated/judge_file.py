"""The judge of an audit's folder: a small classifier of the same data, trained once and kept with the other models."""

import json
from pathlib import Path

from unlearn_audit.audit.cache import VERSION
from unlearn_audit.audit.generated.judging import MODEL, NOT_OF_TEXTS, learn_judge
from unlearn_audit.checkpoints import write_checkpoint
from unlearn_audit.config import TRAIN, Resolved
from unlearn_audit.engine import setup_device
from unlearn_audit.errors import UsageError
from unlearn_audit.files import make_subfolder, sha256_of_bytes
from unlearn_audit.inputs import read_entry, resolve_data
from unlearn_audit.progress import Progress, silent
from unlearn_audit.streams import derive_seed
from unlearn_audit.training import pick_recipe

FOLDER = "models"


def with_judge(request: Resolved, folder: Path, progress: Progress = silent, *, only: tuple[str, ...] = ()) -> Resolved:
    """Return the request with the file of its judge, which is trained where it is not there yet.

    Args:
        request: the configuration; it stays as it is where it asks for no judge that is to be trained, or where
            there is nothing to judge: classifiers draw no samples.
        folder: of the audit; the judge goes into its folder `models`.
        progress: callback, called after each step.
        only: names of the sections that are measured; all of the config's when empty.

    Raises:
        UsageError: no data are named, or the generators take texts, of which no such judge finds anything.
        MeasurementError: training diverged.
        OutputError: the folder cannot be written.
    """
    config, settings = request.config, request.config.generation
    probed = config.rcd is not None and config.rcd.probe is not None and (not only or "rcd" in only)
    if settings is None or settings.judge != TRAIN or not (not only or "generation" in only or probed):
        return request
    checkpoints = tuple(read_entry(config, entry) for entry in config.checkpoint)
    if any(one.pipeline is None for one in checkpoints):
        return request
    if any(one.pipeline is not None and one.pipeline.is_text_to_image for one in checkpoints):
        raise UsageError(NOT_OF_TEXTS)
    dataset = resolve_data(config, request.origins, checkpoints).dataset
    compute, recipe = setup_device(config.device, config.precision), pick_recipe(None, MODEL)
    seed = derive_seed(config.seed, "judge")
    depends = [VERSION, dataset.sha256, recipe.settings(), seed, config.precision, compute.device.type]
    digest = sha256_of_bytes(json.dumps(depends, sort_keys=True).encode())[:12]
    path = folder / FOLDER / f"judge-{digest}.safetensors"
    if not path.exists():
        make_subfolder(folder, FOLDER)
        model, metadata = learn_judge(dataset, config.seed, compute, progress)
        write_checkpoint(path, model.state_dict(), metadata, force=True)
    judged = settings.model_copy(update={"judge": str(path)})
    return Resolved(config.model_copy(update={"generation": judged}), request.origins)
