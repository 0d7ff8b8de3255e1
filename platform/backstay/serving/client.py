"""The Python client of the look-up service."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Literal, Self
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt
from httpx_retries import Retry, RetryTransport

from backstay.errors import NotFoundError, ServiceError, UsageError
from backstay.serving import wire
from backstay.serving.description import SpaceDescription

Ids = Sequence[int] | Sequence[str] | npt.NDArray[np.generic]
IdArray = npt.NDArray[np.int64] | npt.NDArray[np.object_]  # object: str

_TRY_AGAIN = (
    HTTPStatus.REQUEST_TIMEOUT,  # Ray Serve answers this if no replica took the request
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
_SHOWN = 5  # most ids in a message


class Client:
    """Sends look-ups to a service. Threads can share it. Close it, or use `with`.

    Args:
        url: URL of the service, such as http://127.0.0.1:8000.
        timeout: Seconds to wait for one answer.
        retries: Most retries of a request that got no connection, no answer or a temporary error.
            Waits grow from 0.25 to 10 s. Look-ups change nothing, so a repetition is safe.
        batch: Most ids in one request. The service's limit is 10,000 by default.
        concurrency: Most requests at the same time.
        transport: An httpx transport in place of the network.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        retries: int = 8,
        batch: int = 4096,
        concurrency: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if batch < 1 or concurrency < 1:
            raise UsageError(
                f"batch and concurrency must be at least 1; found {batch} and {concurrency}."
            )
        self._batch = batch
        self._concurrency = concurrency
        retry = Retry(
            total=retries,
            backoff_factor=0.25,
            max_backoff_wait=10.0,
            allowed_methods=["GET", "POST"],
            status_forcelist=_TRY_AGAIN,
        )
        self._http = httpx.Client(
            base_url=url, timeout=timeout, transport=RetryTransport(transport, retry=retry)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def spaces(self) -> list[str]:
        """The names of the served spaces."""
        return list(self._send("GET", "/v1/spaces").json()["spaces"])

    def space(self, name: str) -> SpaceDescription:
        """A space's versions, dimensions and entities, and the versions each can be read in."""
        described: SpaceDescription = self._send("GET", f"/v1/spaces/{_segment(name)}").json()
        return described

    def vector(
        self, space: str, entity: str, id_: int | str, version: int | Literal["latest"] = 0
    ) -> npt.NDArray[np.float32]:
        """One vector, (D_version,) float32; NotFoundError if the table does not hold the id."""
        _, values = self.lookup(space, entity, np.array([id_], object), version)
        vector: npt.NDArray[np.float32] = values[0]
        return vector

    def lookup(
        self,
        space: str,
        entity: str,
        ids: Ids,
        version: int | Literal["latest"] = 0,
        *,
        missing: Literal["raise", "skip"] = "raise",
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[IdArray, npt.NDArray[np.float32]]:
        """Vectors of many ids, in the space of `version`.

        Splits the ids into requests of `batch` and sends several at once. All vectors are of one
        version, even if another is published meanwhile.

        Args:
            space: Name of the space.
            entity: The entity that the ids belong to.
            ids: All integers or all strings, like the table's.
            version: Version whose space the vectors are in: the one your consumer was trained on.
            missing: Whether an id that the table does not hold is an error, or is left out.
            progress: Called with the number of ids answered so far, and the total.

        Returns the ids found, in the order of `ids`, int64 or str (object), and their vectors
        (n, D_version) float32. Raises NotFoundError for an unknown id, space, entity or version,
        ServiceError if the service refuses the request or cannot be reached.
        """
        asked = _as_array(ids)
        path = f"/v1/spaces/{_segment(space)}/{_segment(entity)}/lookup"
        found = np.zeros(len(asked), bool)
        # The first request runs alone: it fixes the version that `latest` means, and D.
        first, found[: self._batch], settled = self._request(path, asked[: self._batch], version)
        values = np.empty((len(asked), first.shape[1]), np.float32)
        values[: self._batch][found[: self._batch]] = first
        done = min(self._batch, len(asked))

        def fetch(start: int) -> int:
            part = slice(start, start + self._batch)
            vectors, found[part], _ = self._request(path, asked[part], settled)
            values[part][found[part]] = vectors
            return len(asked[part])

        if progress:
            progress(done, len(asked))
        with ThreadPoolExecutor(self._concurrency) as pool:
            try:
                for count in pool.map(fetch, range(self._batch, len(asked), self._batch)):
                    done += count
                    if progress:
                        progress(done, len(asked))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if found.all():
            return asked, values
        if missing == "raise":
            absent = asked[~found]
            shown = ", ".join(map(repr, absent[:_SHOWN].tolist()))
            raise NotFoundError(
                f"{entity!r} of space {space!r} has no vector for {len(absent)} of {len(asked)} "
                f"ids: {shown}{', …' if len(absent) > _SHOWN else ''}. "
                'Check these ids, or pass missing="skip".'
            )
        return asked[found], values[found]

    def _request(
        self, path: str, ids: IdArray, version: int | str
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], int]:
        """Vectors (n, D), the mask of the ids found, and the version of the vectors."""
        try:
            content = wire.dump_json({"ids": ids.tolist(), "version": version})
        except TypeError as error:
            raise UsageError(f"ids and version must be JSON values: {error}.") from error
        headers = {"Accept": wire.BINARY, "Content-Type": wire.JSON}
        answer = self._send("POST", path, content=content, headers=headers)
        values, found = wire.decode_binary(answer.content, answer.headers, asked=len(ids))
        return values, found, int(answer.headers[wire.VERSION])

    def _send(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            answer = self._http.request(method, path, content=content, headers=headers)
        except httpx.TransportError as error:
            raise ServiceError(
                f"no answer from {self._http.base_url} ({error or type(error).__name__}). "
                "Check the URL; `backstay serve` starts a service."
            ) from error
        if answer.is_success:
            return answer
        detail = _detail(answer)
        # A proxy also answers 404, if it finds no service.
        ours = answer.headers.get("content-type") == "application/problem+json"
        if ours and answer.status_code == HTTPStatus.NOT_FOUND:
            raise NotFoundError(detail)
        raise ServiceError(f"{self._http.base_url} answered {answer.status_code}: {detail}")


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):  # not a problem document: a proxy's
        return f"{answer.reason_phrase} {answer.text[:200]!r}"


def _segment(name: str) -> str:
    return quote(name, safe="")


def _as_array(ids: Ids) -> IdArray:
    if isinstance(ids, str):
        raise UsageError(f"ids must be a list of ids; found the string {ids!r}. Write [{ids!r}].")
    listed = list(ids)
    if listed and all(isinstance(id_, (int, np.integer)) for id_ in listed):
        try:
            return np.array(listed, np.int64)
        except OverflowError as error:
            raise UsageError(f"integer ids must be within 64 bits: {error}.") from error
    if not all(isinstance(id_, str) for id_ in listed):
        raise UsageError("ids must be all integers or all strings; found " + _kinds(listed) + ".")
    array = np.empty(len(listed), object)  # numpy's own strings drop trailing NULs
    array[:] = listed
    return array


def _kinds(values: list[object]) -> str:
    return ", ".join(sorted({type(value).__name__ for value in values}))
