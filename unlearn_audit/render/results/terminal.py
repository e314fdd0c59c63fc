"""Tables of results for a terminal: as many columns beside each other as fit, the lines' names before each block."""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from unlearn_audit.render.results.texts import plain, texts_of, titled
from unlearn_audit.render.untrusted import brief
from unlearn_audit.results import ResultTable

LONGEST_TITLE = 26  # columns of a line's name, which is folded beyond
GAP = 2


def render(tables: Sequence[ResultTable], apart: Sequence[str]) -> RenderableType:
    """Return tables and notes as Rich renderables.

    Args:
        tables: one for each setting.
        apart: why there are several.
    """
    parts: list[RenderableType] = []
    for table in tables:
        parts += [Text(brief(titled(table)), style="bold"), Blocks(table)]
        parts += [Text(brief(note), style="dim") for note in table.notes]
        parts.append(Text())
    return Group(*parts, *(Text(brief(text), style="yellow") for text in apart))


class Blocks:
    """A table that is cut into blocks of columns as wide as the console.

    Args:
        table: of results.
    """

    def __init__(self, table: ResultTable) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield one block after the other."""
        for number, block in enumerate(self._blocks(options.max_width)):
            if number:
                yield Text()
            yield self._block(block)

    def _blocks(self, width: int) -> Iterator[list[int]]:
        """Yield the places of the columns of each block."""
        room = width - min(LONGEST_TITLE, max(len(line.title) for line in self.table.lines)) - len("n") - 2 * GAP
        block: list[int] = []
        used = 0
        for place in range(len(self.table.columns)):
            wide = self._width(place) + GAP
            if block and used + wide > room:
                yield block
                block, used = [], 0
            block.append(place)
            used += wide
        if block:
            yield block

    def _width(self, place: int) -> int:
        info = self.table.columns[place].info
        cells = (plain(texts_of(line.cells[place], info)) for line in self.table.lines)
        return max(max(map(len, info.title.split())), *map(len, cells))

    def _block(self, places: Sequence[int]) -> Table:
        found = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        found.add_column("", overflow="fold", max_width=LONGEST_TITLE)
        found.add_column("n", justify="right", no_wrap=True)
        for place in places:
            found.add_column(Text(self.table.columns[place].info.title), justify="right", max_width=self._width(place))
        for line in self.table.lines:
            cells = [texts_of(line.cells[place], self.table.columns[place].info) for place in places]
            found.add_row(Text(brief(line.title)), str(len(line.models)), *(Text(brief(plain(one))) for one in cells))
        return found
