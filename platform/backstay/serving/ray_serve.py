"""Ray Serve, imported without its warning about a deprecated form of pydantic's Field."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings(
        "ignore", "Using extra keyword arguments on `Field`", category=DeprecationWarning
    )
    from ray import serve

__all__ = ["serve"]
