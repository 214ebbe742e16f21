"""What memory costs beside the bare operation: conversations in Redis, and LangGraph's savers with and without us."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.redis import RedisSaver
from redis import Redis

from benchmarks.entries import Area, Measured
from benchmarks.servers import redis_url
from benchmarks.side_by_side import Loop, Timings, interleaved
from tenant_middleware.backends.redis.history import RedisHistory
from tenant_middleware.context import scope
from tenant_middleware.isolation.history import HistoryLimits, Message
from tenant_middleware.langchain import TenantCheckpointSaver
from tenant_middleware.tenant import Tenant

AREA = Area(
    "history",
    required=["history.append_read_vs_redis", "history.saver_vs_bare_redis", "history.saver_added_us"],
)

ACME = Tenant("acme", "gold", "ann")
TURNS, KEPT = 10, 3600
SAID = "What does the Premium plan cost, and can we change to it in the middle of a year? " * 2


@contextmanager
def empty_redis() -> Iterator[Redis]:
    with Redis.from_url(redis_url()) as client:
        client.flushall()
        yield client
        client.flushall()


@AREA.entry("history.append_read_vs_redis", unit="ratio", better="lower", target=1.15)
def append_read_vs_redis() -> Measured:
    """A turn (append two messages, read all), over RPUSH with EXPIRE, and LRANGE, of the same JSON by redis-py."""
    ids = itertools.count()
    with empty_redis() as client:
        history = RedisHistory(redis_url(), limits=HistoryLimits(ttl=KEPT))

        def ours(times: int) -> None:
            for number in itertools.islice(ids, times):
                session = f"s{number // TURNS}"
                history.append(ACME, session, [Message("user", SAID), Message("assistant", SAID)])
                history.read(ACME, session)

        def bare(times: int) -> None:
            for number in itertools.islice(ids, times):
                name = f"bare:s{number // TURNS}"
                lines = [json.dumps({"role": role, "content": SAID}) for role in ("user", "assistant")]
                with client.pipeline(transaction=False) as batch:
                    batch.rpush(name, *lines)
                    batch.expire(name, KEPT)
                    batch.execute()
                found: Any = client.lrange(name, 0, -1)
                [json.loads(line) for line in found]

        timings = interleaved({"ours": ours, "bare": bare}, loops=4 * TURNS, runs=101)
        history.close()
    return Measured(timings.ratios("ours", "bare"), {f"{name} us": timings.us(name) for name in timings.seconds})


def steps_of(saver: BaseCheckpointSaver[Any]) -> Loop:
    """What a graph asks of its saver at each step: put a checkpoint, put its writes, read the newest."""
    threads = itertools.count()
    versions = {"messages": "1"}

    def step(times: int) -> None:
        for number in itertools.islice(threads, times):
            config: Any = {"configurable": {"thread_id": f"t{number % 50}", "checkpoint_ns": ""}}
            checkpoint: Any = {
                **empty_checkpoint(),
                "id": str(uuid6(clock_seq=number)),
                "channel_values": {"messages": [SAID]},
                "channel_versions": versions,
            }
            put = saver.put(config, checkpoint, {"source": "loop", "step": number}, versions)
            saver.put_writes(put, [("messages", SAID)], f"task-{number}")
            found = saver.get_tuple(config)
            if found is None or found.checkpoint["id"] != checkpoint["id"]:
                raise RuntimeError("the newest checkpoint isn't the one that was put")

    return step


def with_and_without(make: Callable[[], BaseCheckpointSaver[Any]], *, loops: int, runs: int, clock: Any) -> Timings:
    """The wrapped and the bare saver, each over storage of its own."""
    contenders = {"ours": steps_of(TenantCheckpointSaver(make())), "bare": steps_of(make())}
    with scope(ACME):
        return interleaved(contenders, loops=loops, runs=runs, clock=clock)


@AREA.entry("history.saver_vs_bare_redis", unit="ratio", better="lower", target=1.05)
def saver_vs_bare_redis() -> Measured:
    """A graph's step (put, put_writes, get_tuple) with langgraph-checkpoint-redis inside, over the same without us."""
    with empty_redis() as client:
        made = itertools.count()

        def saver() -> RedisSaver:
            number = next(made)
            opened = RedisSaver(
                redis_client=client, checkpoint_prefix=f"c{number}", checkpoint_write_prefix=f"w{number}"
            )
            opened.setup()
            return opened

        timings = with_and_without(saver, loops=10, runs=101, clock=time.perf_counter)
    return Measured(timings.ratios("ours", "bare"), {f"{name} us": timings.us(name) for name in timings.seconds})


@AREA.entry("history.saver_added_us", unit="us", better="lower", target=15)
def saver_added_us() -> Measured:
    """A graph's step with LangGraph's in-memory saver inside, less the same without us."""
    timings = with_and_without(InMemorySaver, loops=300, runs=21, clock=time.process_time)
    return Measured(timings.added_us("ours", "bare"), {f"{name} us": timings.us(name) for name in timings.seconds})
