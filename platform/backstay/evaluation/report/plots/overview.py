"""Which plots a comparison has."""

from collections.abc import Iterable, Mapping
from math import floor
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from backstay.evaluation.analysis import breakdown as costs
from backstay.evaluation.analysis.breakdown import ByVersion, Estimate
from backstay.evaluation.analysis.significance import FIX_M0, NO_BC
from backstay.evaluation.analysis.summary import values_of
from backstay.evaluation.comparison.results import ALIGNMENT, MapFigures, Results
from backstay.evaluation.report.plots.drawing import SMALL, WIDE, Panel
from backstay.evaluation.report.plots.lines import describe, draw_lines
from backstay.evaluation.report.plots.pareto import cost_panels
from backstay.evaluation.report.plots.styles import INK, Style, styles
from backstay.evaluation.report.words import TASKS, percent, plain

Series = Mapping[str, ByVersion]

_OWN = (
    "Bars: 95 % interval of the method's own figure; all methods are asked about the same users, "
    "so their differences are surer than bars suggest."
)

_MAP_FIGURES = {
    "alignment_error": (
        "Error along the chain",
        "Mean distance to the older version's own vectors, over pairs that lie so far apart.",
    ),
    "spectral_norm": (
        "How far maps stretch",
        "Spectral norm of the composed map: 1 leaves the longest vector as it is.",
    ),
    "condition_number": (
        "How unevenly maps stretch",
        "Condition number of the composed map, log scale: 1 stretches all directions alike.",
    ),
}


def panels(results: Results) -> list[Panel]:
    """Every plot that the results have values for."""
    look = styles([row.method for row in results.summary])
    tasks = {r.task: None for r in results.records if r.metric == "roc_auc"}
    return [
        *cost_panels(results, look),
        *_method_panels(results, look),
        *_version_panels(results, look),
        *(
            _lines(
                costs.auc_by_version(results, task=task),
                look,
                figure="tasks",
                title=plain(task).capitalize(),
                caption=TASKS.get(task, ""),
                label="ROC-AUC",
            )
            for task in tasks
        ),
        *_map_panels(results, look),
    ]


def _lines(
    series: Series,
    look: Mapping[str, Style],
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
        alt=f"{label} by {along}: {describe(series, look, along)}.",
        draw=draw_lines(series, look, label, along=along, log=log),
        size=WIDE,
    )


def _version_panels(results: Results, look: Mapping[str, Style]) -> list[Panel]:
    aucs = costs.auc_by_version(results)
    compared = FIX_M0 in aucs
    aligned = values_of(results.records, "alignment_error", task=ALIGNMENT)
    distances = {
        method: {version: Estimate(fmean(values)) for version, values in versions.items()}
        for method, tasks in aligned.items()
        for versions in tasks.values()
    }
    made = (
        _lines(
            costs.recall_by_version(results),
            look,
            figure="versions",
            title="Recommendation",
            caption=f"On the time after each version's training data. {_OWN}",
            label="Recall@50",
        ),
        _lines(
            _without_intervals(costs.unintended_by_version(results)) if compared else aucs,
            look,
            figure="versions",
            title="Old consumers",
            caption="Mean over the consumers that are judged at the version.",
            label=f"% against {FIX_M0}" if compared else "ROC-AUC",
        ),
        _lines(
            distances,
            look,
            figure="versions",
            title="Distance to version 0",
            caption="Between the vectors an old consumer gets and those M_0 would give it.",
            label="alignment error",
        ),
    )
    return [panel for panel in made if not panel.alt.endswith(": .")]


def _without_intervals(series: Series) -> Series:
    return {
        method: {version: Estimate(part.value) for version, part in row.items()}
        for method, row in series.items()
    }


def _method_panels(results: Results, look: Mapping[str, Style]) -> list[Panel]:
    """Both costs of one method over the versions, on the same scale for all methods."""
    intended = costs.intended_by_version(results)
    unintended = costs.unintended_by_version(results)
    shown = [method for method in look if intended.get(method) or unintended.get(method)]
    if len(shown) < 2:  # noqa: PLR2004 - one method is shown by the other plots
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
            _side(axes, sides[0], look[method], filled=True)
            _side(axes, sides[1], look[method], filled=False)
            axes.set_ylim(limits)
            axes.set_xlim(min(versions) - 0.2, max(versions) + 0.2)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_xlabel("version", labelpad=1)
            axes.set_ylabel("%", labelpad=0)

        told = [
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
            "version, which knows nothing of the others; the table's intervals compare.",
            alt="; ".join(told) + ".",
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


def _map_panels(results: Results, look: Mapping[str, Style]) -> list[Panel]:
    """How errors and lengths grow along the chain."""
    if not results.maps:
        return []

    def means(figure: str, parts: Iterable[MapFigures]) -> dict[str, ByVersion]:
        found: dict[str, dict[int, list[float]]] = {}
        for part in parts:
            value = getattr(part, figure)
            if value is not None:
                steps = found.setdefault(part.method, {})
                steps.setdefault(part.source - part.target, []).append(value)
        return {
            method: {step: Estimate(fmean(steps[step])) for step in sorted(steps)}
            for method, steps in found.items()
        }

    return [
        _lines(
            means(figure, results.maps),
            look,
            figure="chain",
            title=title,
            caption=caption,
            label=plain(figure),
            along="versions led back",
            log=figure == "condition_number",
        )
        for figure, (title, caption) in _MAP_FIGURES.items()
    ]
