"""Backstay: keep updating embeddings, break no consumer.

Importing this package loads neither Ray nor torch. A public name is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from backstay import errors

if TYPE_CHECKING:
    from backstay.compat.maps import BackwardMap, Vectors, compose
    from backstay.datasets.dataset import Dataset
    from backstay.registry.store import Registry
    from backstay.serving.client import AsyncClient, Client, LookupResult

_LAZY = {
    "AsyncClient": "backstay.serving.client",
    "BackwardMap": "backstay.compat.maps",
    "Client": "backstay.serving.client",
    "Dataset": "backstay.datasets.dataset",
    "LookupResult": "backstay.serving.client",
    "Registry": "backstay.registry.store",
    "Vectors": "backstay.compat.maps",
    "compose": "backstay.compat.maps",
}

__all__ = [
    "AsyncClient",
    "BackwardMap",
    "Client",
    "Dataset",
    "LookupResult",
    "Registry",
    "Vectors",
    "compose",
    "errors",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
