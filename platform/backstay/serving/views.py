"""Views: tables converted ahead to the older versions that consumers read.

    <cache>/<root>/<space>/<entity>/<version>-<manifest hash>.f2.to<target>-<chain hash>/vectors.npy

A view holds the vectors of one copied table in the space of an older version, in the same row
order. A look-up through it gathers rows, and needs no product. Views are made in the background,
one at a time on each host. Until a view is there, look-ups compute the product.
"""

import logging
import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backstay.compat.maps import BackwardMap
from backstay.errors import CorruptError, ServiceError
from backstay.serving.cache import Copy, open_copy, remove_unused, require_space
from backstay.serving.copies import HEADER_BYTES, VECTORS, Key, OpenTable, discarding, write_header
from backstay.serving.loader import Loader
from backstay.serving.mapped import gather
from backstay.serving.product import product
from backstay.storage.locks import locked

logger = logging.getLogger("backstay.serving")

_ROWS = 8192  # converted at a time
_NICE = 10  # priority of the converting thread: look-ups go first
_PATTERN = "*/*/[!.]*.to*"  # folders of views in the cache of one registry
_LOCK = ".views.lock"  # in the cache of one registry
_IDLE_SECONDS = 600.0  # without a look-up, then a view gives way to another
_FORGOTTEN_SECONDS = 86_400.0  # without a look-up, then only a contract keeps a view


class ViewKey(NamedTuple):
    """A view: a table, and the version to convert it to."""

    table: Key
    target: int
    chain: str  # hash of the versions between

    @property
    def space(self) -> str:
        """The space of the table."""
        return self.table.space

    def folder(self, cache: Path) -> Path:
        """The folder of the view in `cache`, the cache of one registry."""
        copy = self.table.folder(cache)
        return copy.with_name(f"{copy.name}.to{self.target}-{self.chain[:16]}")

    def __str__(self) -> str:
        return f"the view of {self.table} in version {self.target}"


@dataclass(frozen=True, eq=False)
class View:
    """An open view, or the result that there can be none: the product overflows."""

    vectors: npt.NDArray[np.float32] | None  # (rows, D_target), a read-only memory map
    copy: Copy | None

    def gather(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """A copy of these rows, (n, D_target)."""
        return gather(self._array, rows)

    @cached_property
    def _array(self) -> npt.NDArray[np.float32]:
        """The vectors without the class memmap, which makes each access slower."""
        return np.empty((0, 0), np.float32) if self.vectors is None else np.asarray(self.vectors)

    def intact(self) -> bool:
        """Whether the file was not written to since it was opened."""
        return self.copy is None or self.copy.intact()


@dataclass(eq=False)
class Demand:
    """What was asked of one entity in one version. Threads may lose a count."""

    rows: int = 0
    used: float = 0.0  # seconds since 1970


@dataclass(frozen=True, eq=False)
class Recipe:
    """How to make a view."""

    key: ViewKey
    opened: OpenTable
    copy: Copy  # of the table
    dim: int  # of the target
    chain: Callable[[], BackwardMap]  # composes it
    pinned: bool  # by a contract
    demand: Demand

    @property
    def size(self) -> int:
        """Bytes of the view's vectors."""
        return 4 * len(self.opened.table.vectors) * self.dim


class Views:
    """Makes and opens the views of one process.

    Args:
        cache: The folder for copies of one registry.
        max_bytes: Most bytes of all views on this host. None: as many as the tables have that
            they are made from. 0: make none.
        clock: Seconds since 1970.
    """

    def __init__(self, cache: Path, *, max_bytes: int | None, clock: Callable[[], float]) -> None:
        self._cache = cache
        self._max_bytes = max_bytes
        self._clock = clock
        self._chosen: dict[ViewKey, Recipe] = {}
        self._budget = 0
        self._demands: dict[tuple[str, str, int], Demand] = {}
        self.loader: Loader[ViewKey, View] = Loader(self._make)

    def demand(self, space: str, entity: str, target: int) -> Demand:
        """What was asked of an entity in a version so far, to be added to."""
        return self._demands.setdefault((space, entity, target), Demand())

    def asked(self, space: str, entity: str) -> list[int]:
        """The versions in which an entity was asked for."""
        return [key[2] for key in list(self._demands) if key[:2] == (space, entity)]

    def folders(self) -> set[Path]:
        """The folders of the views that are in use or being made."""
        return {key.folder(self._cache) for key in self._chosen}

    def choose(self, recipes: Collection[Recipe]) -> None:
        """Keep the views that are worth their bytes; make missing ones in the background.

        Views in use come first, then those that contracts pin, then those for which as many rows
        were asked as the table has; the last used first.
        """
        tables = {recipe.key.table: recipe.opened.table.vectors.nbytes for recipe in recipes}
        most = self._max_bytes
        self._budget = sum(tables.values()) if most is None else most
        left = self._budget
        chosen = {}
        for recipe in sorted(recipes, key=self._rank):
            if recipe.size <= left and (recipe.pinned or self._popular(recipe)):
                left -= recipe.size
                chosen[recipe.key] = recipe
        self._chosen = chosen
        self.loader.drop([key for key in self.loader.loaded() if key not in chosen])
        for key in chosen:
            self.loader.want(key)

    def _popular(self, recipe: Recipe) -> bool:
        rows, used = recipe.demand.rows, recipe.demand.used
        enough = rows >= len(recipe.opened.table.vectors)
        return enough and self._clock() < used + _FORGOTTEN_SECONDS

    def _rank(self, recipe: Recipe) -> tuple[int, float]:
        used = recipe.demand.used
        in_use = self.loader.get(recipe.key) and self._clock() < used + _IDLE_SECONDS
        return 0 if in_use else 1 if recipe.pinned else 2, -used

    def _make(self, key: ViewKey) -> View:
        """Open a view; make it first if needed."""
        recipe = self._chosen.get(key)
        if recipe is None:
            raise ServiceError(f"{key} is not wanted any more.")

        def write(folder: Path) -> None:
            with locked(self._cache / _LOCK):
                self._make_room(recipe)
                _write(recipe, folder)

        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        folder = key.folder(self._cache)
        try:
            copy = open_copy(folder, write)
        except OverflowError:
            logger.warning(
                "%s can't be made: a number overflows float32. Look-ups compute the product; those "
                "of such a vector fail. Publish a version without such values.",
                key,
            )
            return View(None, None)
        with discarding(copy):
            return View(np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False), copy)

    def _make_room(self, recipe: Recipe) -> None:
        """Remove views that are not needed; ServiceError if those on disk leave no room."""
        keep, taken = self.folders(), 0
        for folder in self._cache.glob(_PATTERN):
            if folder in keep or not remove_unused(folder):
                path = folder / VECTORS
                taken += path.stat().st_size - HEADER_BYTES if path.exists() else 0
        if taken + recipe.size > self._budget:
            raise ServiceError(
                f"views may take {self._budget} bytes; found {taken}, and {recipe.size} more for "
                f"{recipe.key}. Raise --views-max-bytes."
            )
        # The next version's table must find room, too.
        require_space(self._cache, recipe.size + recipe.opened.table.vectors.nbytes)


def _write(recipe: Recipe, folder: Path) -> None:
    """Convert a table, some rows at a time; none of it stays in memory."""
    source, chain = recipe.opened.table.vectors, recipe.chain()
    rows, dim = source.shape
    path = recipe.copy.folder / VECTORS
    # Read as a file: pages of the memory map would count as memory of this process.
    with path.open("rb") as table, (folder / VECTORS).open("wb") as file:
        table.seek(HEADER_BYTES)
        write_header(file, (rows, recipe.dim))
        for start in range(0, rows, _ROWS):
            count = min(_ROWS, rows - start)
            values = np.fromfile(table, "<f4", count * dim).reshape(count, dim)
            file.write(np.ascontiguousarray(product(chain, values), "<f4").data)
    if not recipe.copy.intact():
        raise CorruptError(f"{recipe.copy.folder} changed while it was converted.")
