import json
import re
from typing import get_args

import numpy as np
import pytest
from rich.console import Console

from backstay.evaluation.table_maps.compare import compare_tables
from backstay.evaluation.table_maps.fits import FITS
from backstay.evaluation.table_maps.results import AdviceCode, Route, SkipCode
from backstay.evaluation.table_maps.sentences import (
    ADVICE,
    METHODS,
    ROUTES,
    SKIPPED,
    advice_sentence,
    verdict,
)
from backstay.evaluation.table_maps.terminal_table import terminal_picture
from backstay.evaluation.table_maps.write import write_comparison


@pytest.fixture
def results(world, save, tmp_path):
    rng = np.random.default_rng(0)
    names = [f"word {n}" for n in range(20, 720)]
    unrelated = save("<v3>.parquet", names, rng.standard_normal((700, 6)))
    return compare_tables([*world, unrelated], out=tmp_path / "run")


def test_every_map_and_every_code_has_its_sentence():
    assert list(METHODS) == list(FITS)
    assert set(ROUTES) == set(get_args(Route))
    assert set(ADVICE) == set(get_args(AdviceCode))
    assert set(SKIPPED) == set(get_args(SkipCode))


def test_the_verdict_and_the_advice_in_words(results):
    assert verdict(results.conclusion) == (
        "Keep tables 0, 1 and 2: no map from table 3 is good enough."
    )
    sentences = {part.score.pair: advice_sentence(part) for part in results.advice}
    assert sentences[1, 0].startswith("1→0: use similarity (direct)")
    assert sentences[3, 2].startswith("3→2: keep the old table; no map back is good enough.")


def test_the_page_loads_nothing_and_has_every_text(results, tmp_path):
    page = write_comparison(results, tmp_path / "run").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert "&lt;v3&gt;" in page
    assert "<v3>" not in page
    assert len(page.encode()) < 64_000
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    for document in (page, text):
        assert verdict(results.conclusion) in document
        for part in results.advice:
            assert advice_sentence(part) in document
        assert "3→2: 20 ids of table 3 alone and 20 of table 2 alone were not used." in document
        assert "no-map left out, 6 dimensions are too few" in document
    assert page.count('class="used"') == 3  # a map each for 1→0, 2→1, 2→0; none from table 3
    assert text.count(" ◂ |") == 3
    written = json.loads((tmp_path / "run" / "tables.json").read_text(encoding="utf-8"))
    assert written["verdict"] == verdict(results.conclusion)
    assert len(written["maps"]) == len(results.maps)


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_every_map_uncut(results, width):
    console = Console(width=width, record=True, file=None, quiet=False, markup=False)
    with console.capture() as capture:
        console.print(terminal_picture(results))
    shown = capture.get()
    assert "…" not in shown
    assert verdict(results.conclusion) in " ".join(shown.split())
    for score in results.maps:
        assert re.search(rf"{score.method} +{score.route} +{100 * score.overlap_at_10:.1f} ", shown)
