"""A conditional put that loses, as each store and driver reports it."""

import errno

import pytest

from backstay.storage.conditional_put import lost_the_race, put_new
from backstay.storage.files import Files


class ClientError(Exception):
    """The error of botocore."""

    def __init__(self, status, code):
        super().__init__(f"An error occurred ({code})")
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


class StatusError(Exception):
    def __init__(self, name, status):
        super().__init__("refused")
        setattr(self, name, status)


def _from(cause):
    """As s3fs raises it: an OSError whose cause is the driver's own error."""
    error = OSError(errno.EIO, "An error occurred")
    error.__cause__ = cause
    return error


LOST = [
    FileExistsError("there"),
    _from(ClientError(409, "ConditionalRequestConflict")),
    _from(ClientError(412, "PreconditionFailed")),
    _from(ClientError(412, None)),
    _from(ClientError(412, "SomethingOfItsOwn")),
    _from(ClientError(None, "412")),
    StatusError("code", 412),
    StatusError("status", 409),
    StatusError("status_code", 412),
]
FAILED = [
    PermissionError("no"),
    _from(ClientError(403, "AccessDenied")),
    _from(ClientError(500, "InternalError")),
    StatusError("code", 404),
    StatusError("code", "SlowDown"),
    OSError(errno.EIO, "412"),
]


class Store:
    """An object store that answers every put with `error`."""

    protocol = "s3"

    def __init__(self, error, found=b"theirs"):
        self.error, self.found, self.puts = error, found, 0

    def pipe_file(self, path, data, mode):
        del path, data
        assert mode == "create"
        self.puts += 1
        raise self.error

    def cat_file(self, path):
        if self.found is None:
            raise FileNotFoundError(path)
        return self.found


@pytest.mark.parametrize("error", LOST)
def test_another_writer_was_first(error):
    assert lost_the_race(error)
    assert not put_new(Store(error), "x", b"mine")
    files = Files(Store(error), "bucket")
    files._proved = True
    assert not files.create("x", b"mine")
    assert files.create("x", b"theirs")  # its own first try, whose answer was lost


@pytest.mark.parametrize("error", FAILED)
def test_any_other_failure_is_raised(error):
    assert not lost_the_race(error)
    with pytest.raises(type(error)):
        put_new(Store(error), "x", b"mine")


def test_a_writer_that_loses_to_one_that_gives_up_tries_again():
    store = Store(LOST[1], found=None)
    files = Files(store, "bucket")
    files._proved = True
    assert not files.create("x", b"mine")
    assert store.puts > 1
