"""How close a map brings newer vectors to the older vectors of the same ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from backstay.compat.maps import AffineMap
from backstay.evaluation.table_maps.outside_tables import Float32

Float64 = npt.NDArray[np.float64]

NEIGHBOURS = 10
_Key = TypeVar("_Key")

BLOCK_QUERIES = 256  # queries compared with the gallery at once
_TIE = 1e-6  # cosines closer than this are equal: rounding error of a float32 dot product


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """One map's figures for each held-out id, (n,) each."""

    cosine: Float64  # of the mapped and the older vector; 0 where either is zero
    overlap: Float64  # share of the 10 nearest older neighbours that the mapped vector has too
    found: Float64  # 1 if the own older vector is among the mapped one's 10 nearest, else 0
    permitted: Float64  # the same for the older vector itself: below 1 only among its copies
    squares: Float64  # ‖mapped − older‖²
    spread: Float64  # ‖older − mean older‖²

    @property
    def relative_error(self) -> float | None:
        """√(Σ‖mapped − older‖² / Σ‖older − mean‖²); None if all older vectors are equal."""
        spread = self.spread.sum()
        return float(np.sqrt(self.squares.sum() / spread)) if spread > 0 else None


def judge(
    maps: Mapping[_Key, AffineMap], newer: Float32, older: Float32, gallery: Float32
) -> dict[_Key, Judged]:
    """Judge maps on held-out ids.

    Neighbours are the nearest by cosine, without the query's own id. Older vectors that tie for the
    tenth place all count as neighbours. If a mapped vector is as close to copies of its own older
    vector as to that vector, the places are shared evenly.

    `newer` (n, D_s) and `older` (n, D_t) are the vectors of the judged ids. `gallery` (m, D_t) are
    the older vectors to search among; the first n are `older`.
    """
    units = _units(gallery)
    mapped = {name: map_.apply(newer) for name, map_ in maps.items()}
    queries = {name: _units(values) for name, values in mapped.items()}
    overlap = {name: np.zeros(len(older)) for name in maps}
    found = {name: np.zeros(len(older)) for name in maps}
    permitted = np.zeros(len(older))
    k = min(NEIGHBOURS, len(gallery) - 1)
    for start in range(0, len(older), BLOCK_QUERIES):
        block = slice(start, min(start + BLOCK_QUERIES, len(older)))
        own = np.arange(block.stop - start), np.arange(start, block.stop)
        scores = units[block] @ units.T
        permitted[block] = _found(scores, own, k=k)
        scores[own] = -np.inf
        neighbours = scores >= -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k] - _TIE
        for name, asked in queries.items():
            scores = asked[block] @ units.T
            found[name][block] = _found(scores, own, k=k)
            scores[own] = -np.inf
            nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            overlap[name][block] = np.take_along_axis(neighbours, nearest, axis=1).mean(axis=1)
    spread = _squares(older - older.mean(axis=0, dtype=np.float64))
    return {
        name: Judged(
            cosine=np.einsum("nd,nd->n", queries[name], units[: len(older)], dtype=np.float64),
            overlap=overlap[name],
            found=found[name],
            permitted=permitted,
            squares=_squares(values.astype(np.float64) - older),
            spread=spread,
        )
        for name, values in mapped.items()
    }


def _found(scores: Float32, own: tuple[npt.NDArray[np.int64], ...], *, k: int) -> Float64:
    """Share of the own vector among the k nearest, from (b, m) scores: (b,) in [0, 1]."""
    mine = scores[own][:, None]
    above = (scores > mine + _TIE).sum(axis=1)
    level = (np.abs(scores - mine) <= _TIE).sum(axis=1)
    return np.asarray(np.clip((k - above) / level, 0, 1), np.float64)


def _units(vectors: Float32) -> Float32:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def _squares(vectors: Float64) -> Float64:
    return np.asarray(np.einsum("nd,nd->n", vectors, vectors), np.float64)
