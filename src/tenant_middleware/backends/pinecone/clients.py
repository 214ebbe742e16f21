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

from pinecone import AsyncPinecone, Pinecone
from pinecone.errors import PineconeError, PineconeTimeoutError

from tenant_middleware.backends.pinecone import wire
from tenant_middleware.backends.pinecone.steps import Ask, Flow, Sleep
from tenant_middleware.clock import Clock
from tenant_middleware.errors import TenancyError

R = TypeVar("R")
WORKERS = 32


class Clients:
    """SDK clients for plain calls: shared by threads, one for each project key and host."""

    def __init__(self, controller: str | None, deadline: float, clock: Clock) -> None:
        self._controller, self._deadline, self._clock = controller, deadline, clock
        self._lock = threading.Lock()
        self._projects: dict[str, Pinecone] = {}
        self._indexes: dict[tuple[str, str], Any] = {}
        self._pool: ThreadPoolExecutor | None = None

    def run(self, flow: Flow[R]) -> R:
        """Drive a flow by plain calls; the SDK's errors leave as ours, without their text."""
        try:
            op = next(flow)
            while True:
                result, failed = None, None
                try:
                    if isinstance(op, Sleep):
                        self._clock.sleep(op.seconds)
                    else:
                        result = self._call(op)
                except PineconeError as error:
                    failed = error
                op = flow.send(result) if failed is None else flow.throw(failed)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's return value is untyped here
        except PineconeError as error:
            refusal: TenancyError = wire.ours(error)
        raise refusal  # outside every handler: the service's text may quote values, and would come along

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


class _Loop:
    """The clients of one event loop."""

    def __init__(self) -> None:
        self.projects: dict[str, AsyncPinecone] = {}
        self.indexes: dict[tuple[str, str], Any] = {}


class AsyncClients:
    """SDK clients for awaiting. Their connections belong to the loop they were made in, so each loop has its own."""

    def __init__(self, controller: str | None, deadline: float, clock: Clock) -> None:
        self._controller, self._deadline, self._clock = controller, deadline, clock
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()

    async def run(self, flow: Flow[R]) -> R:
        """Drive a flow by awaiting; the SDK's errors leave as ours, without their text."""
        try:
            op = next(flow)
            while True:
                result, failed = None, None
                try:
                    if isinstance(op, Sleep):
                        await self._clock.asleep(op.seconds)
                    else:
                        result = await self._call(op)
                except PineconeError as error:
                    failed = error
                op = flow.send(result) if failed is None else flow.throw(failed)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's return value is untyped here
        except PineconeError as error:
            refusal: TenancyError = wire.ours(error)
        raise refusal  # outside every handler: the service's text may quote values, and would come along

    async def _call(self, ask: Ask) -> Any:
        try:
            async with asyncio.timeout(self._deadline):
                method = await self._method(ask)
                return await method(**ask.options)
        except TimeoutError as error:
            if isinstance(error, PineconeError):
                raise
            raise PineconeTimeoutError("deadline") from None

    async def _method(self, ask: Ask) -> Callable[..., Coroutine[Any, Any, Any]]:
        mine = self._loops.setdefault(asyncio.get_running_loop(), _Loop())
        project = mine.projects.get(ask.key)
        if project is None:
            project = mine.projects[ask.key] = AsyncPinecone(
                api_key=ask.key, host=self._controller, timeout=self._deadline
            )
        if ask.host is None:
            return getattr(project.indexes, ask.name)  # type: ignore[no-any-return]  # by name
        index = mine.indexes.get((ask.key, ask.host))
        if index is None:
            index = mine.indexes[ask.key, ask.host] = await project.index(host=ask.host)
        return getattr(index, ask.name)  # type: ignore[no-any-return]  # by name

    async def close(self) -> None:
        """Close the running loop's clients; those of loops that ended went with them."""
        mine = self._loops.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            for client in (*mine.indexes.values(), *mine.projects.values()):
                await client.close()
