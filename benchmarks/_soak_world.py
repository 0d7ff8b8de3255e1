"""The tables that the soak publishes, requests for them, and the check of each answer."""

import dataclasses
from functools import cached_property
from typing import NamedTuple

import httpx
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from backstay.compat.maps import BackwardMap
from backstay.registry.contracts import Contract, write
from backstay.registry.store import Registry
from backstay.serving import wire

SPACE, ENTITY = "soak", "item"
CONSUMER, PINNED = "ranking", 1  # a consumer, and the version of its contract
STABLE = "stable"  # an alias of version 0

_TOLERANCE = 1e-4  # of float32; the numbers are about 1
_PATH = f"/v1/spaces/{SPACE}/{ENTITY}"

Floats = npt.NDArray[np.float64]


class Answered(NamedTuple):
    """The versions that one state of the registry gives to a request."""

    version: int
    source: int


@dataclasses.dataclass(frozen=True)
class Allowed:
    """Versions that can be in force at one moment: two of them while a change is taken up."""

    prod: frozenset[int]
    latest: frozenset[int]

    def __or__(self, other: "Allowed") -> "Allowed":
        return Allowed(self.prod | other.prod, self.latest | other.latest)

    def answers(self, version: int | str | None, *, pinned: bool) -> set[Answered]:
        """What may answer a request for a version."""
        if version == "latest":
            return {Answered(k, max(k, prod)) for k in self.latest for prod in self.prod}
        if version == "prod" or (version is None and not pinned):
            return {Answered(prod, prod) for prod in self.prod}
        named: dict[int | str | None, int] = {None: PINNED, STABLE: 0}
        number = named[version] if version in named else int(version or 0)
        return {Answered(number, max(number, prod)) for prod in self.prod}


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """One request, ready to be sent."""

    kind: str
    rows: npt.NDArray[np.int64]  # of the tables
    version: int | str | None
    pinned: bool  # whether the consumer with a contract asks
    message: bytes  # HTTP/1.1
    binary: bool


class World:
    """Random tables and maps. Equal arguments make equal worlds."""

    def __init__(self, *, rows: int, dim: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._dim = dim
        self.ids: npt.NDArray[np.int64] = self._rng.permutation(rows * 3)[:rows]
        self._tables: list[npt.NDArray[np.float32]] = []
        self._maps: list[npt.NDArray[np.float32]] = []  # of versions 1, 2, …
        self._chains: dict[Answered, Floats] = {}
        self._right: set[tuple[int, Answered, int]] = set()  # answers that were compared

    @property
    def versions(self) -> int:
        """How many versions were published."""
        return len(self._tables)

    def publish(self, registry: Registry) -> None:
        """Publish the next version."""
        k = len(self._tables)
        dim, before = self._dim + 16 * k, self._dim + 16 * (k - 1)
        values = self._rng.standard_normal((len(self.ids), dim), np.float32)
        draft = registry.space(SPACE).draft(k, run_id=f"run-{k}")
        draft.write_table(ENTITY, [(pa.array(self.ids), values)])
        if k:
            matrix = self._rng.standard_normal((before, dim), np.float32) / np.float32(dim**0.5)
            draft.write_backward(BackwardMap(SPACE, k, k - 1, matrix))
            self._maps.append(matrix)
        self._tables.append(values)
        draft.publish(
            parent=k - 1 if k else None,
            method="bc-aligner",
            config={},
            dataset_fingerprint="random",
        )

    def expected(self, answered: Answered, rows: npt.NDArray[np.int64]) -> Floats:
        """The vectors of some rows, (n, D_version), in float64."""
        vectors = self._tables[answered.source][rows].astype(np.float64)
        if answered.source == answered.version:
            return vectors
        if answered not in self._chains:
            chain = np.eye(self._dim + 16 * answered.version)
            for k in range(answered.version + 1, answered.source + 1):
                chain = chain @ self._maps[k - 1].astype(np.float64)
            self._chains[answered] = chain
        return vectors @ self._chains[answered].T

    def right(self, values: npt.ArrayLike, answered: Answered, rows: npt.NDArray[np.int64]) -> bool:
        """Whether these are the vectors of all the rows, all from the one table."""
        found, expected = np.asarray(values), self.expected(answered, rows)
        return found.shape == expected.shape and bool(
            np.abs(found - expected).max(initial=0) <= _TOLERANCE
        )

    def fault(
        self, asked: Asked, headers: dict[bytes, bytes], body: bytes, allowed: Allowed
    ) -> str | None:
        """Why an answer with status 200 is not right; None if it is.

        An answer with the same bytes as one that was compared before is not compared again.
        """
        try:
            answered = Answered(
                int(headers[wire.VERSION.lower().encode()]),
                int(headers[wire.SOURCE_VERSION.lower().encode()]),
            )
        except (KeyError, ValueError):
            return "wrong"
        if max(answered) >= self.versions:
            return "wrong"
        key = (id(asked), answered, hash(body))
        if key not in self._right:
            if not self._compare(asked, answered, headers, body):
                return "wrong"
            self._right.add(key)
        if answered not in allowed.answers(asked.version, pinned=asked.pinned):
            return "stale"
        return None

    def _compare(
        self, asked: Asked, answered: Answered, headers: dict[bytes, bytes], body: bytes
    ) -> bool:
        ids = self.ids[asked.rows].tolist()
        if asked.binary:
            texts = httpx.Headers(list(headers.items()))
            values, found = wire.decode_binary(body, texts, asked=len(ids))
            return bool(found.all()) and self.right(values, answered, asked.rows)
        answer = orjson.loads(body)
        if Answered(answer["version"], answer["source_version"]) != answered:
            return False
        if "id" in answer:
            same = [answer["id"]] == ids
            return same and self.right([answer["embedding"]], answered, asked.rows)
        same = answer["ids"] == ids and answer["missing"] == []
        return same and self.right(answer["embeddings"], answered, asked.rows)


class Mix:
    """The requests of the soak: 84 % of one id, 12 % of 100 ids in JSON, 4 % of 1,000 in float32.

    Versions are asked for by number, by alias, as `latest`, by the contract of the consumer, and
    not at all, equally often.
    """

    _VERSIONS: tuple[tuple[int | str | None, bool], ...] = (
        (0, False), (1, False), ("prod", False), (STABLE, False), ("latest", False),
        (None, False), (None, True),
    )  # fmt: skip

    def __init__(self, world: World, *, host: str, seed: int = 1) -> None:
        self._world = world
        self._rng = np.random.default_rng(seed)
        self._host = host
        kinds = [(1, 84), (100, 12), (1000, 4)]
        self._of: list[list[Asked]] = [
            [self._asked(count, *v) for v in self._VERSIONS for _ in range(400 // count + 4)]
            for count, _ in kinds
        ]
        self._weights = np.array([weight for _, weight in kinds]) / 100

    @cached_property
    def all(self) -> list[Asked]:
        """Every request once."""
        return [asked for each in self._of for asked in each]

    def draw(self, count: int) -> list[Asked]:
        """Random requests."""
        kinds = self._rng.choice(len(self._of), count, p=self._weights)
        return [self._of[kind][self._rng.integers(len(self._of[kind]))] for kind in kinds]

    def _asked(self, count: int, version: int | str | None, pinned: bool) -> Asked:  # noqa: FBT001
        rows = self._rng.integers(0, len(self._world.ids), count)
        ids = self._world.ids[rows].tolist()
        binary = count == 1000  # noqa: PLR2004
        headers = [f"Host: {self._host}", f"Accept: {wire.BINARY if binary else wire.JSON}"]
        if pinned:
            headers.append(f"{wire.CONSUMER}: {CONSUMER}")
        content = b""
        if count == 1:
            query = "" if version is None else f"?version={version}"
            start = f"GET {_PATH}/{ids[0]}{query} HTTP/1.1"
        else:
            start = f"POST {_PATH}/lookup HTTP/1.1"
            content = wire.dump_json(
                {"ids": ids} | ({} if version is None else {"version": version})
            )
            headers += [f"Content-Type: {wire.JSON}", f"Content-Length: {len(content)}"]
        message = "\r\n".join([start, *headers, "", ""]).encode() + content
        return Asked(f"{count} ids", rows, version, pinned, message, binary)


def pin(registry: Registry) -> None:
    """Write the consumer's contract."""
    contract = Contract(
        name=CONSUMER, n=0, state="active", contact="soak@example.com", version=PINNED,
        entity=ENTITY, metric=None, k=None, baseline=None, tolerance=0.0, policy="refuse",
        model=None, table=None, who="", when="",
    )  # fmt: skip
    write(registry.space(SPACE), contract, {})
