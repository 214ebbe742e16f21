"""One worker of the ledger's measurement: REDIS FOLDER NOTES CALLS."""

from __future__ import annotations

import asyncio
import os
import random
import sys

from benchmarks.admission.ledger import MODEL, TENANTS, policy
from tenant_middleware.admission.call import Call
from tenant_middleware.context import scope
from tenant_middleware.metering.pricing import to_nano
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy

TASKS = 4


async def work(redis: str, folder: str, notes: int, calls: int) -> None:
    async with Tenancy.from_mapping(policy(redis, folder)) as tenancy:
        gate, left = tenancy.gate, iter(range(calls))

        async def some() -> None:
            for _ in left:
                tenant = random.choice(TENANTS)
                usage = Usage(random.randrange(1, 900), random.randrange(1, 500))
                async with scope(tenant):
                    call = Call(tenant, MODEL, prompt_tokens=900)
                    hold = await gate.aadmit(call)
                    noted = f" {tenant.id} {call.id} {to_nano(hold.price.cost(usage))}"
                    os.write(notes, f"\n?{noted}".encode())
                    await gate.asettle(hold, usage)
                    os.write(notes, f"\n!{noted}".encode())

        await asyncio.gather(*(some() for _ in range(TASKS)))


if __name__ == "__main__":
    file = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND)
    asyncio.run(work(sys.argv[1], sys.argv[2], file, int(sys.argv[4])))
