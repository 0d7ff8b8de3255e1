"""When a request is sent again, and after how many seconds. Sends nothing itself."""

import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import inf

import httpx

from backstay.errors import UsageError
from backstay.serving import wire

Outcome = httpx.Response | httpx.RequestError
"""Of one attempt: an answer of any status, or the error that came in its place."""

FIRST_WAIT, LONGEST_WAIT = 0.25, 10.0  # seconds; the bound doubles with each attempt

_TEMPORARY = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,  # Ray Serve answers this if no replica took the request
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_CONNECTING = (httpx.ConnectError, httpx.ConnectTimeout)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Bounds on the attempts of one request. All times are in seconds."""

    timeout: float  # for one answer
    connect_timeout: float  # for the first connection of a client, all attempts together
    deadline: float  # for one request, all attempts together
    retries: int  # most attempts after the first

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout", "deadline"):
            if not 0 < getattr(self, name) < inf:
                raise UsageError(
                    f"{name} must be a positive number of seconds; found {getattr(self, name)}."
                )
        if self.retries < 0:
            raise UsageError(f"retries must be at least 0; found {self.retries}.")


class Attempts:
    """The attempts of one request.

    Args:
        policy: Their bounds.
        connected: Whether the client has had an answer from this service before.
        clock: Seconds since any moment.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        connected: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self.connected = connected
        self._clock = clock
        self._started = clock()
        self._made = 0

    @property
    def seconds(self) -> float:
        """Seconds since the first attempt began."""
        return self._clock() - self._started

    def timeout(self) -> httpx.Timeout:
        """The time limits of the next attempt."""
        left = max(self._policy.deadline - self.seconds, 0.001)
        answer = min(self._policy.timeout, left)
        bound = answer if self.connected else self._policy.connect_timeout - self.seconds
        return httpx.Timeout(answer, connect=max(min(answer, bound), 0.001), pool=left)

    def wait(self, outcome: Outcome) -> float | None:
        """Seconds until the next attempt; None if `outcome` is final.

        The wait is drawn evenly from 0 to a bound that doubles with each attempt, so that many
        clients don't return at the same moment. It comes on top of the answer's `Retry-After`.
        """
        self._made += 1
        self.connected |= not isinstance(outcome, (*_CONNECTING, httpx.PoolTimeout))
        if not _is_temporary(outcome) or self._made > self._policy.retries:
            return None
        bound = min(FIRST_WAIT * 2.0 ** min(self._made, 16), LONGEST_WAIT)
        wait = _retry_after(outcome) + random.uniform(0, bound)  # noqa: S311 - no secret
        first = isinstance(outcome, _CONNECTING) and not self.connected
        limit = self._policy.connect_timeout if first else self._policy.deadline
        return None if self.seconds + wait >= limit else wait


def is_problem(answer: httpx.Response) -> bool:
    """Whether an error comes from Backstay itself: a proxy answers without a problem document."""
    media_type: str = answer.headers.get("content-type", "")
    return media_type.partition(";")[0].strip() == wire.PROBLEM


def tls_failure(error: BaseException | None) -> ssl.SSLError | None:
    """The TLS error behind a failed connection, if that is the cause."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _is_temporary(outcome: Outcome) -> bool:
    if isinstance(outcome, httpx.Response):
        # Ray Serve answers 500 for a replica that died. A 500 of Backstay's own would come again.
        dead = outcome.status_code == HTTPStatus.INTERNAL_SERVER_ERROR and not is_problem(outcome)
        return dead or outcome.status_code in _TEMPORARY
    passing = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
    return isinstance(outcome, passing) and tls_failure(outcome) is None


def _retry_after(outcome: Outcome) -> float:
    """Seconds that the answer asks to wait, 0 if it names none (RFC 9110, 10.2.3)."""
    text = outcome.headers.get("retry-after", "") if isinstance(outcome, httpx.Response) else ""
    if text.strip().isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
