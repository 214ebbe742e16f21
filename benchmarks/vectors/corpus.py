"""Ten tenants with two thousand records each in one Redis index, as an application's documents would lie there."""

from __future__ import annotations

import json
import random
from array import array
from functools import cache
from typing import Any

from redis import Redis
from redis.commands.search.query import Query

from benchmarks.servers import redis_url
from tenant_middleware.backends.redisvl import records
from tenant_middleware.backends.redisvl.vectors import RedisVectors
from tenant_middleware.isolation.filters import Clause
from tenant_middleware.isolation.place import STAMP
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.keys import tag
from tenant_middleware.tenant import Tenant

TENANTS = [Tenant(f"tenant-{number}", "gold") for number in range(10)]
ASKER = TENANTS[7]
RECORDS, DIMENSIONS, K = 2000, 768, 5
TEXT = "The Premium plan is billed monthly in advance and can be cancelled until the end of the period. " * 6


def place(dice: random.Random, dimensions: int = DIMENSIONS) -> list[float]:
    return [dice.gauss(0, 1) for _ in range(dimensions)]


def documents(dice: random.Random, count: int = RECORDS) -> list[Record]:
    return [
        Record(f"doc-{number}", place(dice), f"{number}: {TEXT}", {"source": f"file-{number % 20}.md", "page": number})
        for number in range(count)
    ]


@cache
def filled() -> RedisVectors:
    """Our backend over the shared index, with everybody's records in it."""
    dice = random.Random(5)
    vectors = RedisVectors(redis_url(), isolation="filter", name="bench", ef_construction=16)
    for tenant in TENANTS:
        vectors.upsert(tenant, documents(dice))
    return vectors


class RawSearch:
    """The same query by redis-py's own search client: same index and condition, the same text and metadata back."""

    def __init__(self, index: str = "bench:all") -> None:
        self.client = Redis.from_url(redis_url())
        self.search = self.client.ft(index)
        condition = records.query(Clause(STAMP, "$eq", tag(ASKER)), ()).text
        self.query = (
            Query(f"{condition}=>[KNN {K} @vector $v HYBRID_POLICY ADHOC_BF AS near]")
            .sort_by("near")
            .paging(0, K)
            .return_field("doc")
            .return_field("tenant")
            .return_field("near")
            .dialect(2)
        )

    def hits(self, vector: list[float]) -> list[Any]:
        return list(self.search.search(self.query, {"v": array("f", vector).tobytes()}).docs)

    def __call__(self, vector: list[float]) -> list[tuple[str, str, dict[str, Any], float]]:
        return [(*json.loads(hit.doc), 1.0 - float(hit.near)) for hit in self.hits(vector)]
