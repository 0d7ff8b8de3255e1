import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from rich.console import Console

import backstay
from backstay.evaluation.plots import figure_files, inline_svg, panels, styles
from backstay.evaluation.report import terminal_table, write_report
from backstay.evaluation.uncertainty import uncertainties


class Page(HTMLParser):
    """The ids, links and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.links.append((tag, value))

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def out(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    named = replace(results, dataset={**results.dataset, "name": "<b>R&D</b>"})
    assert write_report(named, folder) == folder / "report.html"
    return folder


def test_the_page_loads_nothing(out):
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.links
    assert all(tag == "use" and link.startswith("#") for tag, link in page.links)
    assert "<script" not in text
    assert "@import" not in text
    urls = set(re.findall(r"https?://[^\s\"'<>]+", text))
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_the_ids_of_the_page_are_unique_and_its_references_resolve(out):
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    targets = {link[1:] for _, link in page.links} | set(re.findall(r"url\(#([^)]*)\)", text))
    assert targets <= set(page.ids)


def test_the_page_says_what_the_figures_say(out, results):
    text = " ".join(Page((out / "report.html").read_text(encoding="utf-8")).words)
    for row in results.summary:
        assert row.method in text
        assert f"{row.intended_recall50:.4f}" in text
        assert f"{row.unintended_auc:.4f}" in text
    assert "−35.0 %" in text
    assert "all 2 labels are positive" in text
    assert "4,000 interactions" in text


def test_the_text_shows_the_plots_beside_it(out, results):
    text = (out / "report.md").read_text(encoding="utf-8")
    images = re.findall(r"!\[[a-z]+\]\(([^)]*)\)", text)
    assert images == ["figures/costs.png", "figures/versions.png", "figures/tasks.png"]
    for image in images:
        header = (out / image).read_bytes()[:20]
        assert header.startswith(b"\x89PNG")
        assert int.from_bytes(header[16:20]) >= 600  # pixels across
        ET.fromstring((out / image).with_suffix(".svg").read_text(encoding="utf-8"))
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert all(f"| {row.method} |" in tables[0] for row in results.summary)
    assert {path.name for path in out.iterdir()} == {"report.html", "report.md", "figures"}


def test_names_are_text_and_never_markup(out):
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "&lt;b&gt;R&amp;D" in text


def test_the_same_results_give_the_same_files_and_leave_matplotlib_alone(out, results):
    before = dict(mpl.rcParams)
    made = panels(results, uncertainties(results.records))[:1]
    files = figure_files(made, [row.method for row in results.summary])
    assert inline_svg(made[0]) in (out / "report.html").read_text(encoding="utf-8")
    assert dict(mpl.rcParams) == before
    assert list(files) == ["costs.png", "costs.svg"]
    for name, content in files.items():
        assert (out / "figures" / name).read_bytes() == content


def test_inline_plots_take_the_colours_of_the_page(results):
    made = panels(results, uncertainties(results.records))
    assert [panel.figure for panel in made] == ["costs"] + ["versions"] * 3 + ["tasks"] * 5
    for panel in made[:2]:
        svg = inline_svg(panel)
        root = ET.fromstring(svg)
        assert root.get("width") is None
        assert root.get("viewBox")
        assert root.get("aria-label") == panel.title
        assert "currentColor" in svg
        assert "#000000" not in svg


def test_a_comparison_without_baselines_or_consumers_has_a_report(make_results, tmp_path):
    lone = make_results(methods=("bc-aligner",))
    bare = replace(
        lone,
        records=tuple(record for record in lone.records if record.metric == "recall@50"),
        protocol={},
    )
    text = write_report(bare, tmp_path / "bare").read_text(encoding="utf-8")
    assert "Run the baselines" in text
    assert sorted(path.name for path in (tmp_path / "bare/figures").iterdir()) == [
        "versions.png",
        "versions.svg",
    ]
    write_report(replace(bare, records=(), summary=()), tmp_path / "none")
    assert sorted(path.name for path in (tmp_path / "none").iterdir()) == [
        "report.html",
        "report.md",
    ]


def test_without_fix_m0_consumers_are_drawn_as_they_score(make_results):
    lone = make_results(methods=("bc-aligner",))
    made = panels(lone, uncertainties(lone.records))
    assert [panel.figure for panel in made] == ["versions"] * 3 + ["tasks"] * 5
    axes = Figure().add_subplot()
    made[1].draw(axes)
    assert axes.get_ylabel() == "ROC-AUC"
    drawn = axes.containers[0].lines[0]
    assert list(drawn.get_xdata()) == [1, 2, 3, 4]
    # version 1 has the three tasks that are judged there, later ones have all five
    at_1, at_2 = (
        0.96 * sum(part) / len(part) for part in ([0.8, 0.85, 0.9], [0.7, 0.75, 0.8, 0.85, 0.9])
    )
    assert list(drawn.get_ydata()) == pytest.approx([at_1, at_2, at_2, at_2])


def test_the_front_holds_what_no_other_method_beats(results):
    panel = panels(results, uncertainties(results.records))[0]
    axes = Figure().add_subplot()
    panel.draw(axes)
    front = next(line for line in axes.lines if line.get_linestyle() == ":")
    rows = {row.method: row for row in results.summary}
    assert list(front.get_xdata()) == pytest.approx(
        [
            rows[method].unintended_pct
            for method in ("posthoc-linear-single", "bc-aligner", "fix-m0")
        ]
    )


def test_every_method_has_its_own_look():
    paper = ["fix-m0", "finetune", "no-bc", "posthoc-linear-single", "posthoc-linear-multi"]
    paper += ["joint-identity", "joint-linear-single", "bc-aligner"]
    names = [*paper, "ridge", "procrustes", "low-rank"]
    look = styles(names)
    assert list(look) == names
    assert len({style.color for style in look.values()}) == len(names)
    assert styles(["ridge", "bc-aligner"])["bc-aligner"] == look["bc-aligner"]


def test_a_task_of_ones_own_is_drawn(results):
    own = replace(
        results,
        records=tuple(
            replace(record, task="churn") if record.task == "edge_rating" else record
            for record in results.records
        ),
    )
    made = panels(own, uncertainties(own.records))
    assert "Churn" in [panel.title for panel in made]


def test_the_terminal_table_fits_eighty_columns(results):
    out = StringIO()
    Console(file=out, width=80).print(terminal_table(results))
    text = out.getvalue()
    for row in results.summary:
        assert re.search(rf"^ *{row.method} +{row.intended_recall50:.3f} ", text, re.MULTILINE)
    assert "−35.0 ±2.0" in text
    assert "…" not in text


def test_a_report_needs_neither_torch_nor_ray_and_plots_only_when_written():
    code = (
        "import sys, backstay.evaluation.report as r; "
        "print({'torch', 'ray', 'matplotlib'} & set(sys.modules))"
    )
    home = Path(backstay.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
