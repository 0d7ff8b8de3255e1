"""Change markers: one request tells an idle reader whether it must read anything again.

    <root>/<space>/.changed     renewed after every write to the space
    <root>/.changed             renewed after every write to any space, and to the root's own files

A marker is a hint. A writer that is killed before it renews the marker, or that can't, leaves the
old one. Readers therefore read everything again from time to time, whatever the marker says.
"""

import logging
from uuid import uuid4

from backstay.registry.manifest import now
from backstay.storage.documents import canonical_json
from backstay.storage.files import Files

_log = logging.getLogger("backstay.registry")

MARKER = ".changed"


def change_token(files: Files, space: str = "") -> str | None:
    """A text that differs from the one before if a space was written since; one request.

    Take the token first and read the space afterwards: an unchanged token then means that what was
    read is still in force. Without a space, the token is of the whole registry. None where there is
    no marker, as in registries of earlier releases: then the reader must read everything.
    """
    path = _marker(space)
    try:
        if files.is_local:
            return files.read(path).hex()
        return str(files.fs.ukey(files.full(path)))  # a HEAD request; ETag and time are in it
    except OSError:
        return None


def renew_markers(files: Files, space: str = "") -> None:
    """Renew the markers of a space and of its registry, as the last step of a write.

    A failure is logged. The write itself stands, and readers find it at their next full reading.
    """
    marker = canonical_json({"token": uuid4().hex, "time": now()}, what="a change marker")
    for path in dict.fromkeys((_marker(space), _marker(""))):
        try:
            files.write(path, marker)
        except Exception as error:  # noqa: BLE001 - each driver raises errors of its own
            _log.warning(
                "%s could not be renewed (%s); readers find the change later, at their next full "
                "reading. Check that this process may write there.",
                files.full(path),
                error,
            )


def _marker(space: str) -> str:
    return f"{space}/{MARKER}" if space else MARKER
