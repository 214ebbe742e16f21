"""The store on a Redis Cluster of three masters: the contract, draining, and a slot that moves under load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis
from redis.crc import key_slot

from tenant_middleware.admission.store import AdmissionStore
from tenant_middleware.backends.in_memory.ledger import InMemoryLedger
from tenant_middleware.backends.redis import wire
from tenant_middleware.backends.redis.admission import RedisAdmission
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.admission import ACME, FREE, AdmissionContract, ask, granted, settlement

pytestmark = pytest.mark.services


@pytest.fixture
def nodes(cluster: str) -> Iterator[list[Redis]]:
    """A plain client for each master, all of them empty."""
    with Redis.from_url(cluster) as seed:
        found = [Redis.from_url(f"redis://{place.split('@')[0]}") for place in seed.cluster("nodes")]
    for node in found:
        node.flushall()
    yield found
    for node in found:
        node.close()


def url_of(cluster: str) -> str:
    return cluster.replace("redis://", "redis+cluster://")


class TestRedisClusterAdmission(AdmissionContract):
    @pytest.fixture
    def store(self, clock: ManualClock, cluster: str, nodes: list[Redis]) -> Iterator[AdmissionStore]:
        store = RedisAdmission(url_of(cluster), clock=clock, timeout=5.0)
        yield store
        store.close()

    @pytest.fixture
    def booked(self, store: RedisAdmission) -> Callable[[], Sequence[LedgerRow]]:
        ledger = InMemoryLedger()

        def drained() -> Sequence[LedgerRow]:
            store.drain(ledger)
            return ledger.rows()

        return drained


def test_a_worker_that_has_seen_no_tenant_drains_them_all(cluster: str, nodes: list[Redis]) -> None:
    tenants = [Tenant(f"tenant-{number}", "free") for number in range(30)]
    worker, drainer = (RedisAdmission(url_of(cluster), timeout=5.0) for _ in range(2))
    for tenant in tenants:
        held = ask(tenant)
        granted(worker.reserve(held))
        worker.settle(settlement(held))
    owners = {key_slot(wire.TenantKeys.of(tenant).outbox.encode()) * 3 // 16_384 for tenant in tenants}
    assert owners == {0, 1, 2}
    ledger = InMemoryLedger()
    assert drainer.drain(ledger) == 30
    assert set(ledger.totals("tenant")) == {tenant.id for tenant in tenants}
    worker.close(), drainer.close()


async def test_a_slot_that_moves_under_load_reaches_no_caller_and_loses_nothing(
    cluster: str, nodes: list[Redis]
) -> None:
    """Four times, first to a server that has never seen the script; every call is counted to the nano-dollar."""
    limits, ledger = replace(FREE, budget_nano=10**12), InMemoryLedger()
    store = RedisAdmission(url_of(cluster), ledger=ledger, timeout=5.0)
    slot = key_slot(wire.TenantKeys.of(ACME).account.encode())
    for node in nodes:
        node.script_flush()
    served, moved, seen = 0, asyncio.Event(), set()
    done: asyncio.Queue[None] = asyncio.Queue()

    async def caller() -> None:
        nonlocal served
        while not moved.is_set():
            held = ask(limits=limits)
            granted(await store.areserve(held))
            assert await store.asettle(settlement(held))
            seen.add(store.nodes.slots.get(slot))
            served += 1
            done.put_nowait(None)

    async def mover() -> None:
        for _ in range(4):
            await asyncio.to_thread(move, nodes, slot)
            while not done.empty():
                done.get_nowait()
            for _ in range(50):  # nobody goes on while it can't be served where it is now
                await done.get()
        moved.set()

    async with asyncio.timeout(60):
        await asyncio.gather(mover(), *(caller() for _ in range(16)))
    assert len(seen - {None}) == 3
    balance = await store.abalance(ACME, limits)
    assert (balance.spent_nano, balance.reserved_nano, balance.in_flight) == (200 * served, 0, 0)
    await asyncio.to_thread(store.drain, ledger)
    assert (ledger.totals().calls, ledger.totals().cost_nano) == (served, 200 * served)
    await store.aclose()


def move(nodes: list[Redis], slot: int) -> None:
    """Move a slot to the next master, as `redis-cli --cluster reshard` does it."""
    ids = [node.execute_command("CLUSTER", "MYID").decode() for node in nodes]
    owner = _owner(nodes, slot)
    source, target, at = nodes[owner], nodes[(owner + 1) % 3], (owner + 1) % 3
    target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
    source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[at])
    place: dict[str, Any] = target.connection_pool.connection_kwargs
    while keys := source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
        source.execute_command("MIGRATE", place["host"], place["port"], "", 0, 5000, "KEYS", *keys)
    for node in (target, source, nodes[3 - owner - at]):
        node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[at])


def _owner(nodes: list[Redis], slot: int) -> int:
    for first, last, master, *_ in nodes[0].execute_command("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            ids = [node.execute_command("CLUSTER", "MYID") for node in nodes]
            return ids.index(master[2])
    raise AssertionError("nobody owns the slot")
