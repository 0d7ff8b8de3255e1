"""Drawing panels as inline SVG for the page, and as PNG and SVG files."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from backstay.evaluation.report.plots.styles import INK, LINE, Style, marker_size, settings

_DPI = 150  # of the PNG files
_TITLE_INCHES = 0.3
WIDE = (4.2, 3.1)  # inches
SMALL = (2.3, 1.75)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot with its texts."""

    figure: str  # name of the file it is part of
    title: str
    caption: str
    alt: str  # its content as text
    draw: Callable[[Axes], None]
    size: tuple[float, float] = WIDE
    method: str | None = None  # the only method it shows, if there is one
    titles: tuple[str, ...] = ()  # shown when the pointer is over the marks of row n

    @property
    def label(self) -> str:
        """Title and content for screen readers."""
        return f"{self.title}. {self.alt}"


def _context(salt: str, size: tuple[float, float]) -> dict[str, object]:
    return {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": salt,  # the same results give the same file
        **settings(10.0 if size == WIDE else 8.5),
    }


def inline_svg(panel: Panel) -> str:
    """The panel as an `<svg>` element that takes its colours from the page around it.

    Groups of the class `m<n>` hold the marks of row n of the comparison table.
    """
    with mpl.rc_context(_context(f"{panel.figure} {panel.title}", panel.size)):
        figure = Figure(figsize=panel.size)
        axes = _axes(figure, panel.size, left=0.0, bottom=0.0)
        panel.draw(axes)
        axes.set_facecolor("none")
        svg = _svg(figure, transparent=True)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="m(\d+)">', lambda found: _marks(panel, int(found[1])), svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # matplotlib repeats ids from plot to plot
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg)
    svg = re.sub(r'^(<svg [^>]*?)height="[^"]*"', r"\1", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(panel.label)}" ', 1)
    return svg.replace(INK, "currentColor").replace(LINE, "var(--line)").strip()


def _marks(panel: Panel, row: int) -> str:
    """The start of a group of marks, with its title."""
    title = f"<title>{escape(panel.titles[row])}</title>" if row < len(panel.titles) else ""
    return f'<g class="m{row}">{title}'


def figure_files(made: Sequence[Panel], style_of: Mapping[str, Style]) -> dict[str, bytes]:
    """The panels as standalone files with a legend: file name -> PNG or SVG."""
    files = {}
    for name in dict.fromkeys(panel.figure for panel in made):
        group = [panel for panel in made if panel.figure == name]
        size = group[0].size
        columns = min(len(group), 3 if size == WIDE else 4)
        rows = -(-len(group) // columns)
        handles = _handles(group, style_of)
        legend_columns = min(4 if columns > 1 else 2, max(1, len(handles)))
        legend = 0.3 + 0.22 * -(-len(handles) // legend_columns)
        width, height = size[0] * columns, (size[1] + _TITLE_INCHES) * rows
        with mpl.rc_context(_context(name, size)):
            figure = Figure(figsize=(width, height + legend), dpi=_DPI)
            for place, panel in enumerate(group):
                down, across = divmod(place, columns)
                bottom = legend + height - (down + 1) * height / rows
                axes = _axes(figure, size, left=across * size[0], bottom=bottom)
                panel.draw(axes)
                axes.set_title(panel.title, loc="left")
            if handles:
                figure.legend(
                    handles=handles, loc="lower center", ncols=legend_columns, frameon=False
                )
            png = BytesIO()
            FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
            files[f"{name}.png"] = png.getvalue()
            files[f"{name}.svg"] = _svg(figure).encode()  # last: it resets the resolution
    return files


def _handles(group: Sequence[Panel], style_of: Mapping[str, Style]) -> list[Line2D]:
    """Legend entries of all methods; none if each panel shows a single method."""
    if group[0].method is not None:
        style_of = {}
    return [
        Line2D(
            [],
            [],
            color=style.color,
            marker=style.marker,
            markersize=marker_size(style, 5.5),
            linestyle=style.dash,
            label=method,
        )
        for method, style in style_of.items()
    ]


def _axes(figure: Figure, size: tuple[float, float], *, left: float, bottom: float) -> Axes:
    """Axes of a panel with its lower left corner at (left, bottom) inches, with room for labels."""
    width, height = figure.get_size_inches()
    margin, foot = (0.72, 0.5) if size == WIDE else (0.5, 0.42)
    return figure.add_axes(
        (
            (left + margin) / width,
            (bottom + foot) / height,
            (size[0] - margin - 0.15) / width,
            (size[1] - foot - 0.1) / height,
        )
    )


def _svg(figure: Figure, *, transparent: bool = False) -> str:
    if transparent:
        figure.patch.set_alpha(0)
    file = BytesIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return file.getvalue().decode()
