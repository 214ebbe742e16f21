"""`python -m benchmarks.scale`: what one of each carries on this machine, and how cost grows with tenants.

Figures of one machine, for the documentation; nothing here has a target.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis
from rich.console import Console
from rich.table import Table

from tenant_middleware.admission.call import new_call_id, new_nonce
from tenant_middleware.admission.store import Ask, Limits, Settlement
from tenant_middleware.backends.redis.admission import RedisAdmission
from tenant_middleware.backends.sql import SqlLedger
from tenant_middleware.local import local_redis
from tenant_middleware.local.servers import local_postgres
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.tenant import Tenant

LIMITS = Limits(10**6, 10**9, 0.1, 64, 10**15, "month")
TENANTS = (10, 1_000, 10_000, 100_000)
CALLS, AT_ONCE = 4_000, 64


def row(tenant: str, number: int) -> LedgerRow:
    return LedgerRow(
        tenant_id=tenant,
        call_id=new_call_id(),
        at=1.7e9 + number,
        tier="pro",
        subject="ann",
        model="openai/small",
        kind="chat",
        prompt_tokens=500,
        completion_tokens=120,
        cost_nano=147_000,
    )


async def cycles(store: RedisAdmission, tenants: list[Tenant], calls: int) -> float:
    """Calls a second that are reserved and settled by one process, 64 at once; the rows stay in their streams."""
    numbers = iter(range(calls))

    async def worker() -> None:
        for number in numbers:
            tenant = tenants[number % len(tenants)]
            call_id = new_call_id()
            await store.areserve(Ask(tenant, call_id, LIMITS, 400, 200, 16, 60_000, 600, 120.0, new_nonce()))
            await store.asettle(Settlement(tenant, call_id, LIMITS, 520, 147_000, row(tenant.id, number)))

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return calls / (time.perf_counter() - began)


def admission(table: Table) -> None:
    for count in TENANTS:
        tenants = [Tenant(f"tenant-{number}", "pro") for number in range(count)]
        with local_redis() as url, Redis.from_url(url) as client:
            store = RedisAdmission(url, timeout=10.0)
            before = client.info("memory")["used_memory"]

            async def play(store: RedisAdmission = store, tenants: list[Tenant] = tenants) -> float:
                await cycles(store, tenants, max(CALLS, len(tenants)))  # every tenant once: accounts exist
                rate = await cycles(store, tenants, CALLS)
                await store.aclose()
                return rate

            rate = asyncio.run(play())
            used = client.info("memory")["used_memory"] - before
            store.close()
        table.add_row(f"{count:,}", f"{rate:,.0f}", f"{used / 2**20:,.0f} MiB")


def ledgers(table: Table) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        postgres = stack.enter_context(local_postgres())
        for name, url in (("SQLite, one file", f"sqlite:///{folder}/usage.db"), ("Postgres", postgres)):
            books = SqlLedger(url)
            rows = [row(f"tenant-{number % 1_000}", number) for number in range(20_000)]
            began = time.perf_counter()
            for start in range(0, len(rows), 500):
                books.write(rows[start : start + 500])
            wrote = len(rows) / (time.perf_counter() - began)
            began = time.perf_counter()
            books.totals("tenant")
            table.add_row(name, f"{wrote:,.0f}", f"{(time.perf_counter() - began) * 1e3:,.0f} ms")
            books.close()


def main() -> None:
    console = Console(width=120)
    first = Table(
        "tenants",
        "calls/s reserved and settled",
        "Redis memory",
        "bytes a call waiting",
        title="One Redis, one process",
    )
    admission(first)
    console.print(first)
    second = Table("ledger", "rows/s written", "totals of 20,000 rows by tenant", title="One ledger, batches of 500")
    ledgers(second)
    console.print(second)


if __name__ == "__main__":
    main()
