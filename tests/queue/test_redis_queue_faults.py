"""Workers die, replies are lost, the server restarts: slots neither leak nor multiply, on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.crc import key_slot

from tenant_middleware import keys
from tenant_middleware.admission.queueing.pools import PoolRule
from tenant_middleware.admission.queueing.terms import PoolTerms
from tenant_middleware.backends.redis.queue import RedisQueue
from tenant_middleware.errors import RateLimited, SettingsError, StoreUnavailable
from tenant_middleware.local import local_redis
from tenant_middleware.policy import WhenDown
from tenant_middleware.testing.queue import ACME, NEXT, TWIN, pools, ticket
from tests.admission.faulty import Server, Wire, told

from .scripted import Scripted

WORKER = Path(__file__).with_name("queue_worker.py")
LEASE = 0.6


@contextlib.contextmanager
def worker(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, aof=False)
    server.start()
    yield server
    server.end()


@pytest.fixture
def opened(redis_url: str) -> Iterator[Callable[..., RedisQueue]]:
    made: list[RedisQueue] = []

    def make(url: str = redis_url, slots: int = 2, **options: object) -> RedisQueue:
        settings = {"lease": LEASE, "grace": 0.0, "timeout": 5.0} | options
        made.append(RedisQueue(url, pools(slots, max_runtime=60.0), **settings))  # type: ignore[arg-type]  # options of each test
        return made[-1]

    yield make
    for queue in made:
        queue.close()


def running(queue: RedisQueue) -> tuple[int, int]:
    pool = queue.state()[0]
    return pool.running, pool.waiting


def test_a_killed_workers_slots_come_back_within_its_lease(redis_url: str, opened: Callable[..., RedisQueue]) -> None:
    queue = opened(slots=3)
    mine = queue.enter(ticket(TWIN, timeout=0))
    with worker("hold", redis_url, 3, LEASE, 2) as process:
        assert told(process) == ["held"]
        assert running(queue) == (3, 1)
        process.kill()
        process.wait()
    slots = [queue.enter(ticket(TWIN, timeout=10)) for _ in range(2)]
    assert all(slot.waited <= 2 * LEASE + 3 for slot in slots)
    with pytest.raises(RateLimited):
        queue.enter(ticket(NEXT, timeout=0))
    for slot in (mine, *slots):
        queue.leave(slot, 1, 0)
    assert running(queue) == (0, 0)


def test_a_worker_that_was_frozen_past_its_lease_takes_nobodys_slot_away(
    redis_url: str, opened: Callable[..., RedisQueue]
) -> None:
    """Its calls went on, so for a while more run than there are slots; when they end, each slot has one owner again."""
    with worker("freeze", redis_url, 2, LEASE) as process:
        assert told(process) == ["held"]
        process.send_signal(signal.SIGSTOP)
        queue = opened(slots=2)
        slots = [queue.enter(ticket(TWIN, timeout=20)) for _ in range(2)]
        process.send_signal(signal.SIGCONT)
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert told(process) == ["left"]
    assert running(queue) == (2, 0)
    with pytest.raises(RateLimited):
        queue.enter(ticket(NEXT, timeout=0))
    for slot in slots:
        queue.leave(slot, 1, 0)
    assert running(queue) == (0, 0)


def test_a_pool_outlives_all_its_workers(redis_url: str, opened: Callable[..., RedisQueue]) -> None:
    """Nobody is left to bury the dead; who comes later does, a lease after its first word."""
    arguments = ("hold", redis_url, 2, LEASE, 1)
    with worker(*arguments) as one:
        assert told(one) == ["held"]
        with worker(*arguments) as two:
            assert told(two) == ["held"]
            for process in (one, two):
                process.kill()
                process.wait()
    time.sleep(LEASE)  # real time: the leases are on the server's clock
    queue = opened()
    slots = [queue.enter(ticket(ACME, timeout=10)) for _ in range(2)]
    assert slots[0].waited <= 2 * LEASE + 3
    for slot in slots:
        queue.leave(slot, 1, 0)
    assert running(queue) == (0, 0)


def test_workers_share_the_slots_and_one_is_killed_meanwhile(redis_url: str) -> None:
    """What ran in any worker, laid over each other on the machine's clock, never exceeds the slots."""
    arguments = ("serve", redis_url, 2, LEASE)
    with (
        worker(*arguments, "Acme", 60) as one,
        worker(*arguments, "acme", 60) as two,
        worker("hold", redis_url, 2, LEASE, 1) as dead,
    ):
        assert told(dead) == ["held"]
        dead.kill()
        lines = [(told(each), told(each)) for each in (one, two)]
    assert [failed for _, failed in lines] == [["0"], ["0"]]
    spans = [tuple(map(float, word.split(":"))) for words, _ in lines for word in words]
    assert len(spans) == 120
    edges = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    at_once = most = 0
    for _, step in edges:
        at_once += step
        most = max(most, at_once)
    assert most <= 2


def test_a_restarted_server_is_told_what_runs_and_who_waits(server: Server, opened: Callable[..., RedisQueue]) -> None:
    """Nothing was on disk; the slots in use stay in use, and the line goes on."""
    first, second = (opened(server.url, grace=2.0, lease=3.0) for _ in range(2))
    deadline = time.monotonic() + 10
    held = [_patiently(queue, deadline) for queue in (first, second)]

    async def waits() -> None:
        line = [asyncio.create_task(first.aenter(ticket(TWIN, timeout=30))) for _ in range(3)]
        while running(second)[1] < 3:  # noqa: ASYNC110 - the queue under test has no event to wait for
            await asyncio.sleep(0.01)
        server.kill()
        server.start()
        while not _is(lambda: running(second), (2, 3)):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
        assert not any(task.done() for task in line)
        for queue, slot in zip((first, second), held, strict=True):
            await queue.aleave(slot, 10, 0)
        for task in asyncio.as_completed(line):
            await first.aleave(await task, 10, 0)
        assert running(first) == (0, 0)
        for queue in (first, second):
            await queue.aclose()

    asyncio.run(asyncio.wait_for(waits(), 30))


def _patiently(queue: RedisQueue, deadline: float) -> object:
    """A slot of a server that has just started, and hands out nothing yet."""
    while True:
        try:
            return queue.enter(ticket(ACME, timeout=5))
        except RateLimited:
            assert time.monotonic() < deadline


def _is(look: Callable[[], object], wanted: object) -> bool:
    with contextlib.suppress(StoreUnavailable):
        return look() == wanted
    return False


def test_a_slot_that_could_not_be_given_back_is_given_back_later(
    server: Server, opened: Callable[..., RedisQueue]
) -> None:
    queue = opened(server.url, slots=1, timeout=0.5)
    slot = queue.enter(ticket(ACME))
    server.signal(signal.SIGSTOP)
    queue.leave(slot, 10, 5)
    with pytest.raises(StoreUnavailable) as caught:
        queue.enter(ticket(TWIN))
    assert caught.value.store == "queue" and caught.value.retry_after
    server.signal(signal.SIGCONT)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with contextlib.suppress(StoreUnavailable):
            queue.leave(queue.enter(ticket(TWIN)), 1, 0)
            return
        time.sleep(0.02)
    pytest.fail("the slot never came back")


def test_a_lost_reply_leaks_no_slot(redis_url: str, opened: Callable[..., RedisQueue]) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    wire = Wire(port)
    queue = opened(wire.url, slots=2)
    wire.lose = 1
    slot = queue.enter(ticket(ACME, timeout=0))  # asked again under the same id
    assert running(queue) == (1, 0)
    wire.lose = 1
    queue.leave(slot, 1, 0)
    assert running(queue) == (0, 0)
    wire.lose = 2
    with pytest.raises(StoreUnavailable):
        queue.enter(ticket(ACME, timeout=0))
    end = time.monotonic() + 10
    while running(queue) != (0, 0) and time.monotonic() < end:
        time.sleep(0.02)
    assert running(queue) == (0, 0)
    wire.close()


def test_while_redis_is_down_only_degraded_tenants_get_a_share(
    server: Server, opened: Callable[..., RedisQueue]
) -> None:
    rules = {"Acme": WhenDown(limits="degraded"), "acme": WhenDown()}
    queue = opened(server.url, slots=4, workers=2, timeout=0.25, when_down=lambda tenant: rules[tenant.id])
    server.kill()
    slots = [queue.enter(ticket(ACME, timeout=0)) for _ in range(2)]
    with pytest.raises(RateLimited):
        queue.enter(ticket(ACME, timeout=0))
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        queue.enter(ticket(TWIN))
    assert time.monotonic() - began < 2.5  # ten times the timeout: how busy a machine may be
    for slot in slots:
        queue.leave(slot, 1, 0)


async def test_who_waits_is_told_when_the_queue_is_closed(opened: Callable[..., RedisQueue]) -> None:
    """A worker that shuts down must not sit out its callers' timeouts; and one in a thread hears of it as well."""
    queue = opened(slots=1)
    await queue.aenter(ticket(TWIN))
    waiting = [
        asyncio.create_task(queue.aenter(ticket(ACME, timeout=600))),
        asyncio.create_task(asyncio.to_thread(queue.enter, ticket(NEXT, timeout=600))),
    ]
    async with asyncio.timeout(30):
        while (await asyncio.to_thread(running, queue)) != (1, 2):  # noqa: ASYNC110 - another thread counts
            await asyncio.sleep(0.01)
        await queue.aclose()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * 2
    assert all("closed" in str(answer) for answer in answers)


def test_a_server_that_throws_keys_away_is_refused() -> None:
    with (
        local_redis(modules=False, maxmemory_policy="allkeys-lru") as url,
        pytest.raises(SettingsError, match="noeviction"),
    ):
        RedisQueue(url, pools(1))


def test_a_forked_child_is_a_worker_of_its_own(redis_url: str) -> None:
    with worker("fork", redis_url, 2, LEASE) as process:
        assert told(process) == ["0", "1"]


async def test_a_tenant_that_cancels_everything_costs_the_others_nothing(
    redis_url: str, opened: Callable[..., RedisQueue]
) -> None:
    queue = opened(slots=1)
    slot = await queue.aenter(ticket(TWIN))
    for _ in range(5):
        jobs = [asyncio.create_task(queue.aenter(ticket(ACME, prompt=5000, timeout=60))) for _ in range(40)]
        await asyncio.sleep(0)
        for job in jobs[::-1]:
            job.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*jobs, return_exceptions=True)
        )
    assert running(queue) == (1, 0)
    await queue.aleave(slot, 10, 0)
    with Redis.from_url(redis_url) as client:
        assert client.hlen(f"{keys.pool_key('p')}jobs") == 0
    assert {lane.tenant_id: lane.served_tokens for lane in queue.state()[0].lanes}.get("Acme", 0.0) == 0.0
    await queue.aleave(await queue.aenter(ticket(NEXT, timeout=0)), 1, 0)
    await queue.aclose()


@pytest.fixture
def scripted(redis_url: str) -> Iterator[Callable[..., Scripted]]:
    made: list[Scripted] = []

    def make(slots: int = 1, *, max_wait: float = 30.0, **options: object) -> Scripted:
        terms = PoolTerms(slots, max_runtime=1e6, prior_output=0, max_wait=max_wait)
        made.append(Scripted(redis_url, PoolRule("p", ("m",), terms), **options))  # type: ignore[arg-type]  # options of each test
        return made[-1]

    yield make
    for each in made:
        each.close()


def served(line: Scripted, tenants: tuple[str, ...], many: int, **weights: float) -> list[str]:
    """Who gets the one slot, of tenants that always have calls waiting; each call is of 100 tokens."""
    waiting = [line.push(tenant, 100, 0, weights.get(tenant, 1.0)) for tenant in tenants for _ in range(many)]
    order = []
    for _ in range(many):
        (lease,) = [each for each in waiting if each.ready]
        waiting.remove(lease)
        order.append(lease.ticket.tenant.id)
        line.now += 1.0
        line.leave(lease, 100, 0)
    for lease in waiting:
        line.leave(lease)
    return order


def test_a_weight_that_changes_counts_from_the_next_call_on(scripted: Callable[..., Scripted]) -> None:
    line = scripted()
    order = served(line, ("Acme", "acme"), 40, Acme=3.0)
    assert 29 <= order.count("Acme") <= 31
    order = served(line, ("Acme", "acme"), 40)
    assert 19 <= order.count("Acme") <= 21


def test_a_tenant_that_wakes_after_an_hour_has_earned_nothing(scripted: Callable[..., Scripted]) -> None:
    line = scripted()
    served(line, ("acme",), 1)
    served(line, ("Acme",), 50)
    line.now += 3600.0
    order = served(line, ("Acme", "acme"), 40)
    assert 19 <= order.count("acme") <= 21


def test_too_many_tenants_to_serve_each_in_time_do_not_undo_a_newcomers_turn(
    scripted: Callable[..., Scripted],
) -> None:
    line = scripted(max_wait=10.0)
    waiting = [line.push(f"flood{n}", 100 + n, 0) for n in range(20) for _ in range(6)]

    def serve(seconds: int) -> None:
        for _ in range(seconds):
            line.now += 1.0
            (lease,) = [each for each in waiting if each.ready]
            waiting.remove(lease)
            line.leave(lease, lease.ticket.prompt_tokens, 0)

    serve(60)
    waiting.append(light := line.push("light", 100, 0))
    serve(4)
    assert light.ready


def test_word_of_a_slot_that_was_given_back_is_no_new_slot(scripted: Callable[..., Scripted]) -> None:
    """A tick told of the grant first; its word in the box comes when the call was parked already."""
    line = scripted()
    first, second = line.push("Acme", 100, 0), line.push("acme", 100, 0)
    line.links.run(line.pool.leave(first, 100, 0))
    line.links.run(line.pool.tick())
    assert second.ready
    line.links.run(line.pool.park(second, 10.0, 0.0))
    line.fetched()
    assert not second.ready
    line.now += 10.5
    line.tick()
    assert second.ready
    line.leave(second, 100, 0)


KEYS = ("", "turns", "ages", "ends", "l:Acme", "q:Acme", "l:acme", "jobs", "workers", "w:w", "seen")


@pytest.mark.parametrize("key", KEYS)
def test_a_deleted_key_is_mended_and_stops_nobody(scripted: Callable[..., Scripted], key: str) -> None:
    """One missing key used to fail every later call of the pool, of all tenants."""
    line = scripted(slots=2, lease=15.0)
    waiting = [line.push(tenant, 10, 10) for tenant in ("Acme", "acme", "Acme", "acme", "Acme", "acme2", "acme2")]
    assert line.client.delete(line.pool.key + key) == 1
    for _ in range(30):
        line.now += 1.0
        line.tick()
        for lease in [each for each in waiting if each.ready]:
            waiting.remove(lease)
            line.leave(lease, 10, 10)
    assert not waiting
    state = line.links.run(line.pool.state())
    assert (state.running, state.waiting) == (0, 0)
    last = line.push("z", 1, 1)
    assert last.ready
    line.leave(last)


def test_a_clock_set_back_delays_nobody(scripted: Callable[..., Scripted]) -> None:
    """A failover may go to a machine that is a minute behind; nobody stands aside a minute longer."""
    line = scripted()
    lease = line.push("acme", 100, 0)
    line.park(lease, 10.0)
    line.now -= 61.0
    line.tick()
    assert not lease.ready
    line.now += 10.5
    line.tick()
    assert lease.ready
    line.now += 61.0
    line.leave(lease, 100, 0)
    assert line.links.run(line.pool.state()).running == 0


@pytest.mark.parametrize("tenants", [500, pytest.param(100_000, marks=pytest.mark.long)])
def test_idle_tenants_are_forgotten(scripted: Callable[..., Scripted], tenants: int) -> None:
    line = scripted()
    for n in range(tenants):
        line.leave(line.push(f"t{n}", 100, 0), 100, 0)
    left = [key for key in line.client.keys(f"{line.pool.key}*") if b"l:" in key or b"q:" in key]
    assert len(left) < 5 and line.client.zcard(f"{line.pool.key}idle") < 5


def test_every_key_of_a_pool_lies_in_one_cluster_slot(scripted: Callable[..., Scripted]) -> None:
    line = scripted()
    line.push("Acme", 10, 5)
    line.leave(line.push("b", 10, 5), 10, 5)
    line.park(line.push("c.d", 10, 5), 3.0)
    found = line.client.keys("*")
    assert len(found) > 8 and len({key_slot(key) for key in found}) == 1
    assert all(key.decode().startswith(line.pool.key) for key in found)


def test_pools_and_tenants_never_share_a_key() -> None:
    tags = {key_slot_tag(keys.pool_key(name)) for name in ("Acme", "acme", "acme2")}
    assert len(tags) == 3
    assert tags.isdisjoint(key_slot_tag(keys.key_prefix(tenant)) for tenant in (ACME, TWIN, NEXT))


def key_slot_tag(key: str) -> str:
    return key.partition("{")[2].partition("}")[0]
