"""MovieTweetings: `ratings.dat` and `movies.dat`, ratings 0–10.

Films are zero-padded IMDb numbers (0104257) and stay strings; users are integers.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from backstay.datasets.movielens import Layout, open_films
from backstay.datasets.reading import Tables
from backstay.datasets.rows import RowFormat
from backstay.datasets.skipped_rows import SkippedRows
from backstay.datasets.writer import interaction_schema

_LAYOUT = Layout(ratings="ratings.dat", movies="movies.dat", separator="::")
_FORMAT = RowFormat(schema=interaction_schema(user_id=pa.int64()), scale=10.0)


def open_movietweetings(paths: Sequence[Path], skipped: SkippedRows) -> Tables:
    """Find the ratings and films of a MovieTweetings snapshot among files or in a folder."""
    return open_films(paths, skipped, [_LAYOUT], _FORMAT)
