"""Comparing maps between tables: fitted on a sample of the ids, judged on held-out ones."""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from backstay.compat.closed_form import Moments, procrustes, ridge, similarity
from backstay.compat.maps import AffineMap, chain_affine
from backstay.errors import UsageError
from backstay.evaluation.metrics.bootstrap import interval
from backstay.evaluation.table_maps.judge import NEIGHBOURS, Float64, Judged, judge
from backstay.evaluation.table_maps.results import (
    LeftOut,
    MapScore,
    PairInfo,
    Route,
    TableInfo,
    TablesComparison,
)
from backstay.evaluation.table_maps.sample import (
    HELD_OUT_SHARE,
    Gathered,
    Shared,
    fitted_moments,
    gather,
    shared_ids,
)
from backstay.evaluation.table_maps.tables import OwnTable, open_own_tables
from backstay.evaluation.table_maps.verdict import SIMPLEST_FIRST, advise, verdict

logger = logging.getLogger("backstay.own_vectors")

PENALTY = 1e-4
"""Of ridge, as a share of the mean variance of the newer vectors' dimensions."""

REPLICATES = 1000
JUDGED = 2_000
GALLERY = 10_000

Pair = tuple[int, int]
"""Versions (newer, older)."""

Key = tuple[str, Route]
"""A method of FITS, and how its map came about."""


def _no_map(moments: Moments) -> AffineMap | None:
    source, target = moments.shape
    return AffineMap.linear(np.eye(target, source, dtype=np.float32)) if source >= target else None


FITS: Mapping[str, Callable[[Moments], AffineMap | None]] = {
    "no-map": _no_map,
    "procrustes": procrustes,
    "similarity": similarity,
    "ridge": partial(ridge, penalty=PENALTY, intercept=False),
    "ridge-intercept": partial(ridge, penalty=PENALTY, intercept=True),
}
"""From the moments of a pair to a map; None where the dimensions have none."""


def compare_tables(
    paths: Sequence[str | Path],
    *,
    out: Path,
    methods: Sequence[str] = SIMPLEST_FIRST,
    sample: int = 100_000,
    seed: int = 0,
) -> TablesComparison:
    """Compare maps back between every two of several tables.

    Direct maps are fitted on ids common to both tables of a pair; chains go through every table
    between, by maps fitted on the ids common to each step. What is held in memory is 8 bytes an id
    and the vectors of a batch and of the judged ids; sampled vectors wait in files in `out`, which
    are gone at the end.

    Args:
        paths: Tables in version order, oldest first: Parquet files, folders of them, or URLs.
        out: A folder for those files; it is made.
        methods: Names of FITS.
        sample: The most ids that a map is fitted on.
        seed: Of the bootstrap.

    Raises:
        UsageError: fewer than two tables, an unknown method, a sample of none.
        InputError: a table breaks the format, or two of them have too few ids in common.
    """
    if len(paths) < 2:  # noqa: PLR2004
        raise UsageError(f"expected two tables or more, oldest first; found {len(paths)}.")
    unknown = [name for name in methods if name not in FITS]
    if unknown or not methods:
        raise UsageError(
            f"expected maps among {', '.join(FITS)}; found {', '.join(unknown) or 'none'}."
        )
    if sample < 1:
        raise UsageError(f"expected a sample of at least 1 id, found {sample}.")
    tables = open_own_tables(paths)
    shared = shared_ids(tables, fit=sample, judge=JUDGED)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".sample-") as folder:
        gathered = gather(tables, shared, Path(folder))
        scores, left_out = _scores(gathered, shared, methods=methods, seed=seed)
    advice = tuple(
        advise(found)
        for pair in shared
        if (found := [score for score in scores if (score.source, score.target) == pair])
    )
    return TablesComparison(
        verdict=verdict(advice, newest=len(tables) - 1),
        tables=tuple(_table_info(version, table) for version, table in enumerate(tables)),
        pairs=tuple(map(_pair_info, shared.values())),
        maps=tuple(scores),
        advice=advice,
        left_out=tuple(left_out),
        settings={
            "methods": list(methods),
            "sample": sample,
            "held_out_share": 1 / HELD_OUT_SHARE,
            "neighbours": NEIGHBOURS,
            "ridge_penalty": PENALTY,
            "bootstrap_replicates": REPLICATES,
            "seed": seed,
        },
    )


def _scores(
    gathered: Sequence[Gathered],
    shared: Mapping[Pair, Shared],
    *,
    methods: Sequence[str],
    seed: int,
) -> tuple[list[MapScore], list[LeftOut]]:
    scores: list[MapScore] = []
    left_out: list[LeftOut] = []
    steps: dict[str, dict[Pair, AffineMap]] = {method: {} for method in methods}
    for pair, ids in shared.items():  # steps come before the pairs whose chains need them
        if not ids.enough:
            reason = f"{ids.common} ids in common, {len(ids.judged)} of them held out: too few"
            left_out.append(_left_out(pair, "every map", reason))
            continue
        maps: dict[Key, AffineMap] = {}
        moments = fitted_moments(gathered, ids)
        for method in methods:
            map_ = FITS[method](moments)
            if map_ is None:
                source, target = moments.shape
                reason = f"{source} dimensions are too few for the older table's {target}"
                left_out.append(_left_out(pair, method, reason))
                continue
            maps[method, "direct"] = map_
            if pair[0] - pair[1] == 1:
                steps[method][pair] = map_
            elif method != "no-map":
                maps[method, "chain"] = chain_affine([steps[method][step] for step in _steps(pair)])
        if maps:
            scores += _judge_pair(gathered, ids, maps, seed=seed)
        logger.info("%d→%d: %d maps judged on %d ids", *pair, len(maps), len(ids.judged))
    return scores, left_out


def _steps(pair: Pair) -> list[Pair]:
    """The steps between two versions, oldest target first."""
    return [(newer, older) for older, newer in pairwise(range(pair[1], pair[0] + 1))]


def _judge_pair(
    gathered: Sequence[Gathered],
    ids: Shared,
    maps: Mapping[Key, AffineMap],
    *,
    seed: int,
) -> list[MapScore]:
    gallery = gathered[ids.target].rows(ids.gallery(GALLERY))
    count = len(ids.judged)
    judged = judge(maps, gathered[ids.source].rows(ids.judged), gallery[:count], gallery)
    rng = np.random.default_rng((seed, ids.source, ids.target))
    draws = rng.multinomial(count, np.full(count, 1 / count), size=REPLICATES) / count
    replicates = {
        key: {
            "cosine": draws @ part.cosine,
            "overlap": draws @ part.overlap,
            "retention": _retention(draws @ part.found, draws @ part.permitted),
        }
        for key, part in judged.items()
    }
    best = max(judged, key=lambda key: judged[key].overlap.mean())
    return [
        _score(
            ids,
            key,
            maps[key],
            part,
            replicates[key],
            behind=replicates[best]["overlap"] - replicates[key]["overlap"],
        )
        for key, part in judged.items()
    ]


def _score(
    ids: Shared,
    key: Key,
    map_: AffineMap,
    judged: Judged,
    replicates: Mapping[str, Float64],
    *,
    behind: Float64,
) -> MapScore:
    values = np.linalg.svd(map_.matrix.astype(np.float64), compute_uv=False)
    regular = values[-1] > values[0] * np.finfo(np.float32).eps  # what float32 can tell from 0
    return MapScore(
        source=ids.source,
        target=ids.target,
        method=key[0],
        route=key[1],
        cosine=float(judged.cosine.mean()),
        cosine_interval=interval(replicates["cosine"]),
        overlap_at_10=float(judged.overlap.mean()),
        overlap_interval=interval(replicates["overlap"]),
        overlap_behind=interval(behind),
        recall_retention=float(_retention(judged.found.mean(), judged.permitted.mean())),
        retention_interval=interval(replicates["retention"]),
        relative_error=judged.relative_error,
        spectral_norm=float(values[0]),
        condition_number=float(values[0] / values[-1]) if regular else None,
    )


def _retention(found: Float64, permitted: Float64) -> Float64:
    """Recall@10 of the own id by mapped vectors, against what the older vectors reach."""
    return np.asarray(found / permitted)


def _left_out(pair: Pair, what: str, reason: str) -> LeftOut:
    return LeftOut(source=pair[0], target=pair[1], what=what, reason=reason)


def _table_info(version: int, table: OwnTable) -> TableInfo:
    return TableInfo(
        version=version,
        name=table.name,
        path=table.path,
        rows=len(table.keys),
        dim=table.dim,
        id_type=table.id_type,
    )


def _pair_info(ids: Shared) -> PairInfo:
    return PairInfo(
        source=ids.source,
        target=ids.target,
        common=ids.common,
        only_newer=ids.only_newer,
        only_older=ids.only_older,
        fitted=len(ids.fitted),
        judged=len(ids.judged),
        gallery=len(ids.gallery(GALLERY)),
    )
