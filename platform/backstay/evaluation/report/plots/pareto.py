"""The plot of both costs: recommendation against old consumers."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes

from backstay.evaluation.analysis.codes import TOLERATED
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.analysis.significance import FIX_M0, NO_BC
from backstay.evaluation.comparison.results import Summary
from backstay.evaluation.metrics.bootstrap import Interval
from backstay.evaluation.report.plots.drawing import Panel
from backstay.evaluation.report.plots.styles import INK, LINE, Style, marker_size
from backstay.evaluation.report.words import between, percent, signed

_NEAR = 6.0
"""The close-up shows methods whose sum is at most this many points below the best."""

_CAPTION = (
    "Up and to the right is better. The dotted line joins the methods that no other beats on both "
    "sides. The sum is constant along a slanted line. Shaded: old consumers lose more than the "
    f"{TOLERATED:g} % tolerated. Bars: 95 % intervals."
)


def cost_panels(analysis: Analysis, style_of: Mapping[str, Style]) -> list[Panel]:
    """Both costs of every method, and a close-up of the best methods."""
    rows = [row for row in analysis.table if row.total_pct is not None]
    if not rows:
        return []
    front = analysis.front
    alt = "; ".join(
        f"{row.method}: old consumers {percent(row.unintended_pct)}, recommendation "
        f"{percent(row.intended_pct)}" + (", on the front" if row.method in front else "")
        for row in rows
    )
    by_method = {row.method: row for row in rows}
    titles = tuple(
        _title(by_method[method]) if method in by_method else method for method in style_of
    )
    best = max(row.total_pct or 0.0 for row in rows)
    near = [row for row in rows if best - (row.total_pct or 0.0) <= _NEAR]
    shown = [("Both costs of each method", rows, _CAPTION)]
    if 1 < len(near) < len(rows):
        shown.append(
            (
                "Close-up of the best methods",
                near,
                f"The same plot of the methods within {_NEAR:g} points of the best sum.",
            )
        )
    return [
        Panel(
            figure="costs",
            title=title,
            caption=caption,
            alt=alt if part is rows else "; ".join(row.method for row in part),
            draw=_drawer(part, [row for row in part if row.method in front], style_of),
            titles=titles,
        )
        for title, part, caption in shown
    ]


def _title(row: Summary) -> str:
    """Both costs of a method, for the pointer over its marks."""
    figures = (
        ("recommendation", row.intended_pct, row.intended_interval),
        ("old consumers", row.unintended_pct, row.unintended_interval),
    )
    parts = (f"{what} {signed(value)} % {between(found)}" for what, value, found in figures)
    return f"{row.method}: " + ", ".join(part.strip() for part in parts)


def _point(row: Summary) -> tuple[float, float]:
    return row.unintended_pct or 0.0, row.intended_pct or 0.0


def _drawer(
    rows: Sequence[Summary], front: Sequence[Summary], style_of: Mapping[str, Style]
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for row in rows:
            style = style_of[row.method]
            x, y = _point(row)
            lines, caps, stems = axes.errorbar(
                [x],
                [y],
                xerr=_reach(x, row.unintended_interval),
                yerr=_reach(y, row.intended_interval),
                color=style.color,
                marker=style.marker,
                markersize=marker_size(style, 8),
                elinewidth=1,
                linestyle="none",
                label=row.method,
                zorder=3,
            )
            for artist in (lines, *caps, *stems):
                artist.set_gid(f"m{list(style_of).index(row.method)}")
        joined = sorted(_point(row) for row in front)
        axes.plot([x for x, _ in joined], [y for _, y in joined], color=INK, lw=1, ls=":", zorder=2)
        axes.margins(0.14)
        horizontal, vertical = axes.get_xlim(), axes.get_ylim()
        axes.axvspan(-1000, -TOLERATED, color=LINE, alpha=0.35, lw=0, zorder=0)
        apart = 10 if horizontal[1] - horizontal[0] + vertical[1] - vertical[0] > 25 else 2  # noqa: PLR2004
        for total in range(0, int(horizontal[0] + vertical[0]) - apart, -apart):
            axes.plot([total - 1000, total + 1000], [1000, -1000], color=LINE, lw=0.8, zorder=1)
        axes.set_xlim(horizontal)
        axes.set_ylim(vertical)
        axes.set_xlabel(f"old consumers, % against {FIX_M0}")
        axes.set_ylabel(f"recommendation, % against {NO_BC}")
        axes.grid(visible=False)
        _name_points(axes, rows)

    return draw


def _reach(value: float, interval: Interval | None) -> list[list[float]] | None:
    """Lengths of the error bar below and above the figure, in matplotlib's shape."""
    if interval is None:
        return None
    return [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def _name_points(axes: Axes, rows: Sequence[Summary]) -> None:
    """Write each method's name beside its point if there is room; the legend has all of them."""
    figure = axes.figure
    scale = figure.dpi / 72  # pixels a point
    height, wide = 9.5 * scale, 4.4 * scale
    frame = axes.get_window_extent()
    marks = [_place(axes, *_point(row)) for row in rows]
    reach = 4.5 * scale
    taken = [(x - reach, y - reach, x + reach, y + reach) for x, y in marks]
    for row, (x, y) in zip(rows, marks, strict=True):  # labels avoid bars too
        if row.unintended_interval:
            left, right = (_place(axes, end, 0.0)[0] for end in row.unintended_interval)
            taken.append((left, y - scale, right, y + scale))
        if row.intended_interval:
            below, above = (_place(axes, 0.0, end)[1] for end in row.intended_interval)
            taken.append((x - scale, below, x + scale, above))
    for row, (x, y) in zip(rows, marks, strict=True):
        width, gap = wide * len(row.method), 7 * scale
        corners = [
            (x + gap, y - height / 2),
            (x - gap - width, y - height / 2),
            (x - width / 2, y + gap),
            (x - width / 2, y - gap - height),
            (x + gap, y + 0.4 * height),
            (x + gap, y - 1.4 * height),
            (x - gap - width, y + 0.4 * height),
            (x - gap - width, y - 1.4 * height),
        ]
        for left, bottom in corners:
            box = (left, bottom, left + width, bottom + height)
            inside = (
                box[0] > frame.x0 and box[2] < frame.x1 and box[1] > frame.y0 and box[3] < frame.y1
            )
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                across, up = axes.transData.inverted().transform((left, bottom + 0.25 * height))
                axes.annotate(row.method, (across, up), fontsize=7.5)
                break


def _place(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Pixel coordinates of a data point."""
    across, up = axes.transData.transform((x, y))
    return float(across), float(up)


def _overlap(
    box: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
