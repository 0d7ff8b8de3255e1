"""Comparing maps between tables: fitted on a sample of the ids, judged on held-out ids."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from backstay.compat.maps import AffineMap, chain_affine
from backstay.errors import UsageError
from backstay.evaluation.metrics.bootstrap import interval
from backstay.evaluation.table_maps.advice import SIMPLEST_FIRST, advise, conclude
from backstay.evaluation.table_maps.fits import FITS, PENALTY
from backstay.evaluation.table_maps.judge import NEIGHBOURS, Float64, Judged, judge
from backstay.evaluation.table_maps.outside_tables import open_outside_tables
from backstay.evaluation.table_maps.results import (
    MapComparison,
    MapScore,
    PairInfo,
    Route,
    Settings,
    SkipCode,
    SkippedMap,
    TableInfo,
)
from backstay.evaluation.table_maps.sample import (
    HELD_OUT_SHARE,
    Gathered,
    Shared,
    fitted_moments,
    gather,
    shared_ids,
)

logger = logging.getLogger("backstay.table_maps")

REPLICATES = 1000
JUDGED = 2_000
GALLERY = 10_000

Pair = tuple[int, int]
"""Versions (newer, older)."""

Key = tuple[str, Route]
"""A method of FITS, and the route of its map."""


def compare_tables(
    paths: Sequence[str | Path],
    *,
    out: Path,
    methods: Sequence[str] = SIMPLEST_FIRST,
    sample: int = 100_000,
    seed: int = 0,
) -> MapComparison:
    """Compare maps back between every two of several tables.

    Direct maps are fitted on ids common to both tables of a pair. Chains lead through every table
    between, by maps fitted on the ids common to each step. Memory holds 8 bytes per id, one batch
    of vectors and the vectors of judged ids. Sampled vectors are kept in temporary files in `out`.

    Args:
        paths: Tables in version order, oldest first: Parquet files, folders of them, or URLs.
        out: Folder for the temporary files; created if missing.
        methods: Names in FITS.
        sample: Greatest number of ids that a map is fitted on.
        seed: Seed of the bootstrap.

    Raises InputError if a table breaks the format or two have too few ids in common.
    """
    if len(paths) < 2:  # noqa: PLR2004
        raise UsageError(f"expected two tables or more, oldest first; found {len(paths)}.")
    unknown = [name for name in methods if name not in FITS]
    if unknown or not methods:
        raise UsageError(
            f"expected --methods among {', '.join(FITS)}; found {', '.join(unknown) or 'none'}."
        )
    if sample < 1:
        raise UsageError(f"expected --sample of at least 1 id, found {sample}.")
    tables = open_outside_tables(paths)
    shared = shared_ids(tables, fit=sample, judge=JUDGED)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".sample-") as folder:
        gathered = gather(tables, shared, Path(folder))
        scores, skipped = _scores(gathered, shared, methods=methods, seed=seed)
    advice = tuple(
        advise(found)
        for pair in shared
        if (found := [score for score in scores if score.pair == pair])
    )
    return MapComparison(
        conclusion=conclude(advice, newest=len(tables) - 1),
        tables=tuple(
            TableInfo(
                version=version,
                name=table.name,
                path=table.path,
                rows=table.keys.rows,
                dim=table.dim,
                id_type=table.id_type,
            )
            for version, table in enumerate(tables)
        ),
        pairs=tuple(map(_pair_info, shared.values())),
        maps=tuple(scores),
        advice=advice,
        skipped=tuple(skipped),
        settings=Settings(
            methods=list(methods),
            sample=sample,
            held_out_share=1 / HELD_OUT_SHARE,
            neighbours=NEIGHBOURS,
            ridge_penalty=PENALTY,
            bootstrap_replicates=REPLICATES,
            seed=seed,
        ),
    )


def _scores(
    gathered: Sequence[Gathered],
    shared: Mapping[Pair, Shared],
    *,
    methods: Sequence[str],
    seed: int,
) -> tuple[list[MapScore], list[SkippedMap]]:
    """Fit and judge the maps of every pair; returns the scores, and what could not be judged."""
    scores: list[MapScore] = []
    skipped: list[SkippedMap] = []
    steps: dict[str, dict[Pair, AffineMap]] = {method: {} for method in methods}
    for pair, ids in shared.items():  # steps come before the pairs whose chains need them
        source, target = pair
        if not ids.enough:
            code: SkipCode = "too-few-ids"
            skipped.append(SkippedMap(source=source, target=target, method=None, code=code))
            continue
        maps: dict[Key, AffineMap] = {}
        moments = fitted_moments(gathered, ids)
        for method in methods:
            map_ = FITS[method](moments)
            if map_ is None:
                code = "too-few-dimensions"
                skipped.append(SkippedMap(source=source, target=target, method=method, code=code))
                continue
            maps[method, "direct"] = map_
            if source - target == 1:
                steps[method][pair] = map_
            elif method != "no-map":
                maps[method, "chain"] = chain_affine([steps[method][step] for step in _steps(pair)])
        if maps:
            scores += _judge_pair(gathered, ids, maps, seed=seed)
        logger.info("%d→%d: %d maps judged on %d ids", *pair, len(maps), len(ids.judged))
    return scores, skipped


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
    regular = values[-1] > values[0] * np.finfo(np.float32).eps  # not 0 in float32
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
    """Recall@10 of the own id by mapped vectors, as a share of that by the older vectors."""
    return np.asarray(found / permitted)


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
