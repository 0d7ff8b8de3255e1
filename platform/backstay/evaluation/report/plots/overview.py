"""The list of plots of a comparison."""

from collections.abc import Mapping
from math import floor

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from backstay.evaluation.analysis.by_version import ByVersion, Estimate, Series, VersionFigures
from backstay.evaluation.analysis.compatibility import MapFigure
from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.analysis.significance import FIX_M0, NO_BC
from backstay.evaluation.report.plots.drawing import SMALL, WIDE, Panel
from backstay.evaluation.report.plots.lines import describe, draw_lines
from backstay.evaluation.report.plots.pareto import cost_panels
from backstay.evaluation.report.plots.styles import INK, Style, styles
from backstay.evaluation.report.words import TASKS, percent, plain

_OWN = (
    "Bars: 95 % interval of the method's own figure. All methods are judged on the same users, so "
    "differences between methods are more certain than the bars suggest."
)

_MAP_FIGURES: Mapping[MapFigure, tuple[str, str]] = {
    "alignment_error": (
        "Error along the chain",
        "Mean distance to the older version's own vectors, over pairs of versions that far apart.",
    ),
    "spectral_norm": (
        "Stretching by the maps",
        "Spectral norm of the composed map: 1 leaves the length of the longest vector unchanged.",
    ),
    "condition_number": (
        "Condition of the maps",
        "Condition number of the composed map, log scale: 1 stretches all directions alike.",
    ),
}


def panels(analysis: Analysis) -> list[Panel]:
    """Every plot that the analysis has values for."""
    style_of = styles(analysis.methods)
    return [
        *cost_panels(analysis, style_of),
        *_method_panels(analysis.by_version, style_of),
        *_version_panels(analysis.by_version, style_of),
        *(
            _lines(
                series,
                style_of,
                figure="tasks",
                title=plain(task).capitalize(),
                caption=TASKS.get(task, ""),
                label="ROC-AUC",
            )
            for task, series in analysis.by_version.auc_of_task.items()
        ),
        *_chain_panels(analysis, style_of),
    ]


def _lines(
    series: Series,
    style_of: Mapping[str, Style],
    *,
    figure: str,
    title: str,
    caption: str,
    label: str,
    along: str = "version",
    log: bool = False,
) -> Panel:
    return Panel(
        figure=figure,
        title=title,
        caption=caption,
        alt=f"{label} by {along}: {describe(series, style_of, along)}.",
        draw=draw_lines(series, style_of, label, along=along, log=log),
        size=WIDE,
    )


def _version_panels(figures: VersionFigures, style_of: Mapping[str, Style]) -> list[Panel]:
    compared = FIX_M0 in figures.auc
    made = (
        _lines(
            figures.recall,
            style_of,
            figure="versions",
            title="Recommendation",
            caption=f"On the time after each version's training data. {_OWN}",
            label="Recall@50",
        ),
        _lines(
            _without_intervals(figures.unintended) if compared else figures.auc,
            style_of,
            figure="versions",
            title="Old consumers",
            caption="Mean over the consumers that are judged at the version.",
            label=f"% against {FIX_M0}" if compared else "ROC-AUC",
        ),
        _lines(
            figures.distance,
            style_of,
            figure="versions",
            title="Distance to version 0",
            caption="Between the vectors an old consumer gets and M_0's own vectors.",
            label="alignment error",
        ),
    )
    return [panel for panel in made if not panel.alt.endswith(": .")]


def _without_intervals(series: Series) -> Series:
    return {
        method: {version: Estimate(part.value) for version, part in row.items()}
        for method, row in series.items()
    }


def _method_panels(figures: VersionFigures, style_of: Mapping[str, Style]) -> list[Panel]:
    """Both costs of one method over the versions, on the same scale for all methods."""
    intended, unintended = figures.intended, figures.unintended
    shown = [method for method in style_of if intended.get(method) or unintended.get(method)]
    if len(shown) < 2:  # noqa: PLR2004 - the other plots show a single method
        return []
    values = [
        part.value
        for sides in (intended, unintended)
        for row in sides.values()
        for part in row.values()
    ]
    reach = max(values) - min(values) or 1.0
    limits = floor(min(values) - 0.06 * reach), max(values) + 0.12 * reach
    versions = {v for sides in (intended, unintended) for row in sides.values() for v in row}

    def drawn(method: str) -> Panel:
        sides = (intended.get(method, {}), unintended.get(method, {}))

        def draw(axes: Axes) -> None:
            axes.axhline(0, color=INK, lw=0.7, zorder=1)
            _side(axes, sides[0], style_of[method], filled=True)
            _side(axes, sides[1], style_of[method], filled=False)
            axes.set_ylim(limits)
            axes.set_xlim(min(versions) - 0.2, max(versions) + 0.2)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_xlabel("version", labelpad=1)
            axes.set_ylabel("%", labelpad=0)

        texts = [
            f"{what} {percent(side[max(side)].value)} at version {max(side)}"
            for what, side in zip(("recommendation", "old consumers"), sides, strict=True)
            if side
        ]
        return Panel(
            figure="methods",
            title=method,
            caption="Filled, solid: recommendation against "
            f"{NO_BC}; hollow, dashed: old consumers against {FIX_M0}; both in percent, on the "
            "same scale for all methods. Bands: 95 % interval of the method's own figure at that "
            "version. Only the table's intervals are paired.",
            alt="; ".join(texts) + ".",
            draw=draw,
            size=SMALL,
            method=method,
        )

    return [drawn(method) for method in shown]


def _side(axes: Axes, row: ByVersion, style: Style, *, filled: bool) -> None:
    versions = list(row)
    if any(part.interval for part in row.values()):
        ends = [part.interval or (part.value, part.value) for part in row.values()]
        axes.fill_between(
            versions,
            [low for low, _ in ends],
            [high for _, high in ends],
            color=style.color,
            alpha=0.22 if filled else 0.12,
            linewidth=0,
        )
    axes.plot(
        versions,
        [part.value for part in row.values()],
        color=style.color,
        marker="o",
        markersize=4,
        markerfacecolor=style.color if filled else "none",
        linestyle="-" if filled else "--",
        linewidth=1.4,
    )


def _chain_panels(analysis: Analysis, style_of: Mapping[str, Style]) -> list[Panel]:
    """Error, norm and condition number over the number of versions mapped back."""
    if not analysis.results.maps:
        return []
    return [
        _lines(
            analysis.chain[figure],
            style_of,
            figure="chain",
            title=title,
            caption=caption,
            label=plain(figure),
            along="versions mapped back",
            log=figure == "condition_number",
        )
        for figure, (title, caption) in _MAP_FIGURES.items()
    ]
