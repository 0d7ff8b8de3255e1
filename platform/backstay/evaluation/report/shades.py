"""Background shades of table cells, as class names of the page's style sheet."""

from backstay.evaluation.analysis.codes import TOLERATED


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
