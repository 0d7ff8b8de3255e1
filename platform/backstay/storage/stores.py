"""Object stores: the extra that opens each protocol, and the options that users give.

Options are those of the store's fsspec driver (s3fs, gcsfs, adlfs). The command line puts them into
the environment, as a JSON object, so that workers in other processes have them too.
"""

import inspect
import json
import os
from collections.abc import Iterable, Mapping

from fsspec import get_filesystem_class

from backstay.errors import UsageError

VARIABLE = "BACKSTAY_STORAGE_OPTIONS"
"""The environment variable with the options: a JSON object."""

EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "azure"),
}
"""Protocol of an object store -> the extra of Backstay with its driver."""


def parse_options(texts: Iterable[str]) -> dict[str, object]:
    """Options from texts that are NAME=VALUE or a JSON object; a later one wins.

    A value that is JSON, such as `true` or `{"region_name": "eu"}`, is taken as JSON. ValueError at
    a text that is neither.
    """
    found: dict[str, object] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            found |= json.loads(text)
            continue
        name, equals, value = text.partition("=")
        if not (equals and name.strip()):
            raise ValueError(text)
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found


def options_of(uri: str) -> dict[str, object]:
    """The options that were given for the store of a URL; none for other file systems.

    The options are in the variable BACKSTAY_STORAGE_OPTIONS. A name such as `s3.anon` is an option
    of this store only.

    Raises:
        UsageError: The variable holds no JSON object, or an option that the driver lacks.
        ImportError: The driver is not installed.
    """
    text = os.environ.get(VARIABLE)
    protocol = uri.partition("://")[0]
    if not text or protocol not in EXTRAS:
        return {}
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, Mapping):
        raise UsageError(f'{VARIABLE} must hold a JSON object such as {{"anon": true}}.')
    found: dict[str, object] = {}
    for name, value in given.items():
        store, dot, own = name.rpartition(".")
        if dot and store not in EXTRAS:
            raise UsageError(
                f"storage_options names the store {store!r} in {name!r}; expected one of "
                f"{', '.join(EXTRAS)}."
            )
        if not dot or EXTRAS[store] == EXTRAS[protocol]:
            found[own] = value
    known = _known(protocol)
    unknown = sorted(set(found) - known)
    if unknown:
        raise UsageError(
            f"storage_options must be options of the driver of {protocol}://, one of "
            f"{', '.join(sorted(known))}; found {', '.join(unknown)}. An option of one store only "
            "is written with its protocol, as in s3.anon=true."
        )
    return found


def _known(protocol: str) -> set[str]:
    """The names of all arguments that a driver takes."""
    names = {
        parameter.name
        for cls in get_filesystem_class(protocol).__mro__
        for parameter in inspect.signature(cls.__init__).parameters.values()
        if parameter.kind in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}
    }
    return names - {"self", "asynchronous", "loop"}


def not_opened(uri: str, error: Exception) -> str:
    """Why a URL can't be opened, and what to do."""
    protocol = uri.partition("://")[0]
    extra = EXTRAS.get(protocol)
    if extra is None:
        return (
            f"can't open {uri}: {error}. Expected a folder or an fsspec URL such as "
            "s3://bucket/path, gs://bucket/path or az://container/path."
        )
    if isinstance(error, ImportError):
        return (
            f"can't open {uri}: the driver of {protocol}:// is not installed. Install it with "
            f"`pip install 'backstay[{extra}]'`."
        )
    return (
        f"can't open {uri}: {' '.join(str(error).split())} Give the store's settings by "
        "--storage-options NAME=VALUE, or by the environment variables of its driver."
    )
