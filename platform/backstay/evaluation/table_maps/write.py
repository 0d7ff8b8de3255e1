"""Writing a comparison of maps between tables: report.html, report.md and tables.json.

tables.json:

verdict     which older tables the newest one can replace, in a sentence or two
conclusion  the same as versions: newest, replaced, kept, unknown
tables      [{version, name, path, rows, dim, id_type}]
pairs       numbers of ids: [{source, target, common, only_newer, only_older, fitted, judged,
gallery}]
maps        the figures of every map, see `MapScore`
advice      [{source, target, code, keep_old, method, route, search_only, sentence}]
left_out    [{source, target, code, what, reason}]
settings    methods, sample, seed and the constants of the comparison
"""

import json
from dataclasses import asdict
from pathlib import Path

from backstay.evaluation.report.templates import write_pages
from backstay.evaluation.report.words import number
from backstay.evaluation.table_maps import sentences
from backstay.evaluation.table_maps.results import MapComparison, MapScore
from backstay.storage.atomic import write_file

RESULTS_FILE = "tables.json"
REPORT_FILE = "report.html"
TEXT_FILE = "report.md"


def write_comparison(comparison: MapComparison, out: Path) -> Path:
    """Write `tables.json`, `report.html` and `report.md` into the folder `out`.

    The page is self-contained: it loads nothing. Returns its path.
    """
    write_file(out / RESULTS_FILE, to_json(comparison).encode())
    content = {
        "comparison": comparison,
        "sentences": sentences,
        "used": used_maps(comparison),
        "number": number,
    }
    write_pages(out, package=__package__, names=(TEXT_FILE, REPORT_FILE), content=content)
    return out / REPORT_FILE


def used_maps(comparison: MapComparison) -> frozenset[MapScore]:
    """The scores of the maps that the advice is to use."""
    return frozenset(part.score for part in comparison.advice if part.code != "keep-old")


def to_json(comparison: MapComparison) -> str:
    """The text of tables.json."""
    return json.dumps(document(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def document(comparison: MapComparison) -> dict[str, object]:
    """The contents of tables.json."""
    return {
        "verdict": sentences.verdict(comparison.conclusion),
        "conclusion": asdict(comparison.conclusion),
        "tables": [asdict(table) for table in comparison.tables],
        "pairs": [asdict(pair) for pair in comparison.pairs],
        "maps": [asdict(score) for score in comparison.maps],
        "advice": [
            {
                "source": part.score.source,
                "target": part.score.target,
                "code": part.code,
                "keep_old": part.code == "keep-old",
                "method": part.score.method,
                "route": part.score.route,
                "search_only": part.search_only,
                "sentence": sentences.advice_sentence(part),
            }
            for part in comparison.advice
        ],
        "left_out": [
            {
                "source": part.source,
                "target": part.target,
                "code": part.code,
                "what": part.method or "every map",
                "reason": sentences.skip_reason(part, comparison),
            }
            for part in comparison.skipped
        ],
        "settings": dict(comparison.settings),
    }
