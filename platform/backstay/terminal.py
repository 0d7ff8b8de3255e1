"""Shared by all commands: --json and --debug, one-line errors, logs on stderr, answers on stdout.

A command returns its answer as a value. With --json it is printed as one document, otherwise as
lines and tables. All other output goes to stderr while the command runs.
"""

import contextlib
import errno
import json
import logging
import math
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, TextIO, TypeGuard

import click

from backstay.errors import BackstayError, UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

_COMMANDS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but tab and newline, marks that reorder text, and halves of characters."""

_PIPE_WIDTH = 200  # columns of output that does not go to a terminal

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


class Command(click.Command):
    """A command with --json and --debug that prints the value its function returns.

    It exits 0 on success, 2 on wrong usage, 1 on a failure that it explains in one line, and 130
    when interrupted.
    """

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.epilog = f"\b\nExample:\n  {example}"
        self.params += [
            click.Option(
                ["--json", "as_json"],
                is_flag=True,
                help="Print the answer as one JSON document.",
            ),
            click.Option(
                ["--debug"],
                is_flag=True,
                help="Log in detail, with Ray's messages; show the traceback of a failure.",
            ),
        ]

    def invoke(self, ctx: click.Context) -> None:
        """Run the command and print its answer."""
        debug = ctx.params.pop("debug")
        ctx.obj = output = Output(stream=sys.stdout, as_json=ctx.params.pop("as_json"))
        try:
            with _log_on_stderr(debug=debug), contextlib.redirect_stdout(sys.stderr):
                answer = super().invoke(ctx)
            if answer is not None:
                output.show(answer)
        except (click.exceptions.Exit, click.ClickException, BrokenPipeError):
            raise
        except (KeyboardInterrupt, click.Abort) as error:  # Abort: at a question
            raise _Interrupted("interrupted") from error
        except Exception as error:  # the one place that turns exceptions into messages
            if debug:
                traceback.print_exc()
            cause = _cause(error)
            if isinstance(cause, UsageError):
                raise click.UsageError(_with_flags(_joined(cause), self), ctx) from error
            raise click.ClickException(_explain(cause)) from error


def flags(command: click.Command) -> dict[str, str]:
    """Each option's parameter name, and its flag as the user types it."""
    return {
        option.name: max(option.opts, key=len)
        for option in command.params
        if isinstance(option, click.Option) and option.name
    }


def _with_flags(message: str, command: click.Command) -> str:
    """The message of the package with flags in place of Python's parameter names.

    Replaces names that cannot be prose: those with an underscore, and those before "must".
    """
    for name, flag in flags(command).items():
        where = rf"(?<![\w-]){re.escape(name)}\b"
        message = re.sub(where if "_" in name else rf"{where}(?= must\b)", flag, message)
    return message


class _Interrupted(click.ClickException):
    """The user's Ctrl-C."""

    exit_code = INTERRUPTED


@dataclass(frozen=True, kw_only=True)
class Output:
    """Prints answers. A command that runs on after its answer takes it from `ctx.obj`."""

    stream: TextIO
    as_json: bool

    def show(self, answer: object, *, picture: "RenderableType | None" = None) -> None:
        """Print an answer at once: as JSON with --json, else as `picture`, if given."""
        if self.as_json:
            text = json.dumps(plain(answer), indent=2, ensure_ascii=False, allow_nan=False)
            click.echo(printable(text, escape="\\u{:04x}"), file=self.stream)
            return
        width = None if self.stream.isatty() else _PIPE_WIDTH
        console = _console(file=self.stream, width=width, highlight=False, markup=False)
        if picture is not None:
            console.print(picture)
        else:
            _show(console, plain(answer))


def _console(**options: Any) -> "Console":
    """A console of rich that escapes what a terminal could take for a command."""
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
            for part in super().render(*args, **kwargs):
                yield part if part.control else Segment(printable(part.text), part.style)

    return SafeConsole(**options)


def plain(value: object) -> Json:
    """The value in JSON's types. A number that is not finite becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    elif hasattr(value, "tolist"):  # an array, or a scalar of numpy or torch
        value = value.tolist()
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, Iterable) else str(value)


def _show(console: "Console", value: Json, *, title: str = "") -> None:
    """Print a JSON value: scalars as lines, lists of objects as tables."""
    from rich.table import Table

    if isinstance(value, Mapping):
        scalars = {printable(key): item for key, item in _flat(value)}
        width = max(map(len, scalars), default=0)
        for key, item in scalars.items():
            console.print(f"{key:{width}}  {_cell(item)}", soft_wrap=True)
        for key, item in value.items():
            if _is_rows(item):
                _show(console, item, title=key)
    elif _is_rows(value):
        columns = list(dict.fromkeys(key for row in value for key in row))
        table = Table(box=None, title=title or None, title_justify="left", header_style="bold")
        for column in columns:
            numbers = all(isinstance(row.get(column, 0), (int, float)) for row in value)
            table.add_column(
                printable(column), justify="right" if numbers else "left", overflow="fold"
            )
        for row in value:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        console.print(table)
    else:
        console.print(_cell(value) if value != [] else "nothing")


def _flat(value: Mapping[str, Json], prefix: str = "") -> Iterable[tuple[str, Json]]:
    """The scalars of nested objects, with dotted names."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        elif not _is_rows(item):
            yield f"{prefix}{key}", item


def _is_rows(value: Json) -> TypeGuard[list[dict[str, Json]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _cell(value: Json) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:,.2f}"
    text = ", ".join(map(_cell, value)) or "none" if isinstance(value, list) else str(value)
    return printable(text)


def printable(text: str, *, escape: str = "\\x{:02x}") -> str:
    """The text with every character escaped that a terminal could take for a command.

    Names and metadata that come from files may hold such characters.
    """
    return _COMMANDS.sub(lambda match: escape.format(ord(match[0])), text)


@contextlib.contextmanager
def _log_on_stderr(*, debug: bool) -> Iterator[None]:
    """Send the package's log to stderr: milestones; on a terminal also progress.

    Ray's messages are logged by `backstay.ray` at level DEBUG, and shown only with --debug.
    """
    logger, ray = logging.getLogger("backstay"), logging.getLogger("backstay.ray")
    before = logger.handlers[:], logger.propagate, logger.level
    logger.handlers[:] = [_handler(debug=debug)]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if debug or sys.stderr.isatty() else logging.INFO)
    rays_level = ray.level
    ray.setLevel(logging.DEBUG if debug else logging.WARNING)
    try:
        yield
    finally:
        logger.handlers[:], logger.propagate, level = before
        logger.setLevel(level)
        ray.setLevel(rays_level)


def _handler(*, debug: bool) -> logging.Handler:
    if sys.stderr.isatty():
        from rich.logging import RichHandler

        handler: logging.Handler = RichHandler(
            console=_console(stderr=True), show_path=debug, show_level=debug
        )
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    handler.addFilter(_make_printable)
    return handler


def _make_printable(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), ()
    return True


def _cause(error: BaseException) -> BaseException:
    """The error to explain. Ray wraps the errors of its workers, sometimes several times."""
    remote = getattr(error, "cause", None)  # of a failed task; its wrapper subclasses the error too
    if isinstance(remote, BaseException):
        return _cause(remote)
    if isinstance(error, BackstayError):
        return error
    layers = [
        error.__cause__,
        getattr(error, "_base_exc", None),  # this and the next two: wrappers of Ray Train
        getattr(error, "controller_failure", None),
        *getattr(error, "worker_failures", {}).values(),
    ]
    for inner in filter(None, layers):
        found = _cause(inner)
        if isinstance(found, BackstayError):
            return found
    return error


_OS_ADVICE = {
    errno.EACCES: ". Name a place that you may read and write, or change its permissions.",
    errno.EPERM: ". Name a place that you may read and write, or change its permissions.",
    errno.EROFS: ". Name a place on a disk that can be written, or mount this one for writing.",
    errno.ENOSPC: ". Make room there, or name a place on another disk; then repeat the command.",
}
"""What to do about failures of the file system, by their number."""


def _explain(error: BaseException) -> str:
    """One line about the failure."""
    if isinstance(error, BackstayError):
        return _joined(error)
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        advice = _OS_ADVICE.get(error.errno or 0, "")
        return printable(f"{error.strerror}{place}{advice}")
    if isinstance(error, MemoryError):
        return "out of memory. Use less data, fewer workers or a smaller model."
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return printable(f"{type(error).__name__}: {first} (--debug shows where)")


def _joined(error: BaseException) -> str:
    return printable(" ".join(str(error).split()))
