"""Finding the files of a format, and reading text files as blocks of whole lines."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NoReturn, TypeVar, cast

import pyarrow as pa

from backstay.datasets.skipped_rows import BrokenRowError, SkippedRows
from backstay.datasets.writer import item_schema
from backstay.errors import InputError

ItemRow = tuple[str | int, Sequence[Sequence[str]]]
"""An item's id and the values of each attribute kind."""

T = TypeVar("T")

BLOCK_BYTES = 8 << 20  # bytes of text handled at a time
LONGEST_LINE = 64 << 20  # bytes; more without a line break is no text file
_QUOTE_SEARCH = 1 << 20  # bytes at a block's end that are searched for an open quote
_LONGEST_RECORD = 1000  # lines of the longest quoted field
_PACKED = {b"PK\x03\x04": "a zip archive", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z"}


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables that a reader has found, as streams for a dataset folder."""

    files: tuple[Path, ...]
    interactions: Iterable[pa.RecordBatch]
    items: Iterable[pa.RecordBatch] = ()
    min_items: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Some whole lines of a text file, UTF-8 and without NUL."""

    path: Path
    line: int  # number of the first line
    data: bytes

    def lines(self) -> list[bytes]:
        """The lines without their ends."""
        lines = [line.removesuffix(b"\r") for line in self.data.split(b"\n")]
        return lines if lines[-1] else lines[:-1]

    def halves(self, *, quoted: bool) -> tuple["Block", ...]:
        """The block cut at a line end near its middle; uncut where it is one line."""
        middle = _cut(self.data[: len(self.data) // 2], quoted=quoted)
        if middle == 0:
            return (self,)
        rest = self.line + self.data.count(b"\n", 0, middle)
        return (
            Block(self.path, self.line, self.data[:middle]),
            Block(self.path, rest, self.data[middle:]),
        )


def blocks(
    path: Path, *, skip_lines: int = 0, quoted: bool = False, latin1: bool = False
) -> Iterator[Block]:
    """The text of a file, gzipped or not, as blocks of whole lines without `skip_lines` headers.

    With `quoted`, blocks are not cut at line breaks inside double quotes. With `latin1`, a block
    that isn't UTF-8 is read as Latin-1. Raises InputError for a file that is cut off, binary or not
    UTF-8.
    """
    line, rest = 1, b""
    with _open(path) as file:
        while True:
            chunk = _read(file, path, line)
            if not chunk and not rest:
                break
            data = rest + chunk
            cut = _cut(data, quoted=quoted) if chunk else len(data)
            if cut == 0:
                if len(data) > LONGEST_LINE:
                    _refuse_binary(path, line, f"no line break in {LONGEST_LINE >> 20} MB")
                rest = data
                continue
            text, rest = _text(path, line, data[:cut], latin1=latin1), data[cut:]
            start = line
            line += text.count(b"\n")
            while start <= skip_lines and text:
                _, _, text = text.partition(b"\n")
                start += 1
            if text:
                yield Block(path, start, text)


def head(path: Path, *, lines: int = 1) -> list[str]:
    """The first lines of a text file, without their ends."""
    for block in blocks(path, latin1=True):
        return [line.decode() for line in block.lines()[:lines]]
    raise InputError(f"{path} is empty; expected rows of data. Download or export it again.")


def parsed(
    block: Block,
    parse: Callable[[bytes], T],
    skipped: SkippedRows,
    *,
    quoted: bool = False,
    table: str = "",
) -> Iterator[T]:
    """Parse a block line by line; a line whose parse raises `BrokenRowError` is skipped.

    Blank lines are no rows. With `quoted`, a row begins at a line with an open quote and ends at
    the line that closes it. `table` is put before the reasons for skipping.
    """
    lines = block.lines()
    n = 0
    while n < len(lines):
        span = _record_lines(lines, n) if quoted else 1
        record = b"\n".join(lines[n : n + span])
        try:
            if record.strip():
                yield parse(record)
        except BrokenRowError as error:
            reason = f"{table}: {error}" if table else str(error)
            skipped.add(block.path, f"line {block.line + n}", reason, text=lines[n].decode())
            span = 1  # the lines after an open quote are parsed again, on their own
        except InputError as error:
            raise InputError(f"{block.path}, line {block.line + n}: {error}") from None
        n += span


def read_items(
    path: Path,
    parse: Callable[[bytes], ItemRow],
    skipped: SkippedRows,
    *,
    skip_lines: int = 0,
    quoted: bool = False,
    latin1: bool = False,
) -> Iterator[ItemRow]:
    """The items of a text file, one a line; broken lines are skipped."""
    for block in blocks(path, skip_lines=skip_lines, quoted=quoted, latin1=latin1):
        yield from parsed(block, parse, skipped, quoted=quoted, table="metadata")


def expand(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths` and in the folders among them."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.is_file())
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"{path} isn't there; expected a file or a folder of files.")
    return files


def plain_name(path: Path) -> str:
    """The file's name without a `.gz` at its end."""
    return path.name.removesuffix(".gz")


def item_batches(
    rows: Iterable[ItemRow], kinds: Sequence[str], *, item_id: pa.DataType | None = None
) -> Iterator[pa.RecordBatch]:
    """Item rows as batches for the writer: at least one, which gives the attribute kinds."""
    schema = item_schema(kinds, item_id=item_id)
    pending: list[ItemRow] = []

    def batch() -> pa.RecordBatch:
        ids = [row[0] for row in pending]
        columns = [[row[1][n] for row in pending] for n in range(len(kinds))]
        return pa.RecordBatch.from_arrays(
            [
                pa.array(values, field.type)
                for values, field in zip([ids, *columns], schema, strict=True)
            ],
            schema=schema,
        )

    for row in rows:
        pending.append(row)
        if len(pending) == 1 << 14:
            yield batch()
            pending = []
    yield batch()


def _record_lines(lines: list[bytes], start: int) -> int:
    """The number of lines from `start` to the one where all quotes are closed."""
    quotes = 0
    for span, line in enumerate(lines[start : start + _LONGEST_RECORD], 1):
        quotes += line.count(b'"')
        if quotes % 2 == 0:
            return span
    return 1


def _cut(data: bytes, *, quoted: bool) -> int:
    """The end of the last whole line of `data`; 0 if there is none."""
    last = cut = data.rfind(b"\n") + 1
    if not quoted or data.count(b'"', 0, cut) % 2 == 0:
        return cut
    # Inside quotes: go back to a line end that is outside. A quote that never closes belongs to a
    # broken line, so after _QUOTE_SEARCH bytes cut anyway; parsing then skips that line.
    while cut > max(0, last - _QUOTE_SEARCH):
        line = data.rfind(b"\n", 0, cut - 1) + 1
        if data.count(b'"', line, cut) % 2:
            return line
        cut = line
    return last


def _open(path: Path) -> IO[bytes]:
    try:
        with path.open("rb") as file:
            magic = file.read(6)
        for start, what in _PACKED.items():
            if magic.startswith(start):
                raise InputError(f"{path} is {what}; unpack it and pass the files in it.")
        if magic.startswith(b"\x1f\x8b"):
            return cast("IO[bytes]", gzip.open(path))
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}.") from error


def _read(file: IO[bytes], path: Path, line: int) -> bytes:
    try:
        chunk = file.read(BLOCK_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path} breaks off or is damaged after line {line} ({error}); download it again."
        ) from error
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}.") from error
    return chunk


def _text(path: Path, line: int, data: bytes, *, latin1: bool) -> bytes:
    if line == 1:
        data = data.removeprefix(b"\xef\xbb\xbf")
    where = data.find(b"\0")
    if where >= 0:
        _refuse_binary(path, line + data.count(b"\n", 0, where), "a NUL byte")
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if latin1:
            return data.decode("latin-1").encode()
        number = line + data.count(b"\n", 0, error.start)
        raise InputError(
            f"{path}, line {number}: expected UTF-8 text, found the byte "
            f"0x{data[error.start]:02x}. Convert the file, for instance with iconv."
        ) from error
    return data


def _refuse_binary(path: Path, line: int, found: str) -> NoReturn:
    raise InputError(
        f"{path}, line {line}: expected text, found {found}. Is it the right file, and unpacked?"
    )
