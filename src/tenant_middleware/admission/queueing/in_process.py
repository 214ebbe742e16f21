"""A fair queue inside one process: threads and event loops draw from the same pools."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from tenant_middleware.admission.queue import PoolState, Slot, Ticket
from tenant_middleware.admission.queueing.batch import Batches
from tenant_middleware.admission.queueing.lane import Job, State
from tenant_middleware.admission.queueing.order import Order
from tenant_middleware.admission.queueing.pool import Pool
from tenant_middleware.admission.queueing.pools import ORDERS, Pools
from tenant_middleware.admission.queueing.refusals import line_full, retry_in, too_late
from tenant_middleware.admission.queueing.signal import LoopSignal, Signal, ThreadSignal
from tenant_middleware.admission.queueing.state import state_of
from tenant_middleware.clock import Clock
from tenant_middleware.errors import InvalidInput, RateLimited
from tenant_middleware.tenant import Tenant

_FAR = 3600.0  # nobody sleeps longer without looking up


@dataclass(slots=True, eq=False)
class Place:
    """A slot; without a job no books are kept of it: one of an endless pool, or lent by the call around it."""

    waited: float = 0.0
    probe: bool = False
    pool: Pool | None = None
    job: Job | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    ticket: Ticket
    pool: Pool
    job: Job
    signal: Signal
    waited: float
    since: float
    until: float


class InProcessQueue(Batches):
    """A FairQueue for asyncio and threads at once; with no pools it never waits, except for denied calls.

    One waiting caller at a time keeps watch over what happens by itself (a parked tenant's return, a call past its
    `max_runtime`); there is no thread and no task of the queue's own.
    """

    in_process = True

    def __init__(self, clock: Clock, pools: Pools | None = None) -> None:
        self._clock = clock
        self._rules = pools if pools is not None else Pools()
        self._pools: dict[str, Pool] = {}
        self._lock = threading.Lock()
        self._waiters: dict[Job, _Waiter] = {}
        self._watch: _Waiter | None = None
        self._looks_at = 0.0
        self._latest = 0.0
        self._set_back = 0.0

    # The protocol.

    def enter(self, ticket: Ticket) -> Slot:
        with self._lock:
            entered = self._enter(ticket)
            if isinstance(entered, Place):
                return entered
            signal = ThreadSignal()
            waiter = self._waiter(ticket, entered, signal, 0.0)
        return self._wait(waiter, signal)

    async def aenter(self, ticket: Ticket) -> Slot:
        with self._lock:
            entered = self._enter(ticket)
            if isinstance(entered, Place):
                return entered
            signal = LoopSignal()
            waiter = self._waiter(ticket, entered, signal, 0.0)
        return await self._await(waiter, signal)

    def park(self, ticket: Ticket, slot: Slot, seconds: float) -> Slot:
        place = _place(slot)
        with self._lock:
            job, signal = self._step_aside(ticket, place, seconds), ThreadSignal()
            waiter = self._waiter(ticket, job, signal, place.waited)
        return self._wait(waiter, signal)

    async def apark(self, ticket: Ticket, slot: Slot, seconds: float) -> Slot:
        place = _place(slot)
        with self._lock:
            job, signal = self._step_aside(ticket, place, seconds), LoopSignal()
            waiter = self._waiter(ticket, job, signal, place.waited)
        return await self._await(waiter, signal)

    def progress(self, slot: Slot, completion_tokens: int) -> None:
        place = _place(slot)
        if place.pool is None or place.job is None:
            return
        with self._lock:
            place.pool.progress(place.job, completion_tokens, self._now())
            self._dispatch(place.pool)

    def leave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None:
        place = _place(slot)
        if place.pool is None or place.job is None:
            return
        with self._lock:
            place.pool.done(place.job, prompt_tokens, completion_tokens, self._now())
            self._dispatch(place.pool)

    def forget(self, tenant: Tenant) -> int:
        with self._lock:
            return sum(pool.forget(tenant.id) for pool in self._pools.values())

    def close(self) -> None:
        """Nothing is open."""

    async def aprogress(self, slot: Slot, completion_tokens: int) -> None:
        self.progress(slot, completion_tokens)

    async def aleave(self, slot: Slot, prompt_tokens: int, completion_tokens: int) -> None:
        self.leave(slot, prompt_tokens, completion_tokens)

    async def aclose(self) -> None:
        """Nothing is open."""

    # For operators.

    def state(self) -> tuple[PoolState, ...]:
        """Every pool that was used, as it is now."""
        with self._lock:
            now = self._now()
            return tuple(state_of(name, pool, now) for name, pool in self._pools.items())

    async def astate(self) -> tuple[PoolState, ...]:
        """`state`; it only computes."""
        return self.state()

    # Entering; all of it under the lock.

    def _enter(self, ticket: Ticket) -> Place | Job:
        """A slot at once when it is this call's turn, else its place in line; refused when it may not wait."""
        pool, tenant_id = self._pool(ticket.model), ticket.tenant.id
        if pool.terms.slots is None and not pool.knows(tenant_id):
            return Place()
        now, rides = self._now(), isinstance(ticket.inside, Place) and ticket.inside.pool is pool
        if pool.full(tenant_id):
            if rides:
                return Place()
            length, most = pool.length(tenant_id), pool.terms.caps.max_length
            raise line_full(ticket, length, most, self._retry_after(ticket, pool, pool.oldest_wait(tenant_id, now)))
        job = _job(ticket)
        pool.push(job, now)
        self._dispatch(pool)
        if job.state is State.RUNNING:
            return Place(0.0, job.probe, pool, job)
        if rides or ticket.timeout <= 0:
            pool.cancel(job, now)
            if rides:
                return Place()
            raise self._late(ticket, pool, 0.0)
        return job

    def _step_aside(self, ticket: Ticket, place: Place, seconds: float) -> Job:
        """Back in line after a denial; a call of an endless pool gets books now, and so does one that was overdue."""
        pool, job, now = self._pool(ticket.model), place.job, self._now()
        if job is not None and job.state is State.RUNNING:
            pool.park(job, now + seconds, now)
        else:
            if job is not None:
                pool.done(job, 0, 0, now)
            job = _job(ticket)
            pool.push(job, now)
            pool.set_aside(ticket.tenant.id, now + seconds, now)
        self._dispatch(pool)
        return job

    def _waiter(self, ticket: Ticket, job: Job, signal: Signal, waited: float) -> _Waiter:
        pool, now = self._pool(ticket.model), self._now()
        patience = min(ticket.timeout, pool.terms.caps.max_age or ticket.timeout) - waited
        waiter = self._waiters[job] = _Waiter(ticket, pool, job, signal, waited, now, now + patience)
        return waiter

    # Waiting, twice over.

    def _wait(self, waiter: _Waiter, signal: ThreadSignal) -> Slot:
        try:
            while (seconds := self._look(waiter)) is not None:
                signal.wait(self._clock, seconds)
        except BaseException:
            self._give_up(waiter)
            raise
        return self._seated(waiter)

    async def _await(self, waiter: _Waiter, signal: LoopSignal) -> Slot:
        try:
            while (seconds := self._look(waiter)) is not None:
                await signal.wait(self._clock, seconds)
        except BaseException:
            self._give_up(waiter)
            raise
        return self._seated(waiter)

    def _look(self, waiter: _Waiter) -> float | None:
        """How long to wait before looking again; None when the slot is there. Raises when it is too late."""
        with self._lock:
            self._dispatch(waiter.pool)
            if waiter.job.state is not State.QUEUED:
                return None
            now = self._now()
            if now >= waiter.until:
                raise self._late(waiter.ticket, waiter.pool, now - waiter.since + waiter.waited)
            until = min(waiter.until, now + _FAR)
            if self._watch is None or self._watch is waiter:
                events = [event for pool in self._pools.values() if (event := pool.next_event()) is not None]
                until = min([until, *events])
                self._watch, self._looks_at = waiter, until
            return max(until - now, 0.0)

    def _seated(self, waiter: _Waiter) -> Place:
        with self._lock:
            self._forget(waiter)
            waited = waiter.waited + max(self._now() - waiter.since, 0.0)
            return Place(waited, waiter.job.probe, waiter.pool, waiter.job)

    def _give_up(self, waiter: _Waiter) -> None:
        """Cancelled or too late: out of the line, or back with the slot that came meanwhile."""
        with self._lock:
            self._forget(waiter)
            now = self._now()
            if not waiter.pool.cancel(waiter.job, now):
                waiter.pool.done(waiter.job, 0, 0, now)
            self._dispatch(waiter.pool)

    def _forget(self, waiter: _Waiter) -> None:
        self._waiters.pop(waiter.job, None)
        if self._watch is waiter:
            self._watch = None
            for other in self._waiters.values():
                other.signal.set()
                break

    def _dispatch(self, pool: Pool) -> None:
        """Start what may start, and wake who waits for it."""
        now = self._now()
        pool.overdue(now)
        while (job := pool.pop(now)) is not None:
            if (waiter := self._waiters.get(job)) is not None:
                waiter.signal.set()
        if self._watch is not None and (event := pool.next_event()) is not None and event < self._looks_at:
            self._looks_at = event
            self._watch.signal.set()

    # Odds.

    def _pool(self, model: str) -> Pool:
        rule = self._rules.of(model)
        pool = self._pools.get(rule.name)
        if pool is None:
            order: Order = ORDERS[rule.order]()
            pool = self._pools[rule.name] = Pool(rule.terms, order)
        return pool

    def _now(self) -> float:
        """The clock's time, going on where it was when somebody sets the clock back."""
        now = self._clock.time() + self._set_back
        if now < self._latest:
            self._set_back += self._latest - now
            now = self._latest
        self._latest = now
        return now

    def _late(self, ticket: Ticket, pool: Pool, waited: float) -> RateLimited:
        return too_late(ticket, waited, self._retry_after(ticket, pool, waited))

    def _retry_after(self, ticket: Ticket, pool: Pool, waited: float) -> float:
        parked = pool.parked_until(ticket.tenant.id)
        return retry_in(waited, 0.0 if parked is None else parked - self._now())


def _job(ticket: Ticket) -> Job:
    return Job(ticket.tenant.id, ticket.model, ticket.prompt_tokens, ticket.max_output, ticket.weight)


def _place(slot: Slot) -> Place:
    if not isinstance(slot, Place):
        raise InvalidInput(f"expected a slot of this queue, got {type(slot).__name__}")
    return slot
