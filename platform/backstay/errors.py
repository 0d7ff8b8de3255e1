"""All errors that Backstay raises on purpose.

    BackstayError                base; the command line prints one line and exits 1
    ├── UsageError               invalid arguments; the command line exits 2
    ├── InputError               a file or table that breaks its format
    ├── MapMismatchError         a map applied to a space or version that is not its source
    ├── RegistryError            a request that the registry's content does not allow
    │   ├── NotFoundError        no such space, version, entity or id
    │   │   └── MissingMapError  a chain with a version that has no backward map
    │   ├── VersionExistsError   a version that another process published or is publishing
    │   └── CorruptError         a stored file that does not match its manifest
    ├── TrainingError            a fit that cannot continue
    └── ServiceError             the look-up service refused a request or cannot be reached
        ├── FingerprintError     vectors of another build than the caller expects
        ├── NotReadyError        the service can't answer yet; try again in `retry_after` seconds
        └── SourceChangedError   the table that a request names can't be served any more

A message states what was expected, what was found and what to do.
"""

__all__ = [
    "BackstayError",
    "CorruptError",
    "FingerprintError",
    "InputError",
    "MapMismatchError",
    "MissingMapError",
    "NotFoundError",
    "NotReadyError",
    "RegistryError",
    "ServiceError",
    "SourceChangedError",
    "TrainingError",
    "UsageError",
    "VersionExistsError",
]


class BackstayError(Exception):
    """Base of all errors raised on purpose."""


class UsageError(BackstayError):
    """Invalid arguments, such as an unknown method or a negative dimension."""


class InputError(BackstayError):
    """A file or table that breaks its format."""


class MapMismatchError(BackstayError):
    """A map was applied to, or composed with, something that is not its source version."""


class RegistryError(BackstayError):
    """The registry's content does not allow the request."""


class NotFoundError(RegistryError):
    """No such space, version, entity or id."""


class MissingMapError(NotFoundError):
    """The chain to an older version contains a version that has no backward map."""


class VersionExistsError(RegistryError):
    """Another process published this version, or is publishing it."""


class CorruptError(RegistryError):
    """A stored file does not match its manifest."""


class TrainingError(BackstayError):
    """A fit that cannot continue, for example because its loss is not finite."""


class ServiceError(BackstayError):
    """The look-up service refused a request or cannot be reached."""


class FingerprintError(ServiceError):
    """The service has vectors of another build than the one that the caller expects."""


class NotReadyError(ServiceError):
    """The service can't answer yet, for example because it still copies a table."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds until another attempt may succeed


class SourceChangedError(ServiceError):
    """A request names the version of a table that can't be served any more."""

    def __init__(self, message: str, *, present: int) -> None:
        super().__init__(message)
        self.present = present  # version of the table that answers now
