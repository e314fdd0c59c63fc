"""What a metric is, field by field: whatever measures, shows or judges one reads it there."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Direction = Literal["higher is better", "lower is better", "compare to retrained", "zero is best", "not small", "none"]
UP: Direction = "higher is better"
DOWN: Direction = "lower is better"
COMPARE: Direction = "compare to retrained"
ZERO: Direction = "zero is best"
NOT_SMALL: Direction = "not small"
NONE: Direction = "none"

# Section of a config that measures something -> its heading in a written report, in the order of both.
SECTION_TITLES: Mapping[str, str] = {
    "gaps": "Accuracy and gaps",
    "rcd": "Relearning",
    "truncation": "Truncation",
    "spectrum": "Curvature",
    "layers": "Layers",
    "twosample": "Two-sample test",
    "outputs": "Outputs against retrained models",
    "mia": "Membership inference",
    "detectable": "What could have been seen",
    "resurgence": "Resurgence",
    "generation": "Samples",
}

# Section all of whose metrics say in different ways what one instrument sees -> that instrument, as a sentence has it.
_INSTRUMENTS: Mapping[str, str] = {
    "rcd": "relearning",
    "truncation": "the decay of relearning",
    "spectrum": "curvature",
    "layers": "the layers' singular values",
    "twosample": "the two-sample test",
    "resurgence": "resurgence",
}


class MetricInfo(NamedTuple):
    """What a metric is: whatever measures, shows or judges it reads it here, and nowhere else.

    Attributes:
        name: of its measurements, dotted and stable.
        title: how a table calls it, in a few words.
        section: of the config that measures it, one of `SECTION_TITLES`.
        unit: of its values; "verdict" for a text.
        direction: which way is good.
        digits: after the point, in a table.
        what: one sentence without a full stop.
        signed: whether a table always shows the sign.
        leak: whether it can show that data was not forgotten, so that a policy that limits it wants its interval.
        rests_on_original: whether the original has a part in every value, so that doubts about it count here, too.
        within_one_run: whether values compare only within one run, whose checkpoints share a step size.
        hidden: why no table shows it; empty for one that is shown.
        form_of: the instrument that it is a form of, as a sentence has it; empty for its section's, or its own title.
        sets: of examples that it is measured on: a change is told only between reports that have the same ones.
        scale: on which a value is held against that of a single retrained model, one of a comparison's; empty for a
            metric that is not.
        p_value: whether it is one: chance is in the number itself, which has no interval, and only a small one says
            something.
    """

    name: str
    title: str
    section: str
    unit: str
    direction: Direction
    digits: int
    what: str
    signed: bool = False
    leak: bool = False
    rests_on_original: bool = False
    within_one_run: bool = False
    hidden: str = ""
    form_of: str = ""
    sets: tuple[str, ...] = ("forget", "unseen")
    scale: str = ""
    p_value: bool = False

    @property
    def instrument(self) -> str:
        """Return what tells models apart by this metric, as a sentence has it."""
        return self.form_of or _INSTRUMENTS.get(self.section, self.title)

    @property
    def is_text(self) -> bool:
        """Whether its values are words."""
        return self.unit == "verdict"
