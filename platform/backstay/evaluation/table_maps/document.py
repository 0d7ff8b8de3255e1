"""tables.json: a comparison of maps between tables, for programs.

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

from backstay.evaluation.table_maps.results import MapComparison
from backstay.evaluation.table_maps.sentences import advice_sentence, skip_reason, verdict


def document(comparison: MapComparison) -> dict[str, object]:
    """The contents of tables.json."""
    return {
        "verdict": verdict(comparison.conclusion),
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
                "sentence": advice_sentence(part),
            }
            for part in comparison.advice
        ],
        "left_out": [
            {
                "source": part.source,
                "target": part.target,
                "code": part.code,
                "what": part.method or "every map",
                "reason": skip_reason(part, comparison),
            }
            for part in comparison.skipped
        ],
        "settings": dict(comparison.settings),
    }


def to_json(comparison: MapComparison) -> str:
    """The text of tables.json."""
    return json.dumps(document(comparison), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
