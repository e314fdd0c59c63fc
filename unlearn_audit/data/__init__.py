"""Where examples come from, which of them are to be forgotten, and which held-out ones they are compared with."""

from unlearn_audit.data.examples import Dataset, Examples, Transform, rows_digest
from unlearn_audit.data.indices import IndexSet, digest_of, named_classes, read_indices
from unlearn_audit.data.loading import load_data, old_subsets
from unlearn_audit.data.old_draws import old_forget_set
from unlearn_audit.data.pool import Pool, make_pool
from unlearn_audit.data.queries import QUERY_COUNTS, query
from unlearn_audit.data.spare_twin import make_spare_twin
from unlearn_audit.data.spec import is_code, parse_spec
from unlearn_audit.data.splits import Splits, make_splits, read_training_indices, whole_classes, with_adjacent
from unlearn_audit.data.twin import Twin

__all__ = [
    "QUERY_COUNTS",
    "Dataset",
    "Examples",
    "IndexSet",
    "Pool",
    "Splits",
    "Transform",
    "Twin",
    "digest_of",
    "is_code",
    "load_data",
    "make_pool",
    "make_spare_twin",
    "make_splits",
    "named_classes",
    "old_forget_set",
    "old_subsets",
    "parse_spec",
    "query",
    "read_indices",
    "read_training_indices",
    "rows_digest",
    "whole_classes",
    "with_adjacent",
]
