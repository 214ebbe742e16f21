"""Streams that end their call themselves, whatever happens to them: read out, broken, closed, cancelled, dropped."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from tenant_middleware.context import PinnedAsyncIterator
from tenant_middleware.errors import IsolationBreach
from tenant_middleware.litellm.calls import Calls, OpenCall
from tenant_middleware.litellm.output import GuardedStream
from tenant_middleware.litellm.usage import tells_usage_alone


class SettledStream:
    """An async iterator that counts what goes by, has the output guard look at it, and settles the call at its end."""

    def __init__(self, calls: Calls, open_call: OpenCall, response: Any) -> None:
        self._calls, self._open, self._response = calls, open_call, response
        self._inner: AsyncIterator[Any] = aiter(response)
        self._guarded = calls.guarded(open_call)
        self._ready: deque[Any] = deque()
        self._ended = False
        self._finalizer = weakref.finalize(self, calls.abandon, open_call, asyncio.get_running_loop())
        self._finalizer.atexit = False  # by then the tenancy is closed; the lease charges what is left

    def __aiter__(self) -> SettledStream:
        return self

    async def __anext__(self) -> Any:
        if self._guarded is None:
            return await self._next()
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            try:
                self._ready.extend(await self._cleared(self._guarded))
            except IsolationBreach as breach:
                await self._stop(breach)
                raise
        return self._ready.popleft()

    async def _cleared(self, guarded: GuardedStream) -> list[Any]:
        """What the guard lets through of the next chunk, or at the end of the rest."""
        try:
            chunk = await self._next()
        except StopAsyncIteration:
            self._ended = True
            return guarded.close()
        return guarded.push(chunk)

    async def _next(self) -> Any:
        try:
            chunk = await self._counted()
            while self._open.hides_usage and tells_usage_alone(chunk):
                chunk = await self._counted()
        except StopAsyncIteration:
            await self._calls.finish_stream(self._open, self._response)
            raise
        except BaseException as error:
            await self._calls.fail(self._open, error)
            raise
        return chunk

    async def _stop(self, breach: IsolationBreach) -> None:
        """End a stream that gives away what isn't the tenant's; nothing more of it is shown or kept."""
        self._ended = True
        await self._calls.withdraw(self._open)
        await self._calls.fail(self._open, breach)
        close = getattr(self._inner, "aclose", None)
        if close is not None:
            await close()

    async def _counted(self) -> Any:
        chunk = await anext(self._inner)
        await self._calls.chunk(self._open, chunk)
        return chunk

    async def aclose(self) -> None:
        """Close the provider's stream and settle what it has sent."""
        try:
            close = getattr(self._inner, "aclose", None)
            if close is not None:
                await close()
        finally:
            await self._calls.fail(self._open, GeneratorExit())


class TenantStream(PinnedAsyncIterator[Any]):
    """LiteLLM's stream, tied to the tenant it was made for: resumed in another tenant's scope it raises and settles.

    Everything else that LiteLLM's stream offers (`_hidden_params`, `chunks`, ...) is there.
    """

    def __init__(self, calls: Calls, open_call: OpenCall, response: Any) -> None:
        self._response = response
        super().__init__(SettledStream(calls, open_call, response))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_response"], name)
