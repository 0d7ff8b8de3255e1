"""The client: vectors of the version you were built on, whatever the service's newest is."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx
import numpy as np
import numpy.typing as npt
from httpx_retries import Retry, RetryTransport

from backstay.errors import NotFoundError, ServiceError, UsageError
from backstay.serving import wire

Ids = Sequence[int] | Sequence[str] | npt.NDArray[Any]

_TRY_AGAIN = (
    HTTPStatus.REQUEST_TIMEOUT,  # Ray Serve's, where no replica took the request
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
_SHOWN = 5  # ids that a message names


class Client:
    """Talks to a look-up service. Safe to share between threads; close it, or use `with`.

    Args:
        url: Where the service is, such as http://127.0.0.1:8000.
        timeout: Seconds to wait for one answer.
        retries: How often a request is sent again that got no connection, no answer, or one that
            says to come back later; waits grow from 0.25 to 10 s. Look-ups change nothing, so
            sending one twice is safe.
        batch: Most ids in one request; the service's own limit is 10,000 by default.
        concurrency: Requests in flight at once.
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

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def spaces(self) -> list[str]:
        """The spaces that are served."""
        return list(self._send("GET", "/v1/spaces").json()["spaces"])

    def space(self, name: str) -> dict[str, Any]:
        """A space's versions, dimensions and entities, and the versions each can be read in."""
        return dict(self._send("GET", f"/v1/spaces/{_segment(name)}").json())

    def vector(
        self, space: str, entity: str, id_: int | str, version: int | Literal["latest"] = 0
    ) -> npt.NDArray[np.float32]:
        """One vector, (D_version,) float32; NotFoundError where there is none of that id."""
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
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
        """Vectors of many ids, in the space of `version`.

        Any number of ids: they travel in requests of `batch`, several at once. All vectors are of
        one version, also where another is published meanwhile.

        Args:
            space: The space.
            entity: What the ids name.
            ids: All integers or all strings, as the table's are.
            version: Whose space the vectors shall be in: what your consumer was trained on.
            missing: What to do about ids that the table does not hold.
            progress: Called with the ids answered so far, and their total.

        Returns:
            The ids found, in the order asked for, int64 or str (object), and their vectors
            (n, D_version) float32, row by row. With `missing="raise"` that is all ids.

        Raises:
            NotFoundError: An id, the space, entity or version is not there.
            ServiceError: The service refused, or could not be reached.
        """
        asked = _as_array(ids)
        path = f"/v1/spaces/{_segment(space)}/{_segment(entity)}/lookup"
        found = np.zeros(len(asked), bool)
        # Asked alone: `latest` is settled by it, and so is D.
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
                'Check them, or leave them out with missing="skip".'
            )
        return asked[found], values[found]

    def _request(
        self, path: str, ids: npt.NDArray[Any], version: int | str
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], int]:
        """Vectors (n, D), the mask of the ids found, and the version they are in."""
        try:
            content = wire.dump_json({"ids": ids.tolist(), "version": version})
        except TypeError as error:
            raise UsageError(f"ids and version must have a JSON form ({error}).") from error
        headers = {"Accept": wire.BINARY, "Content-Type": wire.JSON}
        answer = self._send("POST", path, content=content, headers=headers)
        values, found = wire.decode_binary(answer.content, answer.headers, asked=len(ids))
        return values, found, int(answer.headers[wire.VERSION])

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise ServiceError(
                f"no answer from {self._http.base_url} ({error or type(error).__name__}). "
                "Is the service running there? `backstay serve` starts one."
            ) from error
        if answer.is_success:
            return answer
        detail = _detail(answer)
        # A proxy in front says 404 too, where the service itself is not there.
        ours = answer.headers.get("content-type") == "application/problem+json"
        if ours and answer.status_code == HTTPStatus.NOT_FOUND:
            raise NotFoundError(detail)
        raise ServiceError(f"{self._http.base_url} answered {answer.status_code}: {detail}")


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):  # not from the service: a proxy, or another server
        return f"{answer.reason_phrase} {answer.text[:200]!r}"


def _segment(name: str) -> str:
    return quote(name, safe="")


def _as_array(ids: Ids) -> npt.NDArray[Any]:
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


def _kinds(values: list[Any]) -> str:
    return ", ".join(sorted({type(value).__name__ for value in values}))
