"""The conditional put of object stores: creates an object unless there is one."""

from collections.abc import Iterator, Mapping
from http import HTTPStatus

from fsspec import AbstractFileSystem

CONDITIONAL_PUT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
"""Protocols whose fsspec driver turns `pipe_file(mode="create")` into one conditional request.

fsspec's own fallback asks whether the file exists and then writes: two publishers could both win.
"""

_CONFLICTS = {HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED}


def put_new(fs: AbstractFileSystem, path: str, data: bytes) -> bool:
    """Create an object with `data`; False where another writer was first, or is at it."""
    try:
        fs.pipe_file(path, data, mode="create")
    except Exception as error:
        if lost_the_race(error):
            return False
        raise
    return True


def lost_the_race(error: BaseException) -> bool:
    """Whether a store refused a conditional put because another writer was there first.

    A store says so with 412, or with 409 while the other writer's request is under way. Drivers
    turn some of these answers into FileExistsError and others into a bare OSError; the HTTP status
    is then in one of the causes, under a name that depends on the driver.
    """
    return any(
        isinstance(cause, FileExistsError) or not _CONFLICTS.isdisjoint(_statuses(cause))
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _statuses(error: BaseException) -> Iterator[int]:
    """The HTTP statuses an exception carries, as botocore, gcsfs, aiohttp and Azure store them."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore's ClientError
        yield from _number(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
        yield from _number(response.get("Error", {}).get("Code"))
    for name in ("status", "status_code", "code"):
        yield from _number(getattr(error, name, None))


def _number(status: object) -> Iterator[int]:
    if isinstance(status, int) or (isinstance(status, str) and status.isdecimal()):
        yield int(status)
