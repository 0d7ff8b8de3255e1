"""One look-up: the requests that it takes, and the result that their answers make.

A long list of ids is asked for in pages. The first page decides the version and the table; the
other pages ask for exactly those. Sends nothing itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

import httpx
import numpy as np
import numpy.typing as npt

from backstay.errors import FingerprintError, ServiceError, UsageError
from backstay.serving import wire
from backstay.serving.client.ids import IdArray, Ids, as_ids
from backstay.serving.client.request import Request, SourceChanged, body_of, segment
from backstay.serving.client.result import LookupResult
from backstay.serving.description import SpaceDescription

Expected = str | Mapping[str, str]
"""A fingerprint, or the fingerprint of each entity."""

_RESTARTS = 5  # most restarts of one look-up


@dataclass(frozen=True)
class Source:
    """What answered a page, from its headers."""

    version: int
    source_version: int
    fingerprint: str
    source_fingerprint: str
    dim: int

    @classmethod
    def of(cls, headers: Mapping[str, str], *, dim: int) -> Self:
        """Read the headers; ServiceError if one is missing."""
        try:
            return cls(
                int(headers[wire.VERSION]),
                int(headers[wire.SOURCE_VERSION]),
                headers[wire.FINGERPRINT],
                headers[wire.SOURCE_FINGERPRINT],
                dim,
            )
        except (KeyError, ValueError) as error:
            raise ServiceError(
                f"expected {wire.VERSION}, {wire.SOURCE_VERSION}, {wire.FINGERPRINT} and "
                f"{wire.SOURCE_FINGERPRINT} in the headers of the answer; found no valid {error}. "
                "Check that the URL is a Backstay service, of a release as new as the client."
            ) from error


@dataclass(kw_only=True)
class LookupCall:
    """The state of one look-up. Pages may be taken by several threads, the first one alone.

    Args:
        space: Name of the space.
        entity: The entity that the ids belong to.
        ids: (m,) int64 or str (object).
        version: A number, an alias or `latest`; None: the service decides.
        batch: Most ids in a page.
        dtype: Type of the result's numbers.
        expect: Fingerprint that the answer must have, or None.
        partial: Whether ids of lost shards may be left out.
    """

    space: str
    entity: str
    ids: IdArray
    version: int | str | None
    batch: int
    dtype: Literal["float32", "float16"]
    expect: str | None
    partial: bool = False
    _source: Source | None = None
    _restarts: int = 0
    _found: npt.NDArray[np.bool_] = field(init=False)
    _unanswered: npt.NDArray[np.bool_] = field(init=False)
    _values: npt.NDArray[np.float32 | np.float16] = field(init=False)

    @property
    def first(self) -> slice:
        """The page to take before all others. It may be empty."""
        return slice(0, self.batch)

    @property
    def others(self) -> list[slice]:
        """The other pages."""
        return [slice(at, at + self.batch) for at in range(self.batch, len(self.ids), self.batch)]

    def request(self, page: slice) -> Request:
        """The request for a page."""
        version = self._source.version if self._source else self.version
        body: dict[str, object] = {"ids": self.ids[page].tolist()}
        if version is not None:
            body["version"] = version
        try:
            content = wire.dump_json(body)
        except TypeError as error:
            raise UsageError(f"ids and version must be JSON values: {error}.") from error
        half = self.dtype == "float16"
        headers: dict[str, str] = {
            "Accept": f"{wire.HALF}, {wire.BINARY};q=0.9" if half else wire.BINARY,
            "Content-Type": wire.JSON,
        }
        if self.partial:
            headers[wire.PARTIAL] = "true"
        if self._source:
            headers[wire.SOURCE_VERSION] = str(self._source.source_version)
        path = f"/v1/spaces/{segment(self.space)}/{segment(self.entity)}/lookup"
        return Request("POST", path, content=content, headers=headers)

    def take(self, page: slice, answer: httpx.Response) -> int:
        """Store the vectors of a page; return the number of ids that it asked for."""
        asked = len(self.ids[page])
        values, found = wire.decode_binary(body_of(answer), answer.headers, asked=asked)
        source = Source.of(answer.headers, dim=values.shape[1])
        if self._source is None:
            self._check_expected(source)
            self._source = source
            self._found = np.zeros(len(self.ids), bool)
            self._unanswered = np.zeros(len(self.ids), bool)
            self._values = np.empty((len(self.ids), source.dim), self.dtype)
        elif source != self._source:
            raise SourceChanged(f"one page came from {self._source}, another from {source}")
        self._found[page] = found
        self._unanswered[page] = wire.decode_unanswered(answer.headers, asked=asked)
        self._values[page][found] = self._converted(values)
        return asked

    def restart(self, why: SourceChanged) -> None:
        """Forget all pages; ServiceError after too many restarts."""
        self._source = None
        self._restarts += 1
        if self._restarts > _RESTARTS:
            raise ServiceError(
                f"expected all pages of a look-up from one table; the table changed during "
                f"{self._restarts} attempts ({why}). Try again once the update is over, or ask "
                "for fewer ids at once."
            )

    def result(self) -> LookupResult:
        """The result of all pages."""
        source = self._source
        if source is None:
            raise RuntimeError("no page was taken")
        absent = not self._found.all()
        return LookupResult(
            space=self.space,
            entity=self.entity,
            ids=self.ids[self._found] if absent else self.ids,
            values=self._compacted() if absent else self._values,
            missing=self.ids[~self._found & ~self._unanswered],
            unanswered=self.ids[self._unanswered],
            version=source.version,
            source_version=source.source_version,
            fingerprint=source.fingerprint,
            source_fingerprint=source.source_fingerprint,
        )

    def _converted(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        if values.dtype == self._values.dtype:
            return values
        with np.errstate(over="ignore"):
            values = values.astype(self._values.dtype)
        if not np.isfinite(values).all():
            raise ServiceError(
                f"expected vectors within float16 (±65,504), found a larger number for "
                f"{self.entity!r} of space {self.space!r}. Ask for float32."
            )
        return values

    def _compacted(self) -> npt.NDArray[np.float32 | np.float16]:
        """The vectors of the ids found, moved together page by page, without a second array."""
        end = 0
        for page in [self.first, *self.others]:
            kept = self._values[page][self._found[page]]
            self._values[end : end + len(kept)] = kept
            end += len(kept)
        return self._values[:end]

    def _check_expected(self, source: Source) -> None:
        if self.expect is not None and source.fingerprint != self.expect:
            raise FingerprintError(
                f"expected vectors with the fingerprint {self.expect}; version {source.version} of "
                f"{self.entity!r} in space {self.space!r} answered, with the fingerprint "
                f"{source.fingerprint}."
            )

    def with_advice(
        self, error: FingerprintError, described: SpaceDescription | None
    ) -> FingerprintError:
        """The same error with the way out.

        `described`: the space, which names the fingerprint of each version; None: not known.
        """
        of = described["entities"].get(self.entity) if described else None
        fingerprints = of.get("fingerprints") if of else None
        if fingerprints is None:
            advice = "Ask for the version that your model was built for (version=…)."
        elif found := [k for k, each in fingerprints.items() if each == self.expect]:
            advice = (
                f"Your model was built for version {found[0]}: ask for it with version={found[0]}, "
                f"or `backstay lookup --version {found[0]}`."
            )
        else:
            advice = (
                f"None of the versions that the service can read has the expected one (it reads "
                f"{', '.join(fingerprints)}). Check space and entity; if they are right, that "
                "build is gone, and your model must be trained again."
            )
        return FingerprintError(f"{error} {advice}")


def plan(
    space: str,
    entity: str,
    ids: Ids,
    *,
    version: int | str | None,
    batch: int,
    dtype: Literal["float32", "float16"],
    expect: Expected | None,
    partial: bool,
) -> LookupCall:
    """A look-up from a caller's arguments; UsageError if they are invalid."""
    if dtype not in {"float32", "float16"}:
        raise UsageError(f"dtype must be 'float32' or 'float16'; found {dtype!r}.")
    if isinstance(expect, Mapping):
        if entity not in expect:
            raise UsageError(
                f"expect must name a fingerprint for {entity!r}; it has "
                f"{', '.join(map(repr, expect)) or 'none'}. Add it, or leave expect out."
            )
        expect = expect[entity]
    return LookupCall(
        space=space, entity=entity, ids=as_ids(ids), version=_as_version(version), batch=batch,
        dtype=dtype, expect=expect, partial=partial,
    )  # fmt: skip


def _as_version(version: object) -> int | str | None:
    if isinstance(version, (int, np.integer)) and not isinstance(version, bool):
        return int(version)
    if version is None or isinstance(version, str):
        return version
    raise UsageError(f"version must be a number, an alias or 'latest'; found {version!r}.")


def no_progress(_done: int, _total: int) -> None:
    """Report nothing."""
