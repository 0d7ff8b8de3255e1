"""Doing the parts of a conversion: by threads of this process, or by tasks of Ray Data."""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from queue import SimpleQueue
from threading import Event

from threadpoolctl import threadpool_limits

from backstay.engines.conversion.output import ConvertOutput, PartRecord, parse_record
from backstay.engines.conversion.part import Conversion, convert_run
from backstay.engines.conversion.plan import Part, runs
from backstay.storage.documents import canonical_json

_log = logging.getLogger("backstay.convert")

_SECONDS_BETWEEN = 5.0  # lines of progress

Numbered = tuple[int, Part]


def usable_cores() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def locally(
    conversion: Conversion, output: ConvertOutput, parts: Sequence[Numbered], workers: int | None
) -> Iterator[PartRecord]:
    """Convert parts by threads: one for each CPU, and one more for waits on the disk.

    Each thread multiplies on its own CPU, as tasks of Ray do: the same bytes come out.
    """
    workers = workers or usable_cores() + 1
    results: SimpleQueue[PartRecord | BaseException | None] = SimpleQueue()
    stop = Event()

    def work(run: Sequence[Numbered]) -> None:
        try:
            for record in convert_run(conversion, output, run, stopped=stop.is_set):
                results.put(record)
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            results.put(error)
        results.put(None)

    todo = runs(parts, workers)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers) as pool:
        try:
            for run in todo:
                pool.submit(work, run)
            left = len(todo)
            while left:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                if result is None:
                    left -= 1
                else:
                    yield result
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def over_ray(
    conversion: Conversion, output: ConvertOutput, parts: Sequence[Numbered], workers: int | None
) -> Iterator[PartRecord]:
    """Convert parts by tasks of one CPU; Ray repeats a task whose worker dies."""
    # Ray Data would start one more actor on the cluster, which gathers statistics of use.
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    import ray  # noqa: PLC0415 - a local conversion does without
    from ray.data import DataContext, TaskPoolStrategy  # noqa: PLC0415

    from backstay.cluster.session import ray_session  # noqa: PLC0415

    DataContext.get_current().enable_progress_bars = False  # they'd be on stdout
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # says there are none
    with ray_session(cpus=workers):
        todo = runs(parts, workers or int(ray.cluster_resources().get("CPU", 1)))
        rows = ray.data.range(len(todo), override_num_blocks=len(todo)).flat_map(
            _task,
            fn_kwargs={"conversion": conversion, "output": output, "todo": todo},
            compute=TaskPoolStrategy(size=workers),
            num_cpus=1,
        )
        for row in rows.iter_rows():
            yield parse_record(row["record"], path="a task's answer")


def _task(
    row: dict[str, int],
    *,
    conversion: Conversion,
    output: ConvertOutput,
    todo: list[list[Numbered]],
) -> list[dict[str, bytes]]:
    with threadpool_limits(1, "blas"):
        return [
            {"record": canonical_json(asdict(record), what="a part's record")}
            for record in convert_run(conversion, output, todo[row["id"]])
        ]


class Progress:
    """Logs how far a conversion is, with its speed and the time left."""

    def __init__(self, *, rows: int, parts: int, done: int) -> None:
        self._rows = rows  # to do
        self._parts = parts
        self._began = self._told = time.perf_counter()
        self._read = 0
        self._done = done

    def add(self, record: PartRecord) -> None:
        """Count a part that is done."""
        self._read += record.read
        self._done += 1
        now = time.perf_counter()
        last = self._done == self._parts
        if now - self._told < _SECONDS_BETWEEN and not last:
            return
        self._told = now
        rate = self._read / max(now - self._began, 1e-9)
        left = (self._rows - self._read) / max(rate, 1e-9)
        ahead = "" if last else f", about {left:.0f} s left"
        _log.info(
            "%d of %d parts, %s rows at %s rows/s%s",
            *(self._done, self._parts, f"{self._read:,}", f"{rate:,.0f}", ahead),
        )
