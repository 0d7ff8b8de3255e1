"""The asynchronous client of the look-up service."""

from collections.abc import Callable
from typing import Literal, Self

import anyio
import httpx
import numpy as np
import numpy.typing as npt

from backstay.errors import BackstayError, FingerprintError
from backstay.serving.client.base import BaseClient, HttpOptions
from backstay.serving.client.ids import Ids
from backstay.serving.client.pages import Expected, LookupCall, no_progress, plan
from backstay.serving.client.request import SPACES, Request, SourceChanged, space_request
from backstay.serving.client.result import LookupResult
from backstay.serving.description import SpaceDescription


class AsyncClient(BaseClient[httpx.AsyncBaseTransport]):
    """`Client` for asyncio: the same options, and the same methods with `await`."""

    _http: httpx.AsyncClient

    def _open(self, transport: httpx.AsyncBaseTransport | None, options: HttpOptions) -> None:
        self._http = httpx.AsyncClient(transport=transport, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def spaces(self) -> list[str]:
        """The names of the served spaces."""
        return list((await self._send(SPACES)).json()["spaces"])

    async def space(self, name: str) -> SpaceDescription:
        """See `Client.space`."""
        described: SpaceDescription = (await self._send(space_request(name))).json()
        return described

    async def vector(
        self,
        space: str,
        entity: str,
        id_: int | str,
        version: int | str | None = None,
        *,
        expect: Expected | None = None,
    ) -> npt.NDArray[np.float32]:
        """See `Client.vector`."""
        found = await self.lookup(space, entity, np.array([id_], object), version, expect=expect)
        vector: npt.NDArray[np.float32] = found.values[0]
        return vector

    async def lookup(
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
        """See `Client.lookup`."""
        call = plan(
            space, entity, ids, version=version, batch=self._batch, dtype=dtype, expect=expect,
            partial=partial,
        )  # fmt: skip
        while True:
            try:
                await self._fetch(call, progress or no_progress)
                break
            except SourceChanged as changed:
                call.restart(changed)
            except FingerprintError as error:
                try:
                    described = await self.space(space)
                except BackstayError:
                    described = None
                raise call.with_advice(error, described) from None
        result = call.result()
        if missing == "raise":
            result.refuse_missing(way_out='pass missing="skip"')
        return result

    async def _fetch(self, call: LookupCall, progress: Callable[[int, int], None]) -> None:
        """Fetch all pages: the first one alone, then several at a time."""
        total = len(call.ids)
        done = call.take(call.first, await self._send(call.request(call.first)))
        progress(done, total)
        pages = iter(call.others)

        async def fetch_some() -> None:
            nonlocal done
            for page in pages:
                count = call.take(page, await self._send(call.request(page)))
                done += count  # not before the line above: other pages count while it waits
                progress(done, total)

        try:
            async with anyio.create_task_group() as group:
                for _ in range(min(self._concurrency, len(call.others))):
                    group.start_soon(fetch_some)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _send(self, request: Request) -> httpx.Response:
        """Send a request until it succeeds or a retry is of no use."""
        attempts = self._attempts()
        while True:
            try:
                outcome: httpx.Response | httpx.RequestError = await self._http.request(
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
            await anyio.sleep(wait)
