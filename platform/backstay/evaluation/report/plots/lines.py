"""One line per method over versions, or over versions mapped back, with 95 % intervals."""

from collections.abc import Callable, Mapping

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from backstay.evaluation.analysis.by_version import Series
from backstay.evaluation.report.plots.styles import Style, marker_size

_ASIDE = 0.035  # offset between neighbouring methods, in versions, so that bars don't overlap


def draw_lines(
    series: Series,
    style_of: Mapping[str, Style],
    label: str,
    *,
    along: str = "version",
    log: bool = False,
) -> Callable[[Axes], None]:
    """Draw one line per method, with bars for known intervals."""
    drawn = [method for method in style_of if series.get(method)]
    bars = any(part.interval for row in series.values() for part in row.values())

    def draw(axes: Axes) -> None:
        for place, method in enumerate(drawn):
            style, row = style_of[method], series[method]
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
                artist.set_gid(f"m{list(style_of).index(method)}")
        if log:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(along)
        axes.set_ylabel(label)

    return draw


def describe(series: Series, style_of: Mapping[str, Style], along: str) -> str:
    """The last value of each line, as text for screen readers."""
    ends = {method: max(series[method]) for method in style_of if series.get(method)}
    return "; ".join(
        f"{method} {series[method][end].value:.3g} at {along} {end}" for method, end in ends.items()
    )
