"""Results of several reports in one table: methods down, metrics across, mean and spread over seeds and draws."""

from unlearn_audit.results.cells import Cell, Value
from unlearn_audit.results.choosing import USUAL, chosen_metrics
from unlearn_audit.results.studies import Named, same_setting
from unlearn_audit.results.tables import By, Column, Line, ResultTable, tables_of

__all__ = [
    "USUAL",
    "By",
    "Cell",
    "Column",
    "Line",
    "Named",
    "ResultTable",
    "Value",
    "chosen_metrics",
    "same_setting",
    "tables_of",
]
