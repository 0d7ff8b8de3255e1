"""The map from an imported table to the version before: fitted on shared ids, judged on others."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from backstay.compat.maps import BackwardMap
from backstay.errors import InputError
from backstay.evaluation.table_maps.fits import FITS
from backstay.evaluation.table_maps.judge import Judged, judge
from backstay.evaluation.table_maps.outside_tables import stored_table
from backstay.evaluation.table_maps.sample import (
    HELD_OUT_SHARE,
    LEAST_JUDGED,
    Shared,
    fitted_moments,
    gather,
)
from backstay.registry.tables import EmbeddingTable

FIT = "ridge"
"""Linear and without an offset, as a published map is."""

FITTED, JUDGED, GALLERY = 100_000, 2_000, 10_000
"""Most ids of an entity to fit on, to judge on, and to search neighbours among."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedMap:
    """A map and its figures on held-out ids."""

    backward: BackwardMap
    common: int  # ids in both tables
    fitted: int
    judged: Judged

    @property
    def metrics(self) -> dict[str, object]:
        """The figures, for the metrics of the version."""
        found, target = self.judged, f"to_version_{self.backward.target}"
        error = float(np.sqrt(found.squares).mean())
        spread = float(np.sqrt(found.spread).mean())
        return {
            "map": {
                "fit": FIT,
                "common_ids": self.common,
                "fitted_ids": self.fitted,
                "judged_ids": len(found.cosine),
                "cosine": float(found.cosine.mean()),
                "overlap@10": float(found.overlap.mean()),
                "retention": float(found.found.mean() / found.permitted.mean()),
                "relative_error": found.relative_error,
            },
            "alignment_error": {target: error},
            "relative_alignment_error": {target: error / spread if spread else 0.0},
        }


def fit_map(newer: Sequence[EmbeddingTable], older: Sequence[EmbeddingTable]) -> FittedMap:
    """Fit the map of all entities, given each entity's table of both versions.

    InputError where the tables share too few ids.
    """
    pairs = [
        [stored_table(each, each.entity) for each in pair]
        for pair in zip(older, newer, strict=True)
    ]
    overlaps = [Shared.of(pair, (1, 0), fit=FITTED, judge=JUDGED) for pair in pairs]
    common = sum(shared.common for shared in overlaps)
    fitted = sum(len(shared.fitted) for shared in overlaps)
    judged = sum(len(shared.judged) for shared in overlaps)
    if min(fitted, judged) < LEAST_JUDGED:
        raise InputError(
            f"the table and the version before have {common} ids in common, {judged} of them held "
            f"out to judge the map on; expected {LEAST_JUDGED} of those, so about "
            f"{2 * LEAST_JUDGED * HELD_OUT_SHARE} common ids or more. Check that both use the same "
            "ids; --no-map publishes the table without a map."
        )
    with tempfile.TemporaryDirectory() as folder:
        samples = []
        for number, (pair, shared) in enumerate(zip(pairs, overlaps, strict=True)):
            if shared.common:
                place = Path(folder) / str(number)
                place.mkdir()
                vectors = gather(pair, {(1, 0): shared}, place)
                samples.append((shared, vectors, shared.gallery(GALLERY)))
        moments = [fitted_moments(vectors, shared) for shared, vectors, _ in samples]
        found = FITS[FIT](reduce(add, moments))
        assert found is not None  # noqa: S101 - ridge fits any dimensions
        new, old, rest = (
            np.concatenate(parts)
            for parts in (
                [vectors[1].rows(shared.judged) for shared, vectors, _ in samples],
                [vectors[0].rows(shared.judged) for shared, vectors, _ in samples],
                [vectors[0].rows(keys[len(shared.judged) :]) for shared, vectors, keys in samples],
            )
        )
        figures = judge({FIT: found}, new, old, np.concatenate([old, rest]))[FIT]
    source = newer[0]
    backward = BackwardMap(source.space, source.version, source.version - 1, found.matrix)
    return FittedMap(backward=backward, common=common, fitted=fitted, judged=figures)
