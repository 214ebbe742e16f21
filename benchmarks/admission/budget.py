"""A budget worth ten calls, and a hundred of them at once out of eight processes, through the whole gate."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from benchmarks.admission.crowd import PROCESSES, crowd
from tenant_middleware.admission.call import Call
from tenant_middleware.context import scope
from tenant_middleware.errors import BudgetExceeded
from tenant_middleware.local import local_redis
from tenant_middleware.metering.usage import Usage
from tenant_middleware.tenancy import Tenancy
from tenant_middleware.tenant import Tenant

ACME = Tenant("acme", "gold", "ann")
CALLS, WORTH = 100, 10
PROMPT, ANSWER, CAP = 200, 100, 1_024
PROMPT_USD, ANSWER_USD = Decimal("0.15"), Decimal("0.60")
ONE_CALL = (PROMPT * PROMPT_USD + ANSWER * ANSWER_USD) / 1_000_000
BUDGET = WORTH * ONE_CALL
RUNS = 3


class Outcome(NamedTuple):
    """What one crowd of callers got: the money spent over the budget, and the calls that had their whole answer."""

    spent: float
    whole_answers: int
    cut_answers: int


@lru_cache(maxsize=1)
def outcomes() -> dict[str, list[Outcome]]:
    """Several runs each with the output bounded by the caller, and by nobody but the tier."""
    return {
        name: [_one(max_tokens) for _ in range(RUNS)]
        for name, max_tokens in (("max_tokens", ANSWER), ("no max_tokens", None))
    }


def _policy(redis: str, ledger: str) -> dict[str, Any]:
    return {
        "backends": {"admission": redis, "ledger": ledger},
        "admission": {"store_timeout": "10s"},
        "tiers": {
            "gold": {
                "rpm": "unlimited",
                "tpm": "unlimited",
                "max_concurrency": "unlimited",
                "budget": {"usd": str(BUDGET)},
                "models": ["bench/model"],
                "max_output_tokens": CAP,
                "queue_timeout": 10,
            }
        },
        "tenants": {"acme": {"tier": "gold"}},
        "prices": {
            "bench/model": {"input_usd_per_million": str(PROMPT_USD), "output_usd_per_million": str(ANSWER_USD)}
        },
    }


def _one(max_tokens: int | None) -> Outcome:
    with local_redis(modules=False) as redis, tempfile.TemporaryDirectory() as folder:
        policy = _policy(redis, f"sqlite:///{folder}/usage.db")
        Tenancy.from_mapping(policy).close()  # makes the tables
        answers = [tokens for report in crowd(_worker, policy, max_tokens) for tokens in report]
        with Tenancy.from_mapping(policy) as tenancy:
            tenancy.drain()
            booked = tenancy.ledger.totals()
    if booked.calls != len(answers):
        raise RuntimeError(f"{len(answers)} calls were served and {booked.calls} booked")
    whole = sum(tokens == ANSWER for tokens in answers)
    return Outcome(float(booked.cost_usd / BUDGET), whole, len(answers) - whole)


def _worker(number: int, begin: Callable[[], object], policy: dict[str, Any], max_tokens: int | None) -> list[int]:
    share = len(range(number, CALLS, PROCESSES))
    return asyncio.run(_callers(share, begin, policy, max_tokens))


async def _callers(
    share: int, begin: Callable[[], object], policy: dict[str, Any], max_tokens: int | None
) -> list[int]:
    async with Tenancy.from_mapping(policy) as tenancy:

        async def one() -> int | None:
            async with scope(ACME):
                try:
                    async with tenancy.gate.acall(Call(ACME, "bench/model", "chat", PROMPT, max_tokens)) as hold:  # type: ignore[arg-type]
                        await asyncio.sleep(0.2)
                        hold.report(Usage(PROMPT, min(ANSWER, hold.max_tokens)))
                        return min(ANSWER, hold.max_tokens)
                except BudgetExceeded:
                    return None

        await asyncio.to_thread(begin)
        answers = await asyncio.gather(*(one() for _ in range(share)))
    return [tokens for tokens in answers if tokens is not None]
