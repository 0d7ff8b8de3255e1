"""Clients of the look-up service.

`Client` and `AsyncClient` only send. What they send, when they send it again and what the answers
mean is decided by plain functions, which both share.
"""

from backstay.serving.client.asynchronous import AsyncClient
from backstay.serving.client.result import LookupResult
from backstay.serving.client.sync import Client

__all__ = ["AsyncClient", "Client", "LookupResult"]
