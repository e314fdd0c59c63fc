"""Image classifiers of the transformers package, built from the config.json of a folder: nothing fetched, no code."""

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from unlearn_audit.errors import UsageError
from unlearn_audit.files import check_input
from unlearn_audit.models.answers import Logits
from unlearn_audit.models.blame import raised

__all__ = ["TRANSFORMERS", "classifier_of", "config_of"]

TRANSFORMERS = "transformers"
LARGEST = 1_000_000  # bytes of a config
ENDING = "ForImageClassification"
FETCHES = ("timm_wrapper",)  # built through another package, which may reach for the network
OURS = ("architectures", "model_type", "auto_map", "num_labels", "id2label", "label2id", "transformers_version")


def config_of(folder: str) -> dict[str, Any]:
    """Return a folder's config.json, if it is of an image classifier.

    Raises:
        UsageError: there is none, it is no JSON object, or it is of something else.
    """
    path = Path(folder).expanduser() / "config.json"
    check_input(path, "config", UsageError)
    if path.stat().st_size > LARGEST:
        raise UsageError(f"{path} is larger than {LARGEST:,} bytes; it is no model's config")
    try:
        config = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise UsageError(f"{path} is no JSON: {raised(problem)}") from problem
    named = config.get("architectures") if isinstance(config, dict) else None
    if not (isinstance(named, list) and len(named) == 1 and str(named[0]).endswith(ENDING)):
        raise UsageError(f"{path} is not of an image classifier: 'architectures' must name one …{ENDING}")
    return dict(config)


def classifier_of(folder: str, *, classes: int) -> nn.Module:
    """Return a freshly initialised classifier as a folder's config.json describes it; it answers with logits.

    Args:
        folder: which holds config.json.
        classes: outputs of the last layer.

    Raises:
        UsageError: transformers is not installed, or has no such classifier, or cannot build it.
    """
    config = config_of(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        library = import_module(TRANSFORMERS)
        known = import_module("transformers.models.auto.modeling_auto").MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    except ModuleNotFoundError as missing:
        raise UsageError(
            "a model of Hugging Face needs transformers: pip install 'unlearn-audit[transformers]'"
        ) from missing
    kind, name = str(config.get("model_type")), str(config["architectures"][0])
    names = known.get(kind, ())
    if kind in FETCHES or name not in ((names,) if isinstance(names, str) else names):
        raise UsageError(
            f"transformers has no image classifier '{name}' of type '{kind}'; code from a folder is not run"
        )
    settings = {key: value for key, value in config.items() if key not in OURS}
    try:
        model: nn.Module = getattr(library, name)(library.AutoConfig.for_model(kind, **settings, num_labels=classes))
    except Exception as problem:
        raise UsageError(f"'{name}' cannot be built from {folder}: {raised(problem)}") from problem
    model.register_forward_hook(Logits("logits"))
    return model
