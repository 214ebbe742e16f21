"""Runs the flows on the SDK's clients: plainly in worker threads with a deadline, or by awaiting, one client per loop.

The SDK tries four times, each with a timeout of its own, and honours Retry-After up to a minute. Its retries can't be
set for the data plane, so the deadline is ours and goes around all of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec
from pinecone import (
    AsyncPinecone,
    DescribeIndexStatsResponse,
    FetchByMetadataResponse,
    FetchResponse,
    IndexModel,
    ListResponse,
    NamespaceDescription,
    Pinecone,
    QueryResponse,
    UpsertResponse,
)
from pinecone.errors import PineconeConnectionError, PineconeError, PineconeTimeoutError

from tenant_middleware.backends.pinecone import wire
from tenant_middleware.backends.pinecone.steps import Ask, Flow, Sleep
from tenant_middleware.clock import Clock
from tenant_middleware.errors import TenancyError
from tenant_middleware.flow import adrive, drive
from tenant_middleware.forks import heed_forks

R = TypeVar("R")
WORKERS = 32
# What the SDK's answers are read into. msgspec (0.22) finds out what a type holds when it is first read into, and two
# threads that begin at the same time crash the process; so it finds out here, while nothing else runs.
ANSWERS = (
    DescribeIndexStatsResponse,
    FetchByMetadataResponse,
    FetchResponse,
    IndexModel,
    ListResponse,
    NamespaceDescription,
    QueryResponse,
    UpsertResponse,
)
for _answer in ANSWERS:
    msgspec.json.Decoder(_answer)


class Clients:
    """SDK clients for plain calls: shared by threads, one for each project key and host."""

    def __init__(self, controller: str | None, deadline: float, clock: Clock) -> None:
        self._controller, self._deadline, self._clock = controller, deadline, clock
        self.forked()
        heed_forks(self)

    def forked(self) -> None:
        """Without a client, also in a forked child: on its parent's connections it would read its parent's answers."""
        self._lock = threading.Lock()
        self._projects: dict[str, Pinecone] = {}
        self._indexes: dict[tuple[str, str], Any] = {}
        self._pool: ThreadPoolExecutor | None = None

    def run(self, flow: Flow[R]) -> R:
        """Drive a flow by plain calls; the SDK's errors leave as ours, without their text."""
        try:
            return drive(flow, self._do)
        except PineconeError as error:
            refusal: TenancyError = wire.ours(error)
        raise refusal  # outside every handler: the service's text may quote values, and would come along

    def _do(self, step: Ask | Sleep) -> Any:
        return self._clock.sleep(step.seconds) if isinstance(step, Sleep) else self._call(step)

    def _call(self, ask: Ask) -> Any:
        method = self._method(ask)
        pool = self._workers()
        done = pool.submit(copy_context().run, lambda: method(**ask.options))
        try:
            return done.result(self._deadline)
        except TimeoutError as error:
            if isinstance(error, PineconeError):
                raise
            done.cancel()
            raise PineconeTimeoutError("deadline") from None

    def _method(self, ask: Ask) -> Callable[..., Any]:
        with self._lock:
            project = self._projects.get(ask.key)
            if project is None:
                project = self._projects[ask.key] = Pinecone(
                    api_key=ask.key, host=self._controller, timeout=self._deadline
                )
            if ask.host is None:
                return getattr(project.indexes, ask.name)  # type: ignore[no-any-return]  # by name
            index = self._indexes.get((ask.key, ask.host))
            if index is None:
                index = self._indexes[ask.key, ask.host] = project.index(host=ask.host)
        return getattr(index, ask.name)  # type: ignore[no-any-return]  # by name

    def _workers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="tenant-middleware-pinecone")
            return self._pool

    def close(self) -> None:
        """Close every client; calls that a deadline gave up on end by themselves."""
        with self._lock:
            for client in (*self._indexes.values(), *self._projects.values()):
                client.close()
            self._indexes.clear()
            self._projects.clear()
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = None


class _Client:
    """One of the SDK's clients. Taken out of use it closes after the last call that is under way on it."""

    def __init__(self, sdk: Any) -> None:
        self.sdk = sdk
        self.calls, self.retired = 0, False


class _Loop:
    """One event loop's clients, by project key and host, and the calls under way."""

    def __init__(self) -> None:
        self.clients: dict[tuple[str, str | None], _Client] = {}
        self.calls: set[asyncio.Task[Any]] = set()

    def start(self, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(call)
        self.calls.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.calls.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: whoever asked may have been cancelled


class AsyncClients:
    """SDK clients for awaiting. Their connections belong to the loop they were made in, so each loop has its own.

    The SDK's connection pool (httpcore 1.0) loses a connection for good when a request on it is cancelled at the wrong
    moment, and after twenty of them every call waits for its deadline. So a caller's cancellation leaves the request to
    end by itself, within the deadline, and a client that a deadline did cut off is not used again.
    """

    def __init__(self, controller: str | None, deadline: float, clock: Clock) -> None:
        self._controller, self._deadline, self._clock = controller, deadline, clock
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()

    async def run(self, flow: Flow[R]) -> R:
        """Drive a flow by awaiting; the SDK's errors leave as ours, without their text."""
        try:
            return await adrive(flow, self._do)
        except PineconeError as error:
            refusal: TenancyError = wire.ours(error)
        raise refusal  # outside every handler: the service's text may quote values, and would come along

    async def _do(self, step: Ask | Sleep) -> Any:
        return await (self._clock.asleep(step.seconds) if isinstance(step, Sleep) else self._call(step))

    async def _call(self, ask: Ask) -> Any:
        mine = self._loops.setdefault(asyncio.get_running_loop(), _Loop())
        call = mine.start(self._within_deadline(mine, ask))
        await asyncio.wait((call,))  # unlike awaiting the call itself, it doesn't pass a cancellation on
        if call.cancelled():
            raise PineconeConnectionError("closed")
        return call.result()

    async def _within_deadline(self, mine: _Loop, ask: Ask) -> Any:
        client = await self._client(mine, ask.key, ask.host)
        client.calls += 1
        try:
            async with asyncio.timeout(self._deadline):
                target = client.sdk if ask.host else client.sdk.indexes
                return await getattr(target, ask.name)(**ask.options)
        except TimeoutError as error:
            if isinstance(error, PineconeError):
                raise
            client.retired = True
            if mine.clients.get((ask.key, ask.host)) is client:
                del mine.clients[ask.key, ask.host]
            raise PineconeTimeoutError("deadline") from None
        finally:
            client.calls -= 1
            if client.retired and not client.calls:
                await client.sdk.close()

    async def _client(self, mine: _Loop, key: str, host: str | None) -> _Client:
        found = mine.clients.get((key, host))
        if found is None:
            sdk: Any
            if host is None:
                sdk = AsyncPinecone(api_key=key, host=self._controller, timeout=self._deadline)
            else:
                sdk = await (await self._client(mine, key, None)).sdk.index(host=host)  # a host: no look-up, no wait
            found = mine.clients[key, host] = _Client(sdk)
        return found

    async def close(self) -> None:
        """Close the running loop's clients and end what is under way; those of loops that ended went with them."""
        mine = self._loops.pop(asyncio.get_running_loop(), None)
        if mine is None:
            return
        for call in mine.calls:
            call.cancel()
        if mine.calls:
            await asyncio.wait(mine.calls)
        for client in mine.clients.values():
            await client.sdk.close()
