"""Lines of methods over versions, or over distance, with their 95 % intervals."""

from collections.abc import Callable, Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from backstay.evaluation.analysis.breakdown import ByVersion
from backstay.evaluation.report.plots.styles import Style, marker_size

_ASIDE = 0.035  # by how much of a version methods stand beside each other, for their bars


def draw_lines(
    series: Mapping[str, ByVersion],
    look: Mapping[str, Style],
    label: str,
    *,
    along: str = "version",
    log: bool = False,
) -> Callable[[Axes], None]:
    """One line a method, with bars where intervals are known."""
    drawn = [method for method in look if series.get(method)]
    bars = any(part.interval for row in series.values() for part in row.values())

    def draw(axes: Axes) -> None:
        for place, method in enumerate(drawn):
            style, row = look[method], series[method]
            aside = _ASIDE * (place - (len(drawn) - 1) / 2) if bars else 0.0
            values = [part.value for part in row.values()]
            ends = [part.interval or (part.value, part.value) for part in row.values()]
            lines, caps, stems = axes.errorbar(
                [version + aside for version in row],
                values,
                yerr=[
                    [max(0.0, value - low) for value, (low, _) in zip(values, ends, strict=True)],
                    [max(0.0, high - value) for value, (_, high) in zip(values, ends, strict=True)],
                ]
                if bars
                else None,
                color=style.color,
                marker=style.marker,
                markersize=marker_size(style, 5),
                linewidth=1.6,
                linestyle=style.dash,
                elinewidth=0.7,
                label=method,
            )
            for artist in (lines, *caps, *stems):
                artist.set_gid(f"m{list(look).index(method)}")
        if log:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(along)
        axes.set_ylabel(label)

    return draw


def describe(series: Mapping[str, ByVersion], look: Mapping[str, Style], along: str) -> str:
    """What lines show at their end, for those who can't see them."""
    ends = {
        method: max(series[method]) for method in look if series.get(method)
    }  # the newest version of each
    return "; ".join(
        f"{method} {series[method][end].value:.3g} at {along} {end}" for method, end in ends.items()
    )
