"""Hazards without a framework: contexts, budgets, keys, and searching before or after the filter."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from decimal import Decimal

from tenant_middleware import BudgetExceeded, Tenancy, TenantMismatch, Usage, bind, current_tenant, keys, pin, scope
from tenant_middleware.backends.in_memory.vectors import InMemoryVectors
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.tenant import Tenant
from tests.hazards.scoreboard import ACME, GLOBEX, POLICY, Hazard


def bare_stream() -> bool:
    who: ContextVar[str | None] = ContextVar("who", default=None)

    async def stream() -> AsyncIterator[str | None]:
        for _ in range(2):
            yield who.get()

    async def main() -> bool:
        who.set("acme")
        steps = stream()
        assert await anext(steps) == "acme"

        async def other() -> str | None:
            who.set("globex")
            return await anext(steps)

        return await asyncio.create_task(other()) == "globex"

    seen: list[str | None] = []
    thread = threading.Thread(target=lambda: seen.append(who.get()))
    thread.start()
    thread.join()
    return asyncio.run(main()) and seen == [None]


def our_stream() -> bool:
    async def stream() -> AsyncIterator[str]:
        for _ in range(3):
            yield current_tenant().id

    async def main() -> bool:
        with scope(ACME):
            steps = pin(stream())
            assert await anext(steps) == "acme"
        assert await asyncio.create_task(anext(steps)) == "acme"  # type: ignore[arg-type]  # an awaitable of one step

        async def other() -> str:
            with scope(GLOBEX):
                return await anext(steps)

        try:
            return await asyncio.create_task(other()) != "acme"
        except TenantMismatch:
            return False

    seen: list[str] = []
    with scope(ACME):
        thread = threading.Thread(target=bind(lambda: seen.append(current_tenant().id)))
        thread.start()
        thread.join()
    return asyncio.run(main()) or seen != ["acme"]


def bare_budget() -> bool:
    spent = Decimal(0)

    async def call() -> bool:
        nonlocal spent
        if spent >= 1:
            return False
        await asyncio.sleep(0)  # the provider answers
        spent += Decimal("0.2")
        return True

    async def main() -> int:
        return sum(await asyncio.gather(*[call() for _ in range(50)]))

    return asyncio.run(main()) == 50 and spent > 1


def our_budget() -> bool:
    async def main() -> tuple[int, Decimal]:
        with Tenancy.from_mapping(POLICY) as tenancy:

            async def call() -> int:
                try:
                    with scope(ACME):
                        async with tenancy.gate.acall(tenancy.gate.new_call("openai/local")) as hold:
                            await asyncio.sleep(0)
                            hold.report(Usage(1, 1))
                except BudgetExceeded:
                    return 0
                return 1

            served = sum(await asyncio.gather(*[call() for _ in range(50)]))
            return served, tenancy.ledger.totals().cost_usd

    served, spent = asyncio.run(main())
    assert served == 5, "the budget is worth five calls"
    return spent > 1


def bare_keys() -> bool:
    return ":".join(("a:b", "c")) == ":".join(("a", "b:c"))


def our_keys() -> bool:
    return keys.key(ACME, "a:b", "c") == keys.key(ACME, "a", "b:c")


def _pool() -> Iterator[tuple[Tenant, list[Record]]]:
    dice = random.Random(20)
    for number in range(100):
        tenant = Tenant(f"tenant-{number}", "pro")
        yield (
            tenant,
            [Record(f"doc-{i}", [dice.gauss(0, 1) for _ in range(16)], f"{number}/{i}", {}) for i in range(20)],
        )


def _recall(prefilter: bool) -> float:
    """Recall@5 of 100 tenants in one shared index, against each tenant's own exact search."""
    pool = list(_pool())
    shared, alone = InMemoryVectors(isolation="filter"), InMemoryVectors(isolation="namespace")
    for tenant, records in pool:
        shared.upsert(tenant, records)
        alone.upsert(tenant, records)
    everything = [(record, tenant) for tenant, records in pool for record in records]
    dice, found = random.Random(21), 0
    for tenant, _ in pool[:20]:
        asked = [dice.gauss(0, 1) for _ in range(16)]
        truth = {hit.id for hit in alone.query(tenant, asked, k=5)}
        if prefilter:
            got = {hit.id for hit in shared.query(tenant, asked, k=5)}
        else:
            near = sorted(everything, key=lambda entry: -_cosine(asked, entry[0].vector))[:10]
            got = {record.id for record, owner in near if owner == tenant}
        found += len(truth & got)
    return found / (20 * 5)


def _cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / sum(y * y for y in b) ** 0.5


ROWS = [
    Hazard("H10", "a stream resumed elsewhere changes its tenant; a raw thread has none", bare_stream, our_stream),
    Hazard("H15", "50 concurrent calls through a budget worth 5", bare_budget, our_budget),
    Hazard("H18", "keys joined with a separator collide", bare_keys, our_keys),
    Hazard(
        "H20",
        "searching first and filtering after loses recall among 100 tenants",
        lambda: _recall(prefilter=False) < 0.5,
        lambda: _recall(prefilter=True) < 1.0,
    ),
]
