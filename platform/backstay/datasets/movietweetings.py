"""MovieTweetings: `ratings.dat` and `movies.dat`, ratings 0–10.

Films are zero-padded IMDb numbers (0104257) and stay strings; users are integers.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from backstay.datasets.delimited import Delimited
from backstay.datasets.movielens import Layout, check_header, dat_film, find_films
from backstay.datasets.reading import Tables, item_batches, read_items
from backstay.datasets.rows import RowFormat, read_rows
from backstay.datasets.skipped_rows import SkippedRows
from backstay.datasets.titles import MOVIE_KINDS, WORD_ITEMS
from backstay.datasets.writer import interaction_schema

_LAYOUT = Layout(ratings="ratings.dat", movies="movies.dat", separator="::")
_FORMAT = RowFormat(schema=interaction_schema(user_id=pa.int64()), scale=10.0)


def open_movietweetings(paths: Sequence[Path], skipped: SkippedRows) -> Tables:
    """Find the ratings and films of a MovieTweetings snapshot among files or in a folder."""
    _, ratings, movies = find_films(paths, [_LAYOUT])
    check_header(ratings, "")
    items = item_batches((), ())
    if movies:
        check_header(movies, "")
        rows = read_items(movies, partial(dat_film, integer_ids=False), skipped)
        items = item_batches(rows, MOVIE_KINDS)
    parser = Delimited(separator=_LAYOUT.separator, row_format=_FORMAT)
    return Tables(
        files=(ratings, movies) if movies else (ratings,),
        interactions=read_rows(ratings, parser, skipped),
        items=items,
        min_items={"title": WORD_ITEMS},
    )
