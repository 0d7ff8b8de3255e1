"""The ids that a caller asks for, as one array of integers or of strings."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from backstay.errors import UsageError

Ids = Sequence[int] | Sequence[str] | npt.NDArray[np.generic]
"""Also any other iterable of integers or strings, such as an Arrow array or a column of pandas."""

IdArray = npt.NDArray[np.int64] | npt.NDArray[np.object_]  # object: str


def as_ids(ids: Ids) -> IdArray:
    """The ids as an array (n,) of int64 or of str (object); UsageError if they are neither."""
    if isinstance(ids, (str, bytes)):
        raise UsageError(f"ids must be a list of ids; found the string {ids!r}. Write [{ids!r}].")
    if isinstance(ids, np.ndarray) and ids.ndim != 1:
        raise UsageError(f"ids must be one-dimensional; found the shape {ids.shape}.")
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "i":
        return ids.astype(np.int64)
    listed = list(_iterated(ids))
    kinds = set(map(type, listed))
    if not kinds <= {int, str}:
        listed = [_plain(id_) for id_ in listed]
        kinds = set(map(type, listed))
    if kinds == {int}:
        try:
            return np.array(listed, np.int64)
        except OverflowError as error:
            raise UsageError(f"integer ids must be within 64 bits: {error}.") from error
    if not kinds <= {str}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UsageError(f"ids must be all integers or all strings; found {found}.")
    array = np.empty(len(listed), object)  # numpy's own strings drop trailing NULs
    array[:] = listed
    return array


def _iterated(ids: Ids) -> Iterable[object]:
    try:
        return iter(ids)
    except TypeError:
        raise UsageError(f"ids must be a list of ids; found {ids!r}. Write [{ids!r}].") from None


def _plain(id_: object) -> object:
    """A Python value for a scalar of Arrow or numpy."""
    if hasattr(id_, "as_py"):
        return id_.as_py()
    return id_.item() if isinstance(id_, np.generic) else id_
