"""One Redis URL as a sync client and as one async client for each event loop, and our errors for theirs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from importlib.resources import files
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from tenant_middleware.errors import StoreUnavailable, missing_extra

try:
    from redis import Redis, RedisError
    from redis.asyncio import Redis as AsyncRedis
    from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.cluster import RedisCluster
    from redis.exceptions import NoScriptError
    from redis.retry import Retry
except ImportError as error:
    raise missing_extra("redis", __name__) from error

T = TypeVar("T")
CLUSTER = "redis+cluster://"


class Clients:
    """Clients made from a URL, ours to close; `redis+cluster://` gives cluster clients.

    An async connection belongs to the event loop that opened it, so each loop gets a client of its own.
    """

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        self.in_cluster = url.startswith(CLUSTER)
        self._url = url.replace(CLUSTER, "redis://", 1)
        self._options: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "protocol": 2}
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    @cached_property
    def sync(self) -> Any:
        """The client for code without an event loop."""
        if self.in_cluster:
            return RedisCluster.from_url(self._url, **self._options)
        return Redis.from_url(self._url, retry=Retry(NoBackoff(), 1), **self._options)

    def here(self) -> Any:
        """The async client of the running loop."""
        loop = asyncio.get_running_loop()
        client = self._by_loop.get(loop)
        if client is None:
            client = self._by_loop[loop] = self._open_async()
        return client

    def _open_async(self) -> Any:
        if self.in_cluster:
            return AsyncRedisCluster.from_url(self._url, **self._options)
        return AsyncRedis.from_url(self._url, retry=AsyncRetry(NoBackoff(), 1), **self._options)

    def run(self, store: str, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """One call of a script; a failure is a StoreUnavailable of `store`."""
        return reach(store, lambda: script.run(self.sync, keys, args))

    async def arun(self, store: str, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """`run`, by awaiting."""
        return await areach(store, script.arun(self.here(), keys, args))

    def close(self) -> None:
        """Close the sync client; async ones are closed in their loop, by `aclose`."""
        if "sync" in self.__dict__:
            self.sync.close()

    async def aclose(self) -> None:
        """Close the sync client and the running loop's."""
        self.close()
        await self.aclose_here()

    async def aclose_here(self) -> None:
        """Close the running loop's client."""
        client = self._by_loop.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


class Script:
    """A Lua script of this folder that is sent once and called by its hash."""

    def __init__(self, name: str) -> None:
        self.source = files(__package__).joinpath(name).read_text(encoding="utf-8")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()  # Redis names scripts so

    def run(self, client: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return client.eval(self.source, len(keys), *keys, *args)

    async def arun(self, client: Any, keys: Sequence[str], args: Sequence[Any]) -> Any:
        try:
            return await client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(self.source, len(keys), *keys, *args)


def reach(store: str, call: Callable[[], T]) -> T:
    """What the call returns; what the client raises becomes StoreUnavailable.

    The client's message may hold content, so it is neither repeated nor chained.
    """
    try:
        return call()
    except (RedisError, OSError) as error:
        refusal = unavailable(store, error)
    raise refusal


async def areach(store: str, call: Awaitable[T]) -> T:
    """The async twin of `reach`."""
    try:
        return await call
    except (RedisError, OSError) as error:
        refusal = unavailable(store, error)
    raise refusal


def unavailable(store: str, error: BaseException) -> StoreUnavailable:
    """The error to raise for one of the client's."""
    kind = type(error).__name__
    return StoreUnavailable(f"the {store} in Redis can't be reached or refused ({kind}); nothing was done", store=store)
