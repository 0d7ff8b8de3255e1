from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from backstay.evaluation.analysis.findings import Analysis
from backstay.evaluation.report.plots import (
    figure_files,
    inline_svg,
    marker_svg,
    panels,
    styles,
)
from tests.support.made_up_results import made_up_results


def drawn(panel):
    axes = Figure().add_subplot()
    panel.draw(axes)
    return axes


def of(results, figure):
    return [panel for panel in panels(Analysis.of(results)) if panel.figure == figure]


def test_every_method_has_its_own_look(results):
    names = [row.method for row in results.summary]
    look = styles(names)
    assert list(look) == names
    assert len({style.color for style in look.values()}) == len(names)
    assert len({style.marker for style in look.values()}) == len(names)  # nobody needs the colour
    assert styles(["λ = 2", "bc-aligner"])["bc-aligner"] == look["bc-aligner"]
    further = styles([f"λ = {weight}" for weight in range(30)])
    assert len({(style.color, style.marker) for style in further.values()}) == 30


def luminance(color):
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in to_rgb(color)
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("card", ["#ffffff", "#1a1d22"])
def test_colours_stand_out_from_light_and_dark_pages(results, card):
    """Contrast of at least 3, as WCAG 2.2 asks of graphics (1.4.11)."""
    names = [*(row.method for row in results.summary), *(f"λ = {weight}" for weight in range(5))]
    for method, style in styles(names).items():
        light, dark = sorted((luminance(style.color), luminance(card)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, (method, style.color)


def test_keys_of_legends_are_drawings(results):
    for style in styles([row.method for row in results.summary]).values():
        root = ET.fromstring(marker_svg(style))
        left, top, width, height = map(float, root.get("viewBox").split())
        assert width == height > 0
        assert root[0].get("d").startswith("M")
        assert left < 0
        assert top < 0


def test_the_panels_of_a_whole_comparison(results):
    counts = {"costs": 2, "methods": 12, "versions": 3, "tasks": 5, "chain": 3}
    made = panels(Analysis.of(results))
    assert {name: len(of(results, name)) for name in counts} == counts
    assert len(made) == sum(counts.values())
    assert len({panel.label for panel in made}) == len(made)


def test_the_front_holds_what_no_other_method_beats(results):
    axes = drawn(of(results, "costs")[0])
    front = next(line for line in axes.lines if line.get_linestyle() == ":")
    rows = {row.method: row for row in results.summary}
    points = {m: (row.unintended_pct, row.intended_pct) for m, row in rows.items()}
    expected = [
        point
        for point in points.values()
        if not any(o != point and o[0] >= point[0] and o[1] >= point[1] for o in points.values())
    ]
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == sorted(expected)
    assert points["fix-m0"] in expected
    assert points["backstay"] in expected
    assert points["bc-aligner"] not in expected


def test_bars_of_the_front_picture_are_the_intervals(results):
    axes = drawn(of(results, "costs")[0])
    row = next(row for row in results.summary if row.method == "bc-aligner")
    container = next(part for part in axes.containers if part.get_label() == "bc-aligner")
    across, up = (stem.get_segments()[0] for stem in container.lines[2])
    assert across[:, 0] == pytest.approx(row.unintended_interval)
    assert up[:, 1] == pytest.approx(row.intended_interval)


def test_names_of_points_lie_apart(results):
    for panel in of(results, "costs"):
        figure = Figure(figsize=panel.size)
        axes = figure.add_subplot()
        panel.draw(axes)
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) >= 2
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_both_costs_of_a_method_over_time(results):
    panel = next(p for p in of(results, "methods") if p.method == "bc-aligner")
    zero, intended, unintended = drawn(panel).lines
    assert list(zero.get_ydata()) == [0, 0]
    assert list(intended.get_xdata()) == [0, 1, 2, 3, 4]
    assert list(intended.get_ydata()) == pytest.approx([0, -5, -5, -5, -5])
    assert list(unintended.get_xdata()) == [1, 2, 3, 4]
    assert list(unintended.get_ydata()) == pytest.approx([-1.0] * 4)
    assert "recommendation −5.0 % at version 4" in panel.alt
    limits = {drawn(p).get_ylim() for p in of(results, "methods")}
    assert len(limits) == 1


def test_without_fix_m0_consumers_are_drawn_as_they_score():
    lone = made_up_results(methods=("bc-aligner",))
    figures = [panel.figure for panel in panels(Analysis.of(lone))]
    assert figures == ["versions"] * 3 + ["tasks"] * 5 + ["chain"] * 3
    axes = drawn(of(lone, "versions")[1])
    assert axes.get_ylabel() == "ROC-AUC"
    line = axes.containers[0].lines[0]
    assert list(line.get_xdata()) == [1, 2, 3, 4]
    quality = {
        record.task: record.value / (1 - 0.01 * (0.9 + 0.1 * record.seed))
        for record in lone.records
        if record.metric == "roc_auc"
    }
    late = [value for task, value in quality.items() if "activity" not in task]
    assert sorted(quality.values()) == pytest.approx([0.7, 0.75, 0.8, 0.85, 0.9])
    # version 1 has the three tasks that are judged there, later ones have all five
    at_1, at_2 = 0.99 * sum(late) / 3, 0.99 * sum(quality.values()) / 5
    assert list(line.get_ydata()) == pytest.approx([at_1, at_2, at_2, at_2])


def test_the_error_along_the_chain_is_a_mean_over_pairs(results):
    axes = drawn(of(results, "chain")[0])
    line = next(part for part in axes.containers if part.get_label() == "backstay").lines[0]
    assert list(line.get_xdata()) == [1, 2, 3, 4]
    assert list(line.get_ydata()) == pytest.approx([0.33, 0.36, 0.39, 0.42])


def test_a_rank_deficient_map_has_no_condition_number(results):
    labels = [part.get_label() for part in drawn(of(results, "chain")[2]).containers]
    assert "backstay" in labels
    assert "posthoc-low-rank" not in labels


def test_a_task_of_ones_own_is_drawn(results):
    own = replace(
        results,
        records=tuple(
            replace(record, task="churn") if record.task == "edge_rating" else record
            for record in results.records
        ),
    )
    assert "Churn" in [panel.title for panel in of(own, "tasks")]


def test_inline_plots_take_the_colours_of_the_page(results):
    methods = [row.method for row in results.summary]
    for panel in (of(results, "costs")[0], of(results, "versions")[0], of(results, "methods")[0]):
        svg = inline_svg(panel)
        root = ET.fromstring(svg)
        assert root.get("width") is None
        assert root.get("viewBox")
        assert root.get("aria-label") == panel.label
        assert "currentColor" in svg
        assert "#000000" not in svg
        if panel.method is None:
            assert f'class="m{methods.index("backstay")}"' in svg


def test_the_same_results_give_the_same_files_and_leave_matplotlib_alone(results):
    before = dict(mpl.rcParams)
    look = styles([row.method for row in results.summary])
    made = of(results, "costs")
    files = figure_files(made, look)
    assert list(files) == ["costs.png", "costs.svg"]
    assert figure_files(of(results, "costs"), look) == files
    assert inline_svg(made[0]) == inline_svg(of(results, "costs")[0])
    assert dict(mpl.rcParams) == before
