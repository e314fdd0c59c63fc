"""What is refused before torch is loaded: files that are not there, and names that nobody has."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from unlearn_audit import catalogue
from unlearn_audit.config.layers import is_index_words
from unlearn_audit.config.settings import AuditConfig
from unlearn_audit.errors import CheckpointError, DataError, unknown_name
from unlearn_audit.files import check_input, expanded
from unlearn_audit.model_folder import looks_like_hub_name

INDEX_FILE = re.compile(r"[^:]+\.(npy|pt|txt|csv|json)", re.IGNORECASE)
OF_YOUR_OWN = "Code of your own is package.module:callable"


def refuse_early(config: AuditConfig) -> None:
    """Refuse a request whose files are not there, in the words of whoever would read them.

    Raises:
        CheckpointError: a checkpoint is not there.
        DataError: an index file is not there, or no data source has this name.
    """
    for entry in config.checkpoint:
        path = expanded(entry.path, CheckpointError)
        named_as_file = path.suffix and not looks_like_hub_name(entry.path)
        if named_as_file and not os.path.lexists(path):
            check_input(path, "checkpoint", CheckpointError)
    for spec in (config.forget, config.retain, config.unseen):
        if spec is not None:
            refuse_index_file(spec)
    if config.data is not None:
        refuse_source(config.data)


def refuse_index_file(spec: str) -> None:
    """Refuse an index file that is not there.

    Raises:
        DataError: it is not.
    """
    if not is_index_words(spec) and INDEX_FILE.fullmatch(spec) and not os.path.lexists(expanded(spec, DataError)):
        check_input(Path(os.path.abspath(expanded(spec, DataError))), "index file", DataError)


def refuse_source(spec: str) -> None:
    """Refuse a data spec that is a word, and the name of no data source.

    Raises:
        DataError: it is.
    """
    source = spec.partition("?")[0]
    if ":" not in source and source not in catalogue.DATA_SOURCES:
        raise DataError(unknown_name("data source", source, catalogue.DATA_SOURCES, hint=OF_YOUR_OWN))


def refuse_names(*, recipe: str | None = None, transforms: Sequence[str] = ()) -> None:
    """Refuse names of recipes and of transforms that are none.

    Raises:
        UsageError: one is not.
    """
    if recipe is not None and recipe not in catalogue.RECIPES:
        catalogue.load("recipe", catalogue.RECIPES, recipe)
    for text in transforms:
        if re.fullmatch(r"[\w-]+", text) and text not in catalogue.TRANSFORMS:
            catalogue.load("transform", catalogue.TRANSFORMS, text)
