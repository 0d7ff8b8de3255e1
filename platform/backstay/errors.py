"""Every error Backstay raises on purpose.

    BackstayError                what the command line reports in one line, exit 1
    ├── UsageError               a call that can't be meant: exit 2
    ├── InputError               a file or table that breaks its format
    ├── MapMismatchError         a map applied to a space or version that isn't its source
    ├── RegistryError            what the registry holds doesn't fit what was asked
    │   ├── NotFoundError        no such space, version, entity or id
    │   ├── VersionExistsError   someone else published that version first
    │   └── CorruptError         a file doesn't match its manifest
    ├── TrainingError            a fit that can't go on
    └── ServiceError             the look-up service refused or can't be reached

A message says what was expected, what was found and what to do.
"""

__all__ = [
    "BackstayError",
    "CorruptError",
    "InputError",
    "MapMismatchError",
    "NotFoundError",
    "RegistryError",
    "ServiceError",
    "TrainingError",
    "UsageError",
    "VersionExistsError",
]


class BackstayError(Exception):
    """Base of every error raised on purpose."""


class UsageError(BackstayError):
    """A call that can't be meant, such as an unknown method or a negative dimension."""


class InputError(BackstayError):
    """A file or table that breaks its format."""


class MapMismatchError(BackstayError):
    """A map was applied to, or composed with, something that is not its source version."""


class RegistryError(BackstayError):
    """What the registry holds does not fit what was asked of it."""


class NotFoundError(RegistryError):
    """No such space, version, entity or id."""


class VersionExistsError(RegistryError):
    """The version is published, or being published, by someone else."""


class CorruptError(RegistryError):
    """A stored file does not match its manifest."""


class TrainingError(BackstayError):
    """A fit that cannot go on, such as a loss that is no longer finite."""


class ServiceError(BackstayError):
    """The look-up service refused a request or cannot be reached."""
