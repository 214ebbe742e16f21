"""Limits and budgets of many workers on one Redis: each operation is one Lua script on the server's own clock.

Flows are written once and driven by threads or an event loop; `flow` and `links` say how they travel.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tenant_middleware import telemetry
from tenant_middleware.admission.breaker import Breaker
from tenant_middleware.admission.period import Span, span_at
from tenant_middleware.admission.store import Ask, Balance, Denied, Granted, Limits, Settlement
from tenant_middleware.backends.redis import drain, wire
from tenant_middleware.backends.redis.links import Links
from tenant_middleware.backends.redis.outage import Outage
from tenant_middleware.backends.redis.steps import (
    PAUSE,
    Elsewhere,
    Flow,
    Nodes,
    Pause,
    RunScript,
    Unreachable,
    call,
    call_again,
    commands,
    contact,
)
from tenant_middleware.clock import Clock, SystemClock
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.metering.ledger import Ledger, LedgerRow
from tenant_middleware.policy import Period, WhenDown
from tenant_middleware.tenant import Tenant

_log = logging.getLogger(__name__)
_MAX_KEYS = 10_000
# Rebuilding competes with workers that settle; each try reads what the last one missed.
_TRIES = 10
_REPLAYED_AT_ONCE = 20


class _Rebuild:
    """The rebuilding of one tenant's account, for those who wait for it."""

    over = False
    error: StoreUnavailable | None = None


class RedisAdmission:
    """An AdmissionStore on Redis or Redis Cluster (`redis+cluster://`); settled rows wait in a stream per tenant.

    `ledger` rebuilds budgets when the server has lost its memory; without one they begin at zero. `record` takes rows
    straight while Redis is down, `when_down` says per tenant whether a share of 1/`workers` decides then. A tenant that
    `is_barred` is not put on record again by a worker that knew it. `clock` replaces the server's time, for tests.
    Refuses a server whose maxmemory-policy evicts keys.
    """

    in_process = False

    def __init__(
        self,
        url: str,
        *,
        ledger: Ledger | None = None,
        record: Callable[[LedgerRow], object] | None = None,
        when_down: Callable[[Tenant], WhenDown] | None = None,
        is_barred: Callable[[str], bool] = lambda tenant_id: False,
        workers: int = 1,
        clock: Clock | None = None,
        timeout: float = 0.25,
        marker_ttl: float = 3600.0,
    ) -> None:
        self.links = Links(url, timeout)
        self.nodes = Nodes(self.links.first)
        self.breaker = Breaker()
        self._ledger = ledger
        self._clock, self._is_barred = clock, is_barred
        self._script = RunScript("admission.lua")
        self._marker_ttl = str(max(1, round(marker_ttl)))
        self._outage = Outage(clock or SystemClock(), record, when_down, workers)
        self._spans: dict[Period, Span] = {}
        self._keys: dict[str, wire.TenantKeys] = {}
        self._rebuilds: dict[str, _Rebuild] = {}
        self.links.run(contact(self.nodes))

    # What callers use: the flow, driven by this thread or this loop.

    def reserve(self, ask: Ask) -> Granted | Denied:
        return self.links.run(self._reserve(ask))

    def extend(self, ask: Ask) -> Granted | Denied:
        return self.links.run(self._extend(ask))

    def settle(self, settlement: Settlement) -> bool:
        return self.links.run(self._settle(settlement))

    def release(self, tenant: Tenant, call_id: str, limits: Limits) -> bool:
        return self.links.run(self._release(tenant, call_id, limits))

    def balance(self, tenant: Tenant, limits: Limits) -> Balance:
        return self.links.run(self._balance(tenant, limits))

    def drain(self, ledger: Ledger, *, claim_after: float = 0.0) -> int:
        """Move settled rows of all tenants into a ledger; see `backends.redis.drain`."""
        seen = tuple(tenant_id for tenant_id in tuple(self._keys) if not self._is_barred(tenant_id))
        return self.links.run(drain.drain(self.nodes, ledger, seen, claim_after=claim_after))

    def drain_in_turn(self, ledger: Ledger, *, every: float, claim_after: float = 60.0) -> int:
        """`drain`, unless another worker did in the last `every` seconds."""
        if not self.links.run(drain.may_drain(self.nodes, every)):
            return 0
        return self.drain(ledger, claim_after=claim_after)

    def forget(self, tenant: Tenant) -> int:
        """Take a tenant that left off the list of those with rows; its own keys go with its key space."""
        self._keys.pop(tenant.id, None)
        removed = commands(self.nodes, wire.REGISTRY, [("SREM", wire.REGISTRY, tenant.id)])
        return int(self.links.run(removed)[0])

    def refill(self, tenant: Tenant) -> None:
        """Fill a tenant's buckets, whatever debt they hold; its money is rebuilt from the books, its calls stay."""
        account = self._keys_of(tenant).account
        self.links.run(commands(self.nodes, account, [("DEL", account)]))

    def close(self) -> None:
        """Close the connections of threads."""
        self._finish(self.links.run)
        self.links.close()

    async def areserve(self, ask: Ask) -> Granted | Denied:
        return await self.links.arun(self._reserve(ask))

    async def aextend(self, ask: Ask) -> Granted | Denied:
        return await self.links.arun(self._extend(ask))

    async def asettle(self, settlement: Settlement) -> bool:
        return await self.links.arun(self._settle(settlement))

    async def arelease(self, tenant: Tenant, call_id: str, limits: Limits) -> bool:
        return await self.links.arun(self._release(tenant, call_id, limits))

    async def abalance(self, tenant: Tenant, limits: Limits) -> Balance:
        return await self.links.arun(self._balance(tenant, limits))

    async def aclose(self) -> None:
        """Close the connections of threads and of the running loop."""
        if self._outage.waiting:
            try:
                await self.links.arun(self._replay())
            except StoreUnavailable as error:
                self._left_behind(error)
        await self.links.aclose()

    def _finish(self, run: Callable[[Flow[None]], None]) -> None:
        if self._outage.waiting:
            try:
                run(self._replay())
            except StoreUnavailable as error:
                self._left_behind(error)

    def _left_behind(self, error: StoreUnavailable) -> None:
        _log.error(
            "%d settled calls could not be told to Redis; their rows are booked, their reservations expire: %s",
            len(self._outage.waiting),
            error,
        )

    # The flows.

    def _reserve(self, ask: Ask) -> Flow[Granted | Denied]:
        try:
            reply = yield from self._ask("reserve", ask)
        except Unreachable as error:
            return self._outage.reserve(ask, error)
        answer = wire.answer(reply)
        self._outage.know(ask.tenant, ask.limits, answer)
        return answer

    def _extend(self, ask: Ask) -> Flow[Granted | Denied]:
        try:
            reply = yield from self._ask("extend", ask)
        except Unreachable as error:
            return self._outage.extend(ask, error)
        return wire.answer(reply)

    def _ask(self, op: str, ask: Ask) -> Flow[Any]:
        rest = [*wire.limit_args(ask.limits), *wire.ask_args(ask)]
        return (yield from self._decide(op, ask.tenant, ask.call_id, ask.limits, rest))

    def _settle(self, settlement: Settlement) -> Flow[bool]:
        try:
            done = yield from self._tell(settlement)
        except Unreachable as error:
            return self._outage.settle(settlement, error)
        self._outage.settled_locally(settlement)
        return done

    def _tell(self, settlement: Settlement) -> Flow[bool]:
        tenant, call_id, limits, _, _, _ = settlement
        reply = yield from self._decide("settle", tenant, call_id, limits, self._truth(settlement))
        return bool(reply[0] != b"N")

    def _truth(self, settlement: Settlement) -> list[str]:
        _, _, limits, tokens, nano, row = settlement
        return [*wire.limit_args(limits), str(tokens), str(nano), self._marker_ttl, wire.pack_row(row)]

    def _release(self, tenant: Tenant, call_id: str, limits: Limits) -> Flow[bool]:
        try:
            rest = [*wire.limit_args(limits), "0", "0", self._marker_ttl]
            reply = yield from self._decide("release", tenant, call_id, limits, rest)
        except Unreachable:
            return self._outage.release(tenant, call_id, limits)
        self._outage.settled_locally(Settlement(tenant, call_id, limits, 0, 0, None))
        return bool(reply[0] == b"Y")

    def _balance(self, tenant: Tenant, limits: Limits) -> Flow[Balance]:
        try:
            reply = yield from self._decide("balance", tenant, "", limits, wire.limit_args(limits))
        except Unreachable as error:
            return self._outage.balance(tenant, limits, error)
        return wire.balance(reply)

    def _decide(self, op: str, tenant: Tenant, call_id: str, limits: Limits, rest: list[str]) -> Flow[Any]:
        """One operation through the breaker; what Redis must be told from an outage goes first."""
        now = time.monotonic()
        if not self.breaker.allows(now):
            raise Unreachable("limits and budgets in Redis are down", slow=False)
        try:
            if self._outage.waiting:
                yield from self._replay()
            reply = yield from self._once(op, tenant, call_id, limits, rest)
        except Unreachable as error:
            if self.breaker.failed(time.monotonic(), slow=error.slow):
                telemetry.store_down("admission")
                _log.error("%s; calls stop waiting for it", error)
            raise
        self.breaker.worked()
        return reply

    def _replay(self) -> Flow[None]:
        waiting = self._outage.waiting
        for _ in range(_REPLAYED_AT_ONCE):
            try:
                settlement = waiting.popleft()
            except IndexError:
                self._outage.over()
                return
            try:
                tenant, call_id, limits, _, _, _ = settlement
                yield from self._once("settle", tenant, call_id, limits, self._truth(settlement))
            except BaseException:
                waiting.appendleft(settlement)
                raise

    def _once(self, op: str, tenant: Tenant, call_id: str, limits: Limits, rest: list[str]) -> Flow[Any]:
        """One operation, sent again with the period of the server's time, or after rebuilding the tenant's account."""
        names = self._keys_of(tenant).for_call(call_id)
        for _ in range(_TRIES):
            args = [*wire.head(op, self._now(), call_id, self._span(limits.period)), *rest]
            reply = yield from call_again(self.nodes, self._script, names, args)
            if reply[0] == b"P":
                self._spans[limits.period] = span_at(float(reply[1]), limits.period)
            elif reply[0] == b"U":
                yield from self._rebuild_once(tenant, limits)
            else:
                return reply
        raise StoreUnavailable("the tenant's budget could not be rebuilt", store="admission", retry_after=1.0)

    def _rebuild_once(self, tenant: Tenant, limits: Limits) -> Flow[None]:
        """Rebuild, or wait for the call of this process that is at it: a crowd must not read the ledger all at once."""
        mine = _Rebuild()
        running = self._rebuilds.setdefault(tenant.id, mine)
        while running is not mine and not running.over:
            yield Pause(PAUSE)
        if running is not mine:
            if running.error is not None:
                raise running.error
            return
        try:
            yield from self._rebuild(tenant, limits)
        except StoreUnavailable as error:
            mine.error = error
            raise
        finally:
            mine.over = True
            self._rebuilds.pop(tenant.id, None)

    def _rebuild(self, tenant: Tenant, limits: Limits) -> Flow[None]:
        """Make the account from the books: rows that wait in the stream are written first, then the sum is taken."""
        names, span, ledger = self._keys_of(tenant), self._span(limits.period), self._ledger
        yield from commands(self.nodes, wire.REGISTRY, [("SADD", wire.REGISTRY, tenant.id)])
        for _ in range(_TRIES):
            args = wire.head("written", self._now(), "", span)
            _, last, added = yield from call(self.nodes, self._script, names.for_call(""), args)
            rows = yield from drain.peek(self.nodes, names.outbox)
            spent = 0
            if ledger is not None:
                spent = yield Elsewhere(partial(_booked, ledger, tenant, rows, span))
            args = [*wire.head("seed", self._now(), "", span), str(spent), last.decode(), str(added)]
            reply = yield from call(self.nodes, self._script, names.for_call(""), args)
            if reply[0] == b"Y":
                return
        raise StoreUnavailable("the tenant's rows came faster than they could be read", store="admission")

    def _now(self) -> str:
        return "" if self._clock is None else repr(self._clock.time())

    def _span(self, kind: Period) -> Span:
        span = self._spans.get(kind)
        if span is None:  # a first guess; the server says when it is wrong
            now = time.time() if self._clock is None else self._clock.time()
            span = self._spans[kind] = span_at(now, kind)
        return span

    def _keys_of(self, tenant: Tenant) -> wire.TenantKeys:
        found = self._keys.get(tenant.id)
        if found is None:
            if len(self._keys) >= _MAX_KEYS:
                self._keys.pop(next(iter(self._keys)), None)
            found = self._keys[tenant.id] = wire.TenantKeys.of(tenant)
        return found


def _booked(ledger: Ledger, tenant: Tenant, rows: list[LedgerRow], span: Span) -> int:
    if rows:
        ledger.write(rows)
    return ledger.spent_nano(tenant.id, since=span.start)
