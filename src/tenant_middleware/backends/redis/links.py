"""Connections to the nodes of one Redis: pooled for threads, and per event loop one pipeline that all its tasks share.

Calls that tasks make in one tick of the loop travel together, which almost doubles what one process gets through;
each script is atomic by itself, so nothing else is shared.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from tenant_middleware.backends.redis.clients import CLUSTER
from tenant_middleware.backends.redis.steps import Address, Command, Flow, Pause, Send, Step, unavailable
from tenant_middleware.errors import SettingsError, missing_extra
from tenant_middleware.flow import adrive, drive

try:
    from hiredis import pack_command
    from redis import ConnectionPool
    from redis.asyncio import ConnectionPool as AsyncConnectionPool
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError, ResponseError
    from redis.retry import Retry
except ImportError as error:
    raise missing_extra("redis", __name__) from error

R = TypeVar("R")
# More in one pipeline only makes the last of them wait for the first.
BATCH = 128
# While one pipeline waits for its replies, the next one is on its way.
LANES = 2


class Links:
    """Every connection behind one URL. `timeout` bounds one exchange, connecting included.

    `batch` calls at most travel together, on at most `lanes` connections of each event loop and node.
    """

    def __init__(self, url: str, timeout: float, *, batch: int = BATCH, lanes: int = LANES) -> None:
        self._url = url.replace(CLUSTER, "redis://", 1)
        self.timeout = timeout
        self.batch, self.lanes = batch, lanes
        self._pools: dict[Address, ConnectionPool] = {}
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Address, Pipeline]] = WeakKeyDictionary()
        try:
            settings = ConnectionPool.from_url(self._url).connection_kwargs
        except ValueError:
            raise SettingsError(
                "backends.admission: expected redis://HOST:PORT, rediss:// or redis+cluster://"
            ) from None
        # Unix sockets have a path; they are never part of a cluster.
        self.first: Address = (settings.get("host", settings.get("path", "localhost")), settings.get("port", 6379))

    def run(self, flow: Flow[R]) -> R:
        """Drive a flow in this thread."""
        return drive(flow, self._do)

    async def arun(self, flow: Flow[R]) -> R:
        """Drive a flow on this event loop."""
        return await adrive(flow, self._ado)

    def _do(self, step: Step) -> Any:
        try:
            if isinstance(step, Send):
                return self._exchange(*step)
            return time.sleep(step.seconds) if isinstance(step, Pause) else step.work()
        except (RedisError, OSError) as error:
            refusal = unavailable(error)
        raise refusal

    async def _ado(self, step: Step) -> Any:
        try:
            if isinstance(step, Send):
                return await self.pipeline(step.node).send(step.commands)
            return await (asyncio.sleep(step.seconds) if isinstance(step, Pause) else asyncio.to_thread(step.work))
        except (RedisError, OSError) as error:
            refusal = unavailable(error)
        raise refusal

    def _exchange(self, node: Address, commands: Sequence[Command]) -> list[Any]:
        pool = self._pool(node)
        connection = pool.get_connection()
        try:
            connection.send_packed_command([_packed(commands)], check_health=False)
            return [_reply(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # replies that nobody reads must not answer the next caller
            raise
        finally:
            pool.release(connection)

    def _pool(self, node: Address) -> ConnectionPool:
        pool = self._pools.get(node)
        if pool is None:
            pool = ConnectionPool.from_url(
                self._url,
                socket_timeout=self.timeout,
                socket_connect_timeout=self.timeout,
                retry=Retry(NoBackoff(), 0),
                protocol=2,
            )
            _aim(pool, node)
            pool = self._pools.setdefault(node, pool)
        return pool

    def pipeline(self, node: Address) -> Pipeline:
        """The running loop's pipeline to a node."""
        loop = asyncio.get_running_loop()
        pipelines = self._loops.get(loop)
        if pipelines is None:
            pipelines = self._loops[loop] = {}
        found = pipelines.get(node)
        if found is None:
            pool = AsyncConnectionPool.from_url(
                self._url,
                socket_timeout=None,  # one timeout is set around the whole exchange
                socket_connect_timeout=None,
                retry=AsyncRetry(NoBackoff(), 0),
                protocol=2,
            )
            _aim(pool, node)
            found = pipelines[node] = Pipeline(pool, self.timeout, self.batch, self.lanes)
        return found

    def close(self) -> None:
        """Close the connections of threads; those of a loop are closed in it, by `aclose`."""
        for pool in self._pools.values():
            pool.disconnect()
        self._pools.clear()

    async def aclose(self) -> None:
        """Close the connections of threads and of the running loop."""
        self.close()
        for pipeline in self._loops.pop(asyncio.get_running_loop(), {}).values():
            await pipeline.aclose()


class Pipeline:
    """One node's connections in one event loop. What is sent in one tick goes out together."""

    def __init__(self, pool: AsyncConnectionPool, timeout: float, batch: int, lanes: int) -> None:
        self._pool = pool
        self._timeout = timeout
        self._batch, self._most = batch, lanes
        # Kept here rather than in redis-py's pool, whose bookkeeping and checks cost a tenth of a call.
        self._idle: list[Any] = []
        self._waiting: deque[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._starting = False
        self._running = 0

    def send(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        """The replies to commands that no others come between."""
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((commands, future))
        if not self._starting and self._running < self._most:
            self._starting = True
            self._running += 1
            lane = asyncio.create_task(self._run())
            self._lanes.add(lane)  # the loop itself keeps no reference
            lane.add_done_callback(self._lanes.discard)
        return future

    async def _run(self) -> None:
        self._starting = False
        try:
            await self._serve()
        finally:
            # In the same step that found nothing waiting: whoever sends next must see that this lane is gone.
            self._running -= 1

    async def _serve(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            try:
                async with asyncio.timeout(self._timeout):
                    await self._exchange(batch)
            except (RedisError, OSError, TimeoutError) as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(unavailable(error))
            except BaseException:
                for _, future in batch:
                    future.cancel()
                raise

    async def _exchange(self, batch: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]]) -> None:
        connection = self._idle.pop() if self._idle else self._pool.make_connection()
        whole = False
        try:
            if not connection.is_connected:
                await connection.connect()
            packed = _packed(command for commands, _ in batch for command in commands)
            await connection.send_packed_command(packed, check_health=False)
            for commands, future in batch:
                replies = [await _areply(connection) for _ in commands]
                if not future.done():
                    future.set_result(replies)
            whole = True
        finally:
            if whole:
                self._idle.append(connection)
            else:  # replies that nobody reads must not answer the next caller; idle ones may be as dead as this one
                await self._close([connection, *self._idle])

    async def _close(self, connections: list[Any]) -> None:
        self._idle = [one for one in self._idle if one not in connections]
        for connection in connections:
            await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        for lane in list(self._lanes):
            await asyncio.wait([lane])
        await self._close(self._idle)


def _aim(pool: Any, node: Address) -> None:
    if "path" not in pool.connection_kwargs:
        pool.connection_kwargs["host"], pool.connection_kwargs["port"] = node


def _packed(commands: Iterable[Command]) -> bytes:
    # The async client packs in Python, which would be the most expensive part of a call.
    return b"".join([pack_command(tuple(command)) for command in commands])


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


async def _areply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
