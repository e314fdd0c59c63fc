"""Results of several reports in one table: methods down, metrics across, mean and spread over seeds and draws."""

from unlearn_audit.results.cells import Cell, Value
from unlearn_audit.results.choosing import chosen_metrics
from unlearn_audit.results.studies import Named
from unlearn_audit.results.tables import Column, Line, ResultTable, tables_of

__all__ = [
    "Cell",
    "Column",
    "Line",
    "Named",
    "ResultTable",
    "Value",
    "chosen_metrics",
    "tables_of",
]
