"""A table of the report: text and shades, for the page and the Markdown alike."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from backstay.evaluation.analysis.codes import TOLERATED

NONE = "–"


@dataclass(frozen=True)
class TableCell:
    """One cell of a table."""

    text: str = NONE
    small: tuple[str, ...] = ()  # small print below the text
    shade: str = ""  # good, even, bad1 … bad3 (worse and worse), heat1 … heat4 (more and more)


@dataclass(frozen=True)
class Row:
    """The cells of one method."""

    method: str
    cells: tuple[TableCell, ...]
    chosen: bool = False  # the decision is to ship with this method

    @property
    def empty(self) -> bool:
        """No cell has a figure."""
        return all(cell.text == NONE for cell in self.cells)


@dataclass(frozen=True)
class Table:
    """One table."""

    key: str
    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    bands: tuple[tuple[str, int], ...] = ()  # headings over neighbouring columns: text, how many
    dense: bool = False  # many narrow columns

    @property
    def empty(self) -> bool:
        """No row has a figure."""
        return not self.columns or all(row.empty for row in self.rows)


def rows(
    methods: Sequence[str], columns: Iterable[str], cell: Callable[[str, str], TableCell]
) -> tuple[Row, ...]:
    """A row per method, with `cell(method, column)` for each column."""
    names = list(columns)
    return tuple(Row(method, tuple(cell(method, name) for name in names)) for method in methods)


def cost_shade(cost: float | None) -> str:
    """`good`, or `bad1` to `bad3`: a loss within what is tolerated, up to twice that, or more."""
    if cost is None or abs(cost) < TOLERATED / 4:
        return ""
    if cost > 0:
        return "good"
    return "bad1" if cost >= -TOLERATED else "bad2" if cost >= -2 * TOLERATED else "bad3"


def heat(value: float | None, greatest: float) -> str:
    """`heat1` to `heat4` by the ratio to the greatest value of the table.

    Each shade begins at twice the value of the one before; a sixteenth and less has none.
    """
    if value is None or greatest <= 0:
        return ""
    shade = sum(value * 2**halvings > greatest for halvings in range(1, 5))
    return f"heat{shade}" if shade else ""
