"""When a request is sent again."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from backstay.serving.client import attempts
from backstay.serving.client.attempts import Attempts, RetryPolicy

POLICY = RetryPolicy(timeout=30, connect_timeout=5, deadline=60, retries=8)
BUSY = httpx.Response(503)
REFUSED = httpx.ConnectError("refused")


@pytest.fixture
def bounds(monkeypatch):
    """The bounds that waits were drawn from; each wait is its bound."""
    drawn = []
    monkeypatch.setattr(
        attempts.random, "uniform", lambda low, high: drawn.append((low, high)) or high
    )
    return drawn


def waits(outcome, *, connected=True, policy=POLICY):
    """All waits of a request that meets this outcome for ever. Waiting is all that takes time."""
    now, found = 0.0, []
    made = Attempts(policy, connected=connected, clock=lambda: now)
    while (wait := made.wait(outcome)) is not None:
        found.append(wait)
        now += wait
    return found


def test_waits_are_drawn_from_a_bound_that_doubles(bounds):
    assert waits(BUSY) == [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert {low for low, _ in bounds} == {0}


@pytest.mark.usefixtures("bounds")
def test_a_first_connection_has_little_time_and_a_later_one_has_the_deadline():
    assert waits(REFUSED, connected=False) == [0.5, 1, 2]
    assert waits(httpx.ConnectTimeout("slow"), connected=False) == [0.5, 1, 2]
    assert len(waits(REFUSED, connected=True)) == 8
    assert len(waits(httpx.ReadTimeout("slow"), connected=False)) == 8


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize("outcome", [BUSY, httpx.ReadError("cut")], ids=str)
def test_a_connection_that_was_made_is_no_first_one_any_more(outcome):
    now = 0.0
    made = Attempts(POLICY, connected=False, clock=lambda: now)
    assert made.wait(outcome) is not None
    now = 20.0
    assert made.wait(REFUSED) is not None


@pytest.mark.usefixtures("bounds")
def test_no_wait_goes_beyond_the_deadline():
    policy = RetryPolicy(timeout=30, connect_timeout=5, deadline=6, retries=100)
    assert waits(BUSY, policy=policy) == [0.5, 1, 2]


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize(
    ("header", "expected"),
    [("7", 7.5), ("0", 0.5), ("soon", 0.5), ("-3", 0.5), ("", 0.5), ("61", None)],
)
def test_a_wait_comes_on_top_of_retry_after(header, expected):
    answer = httpx.Response(503, headers={"Retry-After": header})
    assert Attempts(POLICY, connected=True).wait(answer) == expected


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize(("seconds", "least"), [(30, 25), (-30, 0.5)])
def test_retry_after_may_be_a_date(seconds, least):
    when = datetime.now(UTC) + timedelta(seconds=seconds)
    answer = httpx.Response(429, headers={"Retry-After": format_datetime(when)})
    assert least <= Attempts(POLICY, connected=True).wait(answer) < 31


def test_an_attempt_has_the_time_that_is_left():
    now = 0.0
    made = Attempts(POLICY, connected=False, clock=lambda: now)
    first = made.timeout()
    assert (first.read, first.connect) == (30, 5)
    now = 50.0
    last = made.timeout()
    assert last.read == 10
    assert last.connect < 1
    assert Attempts(POLICY, connected=True).timeout().connect == 30
