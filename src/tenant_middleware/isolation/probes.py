"""Two checks of a live vector store: does it keep tenants apart, and does it find what exact search would find."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from tenant_middleware.errors import InvalidInput, IsolationBreach
from tenant_middleware.flow import Flow, Op, arun, run
from tenant_middleware.isolation.diversity import cosine
from tenant_middleware.isolation.vectors import Hit, Record, Vectors
from tenant_middleware.tenant import Tenant

LOW_RECALL = 0.95
DIMENSION = 8  # where the store doesn't tell its own
_ID = "probe"


@dataclass(frozen=True, slots=True)
class RecallReport:
    """How many of the true nearest records the index finds for one tenant, and what to do when it is few."""

    recall: float
    k: int
    samples: int
    records: int
    advice: str | None = None


def probe_pair(nonce: str | None = None) -> tuple[Tenant, Tenant]:
    """Two tenants that nobody has: names that differ in case alone, new at each start so that workers don't meet."""
    name = nonce or secrets.token_hex(8)
    return Tenant(f"tm-probe-{name}-A", "probe"), Tenant(f"tm-probe-{name}-a", "probe")


def probe_vector(dimension: int, turned: bool = False) -> list[float]:
    """Two directions that are near each other, so that each probe is among the other's nearest."""
    return [1.0] * (dimension - 1) + [0.9 if turned else 1.0]


def probe_records(dimension: int) -> tuple[Record, Record]:
    """The same id for both tenants; the texts tell them apart."""
    return (
        Record(_ID, probe_vector(dimension), "A's probe", {"probe": "a"}),
        Record(_ID, probe_vector(dimension, turned=True), "B's probe", {"probe": "b"}),
    )


def verify_isolation(vectors: Vectors, dimension: int, pair: tuple[Tenant, Tenant] | None = None) -> None:
    """Plant a probe for each of two tenants and raise IsolationBreach unless the store keeps them apart."""
    run(_verified(vectors, dimension, pair or probe_pair()))


async def averify_isolation(vectors: Vectors, dimension: int, pair: tuple[Tenant, Tenant] | None = None) -> None:
    """`verify_isolation`, by awaiting."""
    await arun(_verified(vectors, dimension, pair or probe_pair()))


def _verified(vectors: Vectors, dimension: int, pair: tuple[Tenant, Tenant]) -> Flow[None]:
    a, b = pair
    first, second = probe_records(dimension)
    try:
        yield Op(vectors, "upsert", (a, [first]))
        yield Op(vectors, "upsert", (b, [second]))
        for tenant, own in ((a, first), (b, second)):
            judge("search", (yield Op(vectors, "query", (tenant, own.vector, 5))), own)
            judge("filtered search", (yield Op(vectors, "query", (tenant, own.vector, 5, _EITHER))), own)
            judge("fetch", (yield Op(vectors, "fetch", (tenant, [_ID]))), own)
        yield Op(vectors, "delete", (a, [_ID]))
        judge("delete", (yield Op(vectors, "fetch", (b, [_ID]))), second)
    finally:
        yield Op(vectors, "erase", (a,))
        yield Op(vectors, "erase", (b,))


_EITHER = {"$or": [{"probe": "a"}, {"probe": "b"}]}


def judge(step: str, found: Sequence[Hit | Record], own: Record) -> None:
    """One probe's answer: its own record, and nothing else."""
    if [each.text for each in found] != [own.text]:
        came = "nothing" if not found else f"{len(found)} records"
        raise IsolationBreach(
            f"verify_isolation: {step} should find one tenant's own probe alone and found {came}; this store can't "
            "keep tenants apart as it is set up, and isn't used"
        )


def recall_check(
    vectors: Vectors, tenant: Tenant, *, k: int = 5, samples: int = 20, most: int = 10_000, seed: int = 0
) -> RecallReport:
    """Compare the index's answers with exact search over one tenant's records, asking for the records themselves."""
    records = list(islice(vectors.export(tenant), most))
    return run(_recalled(vectors, tenant, records, k, samples, seed))


async def arecall_check(
    vectors: Vectors, tenant: Tenant, *, k: int = 5, samples: int = 20, most: int = 10_000, seed: int = 0
) -> RecallReport:
    """`recall_check`, by awaiting."""
    records: list[Record] = []
    async for record in vectors.aexport(tenant):
        records.append(record)
        if len(records) >= most:
            break
    return await arun(_recalled(vectors, tenant, records, k, samples, seed))


def _recalled(
    vectors: Vectors, tenant: Tenant, records: list[Record], k: int, samples: int, seed: int
) -> Flow[RecallReport]:
    if samples < 1:
        raise InvalidInput(f"recall_check: expected at least 1 sample, got {samples}")
    asked = random.Random(seed).sample(records, min(samples, len(records)))
    answers: list[list[str]] = []
    for record in asked:
        hits: list[Hit] = yield Op(vectors, "query", (tenant, record.vector, k), whole=False)
        answers.append([hit.id for hit in hits])
    return report(records, asked, answers, k)


def report(
    records: Sequence[Record], asked: Sequence[Record], answers: Sequence[Sequence[str]], k: int
) -> RecallReport:
    """The share of true neighbours that were found, over all questions; 1.0 where there is nothing to find."""
    found = wanted = 0
    for question, answer in zip(asked, answers, strict=True):
        scores = {record.id: cosine(question.vector, record.vector) for record in records}
        bound = min(k, len(records))
        worst = sorted(scores.values(), reverse=True)[bound - 1]
        # Equal scores are equally right, whichever of them the index returns; 1e-6 is the store's 32-bit rounding.
        found += min(bound, sum(scores.get(record_id, -2.0) >= worst - 1e-6 for record_id in answer))
        wanted += bound
    recall = found / wanted if wanted else 1.0
    return RecallReport(recall, k, len(asked), len(records), _advice(recall))


def _advice(recall: float) -> str | None:
    if recall >= LOW_RECALL:
        return None
    return (
        f"the index finds {recall:.0%} of this tenant's true neighbours: raise the search effort of the index "
        "(ef_runtime), or move the tenant from 'filter' to 'namespace' or 'silo', where only its own records are "
        "searched"
    )
