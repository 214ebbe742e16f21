"""Our backends against the raw clients of their services, on the same server, taking turns."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

from pinecone import Pinecone
from redis import Redis

from benchmarks.entries import Measured
from benchmarks.servers import redis_url
from benchmarks.side_by_side import no_collector
from benchmarks.vectors.area import AREA, p50s
from benchmarks.vectors.corpus import ASKER, DIMENSIONS, K, RawSearch, documents, filled, place
from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.backends.redisvl.vectors import RedisVectors
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.keys import namespace
from tenant_middleware.tenant import Tenant

UPSERTS, IN_PINECONE, SMALL = 1000, 500, 64


@AREA.entry("vectors.redis_vs_raw", unit="x", better="lower", target=1.05)
def redis_vs_raw() -> Measured:
    """p50 of a query in the shared index, 10 tenants x 2,000 records x 768 dimensions, beside redis-py's search."""
    vectors, raw, asked = filled(), RawSearch(), place(random.Random(6))
    mine, theirs = vectors.query(ASKER, asked, K), raw(asked)
    assert len(mine) == len(theirs) == K
    return p50s(lambda: vectors.query(ASKER, asked, K), lambda: raw(asked))


@contextmanager
def _pinecone() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.pinecone_server", "bench", str(SMALL)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin and server.stdout
        yield server.stdout.readline().strip()
        server.stdin.close()
        server.wait(10)


@AREA.entry("vectors.pinecone_vs_raw", unit="x", better="lower", target=1.05)
def pinecone_vs_raw() -> Measured:
    """p50 of a query in a namespace, beside the SDK's own query, both against the stand-in service in its process."""
    dice, acme = random.Random(7), Tenant("acme", "gold")
    with _pinecone() as url:
        vectors = PineconeVectors("bench", api_key="key", controller=url)
        vectors.upsert(acme, [Record(f"d{n}", place(dice, SMALL), f"text {n}", {"n": n}) for n in range(IN_PINECONE)])
        asked = place(dice, SMALL)
        with Pinecone(api_key="key", host=url) as client:
            index = client.index(name="bench")
            measured = p50s(
                lambda: vectors.query(acme, asked, K),
                lambda: index.query(top_k=K, vector=asked, namespace=namespace(acme), include_metadata=True),
                calls=60,
            )
        vectors.close()
    return measured


@AREA.entry("vectors.upsert_vs_raw", unit="x", better="higher", target=0.9)
def upsert_vs_raw() -> Measured:
    """Throughput of our upsert of 1,000 records beside a redis-py pipeline of HSET into an index alike."""
    dice, acme = random.Random(8), Tenant("acme", "gold")
    vectors = RedisVectors(redis_url(), isolation="filter", name="upserts")
    batch = documents(dice, UPSERTS)
    vectors.upsert(acme, batch[:1])  # makes the index
    client = Redis.from_url(redis_url())
    client.execute_command(
        *("FT.CREATE", "raw", "ON", "HASH", "PREFIX", 1, "raw:", "SCHEMA"),
        *("tenant", "TAG", "source", "TAG", "page", "NUMERIC"),
        *("vector", "VECTOR", "HNSW", 10, "TYPE", "FLOAT32", "DIM", DIMENSIONS, "DISTANCE_METRIC", "COSINE"),
        *("M", 16, "EF_CONSTRUCTION", 200),
    )

    def raw(records: list[Record]) -> None:
        pipeline = client.pipeline(transaction=False)
        for record in records:
            fields = {"text": record.text, "tenant": acme.id, **record.metadata}
            pipeline.hset(f"raw:{record.id}", mapping={**fields, "vector": array("f", record.vector).tobytes()})
        pipeline.execute()

    def seconds(write: Callable[[list[Record]], None], records: list[Record]) -> float:
        with no_collector():
            began = time.perf_counter()
            write(records)
            return time.perf_counter() - began

    mine, theirs = [], []
    for run in range(9):  # new ids each time: deleted vectors would slow the next run of whoever deleted more
        records = [replace(record, id=f"{run}-{record.id}") for record in batch]
        turns = [(mine, lambda these: vectors.upsert(acme, these)), (theirs, raw)]
        for times, write in turns if run % 2 else reversed(turns):
            times.append(seconds(write, records))
    ratios = [other / own for own, other in zip(mine, theirs, strict=True)]
    vectors.close()
    client.close()
    per_second = {"ours/s": UPSERTS / median(mine), "raw/s": UPSERTS / median(theirs)}
    return Measured(ratios, per_second)


@AREA.entry("vectors.silo_cold_start_ms", unit="ms", better="lower")
def silo_cold_start_ms() -> Measured:
    """A new tenant's first upsert on Redis where it gets an index of its own; beside it in the shared index."""
    dice, kinds = random.Random(11), ("silo", "filter")
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    backends = {kind: RedisVectors(redis_url(), isolation=kind, name="cold") for kind in kinds}  # type: ignore[arg-type]  # Isolation
    backends["filter"].upsert(Tenant("first", "gold"), documents(dice, 1))
    for number in range(15):
        for kind, vectors in backends.items():
            record = documents(dice, 1)
            began = time.perf_counter()
            vectors.upsert(Tenant(f"new-{kind}-{number}", "gold"), record)
            took[kind].append((time.perf_counter() - began) * 1e3)
    for vectors in backends.values():
        vectors.close()
    return Measured(took["silo"], {"shared ms": sorted(took["filter"])[7]})
