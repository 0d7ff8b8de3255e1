"""Fixtures of the updates' tests; the conversions' tests have a registry of their own."""

from tests.support.updates import published, registry

__all__ = ["published", "registry"]
