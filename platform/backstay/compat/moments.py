"""Second moments of paired rows: sums of D×D numbers, from which every closed-form map is fitted.

One pass over the rows gathers them in blocks; they add up across blocks, workers and machines.
x is a row of the newer version, (D_s,), and y the same entity's row of the older one, (D_t,).
"""

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from backstay.compat.maps import AffineMap
from backstay.errors import InputError, UsageError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BLOCK_ROWS = 8192
"""Rows taken to float64 at once: 64 MiB for two tables of 512 dimensions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Weighted sums over paired rows (x, y), in float64."""

    rows: int
    weight: float  # sum of the rows' weights; `rows` where there are none
    x: Float64  # (D_s,) Σ w·x
    y: Float64  # (D_t,) Σ w·y
    xx: Float64  # (D_s, D_s) Σ w·x xᵀ
    xy: Float64  # (D_s, D_t) Σ w·x yᵀ
    yy: Float64  # (D_t, D_t) Σ w·y yᵀ

    @classmethod
    def of(cls, x: Float32, y: Float32, *, weights: npt.ArrayLike | None = None) -> "Moments":
        """The moments of one block, which is copied to float64 whole; see `moments_of`.

        Args:
            x: (n, D_s) newer vectors.
            y: (n, D_t) older vectors of the same n entities, in the same order.
            weights: (n,) at least 0; all 1 where left out.

        Raises:
            UsageError: the shapes don't pair up, or a weight is negative.
            InputError: a value is not finite.
        """
        _check_pairs(x, y)
        for name, values in (("newer", x), ("older", y)):
            if not np.isfinite(values).all():
                raise InputError(
                    f"expected finite vectors, found NaN or infinity among the {name} ones; "
                    "leave those rows out or look into the model."
                )
        given = np.ones(len(x)) if weights is None else _check_weights(weights, rows=len(x))
        x64, y64 = np.asarray(x, np.float64), np.asarray(y, np.float64)
        sums = given @ x64, given @ y64
        if weights is not None:
            root = np.sqrt(given)[:, None]
            x64, y64 = root * x64, root * y64
        return cls(
            rows=len(x),
            weight=float(given.sum()),
            x=sums[0],
            y=sums[1],
            xx=x64.T @ x64,
            xy=x64.T @ y64,
            yy=y64.T @ y64,
        )

    def __add__(self, other: "Moments") -> "Moments":
        if self.xy.shape != other.xy.shape:
            raise UsageError(
                f"expected moments of the same dimensions, found {self.xy.shape} and "
                f"{other.xy.shape} (newer, older)."
            )
        parts = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Moments(**parts)

    @property
    def shape(self) -> tuple[int, int]:
        """(D_s, D_t)."""
        found: tuple[int, int] = self.xy.shape
        return found

    def squared_error(self, map_: AffineMap) -> float:
        """The weighted mean over these rows of ‖y − map(x)‖², from the moments alone."""
        check_any(self)
        if map_.matrix.shape != self.shape[::-1]:
            raise UsageError(
                f"expected a map of shape {self.shape[::-1]}, found {map_.matrix.shape}."
            )
        matrix, offset = map_.matrix.astype(np.float64), map_.offset.astype(np.float64)
        # E‖y − Bx − c‖², multiplied out
        around = np.trace(self.yy) - 2 * np.sum(matrix.T * self.xy)
        around += np.sum(matrix @ self.xx * matrix)
        shift = offset @ (2 * (matrix @ self.x - self.y) + self.weight * offset)
        return max(0.0, float(around + shift) / self.weight)


def moments_of(
    x: Float32,
    y: Float32,
    *,
    weights: npt.ArrayLike | None = None,
    block_rows: int = BLOCK_ROWS,
) -> Moments:
    """The moments of (n, D_s) and (n, D_t) arrays or memory maps, read in blocks of rows.

    Args:
        x: Newer vectors, float32.
        y: Older vectors of the same n entities, float32.
        weights: (n,) at least 0; all 1 where left out.
        block_rows: Rows held in float64 at once; changes the result by rounding alone.

    Raises:
        UsageError: the shapes don't pair up, or a weight is negative.
        InputError: a value is not finite.
    """
    _check_pairs(x, y)
    given = None if weights is None else _check_weights(weights, rows=len(x))
    blocks = (slice(start, start + block_rows) for start in range(0, max(1, len(x)), block_rows))
    parts = (
        Moments.of(x[block], y[block], weights=None if given is None else given[block])
        for block in blocks
    )
    return reduce(add, parts)


def _check_pairs(x: Float32, y: Float32) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not (x.shape[1] and y.shape[1]):  # noqa: PLR2004
        raise UsageError(
            "expected newer and older vectors of the same rows, (n, D_s) and (n, D_t); "
            f"found shapes {x.shape} and {y.shape}."
        )


def _check_weights(weights: npt.ArrayLike, *, rows: int) -> Float64:
    found = np.asarray(weights, np.float64)
    if found.shape != (rows,) or not (np.isfinite(found) & (found >= 0)).all():
        raise UsageError(
            f"expected {rows} finite weights of at least 0, one per row; found shape {found.shape}"
            + (f", least {found.min()}." if found.size else ".")
        )
    return found


def check_any(moments: Moments) -> None:
    """Raise UsageError where the moments are those of no row."""
    if not moments.weight > 0:
        raise UsageError(
            f"expected moments of at least one row, found {moments.rows} rows of weight "
            f"{moments.weight}."
        )
