"""What both clients share: their options, and all but the sending."""

import os
import ssl
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Literal, TypedDict, TypeVar
from urllib.parse import urlsplit

import httpx

from backstay.errors import UsageError
from backstay.serving import wire
from backstay.serving.client.attempts import Attempts, Outcome, RetryPolicy
from backstay.serving.client.request import checked

Transport = TypeVar("Transport", httpx.BaseTransport, httpx.AsyncBaseTransport)

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class HttpOptions(TypedDict):
    """Arguments that httpx's two clients share."""

    base_url: str
    headers: httpx.Headers
    verify: ssl.SSLContext | bool
    limits: httpx.Limits
    mounts: dict[str, None]


class BaseClient(ABC, Generic[Transport]):
    """Options, headers and attempts. See `Client` for the arguments."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        consumer: str | None = None,
        headers: Mapping[str, str] | None = None,
        verify: bool | str | Path | ssl.SSLContext = True,
        cert: tuple[str | Path, str | Path] | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 5.0,
        deadline: float = 60.0,
        retries: int = 8,
        batch: int = 4096,
        concurrency: int = 4,
        limits: httpx.Limits | None = None,
        compression: Literal["gzip", "zstd"] | None = None,
        transport: Transport | None = None,
    ) -> None:
        if batch < 1 or concurrency < 1:
            raise UsageError(
                f"batch and concurrency must be at least 1; found {batch} and {concurrency}."
            )
        self._batch = batch
        self._concurrency = concurrency
        self._policy = RetryPolicy(
            timeout=timeout, connect_timeout=connect_timeout, deadline=deadline, retries=retries
        )
        self._url = _checked_url(url)
        self._connected = False
        secure = self._url.startswith("https:")
        if not secure and (cert is not None or not isinstance(verify, bool)):
            raise UsageError(f"verify and cert are for https; found the URL {self._url}.")
        token = os.environ.get("BACKSTAY_TOKEN") if token is None else token
        self._open(
            transport,
            HttpOptions(
                base_url=self._url,
                headers=_headers(
                    headers or {}, token=token, consumer=consumer, encoding=compression
                ),
                verify=_tls(verify, cert) if secure else False,
                limits=limits or httpx.Limits(max_connections=100, max_keepalive_connections=20),
                # Proxies of the environment are for other machines.
                mounts={f"all://{host}": None for host in _LOOPBACK},
            ),
        )

    @abstractmethod
    def _open(self, transport: Transport | None, options: HttpOptions) -> None:
        """Make the client of httpx."""

    def _attempts(self) -> Attempts:
        return Attempts(self._policy, connected=self._connected)

    def _wait(self, outcome: Outcome, attempts: Attempts) -> float | None:
        wait = attempts.wait(outcome)
        self._connected |= attempts.connected
        return wait

    def _checked(self, outcome: Outcome, attempts: Attempts) -> httpx.Response:
        return checked(outcome, url=self._url, seconds=attempts.seconds)


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1)
        httpx.URL(url)
    except (ValueError, TypeError, httpx.InvalidURL):
        valid = False
    if not valid or parts.query or parts.fragment:
        raise UsageError(f"url must be like http://127.0.0.1:8000; found {url!r}.")
    if parts.username or parts.password:
        raise UsageError(
            "url must hold no user and no password. Pass token=…, or headers={'Authorization': …}."
        )
    return url.rstrip("/")


def _headers(
    more: Mapping[str, str], *, token: str | None, consumer: str | None, encoding: str | None
) -> httpx.Headers:
    # Vectors hardly get smaller: compression pays on slow networks only.
    headers = httpx.Headers({"Accept-Encoding": encoding or "identity"})
    if token and token.strip():
        headers["Authorization"] = f"Bearer {_printable(token.strip(), 'token', secret=True)}"
    if consumer is not None:
        headers[wire.CONSUMER] = _printable(consumer, "consumer")
    headers.update({name: _printable(value, f"header {name}") for name, value in more.items()})
    return headers


def _printable(text: str, what: str, *, secret: bool = False) -> str:
    if not text or not (text.isascii() and text.isprintable()):
        shown = "" if secret else f"; found {text!r}"
        raise UsageError(f"{what} must be printable ASCII{shown}.")
    return text


def _tls(
    verify: bool | str | Path | ssl.SSLContext,  # noqa: FBT001 - as httpx calls it
    cert: tuple[str | Path, str | Path] | None,
) -> ssl.SSLContext:
    if isinstance(verify, ssl.SSLContext):
        context = verify
    else:
        try:
            context = httpx.create_ssl_context(verify=verify is not False)
            if not isinstance(verify, bool):
                context = ssl.create_default_context(cafile=verify)
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(
                f"verify must be a file of certificates in PEM; {verify} can't be read ({error})."
            ) from error
    if cert is not None:
        try:
            context.load_cert_chain(*cert)
        except OSError as error:
            raise UsageError(
                f"cert must be two PEM files, certificate and key; {cert[0]} and {cert[1]} "
                f"can't be loaded ({error})."
            ) from error
    return context
