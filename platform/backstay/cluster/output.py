"""Sends the messages that Ray prints in this process to the log `backstay.ray` instead."""

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout

from ray._private import worker

log = logging.getLogger("backstay.ray")


@contextmanager
def quiet_ray() -> Iterator[None]:
    """Log Ray's messages at level DEBUG meanwhile. Ray's log files hold them too."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.serve")]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    print_lines = worker.print_to_stdstream
    for logger in loggers:
        logger.handlers[:], logger.propagate = [_Forward()], False
    # The thread that receives errors of the cluster prints them with this function.
    worker.print_to_stdstream = _log_lines
    try:
        yield
    finally:
        worker.print_to_stdstream = print_lines
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate


@contextmanager
def log_prints() -> Iterator[None]:
    """Log at level DEBUG what is printed meanwhile, for calls of Ray that print."""
    with redirect_stdout(_Printed()):
        yield


def log_folder() -> None:
    """Log, at level DEBUG, where the log files of the running Ray are."""
    node = worker._global_node  # noqa: SLF001
    if node:
        log.debug("Ray's log files are in %s", node.get_logs_dir_path())


class _Printed(io.TextIOBase):
    def write(self, text: str) -> int:
        for line in filter(str.strip, text.splitlines()):
            log.debug("%s", line)
        return len(text)


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        log.debug("%s", record.getMessage())


def _log_lines(data: Mapping[str, object], **_: object) -> None:
    lines = data.get("lines")
    for line in lines if isinstance(lines, list) else []:
        log.debug("(%s) %s", data.get("pid"), line)
