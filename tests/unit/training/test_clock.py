from contextlib import suppress

import pytest

from backstay.training import clock as module
from backstay.training.clock import Clock


@pytest.fixture
def clock(monkeypatch):
    """A clock whose seconds are those that we say."""
    ticks = iter([0.0, 2.0, 5.0, 6.5, 10.0, 11.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks))
    return Clock()


def test_seconds_add_up_by_the_outermost_phase_and_count_what_fails_too(clock):
    with clock("forward"):
        pass
    with clock("backward"), clock("forward"):
        pass  # each second once
    with suppress(ValueError), clock("forward"):
        raise ValueError
    assert clock.seconds == {"forward": 3.0, "backward": 1.5}
