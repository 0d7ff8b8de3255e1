"""Vectors of a version, published or not, in the space of an older version."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from backstay.compat.maps import BackwardMap, Vectors, compose, identity
from backstay.errors import MissingMapError, NotFoundError
from backstay.registry.store import Space
from backstay.registry.tables import Batch

Float32 = npt.NDArray[np.float32]


class VersionVectors(Protocol):
    """The tables of one version, and its maps to older ones."""

    @property
    def version(self) -> int:
        """Its number."""

    def batches(self, entity: str) -> Iterable[Batch]:
        """Ids and vectors of an entity; NotFoundError where there is no such table."""

    def map_to(self, target: int) -> BackwardMap:
        """The chain to an older version; NotFoundError where it is broken."""


@dataclass(frozen=True)
class PublishedVectors:
    """The vectors of a published version."""

    space: Space
    version: int

    def batches(self, entity: str) -> Iterator[Batch]:
        """Read the table."""
        return self.space.table(self.version, entity).batches()

    def map_to(self, target: int) -> BackwardMap:
        """The published chain."""
        return self.space.chain(self.version, target)


@dataclass(frozen=True, kw_only=True, eq=False)
class CandidateVectors:
    """The vectors of a version that is not published yet."""

    space: Space
    version: int
    dim: int
    tables: Mapping[str, Callable[[], Iterable[Batch]]]  # reads the table of an entity
    backward: BackwardMap | None  # to the version before

    def batches(self, entity: str) -> Iterable[Batch]:
        """The candidate's table."""
        if entity not in self.tables:
            raise NotFoundError(
                f"{self.space.name} version {self.version} has no table of {entity}; it has "
                f"{', '.join(self.tables)}."
            )
        return self.tables[entity]()

    def map_to(self, target: int) -> BackwardMap:
        """The candidate's map, and the published chain after it."""
        before = self.version - 1
        if target == self.version:
            return identity(self.space.name, target, self.dim)
        if self.backward is None:
            raise MissingMapError(
                f"{self.space.name} version {self.version} has no map to version {before}."
            )
        if target == before:
            return self.backward
        return compose([self.space.chain(before, target), self.backward])


@dataclass(frozen=True, eq=False)
class Converted:
    """A version's vectors as those of an older version."""

    source: VersionVectors
    target: int

    @cached_property
    def _map(self) -> BackwardMap:
        return self.source.map_to(self.target)

    def batches(self, entity: str) -> Iterator[Batch]:
        """Ids and converted vectors of an entity."""
        for ids, values in self.source.batches(entity):
            vectors = Vectors(self._map.space, self.source.version, values)
            yield ids, self._map.convert(vectors).values

    def of(self, entity: str, ids: pa.Array) -> Float32:
        """The converted vectors of `ids` (n,), in their order: (n, D_target).

        NotFoundError counts the ids that the table lacks.
        """
        distinct = pc.unique(ids)
        values = np.empty((len(distinct), len(self._map.matrix)), np.float32)
        found = np.zeros(len(distinct), bool)
        for batch_ids, batch_values in self.source.batches(entity):
            if batch_ids.type != distinct.type:
                break  # every id is missing
            place = pc.index_in(batch_ids, value_set=distinct)
            rows = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
            if len(rows):
                where = place.drop_null().to_numpy()
                vectors = Vectors(self._map.space, self.source.version, batch_values[rows])
                values[where] = self._map.convert(vectors).values
                found[where] = True
        if not found.all():
            example = distinct[int(np.argmin(found))].as_py()
            raise NotFoundError(
                f"version {self.source.version} has no vector of {int((~found).sum()):,} of "
                f"{len(distinct):,} labelled ids of {entity}, such as {example!r}"
            )
        places: npt.NDArray[np.int32] = pc.index_in(ids, value_set=distinct).to_numpy()
        found_values: Float32 = values[places]
        return found_values
