"""Measuring in processes of their own, and keeping what was measured."""

import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from backstay.training.config import FitConfig

T = TypeVar("T")


def in_fresh_processes(calls: list[Callable[[], T]], *, threads: int) -> list[T]:
    """What each call gives in a fresh process of its own, all at once, each on so many threads."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of the children: this process computes nothing
    context = get_context("spawn")
    with ProcessPoolExecutor(
        len(calls), mp_context=context, initializer=_start, initargs=(threads,)
    ) as pool:
        return [result.result() for result in [pool.submit(call) for call in calls]]


def in_fresh_process(call: Callable[[], T], *, threads: int) -> T:
    """What the call gives in a fresh process on so many threads."""
    return in_fresh_processes([call], threads=threads)[0]


def _start(threads: int) -> None:
    torch.set_num_threads(threads)
    # The first optimiser of a process loads its compiler, which takes seconds: part of the start.
    torch.optim.Adam([torch.zeros(1)])


def mark(config: FitConfig) -> str:
    """A short hash of a recipe, for the names of files with its results."""
    return hashlib.sha256(repr(config).encode()).hexdigest()[:8]


def cached(path: Path, measure: Callable[[], T]) -> T:
    """The stored result of an earlier run in `path`; else measure now, and store it there."""
    if path.exists():
        log(f"{path.stem}: reused from an earlier run")
        with path.open("rb") as file:
            found: T = pickle.load(file)  # noqa: S301  (our own file, in the user's own folder)
            return found
    log(path.stem)
    measured = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(pickle.dumps(measured))
    unfinished.replace(path)
    return measured


def log(*words: object) -> None:
    """Print progress to stderr; stdout holds the results."""
    print(*words, file=sys.stderr, flush=True)
