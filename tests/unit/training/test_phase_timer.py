from contextlib import suppress

import pytest

from backstay.training import phase_timer as module
from backstay.training.phase_timer import PhaseTimer


@pytest.fixture
def timer(monkeypatch):
    """A timer that reads a fixed list of times."""
    ticks = iter([0.0, 2.0, 5.0, 6.5, 10.0, 11.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(ticks))
    return PhaseTimer()


def test_seconds_add_up_by_the_outermost_phase_and_count_what_fails_too(timer):
    with timer("forward"):
        pass
    with timer("backward"), timer("forward"):
        pass  # each second once
    with suppress(ValueError), timer("forward"):
        raise ValueError
    assert timer.seconds == {"forward": 3.0, "backward": 1.5}
