"""SIGTERM and SIGINT while the service runs: the first stops it, a second one stops it at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STOP = (signal.SIGTERM, signal.SIGINT)


def stop_once() -> None:
    """Raise KeyboardInterrupt at the next of the two signals, and ignore those after it.

    Call it again where one more may interrupt, and after Ray's start, which sets its own handlers.
    """

    def stop(*_: object) -> None:
        for number in _STOP:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _STOP:
        signal.signal(number, stop)


@contextmanager
def until_stopped() -> Iterator[None]:
    """Leave the block when one of the two signals arrives; then restore the handlers."""
    before = {number: signal.getsignal(number) for number in _STOP}
    stop_once()
    try:
        yield
    except KeyboardInterrupt:
        pass
    except SystemExit as error:
        if error.code != signal.SIGTERM:  # which Ray's own handler raises while Ray starts
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LateError(BaseException):
    """The time for a block is up. No `except Exception` inside the block stops it."""


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise LateError in the block after so long; never with None, or outside the main thread."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise LateError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
