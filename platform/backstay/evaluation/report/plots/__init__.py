"""The report's plots: small panels, drawn into the page and into files beside it."""

from backstay.evaluation.report.plots.drawing import Panel, figure_files, inline_svg
from backstay.evaluation.report.plots.overview import panels
from backstay.evaluation.report.plots.pareto import cost_panels
from backstay.evaluation.report.plots.styles import Style, marker_svg, styles

__all__ = [
    "Panel",
    "Style",
    "cost_panels",
    "figure_files",
    "inline_svg",
    "marker_svg",
    "panels",
    "styles",
]
