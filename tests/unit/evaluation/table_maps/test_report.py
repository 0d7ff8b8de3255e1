import json
import re

import numpy as np
import pytest
from rich.console import Console

from backstay.evaluation.table_maps.compare import FITS, compare_tables
from backstay.evaluation.table_maps.report import METHODS, terminal_picture, write_comparison


@pytest.fixture
def results(world, save, tmp_path):
    rng = np.random.default_rng(0)
    names = [f"word {n}" for n in range(20, 720)]
    unrelated = save("<v3>.parquet", names, rng.standard_normal((700, 6)))
    return compare_tables([*world, unrelated], out=tmp_path / "run")


def test_every_map_has_its_sentence():
    assert list(METHODS) == list(FITS)


def test_the_page_loads_nothing_and_says_everything(results, tmp_path):
    page = write_comparison(results, tmp_path / "run").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert "&lt;v3&gt;" in page
    assert "<v3>" not in page
    assert len(page.encode()) < 64_000
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    for document in (page, text):
        assert results.verdict in document
        for part in results.advice:
            assert part.sentence in document
        assert "3→2: 20 ids of table 3 alone and 20 of table 2 alone took no part." in document
        assert "no-map left out, 6 dimensions are too few" in document
    assert page.count('class="used"') == 3  # a map each for 1→0, 2→1, 2→0; none from table 3
    assert text.count(" ◂ |") == 3
    written = json.loads((tmp_path / "run" / "tables.json").read_text(encoding="utf-8"))
    assert written["verdict"] == results.verdict
    assert len(written["maps"]) == len(results.maps)


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_every_map_uncut(results, width):
    console = Console(width=width, record=True, file=None, quiet=False, markup=False)
    with console.capture() as capture:
        console.print(terminal_picture(results))
    shown = capture.get()
    assert "…" not in shown
    assert results.verdict in " ".join(shown.split())
    for score in results.maps:
        assert re.search(rf"{score.method} +{score.route} +{100 * score.overlap_at_10:.1f} ", shown)
