"""Batch conversion: a table of version k becomes tables of one or more older versions.

The input is cut into parts of 16 to 128 MiB (`plan`). A part is streamed through one matrix
for each target into one file for each target (`part`), so vectors never pass between
processes. Threads of this process do the parts, or tasks of Ray Data (`work`): order and
bytes are the same. Finished parts are recorded (`output`); after a kill, the same command
does what is missing.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Literal

from pydantic import TypeAdapter

from backstay.engines.conversion.check import check_counts, check_sample
from backstay.engines.conversion.config import (
    ConvertConfig,
    ConvertedTable,
    ConvertEstimate,
    ConvertReport,
    Sample,
)
from backstay.engines.conversion.ids import KEYS_AT_ONCE, Repeated, ids_check
from backstay.engines.conversion.output import (
    ConvertOutput,
    PartRecord,
    converted_output,
    finished_job,
)
from backstay.engines.conversion.part import Conversion, Target
from backstay.engines.conversion.plan import Part, cut, job_id
from backstay.engines.conversion.rate import seconds_per_row
from backstay.engines.conversion.setup import choose_engine, input_name, set_up
from backstay.engines.conversion.work import Progress, locally, over_ray, usable_cores
from backstay.errors import InputError
from backstay.registry.table_commit import TableCommit, read_commit, table_parts
from backstay.registry.table_layout import FINGERPRINT
from backstay.storage.files import open_files

_log = logging.getLogger("backstay.convert")

_report = TypeAdapter(ConvertReport)


def convert(config: ConvertConfig) -> ConvertReport:
    """Convert a table to older versions.

    Rows keep their order; columns beside id and embedding pass through unchanged. Each output is a
    table with a commit file, which is written last; a local output appears by a rename. The same
    call after a kill does what is missing; after success, it returns the report again.

    Raises:
        MapMismatchError: A target is newer than the source.
        NotFoundError: A version or a map of the chain isn't there.
        InputError: The input is no table of `source`, changes meanwhile, or has rows that can't be
            converted, which are counted; or `output` isn't empty. Nothing of it stays then.
    """
    began = time.perf_counter()
    conversion = set_up(config)
    job = job_id(
        conversion.table,
        [target.chain for target in conversion.targets],
        dtype=config.dtype,
        on_error=config.on_error,
    )
    if (report := _finished(config, job)) is not None:
        _log.info("%s is converted already", config.output)
        return report
    parts = cut(conversion.table, conversion.size)
    engine = choose_engine(config, conversion)
    with (
        converted_output(config.output, job=job, folders=config.folders) as output,
        ids_check(conversion.table) as repeated,
    ):
        if conversion.quarantine:
            conversion = replace(conversion, repeated=repeated.result())
        done = output.done()
        records = _work(
            conversion,
            output,
            parts,
            done=done,
            engine=engine,
            workers=config.workers,
            repeated=repeated,
        )
        _refuse_faults(records)
        output.check(records)
        check_counts(conversion, records)
        samples = check_sample(conversion, output, parts, records)
        table, set_aside = conversion.table, sum(record.set_aside for record in records)
        seconds = time.perf_counter() - began
        report = ConvertReport(
            job=job,
            space=config.space,
            entity=table.entity,
            source=config.source,
            targets=config.targets,
            dims=conversion.dims,
            rows=table.rows,
            written=table.rows - set_aside,
            set_aside=set_aside,
            parts=len(parts),
            resumed=len(done),
            id_type=table.id_type,
            extra_columns=table.extra_columns,
            engine=engine,
            seconds=seconds,
            rows_per_second=sum(r.read for r in records if r.number not in done) / seconds,
            input=input_name(config, table),
            output=config.output,
            tables=_tables(config, conversion, records, samples),
            unreadable=(*table.unreadable, *(one for r in records for one in r.unreadable)),
        )
        output.commit(
            [
                _commit(config, report, target, records, at)
                for at, target in enumerate(conversion.targets)
            ],
            records,
        )
    return report


def estimate(config: ConvertConfig) -> ConvertEstimate:
    """What `convert` would read, write and take; nothing is written. Raises like `convert`."""
    conversion = set_up(config)
    table, size = conversion.table, conversion.size
    parts = cut(table, size)
    workers = min(config.workers or usable_cores(), len(parts))
    vectors = (2 if config.dtype == "float16" else 4) * sum(conversion.dims[1:])
    written = vectors + size.extra_bytes * len(config.targets)
    held = size.group_rows * written + 4 * size.batch_rows * size.row_bytes
    return ConvertEstimate(
        rows=table.rows,
        parts=len(parts),
        targets=config.targets,
        dims=conversion.dims,
        input_bytes=table.size,
        output_bytes=table.rows * written,
        memory_bytes=(workers + 1) * held + 16 * min(table.rows, KEYS_AT_ONCE),
        workers=workers,
        seconds=table.rows * seconds_per_row(conversion, parts) / workers,
        engine=choose_engine(config, conversion),
        input=input_name(config, table),
        output=config.output,
    )


def _tables(
    config: ConvertConfig,
    conversion: Conversion,
    records: Sequence[PartRecord],
    samples: Sequence[Sample],
) -> tuple[ConvertedTable, ...]:
    return tuple(
        ConvertedTable(
            version=version,
            dim=conversion.dims[1 + at],
            path=f"{config.output}/{config.folders[at]}".rstrip("/"),
            size=sum(record.tables[at].size for record in records),
            sample=samples[at],
        )
        for at, version in enumerate(config.targets)
    )


def _refuse_repeated(conversion: Conversion, repeated: Repeated) -> None:
    """InputError where ids are repeated, unless such rows are set aside."""
    table, (rows, firsts) = conversion.table, repeated
    if not len(rows) or conversion.quarantine:
        return
    raise InputError(
        f"{len(rows)} of {table.rows} rows repeat an id; the first is {table.where(int(rows[0]))}: "
        f"its id stands in {table.where(int(firsts[0]))} already. Keep one row of an id, or set "
        "the later ones aside by --on-error quarantine."
    )


def _finished(config: ConvertConfig, job: str) -> ConvertReport | None:
    """The report of this very job, if its output is there and whole."""
    files = open_files(config.output)
    commits = [read_commit(files, folder) for folder in config.folders]
    if any(finished_job(commit) != job for commit in commits):
        return None
    for folder in config.folders:
        table_parts(open_files(f"{config.output}/{folder}".rstrip("/")))
    return _report.validate_python(commits[0].conversion if commits[0] else None)


def _work(
    conversion: Conversion,
    output: ConvertOutput,
    parts: Sequence[Part],
    *,
    done: Mapping[int, PartRecord],
    engine: Literal["local", "ray"],
    workers: int | None,
    repeated: Future[Repeated],
) -> list[PartRecord]:
    """Do the parts that are not done yet; the records of all, in order.

    `repeated`: ids are checked meanwhile. InputError as soon as some are repeated.
    """
    todo = [(number, part) for number, part in enumerate(parts) if number not in done]
    rows = conversion.table.rows - sum(record.read for record in done.values())
    _log.info(
        "converting %s rows from version %d to %s in %d parts (%s)%s",
        f"{rows:,}",
        conversion.targets[0].chain.source,
        ", ".join(str(target.chain.target) for target in conversion.targets),
        len(todo),
        "in this process" if engine == "local" else "over Ray Data",
        f"; {len(done)} are done already" if done else "",
    )
    progress = Progress(rows=rows, parts=len(parts), done=len(done))
    records = dict(done)
    run = locally if engine == "local" else over_ray
    for record in run(conversion, output, todo, workers) if todo else ():
        records[record.number] = record
        progress.add(record)
        if repeated.done():
            _refuse_repeated(conversion, repeated.result())
    _refuse_repeated(conversion, repeated.result())
    return [records[number] for number in range(len(parts))]


def _refuse_faults(records: Sequence[PartRecord]) -> None:
    faulty = [record for record in records if record.faulty]
    if faulty:
        raise InputError(
            f"{sum(record.faulty for record in faulty)} of {sum(r.read for r in records)} rows "
            f"can't be converted; the first is {faulty[0].fault}. Correct such rows, leave them "
            "out, or set them aside by --on-error quarantine."
        )


def _commit(
    config: ConvertConfig,
    report: ConvertReport,
    target: Target,
    records: Sequence[PartRecord],
    at: int,
) -> TableCommit:
    fingerprint = (target.schema.metadata or {}).get(FINGERPRINT, b"").decode() or None
    return TableCommit(
        space=config.space,
        entity=report.entity,
        version=config.targets[at],
        dim=report.dims[1 + at],
        rows=report.written,
        id_type=report.id_type,
        dtype=config.dtype,
        fingerprint=fingerprint,
        conversion=asdict(report),
        parts=tuple(record.tables[at] for record in records),
    )
