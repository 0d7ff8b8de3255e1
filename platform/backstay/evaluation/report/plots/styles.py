"""Colour, marker and dash of each method in every plot."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

INK, LINE = "#0a0b0c", "#d7dade"  # replaced by the page's own colours in inline plots


@dataclass(frozen=True)
class Style:
    """Colour, marker and dash of one method."""

    color: str  # legible on white and on near-black
    marker: str  # matplotlib's letter
    dash: str = "-"


# Markers are unique, so that colour is not needed; methods of a family share a dash.
_KNOWN = {
    "fix-m0": Style("#7d8590", "s", ":"),
    "finetune": Style("#a5673f", "v", ":"),
    "no-bc": Style("#d1495b", "X", ":"),
    "posthoc-linear-single": Style("#3f7fd9", "^", "--"),
    "posthoc-linear-multi": Style("#7a6fd8", "P", "--"),
    "joint-identity": Style("#c98500", "D"),
    "joint-linear-single": Style("#d2691e", ">"),
    "bc-aligner": Style("#0f9d76", "o"),
    "posthoc-ridge": Style("#2291ad", "<", "--"),
    "posthoc-procrustes": Style("#a763c4", "p", "--"),
    "posthoc-low-rank": Style("#6484a8", "h", "--"),
    "backstay": Style("#d6338f", "*"),
}
_COLORS = ("#5c9e31", "#c255b5", "#2393a5", "#d2691e", "#8f7a5c")
_MARKERS = ("d", "8", "H", "o", "s", "^", "D")  # as many as are coprime with the colours


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A style per method; built-in methods have the same style in every report."""
    further = [method for method in methods if method not in _KNOWN]
    return {
        method: _KNOWN[method]
        if method in _KNOWN
        else Style(
            _COLORS[further.index(method) % len(_COLORS)],
            _MARKERS[further.index(method) % len(_MARKERS)],
        )
        for method in methods
    }


def marker_size(style: Style, size: float) -> float:
    """The size at which a marker covers about the area of a square of `size` points."""
    return size * {"*": 1.6, "o": 1.05, "s": 0.92, "D": 0.85, "d": 1.15}.get(style.marker, 1.1)


def marker_svg(style: Style) -> str:
    """The marker as an `<svg>` element for a legend."""
    marker = MarkerStyle(style.marker)
    path = marker.get_path().transformed(marker.get_transform())
    box = path.get_extents()
    words = []
    for points, code in path.iter_segments():
        letter = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}.get(code)
        pairs = zip(points[::2], -points[1::2], strict=True)
        words.append(letter + " ".join(f"{x:.3g},{y:.3g}" for x, y in pairs) if letter else "Z")
    side = max(box.width, box.height)
    left, top = (box.x0 + box.x1 - side) / 2, -(box.y0 + box.y1 + side) / 2
    return (
        f'<svg class="key" viewBox="{left:.3g} {top:.3g} {side:.3g} {side:.3g}" '
        f'aria-hidden="true"><path fill="{style.color}" d="{"".join(words)}"/></svg>'
    )


def settings(font: float) -> dict[str, object]:
    """Matplotlib settings for all plots of the project, with text of `font` points."""
    return {
        "font.size": font,
        "axes.edgecolor": LINE,
        "axes.labelcolor": INK,
        "axes.titlesize": font + 1,
        "axes.titleweight": "bold",
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
