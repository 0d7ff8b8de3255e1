"""Maps and their chains: backward maps between versions of a space, and plain affine maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from backstay.errors import MapMismatchError


@dataclass(frozen=True)
class Vectors:
    """Vectors of one version of a space."""

    space: str
    version: int
    values: npt.NDArray[np.float32]  # (n, D_version), one row per entity

    def __post_init__(self) -> None:
        if self.values.ndim != 2:  # noqa: PLR2004
            raise MapMismatchError(
                f"vectors of {self.space} version {self.version} must be two-dimensional, "
                f"one row per entity; found shape {self.values.shape}."
            )


@dataclass(frozen=True)
class BackwardMap:
    """A linear map from version `source` of a space to the older version `target`.

    `matrix` is float32 (D_target, D_source): z_target ≈ matrix · z_source. B_k is the map with
    source k and target k - 1. A chain is the composition of several maps. A map whose source equals
    its target is the identity.
    """

    space: str
    source: int
    target: int
    matrix: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if not 0 <= self.target <= self.source:
            raise MapMismatchError(
                "expected a map from a newer version to an older one; "
                f"found {self.source} → {self.target}."
            )
        if self.matrix.ndim != 2 or not np.isfinite(self.matrix).all():  # noqa: PLR2004
            raise MapMismatchError(
                f"the matrix of {self} must be two-dimensional and finite; "
                f"found shape {self.matrix.shape}."
            )
        if self.source == self.target and not np.array_equal(
            self.matrix, np.eye(*self.matrix.shape, dtype=np.float32)
        ):
            raise MapMismatchError(f"{self} must be the identity; found another matrix.")

    def __str__(self) -> str:
        return f"map {self.space} {self.source}→{self.target}"

    def convert(self, vectors: Vectors) -> Vectors:
        """Turn vectors of version `source`, (n, D_source), into (n, D_target) of `target`."""
        found = (vectors.space, vectors.version, vectors.values.shape[1])
        expected = (self.space, self.source, self.matrix.shape[1])
        if found != expected:
            raise MapMismatchError(
                f"{self} takes (space, version, dimension) {expected}; found {found}. "
                "Ask the registry for the chain from the version these vectors came from."
            )
        if self.source == self.target:
            return vectors
        return Vectors(self.space, self.target, vectors.values @ self.matrix.T)


def identity(space: str, version: int, dim: int) -> BackwardMap:
    """The map of a version to itself, (dim, dim)."""
    return BackwardMap(space, version, version, np.eye(dim, dtype=np.float32))


def compose(maps: list[BackwardMap]) -> BackwardMap:
    """The chain of `maps`, oldest target first: B_{j+1} · … · B_k.

    Raises MapMismatchError where one map's source is not the next one's target.
    """
    if not maps:
        raise MapMismatchError("nothing to compose; `identity` is the map of a version to itself.")
    for older, newer in pairwise(maps):
        found = (newer.space, newer.target, newer.matrix.shape[0])
        expected = (older.space, older.source, older.matrix.shape[1])
        if found != expected:
            raise MapMismatchError(
                f"{older} must be followed by a map into {expected} (space, version, dimension); "
                f"found {newer} into {found}."
            )
    product = chain_affine([AffineMap.linear(map_.matrix) for map_ in maps]).matrix
    return BackwardMap(maps[0].space, maps[-1].source, maps[0].target, product)


@dataclass(frozen=True, eq=False)
class AffineMap:
    """z_old ≈ matrix · z_new + offset, without names of spaces or versions.

    The result of a closed-form fit; a registry stores a `BackwardMap`.
    """

    matrix: npt.NDArray[np.float32]  # (D_t, D_s)
    offset: npt.NDArray[np.float32]  # (D_t,)

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.offset.shape != self.matrix.shape[:1]:  # noqa: PLR2004
            raise MapMismatchError(
                "expected a matrix (D_t, D_s) and an offset (D_t,); found shapes "
                f"{self.matrix.shape} and {self.offset.shape}."
            )
        if not (np.isfinite(self.matrix).all() and np.isfinite(self.offset).all()):
            raise MapMismatchError("expected a finite map, found NaN or infinity in it.")

    @classmethod
    def linear(cls, matrix: npt.NDArray[np.float32]) -> "AffineMap":
        """The map of `matrix` (D_t, D_s) alone."""
        return cls(matrix, np.zeros(len(matrix), np.float32))

    def apply(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Turn (n, D_s) float32 into (n, D_t) float32."""
        if x.ndim != 2 or x.shape[1] != self.matrix.shape[1]:  # noqa: PLR2004
            raise MapMismatchError(
                f"expected vectors of shape (n, {self.matrix.shape[1]}); found {x.shape}."
            )
        return x @ self.matrix.T + self.offset


@dataclass(frozen=True, kw_only=True)
class EntityMaps:
    """The maps of users and items to an older version; mostly one map for both."""

    user: AffineMap
    item: AffineMap

    @classmethod
    def linear(cls, matrix: npt.NDArray[np.float32]) -> "EntityMaps":
        """The map of `matrix` (D_t, D_s), for all entities."""
        both = AffineMap.linear(matrix)
        return cls(user=both, item=both)

    @property
    def matrix(self) -> npt.NDArray[np.float32]:
        """The one matrix (D_t, D_s) of all entities.

        Raises MapMismatchError for an offset, or for separate maps of users and items.
        """
        if self.user is not self.item or self.user.offset.any():
            raise MapMismatchError(
                "expected one linear map for all entities, as a published version has; found "
                "maps with an offset, or one for users and another for items. Such maps can be "
                "compared, not published."
            )
        return self.user.matrix

    def apply(self, z: npt.NDArray[np.float32], *, n_users: int) -> npt.NDArray[np.float32]:
        """Turn the vectors of users, then items, (n, D_s) float32, into (n, D_t) float32."""
        if self.user is self.item:
            return self.user.apply(z)
        return np.concatenate([self.user.apply(z[:n_users]), self.item.apply(z[n_users:])])


def chain_entity_maps(maps: Sequence[EntityMaps]) -> EntityMaps:
    """The composition of at least one pair of maps, oldest target first; see `chain_affine`."""
    user = chain_affine([part.user for part in maps])
    if all(part.user is part.item for part in maps):
        return EntityMaps(user=user, item=user)
    return EntityMaps(user=user, item=chain_affine([part.item for part in maps]))


def chain_affine(maps: Sequence[AffineMap]) -> AffineMap:
    """The composition of at least one map, oldest target first; in float64, rounded once.

    Raises MapMismatchError where the dimensions of neighbouring maps differ.
    """
    matrix, offset = maps[0].matrix.astype(np.float64), maps[0].offset.astype(np.float64)
    for newer in maps[1:]:
        if matrix.shape[1] != len(newer.matrix):
            raise MapMismatchError(
                f"expected a map into {matrix.shape[1]} dimensions; found one into "
                f"{len(newer.matrix)}."
            )
        offset = offset + matrix @ newer.offset.astype(np.float64)
        matrix = matrix @ newer.matrix.astype(np.float64)
    return AffineMap(matrix.astype(np.float32), offset.astype(np.float32))
