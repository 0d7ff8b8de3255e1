"""Whether a service needs access tokens, by the address that it listens on."""

import ipaddress
import logging

from backstay.errors import UsageError
from backstay.registry.store import Registry
from backstay.registry.tokens import read_tokens
from backstay.serving.access import Auth

logger = logging.getLogger("backstay.serving")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def auth_for(registry: Registry, *, host: str, auth: bool | None = None) -> Auth:
    """The setting `auth` of a service that listens on `host`.

    By default, tokens are required beyond the loopback, and on it once a token was made.

    Args:
        registry: Where the tokens are.
        host: The address to listen on.
        auth: Whether tokens are required; None: the default.

    Raises UsageError if tokens are required and the registry has none that is valid.
    """
    local = is_loopback(host)
    if auth is False:
        logger.warning(
            "requests need no token (--no-auth): whoever reaches %s can read every vector", host
        )
        return "off"
    if auth is None and local:
        return "auto"
    if read_tokens(registry.files).valid():
        return "required"
    raise UsageError(
        f"expected a valid token in {registry.uri}, because the service is to listen on {host}"
        f"{' with --auth' if auth else ', which other machines may reach'}; found none. Make one "
        f"with `backstay tokens add NAME --registry {registry.uri}`, or choose --no-auth: then "
        "whoever reaches the service can read every vector."
    )
