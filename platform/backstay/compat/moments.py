"""Second moments of paired rows: sums of D×D numbers, from which every closed-form map is fitted.

One pass over the rows gathers them in blocks; they add up across blocks, workers and machines.
x is a row of the newer version, (D_s,), and y the same entity's row of the older one, (D_t,).
"""

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import numpy.typing as npt

from backstay.errors import InputError, UsageError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

BLOCK_ROWS = 8192
"""Rows taken to float64 at once: 64 MiB for two tables of 512 dimensions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Sums over n paired rows (x, y), in float64."""

    rows: int  # n
    x: Float64  # (D_s,) Σ x
    y: Float64  # (D_t,) Σ y
    xx: Float64  # (D_s, D_s) Σ x xᵀ
    xy: Float64  # (D_s, D_t) Σ x yᵀ
    yy: Float64  # (D_t, D_t) Σ y yᵀ

    @classmethod
    def of(cls, x: Float32, y: Float32) -> "Moments":
        """The moments of one block, which is copied to float64 whole; see `moments_of`.

        `x` (n, D_s) are newer vectors, `y` (n, D_t) older ones of the same entities, in the same
        order. Raises InputError if a value is not finite.
        """
        _check_pairs(x, y)
        for name, values in (("newer", x), ("older", y)):
            if not np.isfinite(values).all():
                raise InputError(
                    f"expected finite vectors, found NaN or infinity among the {name} ones; "
                    "leave those rows out or check the model."
                )
        ones = np.ones(len(x))
        x64, y64 = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return cls(
            rows=len(x),
            x=ones @ x64,
            y=ones @ y64,
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


def moments_of(x: Float32, y: Float32, *, block_rows: int = BLOCK_ROWS) -> Moments:
    """`Moments.of` arrays or memory maps, read in blocks of rows.

    `block_rows`, the rows held in float64 at once, changes the result by rounding alone.
    """
    _check_pairs(x, y)
    blocks = (slice(start, start + block_rows) for start in range(0, max(1, len(x)), block_rows))
    return reduce(add, (Moments.of(x[block], y[block]) for block in blocks))


def _check_pairs(x: Float32, y: Float32) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not (x.shape[1] and y.shape[1]):  # noqa: PLR2004
        raise UsageError(
            "expected newer and older vectors of the same rows, (n, D_s) and (n, D_t); "
            f"found shapes {x.shape} and {y.shape}."
        )


def check_any(moments: Moments) -> None:
    """Raise UsageError where the moments are those of no row."""
    if not moments.rows:
        raise UsageError("expected moments of at least one row, found those of none.")
