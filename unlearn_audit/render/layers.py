"""A table of each model's layers and their largest singular values."""

from unlearn_audit.render.details import LayerDetails, LayersDetails, details_of
from unlearn_audit.render.small_tables import SmallTable
from unlearn_audit.report import AuditReport

MOST_VALUES = 5  # of a layer, so that a row fits the line
STILL = " *"  # behind a value that the search had not settled on
WHY = "* not settled when the search ended: the true value may be a little larger"


def layer_tables(report: AuditReport) -> tuple[SmallTable, ...]:
    """Return one table a model; none where no layers were measured."""
    found = []
    for measurement in report.measurements:
        layers = details_of(measurement, LayersDetails).layers if measurement.name == "layers.sigma_max" else ()
        if layers:
            most = min(max(len(layer.values) for layer in layers), MOST_VALUES)
            heading = ("layer", "weight", *(f"sigma {number + 1}" for number in range(most)), "stable rank")
            cells = tuple(_row(layer, most) for layer in layers)
            notes = () if all(layer.converged for layer in layers) else (WHY,)
            found.append(SmallTable(f"layers of {measurement.subject}", heading, cells, notes))
    return tuple(found)


def _row(layer: LayerDetails, most: int) -> tuple[str, ...]:
    values = [f"{value:.4g}" for value in layer.values[:most]]
    first = "" if layer.converged else STILL
    values = [values[0] + first, *values[1:]] if values else []
    rank = "–" if layer.stable_rank is None else f"{layer.stable_rank:.3g}"
    return (layer.name, "x".join(map(str, layer.shape)), *values, *("–" for _ in range(most - len(values))), rank)
