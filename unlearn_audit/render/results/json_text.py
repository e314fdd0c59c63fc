"""Tables of results as JSON: every model's own number beside mean and spread, for programs."""

import json
from collections.abc import Sequence
from typing import Any

from unlearn_audit.results import Cell, ResultTable

SCHEMA_VERSION = 1


def render(tables: Sequence[ResultTable], apart: Sequence[str]) -> str:
    """Return the tables as JSON text; a null has its reason beside it.

    Args:
        tables: one for each setting.
        apart: why there are several.
    """
    body = {"schema_version": SCHEMA_VERSION, "tables": [_table(table) for table in tables], "apart": list(apart)}
    return json.dumps(body, indent=1, allow_nan=False) + "\n"


def _table(table: ResultTable) -> dict[str, Any]:
    return {
        "setting": table.setting._asdict(),
        "reports": [one.name for one in table.reports],
        "columns": [
            {"name": info.name, "title": info.title, "unit": info.unit, "direction": info.direction, "why_not": why}
            for info, why in table.columns
        ],
        "lines": [
            {
                "title": line.title,
                "role": line.role,
                "models": [one.who for one in line.models],
                "cells": {
                    column.info.name: _cell(cell, p_value=column.info.p_value)
                    for column, cell in zip(table.columns, line.cells, strict=True)
                },
            }
            for line in table.lines
        ],
        "notes": list(table.notes),
    }


def _cell(cell: Cell, *, p_value: bool) -> dict[str, Any]:
    return {
        "mean": None if p_value else cell.mean,
        "sd": None if p_value else cell.spread,
        "lowest": min(cell.numbers, default=None),
        "highest": max(cell.numbers, default=None),
        "n": len(cell.numbers),
        "why_not": cell.why_not,
        "values": [one._asdict() for one in cell.values],
    }
