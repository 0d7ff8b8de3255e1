"""`backstay lookup`."""

import sys
import time
from contextlib import nullcontext
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from backstay.cli import options
from backstay.errors import UsageError
from backstay.terminal import Command, Output, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from backstay.serving.client import LookupResult
    from backstay.serving.client.id_files import ReadIds
    from backstay.serving.client.result_files import Format
    from backstay.storage.ids import IdType

log = getLogger("backstay.lookup")

_SECONDS_BETWEEN = 5.0  # lines of progress
_SHOWN_IDS, _SHOWN_NUMBERS = 20, 6  # for people


class _LookupCommand(Command):
    """A command that explains how to write negative ids."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; an unknown option that is a number was meant as an id."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if not error.option_name.lstrip("-").isdecimal():
                raise
            raise click.UsageError(
                f"ids that begin with '-' must stand after '--', behind all options; found "
                f"{error.option_name}. Write: backstay lookup … -- {error.option_name}", ctx
            ) from error  # fmt: skip


@click.command(
    cls=_LookupCommand,
    example="backstay lookup --url http://127.0.0.1:8000 --space movies --entity item 1 2 3",
)
@click.argument("ids", nargs=-1, metavar="[IDS]...")
@click.option("--url", default="http://127.0.0.1:8000", help="URL of the service.")
@click.option("--space", required=True, help="Name of the space.")
@click.option("--entity", required=True, help="Entity of the ids, such as item.")
@click.option(
    "--ids-from",
    type=options.FILE,
    metavar="FILE",
    help="File of ids: .txt with one a line, .csv, .parquet or .npy. IDS may be - for stdin.",
)
@click.option("--id-column", default="id", help="Column of ids in --ids-from.")
@click.option(
    "--id-type",
    type=click.Choice(["auto", "int64", "string"]),
    default="auto",
    help="Type of the ids; auto asks the service.",
)
@click.option(
    "--version",
    metavar="J",
    help="Version whose space the vectors are in: a number, an alias or latest. By default the "
    "one in the consumer's contract, else prod, else latest.",
)
@click.option("--expect", metavar="FINGERPRINT", help="Refuse vectors of any other build.")
@click.option("--missing", type=click.Choice(["raise", "skip"]), default="raise",
              help="Fail on an id that the table lacks, or leave it out.")  # fmt: skip
@click.option("--partial", is_flag=True, help="Leave out ids that a lost shard of the service "
              "holds, instead of failing, and report them as unanswered.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="File to write. It appears only when it is whole.")  # fmt: skip
@click.option(
    "--format",
    "format_",
    type=click.Choice(["json", "csv", "npy", "parquet"]),
    help="Of --out, or of stdout. By default the end of the file's name.",
)
@click.option("--consumer", help="Your name in `backstay consumers`.")
@click.option("--token", envvar="BACKSTAY_TOKEN", show_envvar=True, help="Access token.")
@click.option("--ca", "verify", type=options.FILE, metavar="PEM",
              help="Certificates to trust, for https.")  # fmt: skip
@click.option("--batch", type=options.POSITIVE, default=4096, help="Most ids in one request.")
@click.pass_obj
def lookup(
    output: Output,
    /,
    ids: tuple[str, ...],
    ids_from: Path | None,
    id_column: str,
    out: Path | None,
    format_: "Format | None",
    missing: str,
    partial: bool,
    space: str,
    entity: str,
    id_type: "IdType | Literal['auto']",
    version: str | None,
    expect: str | None,
    **connection: str | int | None,
) -> None:
    """Look up the vectors of ids in a running service.

    All vectors come from one table. Exits 1 if an id is missing, unless --missing skip is given.
    """
    from backstay.serving.client.result_files import format_of, write_result
    from backstay.storage.atomic import replaced_file

    if out is None:
        _check_stdout(output, format_)
    else:
        format_ = format_ or format_of(out)
        out.parent.mkdir(parents=True, exist_ok=True)
    if format_ == "npy" and missing == "skip":
        raise UsageError("npy holds no ids, so --missing skip would lose which vector is whose. "
                         "Use another --format.")  # fmt: skip
    if format_ == "npy" and partial:
        raise UsageError("npy holds no ids, so --partial would lose which vector is whose. "
                         "Use another --format.")  # fmt: skip
    read = _read(ids, ids_from, id_column)
    with replaced_file(out) if out else nullcontext() as file:
        result = _ask(
            read,
            space=space,
            entity=entity,
            id_type=id_type,
            version=version,
            partial=partial,
            expect=expect,
            connection=options.given(connection),
        )
        if len(result.unanswered):
            log.warning("%d ids are not answered, because shards are lost; ask for them again",
                        len(result.unanswered))  # fmt: skip
        if missing == "raise":
            result.refuse_missing(way_out="leave them out with --missing skip")
        if file and format_:
            write_result(result, file, format_)
    _show(result, output, out, format_)


def _check_stdout(output: Output, format_: "Format | None") -> None:
    if format_ in {"npy", "parquet"} and output.stream.isatty():
        raise UsageError(f"{format_} is not for terminals. Name a file by --out.")
    if output.as_json and format_ not in {None, "json"}:
        raise UsageError(f"--json and --format {format_} exclude each other without --out.")


def _read(ids: tuple[str, ...], file: Path | None, id_column: str) -> "ReadIds":
    from backstay.serving.client.id_files import ReadIds, read_ids, read_lines
    from backstay.serving.client.ids import as_ids

    if bool(ids) == (file is not None):
        found = "both" if ids else "neither"
        raise UsageError(f"ids must come as arguments, as - for stdin, or in --ids-from; "
                         f"found {found}.")  # fmt: skip
    if file:
        return read_ids(file, id_column=id_column)
    if ids == ("-",):
        return read_lines(sys.stdin.buffer, name="stdin")
    if "-" in ids:
        raise UsageError("- reads the ids from stdin; pass no further ids beside it.")
    return ReadIds(as_ids(ids), textual=True)


def _ask(
    read: "ReadIds",
    *,
    space: str,
    entity: str,
    id_type: "IdType | Literal['auto']",
    version: str | None,
    partial: bool,
    expect: str | None,
    connection: dict[str, Any],
) -> "LookupResult":
    """Ask the service. An event loop ends at once on Ctrl-C; threads would finish their pages."""
    import anyio

    from backstay.serving.client import AsyncClient
    from backstay.serving.client.id_files import convert_ids

    async def ask() -> "LookupResult":
        async with AsyncClient(**connection) as client:
            wanted = None if id_type == "auto" else id_type
            if wanted is None and read.textual:
                entities = (await client.space(space))["entities"]
                wanted = entities[entity]["id_type"] if entity in entities else None
            return await client.lookup(
                space,
                entity,
                convert_ids(read, wanted) if wanted else read.ids,
                int(version) if version and version.isdecimal() else version,
                missing="skip",
                partial=partial,
                expect=expect,
                progress=_progress(),
            )

    return anyio.run(ask)


def _progress() -> "Callable[[int, int], None]":
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _SECONDS_BETWEEN:
            last = time.monotonic()
            log.info("%s of %s ids looked up", f"{done:,}", f"{total:,}")

    return report


def _show(
    result: "LookupResult", output: Output, out: Path | None, format_: "Format | None"
) -> None:
    """Print the vectors, or what the file holds."""
    from backstay.serving.client.result_files import about, document, write_result

    if out is None and (output.as_json or format_ == "json"):
        text = printable(document(result).decode(), escape="\\u{:04x}")
        click.echo(text, file=output.stream)
    elif out is None and format_:
        write_result(result, output.stream.buffer, format_)
        output.stream.flush()
    else:
        rows, dim = result.values.shape
        summary = {**about(result), "rows": rows, "dim": dim, "missing": len(result.missing)}
        if len(result.unanswered):
            summary["unanswered"] = len(result.unanswered)
        if out:
            output.show({**summary, "format": format_, "out": str(out)})
            return
        more = ", …" if dim > _SHOWN_NUMBERS else ""
        vectors = [
            {"id": id_, "embedding": ", ".join(f"{x:.4g}" for x in row[:_SHOWN_NUMBERS]) + more}
            for id_, row in zip(
                result.ids[:_SHOWN_IDS].tolist(), result.values[:_SHOWN_IDS].tolist(), strict=True
            )
        ]
        output.show(summary | ({"shown": len(vectors)} if rows > len(vectors) else {})
                    | {"vectors": vectors})  # fmt: skip


COMMANDS = (lookup,)
