"""The curves of both recipes, a panel for each case."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from _training_quality import Case, Outcome
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from backstay.evaluation.report.plots.styles import INK, settings

INCHES = (4.2, 3.4)  # of a panel
COLUMNS = 3
STYLES = {"paper": ("#d1495b", "s"), "fast": ("#0f9d76", "o")}


def draw(cases: Sequence[Case], path: Path) -> None:
    """Recall against seconds, and the target that `paper` sets."""
    columns = min(COLUMNS, len(cases))
    rows = -(-len(cases) // columns)
    with mpl.rc_context(settings(10.0)):
        figure = Figure(figsize=(INCHES[0] * columns, INCHES[1] * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, case in zip(panels, cases, strict=False):
            _panel(axes, case)
        for axes in panels[len(cases) :]:
            axes.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        with path.open("wb") as file:
            FigureCanvasAgg(figure).print_figure(file, dpi=150, format="png")


def _panel(axes: Axes, case: Case) -> None:
    _curve(axes, "paper", case.paper)
    _curve(axes, "fast", case.fast[0])
    axes.axhline(case.target, color=INK, lw=1, ls="--", label="target", zorder=2)
    if case.fast_seconds:
        axes.axvline(case.fast_seconds, color=STYLES["fast"][0], lw=1, ls=":", zorder=2)
        gain = f"{case.paper.seconds / case.fast_seconds:.0f}× sooner"
        axes.set_title(gain, loc="right", fontweight="normal")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(LogFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter())  # speaks up where there is no power of ten
    axes.set_xlabel("seconds")
    axes.set_ylabel("Recall@50")
    axes.set_title(f"{case.dataset}, version {case.version}", loc="left")


def _curve(axes: Axes, name: str, outcome: Outcome) -> None:
    color, marker = STYLES[name]
    axes.plot(
        [point.seconds for point in outcome.curve],
        [point.recall50 for point in outcome.curve],
        color=color,
        marker=marker,
        markersize=4,
        lw=1.5,
        label=name,
        zorder=3,
    )
