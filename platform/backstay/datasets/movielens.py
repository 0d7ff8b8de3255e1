"""MovieLens: 100K (`u.data`), 1M and 10M (`.dat`), 20M, 25M and latest (`.csv`).

User and film ids are integers. Ratings go to 5 in all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from backstay.datasets.delimited import Delimited, split
from backstay.datasets.reading import (
    ItemRow,
    Tables,
    expand,
    head,
    item_batches,
    plain_name,
    read_items,
)
from backstay.datasets.rows import FIELDS, RowFormat, integer, read_rows
from backstay.datasets.skipped_rows import BrokenRowError, SkippedRows
from backstay.datasets.titles import MOVIE_KINDS, WORD_ITEMS, movie
from backstay.datasets.writer import interaction_schema
from backstay.errors import InputError

_FORMAT = RowFormat(schema=interaction_schema(user_id=pa.int64(), item_id=pa.int64()))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The file names and the syntax of one family of releases."""

    ratings: str
    movies: str
    separator: str
    header: str = ""  # first line of the ratings, where there is one
    movies_header: str = ""


LAYOUTS = (
    Layout(ratings="u.data", movies="u.item", separator="\t"),
    Layout(ratings="ratings.dat", movies="movies.dat", separator="::"),
    Layout(
        ratings="ratings.csv",
        movies="movies.csv",
        separator=",",
        header="userId,movieId,rating,timestamp",
        movies_header="movieId,title,genres",
    ),
)


def open_movielens(paths: Sequence[Path], skipped: SkippedRows) -> Tables:
    """Find the ratings and films of a MovieLens release among files or in a folder."""
    return open_films(paths, skipped, LAYOUTS, _FORMAT, latin1=True)  # 100K and 1M: before UTF-8


def open_films(
    paths: Sequence[Path],
    skipped: SkippedRows,
    layouts: Sequence[Layout],
    row_format: RowFormat,
    *,
    latin1: bool = False,
) -> Tables:
    """Find ratings and films in one of the layouts; `latin1`: films may be in Latin-1."""
    layout, ratings, movies = find_films(paths, layouts)
    parser = Delimited(separator=layout.separator, row_format=row_format)
    check_header(ratings, layout.header)
    item_id = row_format.schema.field("item_id").type
    items = item_batches((), (), item_id=item_id)
    if movies:
        check_header(movies, layout.movies_header)
        headed = bool(layout.movies_header)
        parse = _film_parser(layout, movies, integer_ids=item_id == pa.int64())
        rows = read_items(movies, parse, skipped, skip_lines=headed, quoted=headed, latin1=latin1)
        items = item_batches(rows, MOVIE_KINDS, item_id=item_id)
    return Tables(
        files=(ratings, movies) if movies else (ratings,),
        interactions=read_rows(ratings, parser, skipped, skip_lines=bool(layout.header)),
        items=items,
        min_items={"title": WORD_ITEMS},
    )


def find_films(
    paths: Sequence[Path], layouts: Sequence[Layout]
) -> tuple[Layout, Path, Path | None]:
    """The layout of a release, its ratings and its films.

    The films may be missing among files, but not in a folder.
    """
    files = {plain_name(path): path for path in expand(paths)}
    whole = any(path.is_dir() for path in paths)
    for layout in layouts:
        if layout.ratings in files and (layout.movies in files or not whole):
            return layout, files[layout.ratings], files.get(layout.movies)
    expected = ", or ".join(f"{layout.ratings} with {layout.movies}" for layout in layouts)
    raise InputError(
        f"expected {expected} (each gzipped or not); found {', '.join(files) or 'no file'} "
        f"in {', '.join(map(str, paths))}. Pass the folder the release unpacks to, or its files."
    )


def check_header(path: Path, header: str) -> None:
    """Refuse an empty file, and one whose first line isn't `header` (unless that is empty)."""
    first = head(path)[0].strip()
    if header and first != header:
        raise InputError(
            f"{path}, line 1: expected the header {header!r}, found {first[:80]!r}. "
            "Take the file as it was released, or read it with --format table."
        )


def _film(fields: Sequence[str], *, integer_ids: bool) -> ItemRow:
    if len(fields) != 3:  # noqa: PLR2004 - id, title and genres
        raise BrokenRowError(FIELDS)
    movie_id, title, genres = fields
    return movie(
        integer(movie_id, "item id") if integer_ids else movie_id, title, genres.strip().split("|")
    )


def _film_parser(layout: Layout, movies: Path, *, integer_ids: bool) -> Callable[[bytes], ItemRow]:
    if layout.movies == "u.item":
        return partial(_flagged_film, genres=list(_genres(movies)))
    # id, title (year), genres between bars
    return lambda line: _film(
        split(line, layout.separator, quoted=bool(layout.movies_header)), integer_ids=integer_ids
    )


def _flagged_film(line: bytes, *, genres: Sequence[str]) -> ItemRow:
    """A line of `u.item`: id|title|release|video release|link|a flag for each genre."""
    fields = line.decode().split("|")
    flags = fields[5:]
    if len(flags) != len(genres):
        raise BrokenRowError(FIELDS)
    held = [genre for genre, flag in zip(genres, flags, strict=True) if flag == "1"]
    return movie(integer(fields[0], "item id"), fields[1], held)


def _genres(movies: Path) -> Iterator[str]:
    """The genres of the flags in `u.item`, in the order of the flags."""
    path = movies.with_name("u.genre")
    if not path.is_file():
        raise InputError(
            f"expected {path}, which names the genres that {movies.name} flags; "
            "put it beside, or leave the films out."
        )
    for line in head(path, lines=1000):
        if line.strip():
            yield line.split("|")[0]
