"""The report's plots: small panels, drawn once for the page and once for files beside it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from backstay.evaluation.figures import FIX_M0, NO_BC, mean_over_tasks, values_of
from backstay.evaluation.results import ALIGNMENT, RECOMMENDATION, Results
from backstay.evaluation.uncertainty import Uncertainty
from backstay.evaluation.words import TASKS

_PANEL_INCHES = (4.2, 3.1)
_TITLE_INCHES = 0.3
_DPI = 150  # of the PNG files
_INK, _LINE = "#0a0b0c", "#d7dade"  # replaced by the page's own colours in inline plots


@dataclass(frozen=True)
class Style:
    """How a method looks in every plot: by colour and by shape."""

    color: str  # legible on white and on near-black
    marker: str  # matplotlib's letter
    sign: str  # the same shape as text


_SHAPES = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"), ("X", "✖"))
_KNOWN = {
    "fix-m0": Style("#7d8590", "s", "■"),
    "finetune": Style("#b0647c", "v", "▼"),
    "no-bc": Style("#d1495b", "X", "✖"),
    "posthoc-linear-single": Style("#3f7fd9", "^", "▲"),
    "posthoc-linear-multi": Style("#7a6fd8", "P", "✚"),
    "joint-identity": Style("#c98500", "D", "◆"),
    "joint-linear-single": Style("#2aa5b8", "v", "▼"),
    "bc-aligner": Style("#0f9d76", "o", "●"),
}
_Series = Mapping[str, Mapping[int, float]]  # method -> version -> value
_FURTHER = ("#d9743f", "#5c9e31", "#c255b5", "#6b8e9f", "#8f7a5c")


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A style for each method; those of the paper look the same in every report."""
    further = [method for method in methods if method not in _KNOWN]
    return {
        method: _KNOWN[method]
        if method in _KNOWN
        else Style(
            _FURTHER[further.index(method) % len(_FURTHER)],
            *_SHAPES[further.index(method) % len(_SHAPES)],
        )
        for method in methods
    }


@dataclass(frozen=True)
class Panel:
    """One plot: what it says, and how to draw it."""

    figure: str  # the file it goes to: costs, versions or tasks
    title: str
    caption: str
    draw: Callable[[Axes], None]


def panels(results: Results, errors: Mapping[str, Uncertainty]) -> list[Panel]:
    """Every plot that the results have values for."""
    look = styles([row.method for row in results.summary])
    made = [_costs(results, errors, look)] if _complete(results) else []
    made += _versions(results, look)
    made += [
        _task(results, task, look)
        for task in {r.task: None for r in results.records if r.metric == "roc_auc"}
    ]
    return made


def _complete(results: Results) -> bool:
    return any(row.total_pct is not None for row in results.summary)


def _costs(results: Results, errors: Mapping[str, Uncertainty], look: Mapping[str, Style]) -> Panel:
    def draw(axes: Axes) -> None:
        for row in results.summary:
            if row.unintended_pct is None or row.intended_pct is None:
                continue
            error = errors.get(row.method)
            axes.errorbar(
                [row.unintended_pct],
                [row.intended_pct],
                xerr=error.unintended_pct if error else None,
                yerr=error.intended_pct if error else None,
                color=look[row.method].color,
                marker=look[row.method].marker,
                markersize=9,
                elinewidth=1,
                capsize=2,
                label=row.method,
                zorder=3,
            )
        front = _front([(row.unintended_pct, row.intended_pct) for row in results.summary])
        axes.plot(*zip(*front, strict=True), color=_INK, lw=1, ls=":", zorder=2)
        axes.margins(0.12)
        low = min(*axes.get_xlim(), *axes.get_ylim())
        limits = axes.get_xlim(), axes.get_ylim()
        for total in range(0, int(2 * low) - 10, -10):  # along a line, the sum is the same
            axes.plot([total - 100, total + 100], [100, -100], color=_LINE, lw=0.8, zorder=1)
        axes.set_xlim(limits[0])
        axes.set_ylim(limits[1])
        axes.set_xlabel(f"old consumers, % against {FIX_M0}")
        axes.set_ylabel(f"recommendation, % against {NO_BC}")
        axes.grid(visible=False)

    return Panel(
        "costs",
        "Who pays for the update",
        "Up and to the right is better; the dotted line joins the methods that no other beats on "
        "both sides. Along a slanted line the sum is the same; neighbouring lines are ten points "
        "apart. Bars: one standard error.",
        draw,
    )


def _front(costs: Sequence[tuple[float | None, float | None]]) -> list[tuple[float, float]]:
    """The points that none other beats on both sides, from left to right."""
    points = [(x, y) for x, y in costs if x is not None and y is not None]
    return sorted(
        point
        for point in points
        if not any(x >= point[0] and y >= point[1] and (x, y) != point for x, y in points)
    )


def _versions(results: Results, look: Mapping[str, Style]) -> list[Panel]:
    recalls = values_of(results.records, "recall@50", task=RECOMMENDATION)
    recall_errors = values_of(results.records, "recall@50_se", task=RECOMMENDATION)
    alignment = values_of(results.records, "alignment_error", task=ALIGNMENT)
    aucs = values_of(results.records, "roc_auc")
    consumers = {method: _by_version(tasks, aucs.get(FIX_M0)) for method, tasks in aucs.items()}
    against = f"% against {FIX_M0}" if FIX_M0 in aucs else "ROC-AUC"
    candidates: tuple[tuple[str, str, str, _Series, _Series], ...] = (
        (
            "Recommendation",
            "Recall@50",
            "On the time after each version's training data. Bars: one standard error over users.",
            {method: _means(tasks[RECOMMENDATION]) for method, tasks in recalls.items()},
            {method: _means(tasks[RECOMMENDATION]) for method, tasks in recall_errors.items()},
        ),
        (
            "Old consumers",
            against,
            "Mean over the tasks that are judged at the version.",
            consumers,
            {},
        ),
        (
            "Distance to version 0",
            "alignment error",
            "Between the vectors an old consumer gets and those it was trained on.",
            {method: _means(tasks[ALIGNMENT]) for method, tasks in alignment.items()},
            {},
        ),
    )
    return [
        Panel("versions", title, caption, _lines(series, look, label, errors=errors))
        for title, label, caption, series, errors in candidates
        if any(series.values())
    ]


def _means(versions: Mapping[int, Sequence[float]]) -> dict[int, float]:
    return {version: fmean(values) for version, values in versions.items()}


def _by_version(
    tasks: Mapping[str, Mapping[int, Sequence[float]]],
    baseline: Mapping[str, Mapping[int, Sequence[float]]] | None,
) -> dict[int, float]:
    """Mean over tasks at each version, in percent of the baseline's over the same tasks."""

    def at(found: Mapping[str, Mapping[int, Sequence[float]]], version: int) -> float:
        part = {
            task: {version: found[task][version]}
            for task in tasks
            if version in tasks[task] and version in found.get(task, {})
        }
        return mean_over_tasks(part) or 0.0

    versions = sorted({version for part in tasks.values() for version in part})
    if baseline is None:
        return {version: at(tasks, version) for version in versions}
    return {
        version: 100 * (at(tasks, version) / reference - 1)
        for version in versions
        if (reference := at(baseline, version))
    }


def _task(results: Results, task: str, look: Mapping[str, Style]) -> Panel:
    found = values_of(results.records, "roc_auc", task=task)
    series = {method: _means(tasks[task]) for method, tasks in found.items()}
    bands = {method: tasks[task] for method, tasks in found.items()}
    return Panel(
        "tasks",
        task.replace("_", " ").capitalize(),
        TASKS.get(task, "") + " Shaded: from the worst to the best consumer seed.",
        _lines(series, look, "ROC-AUC", bands=bands),
    )


def _lines(
    series: _Series,
    look: Mapping[str, Style],
    label: str,
    *,
    errors: _Series | None = None,
    bands: Mapping[str, Mapping[int, Sequence[float]]] | None = None,
) -> Callable[[Axes], None]:
    """Draw one line a method over the versions."""

    def draw(axes: Axes) -> None:
        for method in (method for method in look if method in series):
            versions = list(series[method])
            style = look[method]
            axes.errorbar(
                versions,
                list(series[method].values()),
                yerr=[errors[method].get(version, 0.0) for version in versions]
                if errors and method in errors
                else None,
                color=style.color,
                marker=style.marker,
                markersize=5.5,
                linewidth=1.8,
                elinewidth=0.8,
                label=method,
            )
            if bands:
                axes.fill_between(
                    versions,
                    [min(bands[method][version]) for version in versions],
                    [max(bands[method][version]) for version in versions],
                    color=style.color,
                    alpha=0.15,
                    linewidth=0,
                )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("version")
        axes.set_ylabel(label)

    return draw


def _context(salt: str) -> dict[str, object]:
    return {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": salt,  # the same results give the same file
        "font.size": 10,
        "axes.edgecolor": _LINE,
        "axes.labelcolor": _INK,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": _LINE,
        "grid.linewidth": 0.6,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
    }


def inline_svg(panel: Panel) -> str:
    """The panel as an `<svg>` element that takes its colours from the page around it."""
    with mpl.rc_context(_context(panel.title)):
        figure = Figure(figsize=_PANEL_INCHES)
        axes = _axes(figure, left=0.0, bottom=0.0)
        panel.draw(axes)
        axes.set_facecolor("none")
        svg = _svg(figure, transparent=True)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # numbered anew in each plot: not unique in a page
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg)
    svg = re.sub(r'^(<svg [^>]*?)height="[^"]*"', r"\1", svg)
    label = panel.title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return svg.replace(_INK, "currentColor").replace(_LINE, "var(--line)").strip()


def figure_files(made: Sequence[Panel], methods: Sequence[str]) -> dict[str, bytes]:
    """The panels as standalone files with a legend: file name -> PNG or SVG."""
    files = {}
    for name in dict.fromkeys(panel.figure for panel in made):
        group = [panel for panel in made if panel.figure == name]
        columns = min(len(group), 3)
        rows = -(-len(group) // columns)
        legend_columns = 4 if columns > 1 else 2
        legend = 0.3 + 0.22 * -(-len(methods) // legend_columns)
        width, height = _PANEL_INCHES[0] * columns, (_PANEL_INCHES[1] + _TITLE_INCHES) * rows
        with mpl.rc_context(_context(name)):
            figure = Figure(figsize=(width, height + legend), dpi=_DPI)
            for place, panel in enumerate(group):
                down, across = divmod(place, columns)
                bottom = legend + height - (down + 1) * height / rows
                axes = _axes(figure, left=across * _PANEL_INCHES[0], bottom=bottom)
                panel.draw(axes)
                axes.set_title(panel.title, loc="left")
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="lower center", ncols=legend_columns, frameon=False)
            png = BytesIO()
            FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
            files[f"{name}.png"] = png.getvalue()
            files[f"{name}.svg"] = _svg(figure).encode()  # last: it resets the resolution
    return files


def _axes(figure: Figure, *, left: float, bottom: float) -> Axes:
    """The axes of a panel whose corner lies at (left, bottom), in inches, with room for labels."""
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (
            (left + 0.72) / width,
            (bottom + 0.5) / height,
            (_PANEL_INCHES[0] - 0.87) / width,
            (_PANEL_INCHES[1] - 0.6) / height,
        )
    )


def _svg(figure: Figure, *, transparent: bool = False) -> str:
    if transparent:
        figure.patch.set_alpha(0)
    file = BytesIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return file.getvalue().decode()
