"""Whether a tenant among many finds what exact search would find: pre-filter, post-filter, and an index per tenant."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from statistics import median

from redis import Redis

from benchmarks.entries import Measured
from benchmarks.servers import redis_url
from benchmarks.vectors.area import AREA
from tenant_middleware.backends.in_memory.vectors import InMemoryVectors
from tenant_middleware.backends.redisvl.vectors import RedisVectors
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.keys import scoped_id, tag
from tenant_middleware.tenant import Tenant

DIMENSIONS, EACH, K, ASKED = 32, 1000, 5, 40
SIZES = (10, 100, 1000)
Find = Callable[[Tenant, list[float]], Sequence[str]]


@AREA.entry("vectors.recall_100_tenants", unit="recall@5", better="higher", target=1.0)
def recall_100_tenants() -> Measured:
    """Our pre-filtered search among 100 tenants x 1,000 vectors, against exact search of the tenant's own.

    Beside it the same at 10 and 1,000 tenants; the latter take five minutes to fill.
    """
    figure, beside = 0.0, {}
    for tenants in SIZES:
        measured = _pool(tenants)
        beside |= {f"{name}, {tenants} tenants": value for name, value in measured.items() if name != "recall"}
        if tenants == 100:
            figure = measured["recall"]
        else:
            beside[f"recall, {tenants} tenants"] = measured["recall"]
    return Measured([figure], beside)


def _pool(count: int) -> dict[str, float]:
    dice, tenants = random.Random(count), [Tenant(f"t{number}", "gold") for number in range(count)]
    centre = {tenant: [dice.gauss(0, 0.6) for _ in range(DIMENSIONS)] for tenant in tenants}
    askers = dice.sample(tenants, min(ASKED, count))

    def near(tenant: Tenant) -> list[float]:
        return [x + dice.gauss(0, 1) for x in centre[tenant]]

    exact, name = InMemoryVectors(), f"pool{count}"
    shared = RedisVectors(redis_url(), isolation="filter", name=name, ef_construction=64)
    alone = RedisVectors(redis_url(), isolation="namespace", name=f"{name}-own", ef_construction=64)
    for tenant in tenants:
        records = [Record(f"{number}", near(tenant), "", {}) for number in range(EACH)]
        shared.upsert(tenant, records)
        if tenant in askers:
            exact.upsert(tenant, records)
            alone.upsert(tenant, records)
    questions = [(tenant, near(tenant)) for tenant in askers]
    truth = [{hit.id for hit in exact.query(tenant, asked, K)} for tenant, asked in questions]
    figures: dict[str, float] = {}
    for label, find in (
        ("", _hits(shared)),
        ("post-filter top 10 ", _post_filtered(name)),
        ("index per tenant ", _hits(alone)),
    ):
        found, times = 0, []
        for (tenant, asked), wanted in zip(questions, truth, strict=True):
            find(tenant, asked)
            began = time.perf_counter()
            got = find(tenant, asked)
            times.append(time.perf_counter() - began)
            found += len(wanted & set(got))
        figures[f"{label}recall"] = found / (len(questions) * K)
        figures[f"{label}p50 us"] = median(times) * 1e6
    for tenant in askers:
        alone.erase(tenant)
    Redis.from_url(redis_url()).execute_command("FT.DROPINDEX", f"{name}:all", "DD")
    shared.close()
    alone.close()
    return figures


def _hits(vectors: RedisVectors) -> Find:
    return lambda tenant, asked: [hit.id for hit in vectors.query(tenant, asked, K)]


def _post_filtered(name: str) -> Find:
    """What an application does that searches everything and keeps its own: the ten nearest of all tenants."""
    client = Redis.from_url(redis_url(), protocol=2)

    @cache
    def known(tenant: Tenant) -> dict[bytes, str]:
        return {f"{name}:all:{scoped_id(tenant, str(number))}".encode(): str(number) for number in range(EACH)}

    def find(tenant: Tenant, asked: list[float]) -> list[str]:
        reply = client.execute_command(
            *("FT.SEARCH", f"{name}:all", "*=>[KNN 10 @vector $v AS near]", "RETURN", 1, "tenant", "SORTBY", "near"),
            *("LIMIT", 0, 10, "PARAMS", 2, "v", array("f", asked).tobytes(), "DIALECT", 2),
        )
        mine = tag(tenant).encode()
        keys = [key for key, fields in zip(reply[1::2], reply[2::2], strict=True) if fields[1] == mine]
        return [known(tenant)[key] for key in keys][:K]

    return find
