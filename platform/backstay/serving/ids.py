"""The ids of a request as one array."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from backstay.errors import UsageError

IdArray: TypeAlias = npt.NDArray[np.int64] | pa.Array
"""Ids (n,): int64, or an Arrow array of large_string without nulls."""


def as_ids(ids: Sequence[int | str], type_: pa.DataType, *, of: str) -> IdArray:
    """Ids of a request as an array; UsageError if they are not of the type. `of`: for messages."""
    expected = int if type_ == pa.int64() else str
    if not set(map(type, ids)) <= {expected}:
        wrong = next(id_ for id_ in ids if type(id_) is not expected)
        raise UsageError(
            f"ids of {of} are {'integers' if expected is int else 'strings'}; found {wrong!r}."
        )
    try:
        return np.array(ids, np.int64) if expected is int else pa.array(ids, type_)
    except (OverflowError, pa.ArrowInvalid, UnicodeEncodeError) as error:
        what = "within 64 bits" if expected is int else "valid Unicode"
        raise UsageError(f"ids of {of} must be {what}: {error}.") from error
