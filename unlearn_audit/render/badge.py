"""A gate's outcome as a badge: a small SVG for a README or a model card, without script, link or font of its own."""

from pathlib import Path

from unlearn_audit.gate import Gated
from unlearn_audit.render.markup import as_xml, element

SUBJECT = "unlearning audit"
COLOURS = {"passed": "#00603f", "failed": "#a3231b", "error": "#a3231b", "inconclusive": "#6b4e00"}
GLYPH, PADDING, HEIGHT = 6.7, 8, 20  # pixels


def render(gated: Gated) -> str:
    """Return the SVG text: the outcome, the day, and in its title what was judged by which policy.

    Args:
        gated: what a gate found.
    """
    told = f"{gated.outcome} {gated.today.isoformat()}"
    left, right = (round(len(text) * GLYPH) + 2 * PADDING for text in (SUBJECT, told))
    judged = ", ".join(gated.judged) or "nothing"
    about = "; ".join((f"{SUBJECT}: {told}, {judged} by {Path(gated.policy.path).name}", *gated.revived))
    words = {"fill": "#ffffff", "y": 14}
    svg = element(
        "svg",
        element("title", about, id="badge-title"),
        element("rect", width=left, height=HEIGHT, fill="#3a3f45"),
        element("rect", x=left, width=right, height=HEIGHT, fill=COLOURS[gated.outcome]),
        element("text", SUBJECT, x=PADDING, textLength=left - 2 * PADDING, **words),
        element("text", told, x=left + PADDING, textLength=right - 2 * PADDING, **words),
        xmlns="http://www.w3.org/2000/svg", width=left + right, height=HEIGHT, role="img",
        aria_labelledby="badge-title", font_family="Verdana,DejaVu Sans,sans-serif", font_size=11,
    )  # fmt: skip
    return as_xml(svg).rstrip() + "\n"
