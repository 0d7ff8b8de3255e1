"""Interaction rows out of text: blocks are parsed at once, and lines around an error one by one.

A block of lines is parsed by Arrow. If that fails, the block is halved until a half is small; the
lines of a small block that fails are parsed in Python, which gives the reason for each bad line.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backstay.datasets.reading import Block, blocks, parsed
from backstay.datasets.skipped_rows import BrokenRowError, SkippedRows
from backstay.datasets.writer import interaction_schema
from backstay.errors import InputError

Floats = npt.NDArray[np.float64]
TimeUnit = Literal["auto", "s", "ms", "us", "ns"]

Row = tuple[str | int, str | int, float, float]
"""User, item, rating and time as they stand in the file."""

Cell: TypeAlias = Any
"""A value as a text, JSON or Parquet file holds it."""

USER_EMPTY = "user id is empty"
ITEM_EMPTY = "item id is empty"
NO_RATING = "rating is no number"
NO_TIME = "timestamp is no number"
FAR_TIME = "timestamp out of range"
FIELDS = "wrong number of fields"

_SCALE = 5.0  # of every dataset folder
_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_LAST_SECOND = 1e11  # in the year 5138
SMALL_BLOCK = 1 << 16  # bytes; blocks up to this size are not halved
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, kw_only=True)
class RowFormat:
    """How to read a file's four columns: types of ids, scale of ratings, unit of times."""

    schema: pa.Schema = field(default_factory=interaction_schema)  # its id types are the file's
    scale: float = _SCALE  # greatest rating possible; ratings are brought to a scale of 5
    refuse_above: bool = False  # whether to refuse the file at a rating above `scale`
    unit: TimeUnit = "s"  # of timestamps; auto: by size, seconds up to the year 5138, then ms …

    def batch(
        self,
        users: pa.Array | Sequence[Cell],
        items: pa.Array | Sequence[Cell],
        ratings: npt.ArrayLike,
        times: npt.ArrayLike,
    ) -> pa.RecordBatch:
        """Columns as a batch for the writer; `pa.ArrowException` where a row isn't good.

        Ids: arrays or lists; ratings and times: float64 as they stand in the file.
        """
        user_ids, item_ids = (
            values if isinstance(values, pa.Array) else pa.array(values, type_)
            for values, type_ in zip((users, items), self.schema.types, strict=False)
        )
        scores, moments = np.asarray(ratings, np.float64), np.asarray(times, np.float64)
        if any(bad.any() for _, bad in self.faults(user_ids, item_ids, scores, moments)):
            raise pa.ArrowInvalid
        seconds = to_seconds(moments, self.unit)
        return pa.RecordBatch.from_arrays(
            [
                user_ids,
                item_ids,
                pa.array((scores * (_SCALE / self.scale)).astype(np.float32)),
                pa.array(seconds.astype(np.int64)),
            ],
            schema=self.schema,
        )

    def faults(
        self, users: pa.Array, items: pa.Array, ratings: Floats, times: Floats
    ) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
        """Each reason to skip a row, with a mask (n,) of the rows it applies to."""
        yield USER_EMPTY, _empty(users)
        yield ITEM_EMPTY, _empty(items)
        yield NO_RATING, ~np.isfinite(ratings)
        yield self._outside, ~((ratings >= 0) & (ratings <= self.scale))
        yield NO_TIME, ~np.isfinite(times)
        yield FAR_TIME, ~(np.abs(times) < self._latest)

    def row(self, user: Cell, item: Cell, rating: Cell, when: Cell) -> Row:
        """One row's values, checked; `BrokenRowError` gives the reason to skip it."""
        integer_user, integer_item = self._integer_ids
        user = _id(user, "user id", is_integer=integer_user)
        item = _id(item, "item id", is_integer=integer_item)
        score = number(rating, NO_RATING)
        self.check_scale(score)
        if not 0 <= score <= self.scale:
            raise BrokenRowError(self._outside)
        moment = number(when, NO_TIME)
        if not abs(moment) < self._latest:
            raise BrokenRowError(FAR_TIME)
        return user, item, score, moment

    def check_scale(self, greatest: float) -> None:
        """Refuse a rating above a scale that the user has not confirmed."""
        if self.refuse_above and greatest > self.scale:
            raise InputError(
                f"expected ratings of at most {self.scale:g}, found {greatest:g}; "
                "pass the greatest possible rating with --rating-scale."
            )

    @cached_property
    def _integer_ids(self) -> tuple[bool, bool]:
        user, item, *_ = self.schema.types
        return user == pa.int64(), item == pa.int64()

    @cached_property
    def _latest(self) -> float:
        """The first time that is out of range, in this unit."""
        return _LAST_SECOND * _UNITS.get(self.unit, _UNITS["ns"])

    @property
    def _outside(self) -> str:
        return f"rating outside 0…{self.scale:g}"


class Parser(Protocol):
    """Parses the interactions of one format."""

    @property
    def row_format(self) -> RowFormat:
        """How to read the columns."""

    @property
    def quoted(self) -> bool:
        """Whether a field in double quotes may hold line breaks."""

    def fast(self, data: bytes) -> pa.RecordBatch:
        """Parse whole lines at once; `pa.ArrowException` where any of them is doubtful."""

    def row(self, line: bytes) -> Row:
        """Parse one line; `BrokenRowError` where it is broken."""


def read_rows(
    path: Path, parser: Parser, skipped: SkippedRows, *, skip_lines: int = 0
) -> Iterator[pa.RecordBatch]:
    """The interactions of a text file; broken lines are skipped."""
    for block in blocks(path, skip_lines=skip_lines, quoted=parser.quoted):
        skipped.advance(path, rows=0, size=len(block.data))
        for batch in _parse(block, parser, skipped):
            skipped.advance(path, rows=batch.num_rows, size=0)
            yield batch


def to_seconds(times: Floats, unit: TimeUnit) -> Floats:
    """Times since the epoch as whole seconds."""
    if unit == "auto":
        size = np.abs(times)
        steps = [size < _LAST_SECOND * factor for factor in (1.0, 1e3, 1e6)]
        divisor: Floats = np.select(steps, [1.0, 1e3, 1e6], 1e9)
        return np.floor(times / divisor)
    return np.floor(times / _UNITS[unit])


def number(value: Cell, reason: str) -> float:
    """A finite number out of a text or JSON value."""
    try:
        if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
            raise BrokenRowError(reason)
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BrokenRowError(reason) from None
    if not math.isfinite(result):
        raise BrokenRowError(reason)
    return result


def moment(text: str) -> float:
    """Seconds since the epoch out of an ISO 8601 time; without a zone it is UTC."""
    try:
        when = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BrokenRowError("timestamp is no date and time") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def integer(value: Cell, what: str) -> int:
    """An int64 out of a text or JSON value."""
    try:
        result = int(value)
    except (ValueError, TypeError):
        result = 2**63
    if result not in _INT64 or "_" in str(value):
        raise BrokenRowError(f"{what} is no integer")
    return result


def _id(value: Cell, what: str, *, is_integer: bool) -> str | int:
    if value is None or value == "":
        raise BrokenRowError(f"{what} is empty")
    if is_integer:
        return integer(value, what)
    if not isinstance(value, str):
        raise BrokenRowError(f"{what} is no string")
    if "\n" in value:  # two broken lines, each with a stray quote
        raise BrokenRowError(FIELDS)
    return value


def _empty(ids: pa.Array) -> npt.NDArray[np.bool_]:
    empty = pc.is_null(ids)
    if ids.type == pa.string():
        empty = pc.or_kleene(empty, pc.equal(pc.binary_length(ids), 0))
    bad: npt.NDArray[np.bool_] = empty.to_numpy(zero_copy_only=False)
    return bad


def _parse(block: Block, parser: Parser, skipped: SkippedRows) -> Iterator[pa.RecordBatch]:
    lines = block.data.count(b"\n") + (not block.data.endswith(b"\n"))
    try:
        batch = parser.fast(block.data)
        # Another number of rows than lines: blank lines, an open quote, a carriage return
        plain = batch.num_rows == lines
    except pa.ArrowException:
        plain = False
    if plain:
        yield batch
        return
    halves = block.halves(quoted=parser.quoted) if len(block.data) > SMALL_BLOCK else (block,)
    if len(halves) > 1:
        for half in halves:
            yield from _parse(half, parser, skipped)
        return
    rows = list(parsed(block, parser.row, skipped, quoted=parser.quoted))
    if rows:
        yield parser.row_format.batch(*zip(*rows, strict=True))
