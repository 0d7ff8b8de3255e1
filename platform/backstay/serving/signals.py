"""SIGTERM and SIGINT while the service runs: the first stops it, a second one stops it at once."""

import signal
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
