"""A fair queue over any number of workers: pools of slots in Redis, decided by one Lua script on the server's clock."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tenant_middleware.admission.queue import PoolState, Slot, Ticket
from tenant_middleware.admission.queueing.batch import Batches
from tenant_middleware.admission.queueing.in_process import InProcessQueue, Place
from tenant_middleware.admission.queueing.pools import OPEN, PoolRule, Pools
from tenant_middleware.admission.queueing.signal import LoopSignal, ThreadSignal
from tenant_middleware.backends.redis.clients import Clients
from tenant_middleware.backends.redis.keeper import Keeper
from tenant_middleware.backends.redis.links import Links
from tenant_middleware.backends.redis.shared_pool import Lease, Server, SharedPool
from tenant_middleware.backends.redis.steps import Flow, Nodes, RunScript, Send, contact
from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.errors import RateLimited, StoreUnavailable
from tenant_middleware.flow import to_its_end
from tenant_middleware.policy import WhenDown
from tenant_middleware.tenant import Tenant

R = TypeVar("R")
_SCRIPT = RunScript("queue.lua", "queue_verbs.lua")
_CLOSED = WhenDown()


class RedisQueue(Batches):
    """A FairQueue on Redis or Redis Cluster (`redis+cluster://`); models that no pool names never leave the process.

    A worker that is silent for `lease` seconds loses its slots and its places in line. A server that started less than
    `grace` seconds ago hands out nothing yet: it may have forgotten calls that run. While Redis is down calls are
    refused, unless `when_down` says that a tenant's limits are degraded: then each of `workers` workers hands out its
    share of the slots.
    """

    in_process = False

    def __init__(
        self,
        url: str,
        pools: Pools,
        *,
        lease: float = 15.0,
        grace: float = 3.0,
        timeout: float = 0.25,
        when_down: Callable[[Tenant], WhenDown] | None = None,
        workers: int = 1,
        clock: Clock | None = None,
    ) -> None:
        self._url, self._rules, self._timeout = url, pools, timeout
        self._lease, self._grace = lease, grace
        self._when_down = when_down
        self._clock = clock or SystemClock()
        self._local = InProcessQueue(self._clock, Pools(_share(rule, workers) for rule in pools.rules))
        self._lock = threading.Lock()
        self._set_up()
        self._links.run(contact(self._nodes))

    def _set_up(self) -> None:
        self._process = os.getpid()
        self._worker = secrets.token_hex(6)
        self._links = Links(self._url, self._timeout)
        self._nodes = Nodes(self._links.first)
        self._server = Server(self._nodes, _SCRIPT)
        self._clients = Clients(self._url)
        self._keeper = Keeper(self._links.run, lambda: self._clients.sync, self._lease)
        self._pools: dict[str, SharedPool] = {}

    # Calls that wait; the async twin leaves the line when it is cancelled.

    def enter(self, ticket: Ticket) -> Slot:
        rule = self._rules.of(ticket.model)
        if rule.name == OPEN:
            return self._local.enter(ticket)
        rides = _rides(ticket, rule)
        lease = self._shared(rule).lease(
            replace(ticket, timeout=0.0) if rides else ticket, ThreadSignal(), time.monotonic()
        )
        try:
            return self._wait(lease, lease.pool.enter(lease))
        except RateLimited:
            if not rides:
                raise
            return Place()
        except StoreUnavailable as error:
            self._go_on_without(ticket.tenant, error)
        return self._local.enter(ticket)

    async def aenter(self, ticket: Ticket) -> Slot:
        rule = self._rules.of(ticket.model)
        if rule.name == OPEN:
            return await self._local.aenter(ticket)
        rides = _rides(ticket, rule)
        lease = self._shared(rule).lease(
            replace(ticket, timeout=0.0) if rides else ticket, LoopSignal(), time.monotonic()
        )
        try:
            return await self._await(lease, lease.pool.enter(lease))
        except RateLimited:
            if not rides:
                raise
            return Place()
        except StoreUnavailable as error:
            self._go_on_without(ticket.tenant, error)
        return await self._local.aenter(ticket)

    def park(self, ticket: Ticket, slot: Slot, seconds: float) -> Slot:
        if not isinstance(slot, Lease):
            return self._local.park(ticket, slot, seconds)
        slot.signal = ThreadSignal()
        return self._wait(slot, slot.pool.park(slot, seconds, time.monotonic()))

    async def apark(self, ticket: Ticket, slot: Slot, seconds: float) -> Slot:
        if not isinstance(slot, Lease):
            return await self._local.apark(ticket, slot, seconds)
        slot.signal = LoopSignal()
        return await self._await(slot, slot.pool.park(slot, seconds, time.monotonic()))

    def _wait(self, lease: Lease, begin: Flow[None]) -> Slot:
        signal = lease.signal
        try:
            self._links.run(begin)
            while (seconds := lease.remaining(time.monotonic())) is not None:
                assert isinstance(signal, ThreadSignal)
                signal.wait(self._clock, seconds)
        except BaseException:
            self._links.run(lease.pool.leave(lease, 0, 0))
            raise
        return lease

    async def _await(self, lease: Lease, begin: Flow[None]) -> Slot:
        signal = lease.signal
        try:
            await to_its_end(self._links.arun(begin))
            while (seconds := lease.remaining(time.monotonic())) is not None:
                assert isinstance(signal, LoopSignal)
                await signal.wait(self._clock, seconds)
        except BaseException:
            await to_its_end(self._links.arun(lease.pool.leave(lease, 0, 0)))
            raise
        return lease

    # Calls that run.

    def progress(self, slot: Slot, completion_tokens: int) -> None:
        if isinstance(slot, Lease):
            self._links.run(slot.pool.progress(slot, completion_tokens))
        else:
            self._local.progress(slot, completion_tokens)

    def leave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None:
        if isinstance(slot, Lease):
            self._links.run(slot.pool.leave(slot, prompt_tokens, completion_tokens))
        else:
            self._local.leave(slot, prompt_tokens, completion_tokens)

    async def aprogress(self, slot: Slot, completion_tokens: int) -> None:
        if isinstance(slot, Lease):
            await self._links.arun(slot.pool.progress(slot, completion_tokens))
        else:
            self._local.progress(slot, completion_tokens)

    async def aleave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None:
        if isinstance(slot, Lease):
            await self._links.arun(slot.pool.leave(slot, prompt_tokens, completion_tokens))
        else:
            self._local.leave(slot, prompt_tokens, completion_tokens)

    # For operators.

    def state(self) -> tuple[PoolState, ...]:
        """Every configured pool over all workers, then what this process keeps for itself."""
        shared = [self._links.run(self._view(rule).state()) for rule in self._rules.rules]
        return (*shared, *self._local.state())

    async def astate(self) -> tuple[PoolState, ...]:
        """`state`, by awaiting."""
        shared = [await self._links.arun(self._view(rule).state()) for rule in self._rules.rules]
        return (*shared, *self._local.state())

    def forget(self, tenant: Tenant) -> int:
        shared = [self._links.run(self._view(rule).forget(tenant.id)) for rule in self._rules.rules]
        return sum(shared) + self._local.forget(tenant)

    def close(self) -> None:
        """Give up what this worker has in the pools, and close its connections."""
        for pool in self._pools.values():
            self._quietly(pool.bye())
        self._keeper.close(lambda pool: self._quietly(self._ring(pool)))
        self._pools.clear()
        self._clients.close()
        self._links.close()

    async def aclose(self) -> None:
        """`close`, by awaiting."""
        await asyncio.to_thread(self.close)
        await self._links.aclose()

    def _ring(self, pool: SharedPool) -> Flow[None]:
        yield Send(self._nodes.of(pool.key), [("RPUSH", pool.box, ""), ("EXPIRE", pool.box, 60)])

    def _quietly(self, flow: Flow[None]) -> None:
        try:
            self._links.run(flow)
        except StoreUnavailable:
            return  # gone already; leases end what it still has of us

    # Odds.

    def _shared(self, rule: PoolRule) -> SharedPool:
        """This worker's side of a pool; a forked child is a worker of its own."""
        if self._process != os.getpid():
            self._lock = threading.Lock()
            self._set_up()
        pool = self._pools.get(rule.name)
        if pool is None:
            with self._lock:
                pool = self._pools.get(rule.name)
                if pool is None:
                    pool = self._view(rule)
                    self._keeper.keep(pool)
                    self._pools[rule.name] = pool
        return pool

    def _view(self, rule: PoolRule) -> SharedPool:
        return SharedPool(rule, self._worker, self._lease, self._server, self._keeper.wake, grace=self._grace)

    def _go_on_without(self, tenant: Tenant, error: StoreUnavailable) -> None:
        """Come back when the tenant's terms allow a share of the slots while Redis is down."""
        rule = _CLOSED if self._when_down is None else self._when_down(tenant)
        if rule.limits == "closed":
            raise error


def _rides(ticket: Ticket, rule: PoolRule) -> bool:
    """Whether a call that waits for this one has a slot of the pool to lend."""
    return isinstance(ticket.inside, Lease) and ticket.inside.pool.rule.name == rule.name


def _share(rule: PoolRule, workers: int) -> PoolRule:
    slots = max((rule.terms.slots or 1) // workers, 1)
    return replace(rule, terms=replace(rule.terms, slots=slots, reserve_slots=min(rule.terms.reserve_slots, slots - 1)))
