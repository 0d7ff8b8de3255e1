"""The client of the look-up service."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Self

import httpx
import numpy as np
import numpy.typing as npt

from backstay.errors import BackstayError, FingerprintError, ServiceError
from backstay.serving.client.base import BaseClient, HttpOptions
from backstay.serving.client.ids import Ids
from backstay.serving.client.pages import Expected, LookupCall, no_progress, plan
from backstay.serving.client.request import SPACES, Request, SourceChanged, space_request
from backstay.serving.client.result import LookupResult
from backstay.serving.description import SpaceDescription


class Client(BaseClient[httpx.BaseTransport]):
    """Sends look-ups to a service. Threads can share it. Close it, or use `with`.

    Args:
        url: URL of the service, such as http://127.0.0.1:8000.
        token: Access token; by default the environment's BACKSTAY_TOKEN, if set.
        consumer: Your name in `backstay consumers`, where the service asks for no token. It
            decides which version you get if you name none.
        headers: Further headers of every request.
        verify: For https: a PEM file of certificates to trust, or an SSL context. False: trust
            any certificate.
        cert: For https: PEM files of the client's certificate and key.
        timeout: Seconds to wait for one answer.
        connect_timeout: Seconds in which the first connection must be made.
        deadline: Seconds for one request of up to `batch` ids, with all its retries.
        retries: Most retries of a request that got no connection, no answer or a temporary error.
            Waits are random, up to a bound that grows from 0.5 to 10 s. Look-ups change nothing,
            so a repetition is safe.
        batch: Most ids in one request. The service's limit is 10,000 by default.
        concurrency: Most requests at the same time in one look-up.
        limits: Bounds on the connections that are kept open.
        compression: Of answers; by default none.
        transport: An httpx transport in place of the network.
    """

    _http: httpx.Client

    def _open(self, transport: httpx.BaseTransport | None, options: HttpOptions) -> None:
        self._http = httpx.Client(transport=transport, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def spaces(self) -> list[str]:
        """The names of the served spaces."""
        return list(self._send(SPACES).json()["spaces"])

    def space(self, name: str) -> SpaceDescription:
        """A space's versions, dimensions and entities, and the versions each can be read in."""
        described: SpaceDescription = self._send(space_request(name)).json()
        return described

    def vector(
        self,
        space: str,
        entity: str,
        id_: int | str,
        version: int | str | None = None,
        *,
        expect: Expected | None = None,
    ) -> npt.NDArray[np.float32]:
        """One vector, (D_version,) float32; NotFoundError if the table does not hold the id."""
        found = self.lookup(space, entity, np.array([id_], object), version, expect=expect)
        vector: npt.NDArray[np.float32] = found.values[0]
        return vector

    def lookup(
        self,
        space: str,
        entity: str,
        ids: Ids,
        version: int | str | None = None,
        *,
        missing: Literal["raise", "skip"] = "raise",
        partial: bool = False,
        dtype: Literal["float32", "float16"] = "float32",
        expect: Expected | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> LookupResult:
        """Vectors of many ids, in the space of one version.

        Splits the ids into requests of `batch` and sends several at once. All vectors are of one
        version and come from one table. If another table is taken up meanwhile, the look-up starts
        again.

        Args:
            space: Name of the space.
            entity: The entity that the ids belong to.
            ids: All integers or all strings, like the table's: a list, or an array of numpy,
                Arrow or pandas.
            version: Number of the version that your model was built for, an alias or 'latest'.
                None: the version in the contract of the consumer, else `prod`, else the latest.
            missing: Whether an id that the table does not hold is an error, or is left out.
            partial: Whether to leave out ids that can't be answered now, because a shard of the
                service is lost; see `LookupResult.unanswered`. Otherwise the look-up is tried
                again until `deadline`, and then fails.
            dtype: Type of the numbers, in the result and on the network.
            expect: Fingerprint of the vectors that your model was built for, or a mapping from
                entity to fingerprint. Vectors of any other build raise FingerprintError.
            progress: Called with the number of ids answered so far, and the total.

        Returns:
            The ids found, in the order of `ids`, and their vectors; unpacks as `ids, values`.

        Raises:
            NotFoundError: For an unknown id, space, entity or version.
            FingerprintError: For vectors of another build than `expect`.
            ServiceError: If the service refuses the request or cannot be reached.
        """
        call = plan(
            space, entity, ids, version=version, batch=self._batch, dtype=dtype, expect=expect,
            partial=partial,
        )  # fmt: skip
        while True:
            try:
                self._fetch(call, progress or no_progress)
                break
            except SourceChanged as changed:
                call.restart(changed)
            except FingerprintError as error:
                try:
                    described = self.space(space)
                except BackstayError:
                    described = None
                raise call.with_advice(error, described) from None
        result = call.result()
        if missing == "raise":
            result.refuse_missing(way_out='pass missing="skip"')
        return result

    def _fetch(self, call: LookupCall, progress: Callable[[int, int], None]) -> None:
        """Fetch all pages: the first one alone, then several at a time."""
        total = len(call.ids)
        done = call.take(call.first, self._send(call.request(call.first)))
        progress(done, total)
        if done == total:
            return
        stop = threading.Event()

        def fetch(page: slice) -> int:
            return call.take(page, self._send(call.request(page), stop))

        with ThreadPoolExecutor(self._concurrency) as pool:
            try:
                for count in pool.map(fetch, call.others):
                    done += count
                    progress(done, total)
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _send(self, request: Request, stop: threading.Event | None = None) -> httpx.Response:
        """Send a request until it succeeds or a retry is of no use, or `stop` is set."""
        attempts, stop = self._attempts(), stop or threading.Event()
        while True:
            try:
                outcome: httpx.Response | httpx.RequestError = self._http.request(
                    request.method,
                    request.path,
                    content=request.content,
                    headers=request.headers,
                    timeout=attempts.timeout(),
                )
            except httpx.RequestError as error:
                outcome = error
            wait = self._wait(outcome, attempts)
            if wait is None:
                return self._checked(outcome, attempts)
            if stop.wait(wait):
                raise ServiceError("the look-up was stopped.")
