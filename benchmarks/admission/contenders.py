"""Who is compared: our store, the bare script as one would write it, and the limiters people use today."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any, Protocol

from redis.asyncio import Redis

from tenant_middleware.admission.store import Ask, Granted, Limits, Settlement
from tenant_middleware.backends.redis.admission import RedisAdmission
from tenant_middleware.metering.ledger import LedgerRow
from tenant_middleware.tenant import Tenant

TENANTS = [Tenant(f"tenant{number}", "gold") for number in range(100)]
RPM, TPM, BURST, BUDGET = 10**8, 10**11, 0.1, 10**15
PROMPT, OUTPUT, NANO = 400, 100, 600
ESTIMATE = PROMPT + OUTPUT
LIMITS = Limits(RPM, TPM, BURST, 1_000, BUDGET, "month")
# A connection for each task, as a client has it that shares none.
CONNECTIONS = 64

_ids = itertools.count()


class Contender(Protocol):
    """One way to admit a call of a tenant; `settle` is a second step, for those that have it."""

    async def reserve(self, tenant: Tenant, call_id: str) -> bool: ...
    async def settle(self, tenant: Tenant, call_id: str) -> None: ...
    async def close(self) -> None: ...


def new_id() -> str:
    return f"{os.getpid():x}-{next(_ids):x}"


def row_of(tenant: Tenant, call_id: str) -> LedgerRow:
    return LedgerRow(
        tenant.id,
        call_id,
        1.75e9,
        tenant.tier,
        "ann",
        "openai/gpt-4o-mini",
        "chat",
        "openai",
        PROMPT,
        0,
        50,
        0,
        270_000,
    )


class Ours:
    """The store as the gate uses it. Without batching each task has a connection, and calls travel one by one."""

    def __init__(self, url: str, *, batching: bool = True) -> None:
        self.store = RedisAdmission(url, timeout=30.0)
        if not batching:
            self.store.links.batch, self.store.links.lanes = 1, CONNECTIONS

    async def reserve(self, tenant: Tenant, call_id: str) -> bool:
        asked = Ask(tenant, call_id, LIMITS, PROMPT, OUTPUT, 16, PROMPT * NANO, NANO, 120.0, call_id)
        return isinstance(await self.store.areserve(asked), Granted)

    async def settle(self, tenant: Tenant, call_id: str) -> None:
        row = row_of(tenant, call_id)
        await self.store.asettle(Settlement(tenant, call_id, LIMITS, PROMPT + 50, row.cost_nano, row))

    async def close(self) -> None:
        await self.store.aclose()


class Bare:
    """EVALSHA of the bare script by redis-py, one connection for each task."""

    def __init__(self, url: str) -> None:
        self.client = Redis.from_url(url, max_connections=CONNECTIONS, protocol=2)
        self.source = Path(__file__).with_name("bare.lua").read_text("utf-8")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def keys(self, tenant: Tenant, call_id: str) -> list[str]:
        tag = f"bare:{{{tenant.id}}}"
        return [f"{tag}:account", f"{tag}:held", f"{tag}:done:{call_id}", f"{tag}:rows"]

    async def load(self) -> None:
        await self.client.script_load(self.source)

    async def reserve(self, tenant: Tenant, call_id: str) -> bool:
        reply: Any = await self.client.evalsha(  # type: ignore[misc]  # redis-py types sync and async alike
            self.sha, 4, *self.keys(tenant, call_id), "reserve", call_id, RPM, TPM, BURST, BUDGET, ESTIMATE,
            ESTIMATE * NANO, 120,
        )  # fmt: skip
        return reply[0] == 1

    async def settle(self, tenant: Tenant, call_id: str) -> None:
        row = row_of(tenant, call_id)
        packed = json.dumps({name: getattr(row, name) for name in LedgerRow.__slots__}, separators=(",", ":"))
        await self.client.evalsha(  # type: ignore[misc]
            self.sha, 4, *self.keys(tenant, call_id), "settle", call_id, PROMPT + 50, row.cost_nano, packed
        )

    async def close(self) -> None:
        await self.client.aclose()
