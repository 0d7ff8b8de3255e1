"""Parses interactions in delimited text: `::`, tabs, commas, quoted fields."""

import csv
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.csv as pacsv

from backstay.datasets.rows import FIELDS, Row, RowFormat, moment
from backstay.datasets.skipped_rows import BrokenRowError

TimeForm = Literal["number", "local", "zoned"]
"""A number in some unit, or ISO 8601 without (taken for UTC) or with a zone."""

_TIME_TYPES = {
    "number": pa.float64(),
    "local": pa.timestamp("us"),
    "zoned": pa.timestamp("us", tz="UTC"),
}


@dataclass(frozen=True, kw_only=True)
class Delimited:
    """A parser of delimited lines; user, item, rating and time are picked by position."""

    separator: str
    width: int = 4  # fields in a line
    places: tuple[int, int, int, int] = (0, 1, 2, 3)  # of user, item, rating and time
    quoted: bool = False  # fields may be in double quotes, and then hold anything
    times: TimeForm = "number"
    row_format: RowFormat = field(default_factory=RowFormat)

    def fast(self, data: bytes) -> pa.RecordBatch:
        """Parse whole lines at once with Arrow."""
        separator = self.separator
        if len(separator) > 1:  # Arrow takes one character
            if b"\t" in data:
                raise pa.ArrowInvalid
            data, separator = data.replace(separator.encode(), b"\t"), "\t"
        names = [str(place) for place in self.places]
        types = (*self.row_format.schema.types[:2], pa.float64(), _TIME_TYPES[self.times])
        table = pacsv.read_csv(
            pa.BufferReader(data),
            pacsv.ReadOptions(
                # A block is too small for threads to help
                use_threads=False,
                column_names=[str(place) for place in range(self.width)],
            ),
            pacsv.ParseOptions(
                delimiter=separator,
                quote_char='"' if self.quoted else False,
                newlines_in_values=self.quoted,
            ),
            pacsv.ConvertOptions(
                include_columns=names,
                column_types=dict(zip(names, types, strict=True)),
                null_values=[],
                check_utf8=False,  # blocks are checked already
            ),
        ).combine_chunks()
        users, items, ratings, times = (
            column.chunk(0) if column.num_chunks else pa.array([], column.type)
            for column in table.columns
        )
        if self.times != "number":
            times = times.cast(pa.int64()).to_numpy() / 1e6
        return self.row_format.batch(users, items, ratings, times)

    def row(self, line: bytes) -> Row:
        """Parse one line."""
        fields = split(line, self.separator, quoted=self.quoted)
        if len(fields) != self.width:
            raise BrokenRowError(FIELDS)
        user, item, rating, time = self.places
        when = fields[time] if self.times == "number" else moment(fields[time])
        return self.row_format.row(fields[user], fields[item], fields[rating], when)


def split(line: bytes, separator: str, *, quoted: bool) -> list[str]:
    """The fields of one line (or of one record that quotes spread over several)."""
    text = line.decode()
    if not quoted:
        return text.split(separator)
    try:
        return next(csv.reader(text.splitlines(keepends=True), delimiter=separator))
    except csv.Error:
        raise BrokenRowError(FIELDS) from None
