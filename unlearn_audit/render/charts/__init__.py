"""Charts as inline SVG: lines, and points with error bars, over axes that are linear or logarithmic."""

from unlearn_audit.render.charts.drawing import STYLESHEET, document, draw
from unlearn_audit.render.charts.scales import Axis
from unlearn_audit.render.charts.series import CONTROL, ORIGINAL, RETRAINED, Chart, Guide, Series, Style, style_of

__all__ = [
    "CONTROL",
    "ORIGINAL",
    "RETRAINED",
    "STYLESHEET",
    "Axis",
    "Chart",
    "Guide",
    "Series",
    "Style",
    "document",
    "draw",
    "style_of",
]
