"""RedisHistory keeps the contract on a real Redis, also when calls are cancelled or the server is gone."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable

import pytest
from redis import Redis

from tenant_middleware.backends.redis.history import RedisHistory
from tenant_middleware.errors import StoreUnavailable
from tenant_middleware.isolation.history import HistoryLimits, Message, surplus
from tenant_middleware.keys import key_prefix
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.history import HistoryContract, NewHistory, said, texts


class TestRedisHistory(HistoryContract):
    @pytest.fixture
    async def new_history(self, redis_url: str) -> AsyncIterator[NewHistory]:
        made: list[RedisHistory] = []

        def new(limits: HistoryLimits) -> RedisHistory:
            made.append(RedisHistory(redis_url, limits=limits))
            return made[-1]

        yield new
        for history in made:
            await history.aclose()

    @pytest.fixture
    def advance(self, pass_time: Callable[[float], None]) -> Callable[[float], None]:
        return pass_time


def test_every_key_begins_with_its_tenant(redis_url: str, pair: tuple[Tenant, Tenant]) -> None:
    history = RedisHistory(redis_url, limits=HistoryLimits(ttl=60))
    for tenant in pair:
        history.append(tenant, "s", said("x"))
    history.close()
    with Redis.from_url(redis_url, decode_responses=True) as client:
        names = set(client.scan_iter())
        assert {sum(name.startswith(key_prefix(t)) for t in pair) for name in names} == {1}
        assert all(client.pttl(name) > 0 for name in names), "nothing stays behind for ever"
    assert len(names) == 4


def test_a_total_of_tokens_is_kept_only_where_tokens_are_limited(redis_url: str, acme: Tenant) -> None:
    plain, limited = RedisHistory(redis_url), RedisHistory(redis_url, limits=HistoryLimits(ttl=60, max_tokens=100))
    with Redis.from_url(redis_url) as client:
        plain.append(acme, "s", said("x"))
        assert len(client.keys()) == 2, "the session and the index"
        limited.append(acme, "s", said("x"))
        assert len(client.keys()) == 3 and all(client.pttl(name) > 0 for name in client.scan_iter())
    plain.close()
    limited.close()


@pytest.mark.parametrize("seed", range(6))
def test_workers_with_other_limits_trim_by_what_is_stored(redis_url: str, acme: Tenant, seed: int) -> None:
    """A total that one worker keeps, and others don't, is never taken for more than it says."""
    dice = random.Random(seed)
    limits = [HistoryLimits(), HistoryLimits(max_messages=3), HistoryLimits(max_tokens=40)]
    workers = [RedisHistory(redis_url, limits=each) for each in limits]
    stored: dict[str, list[Message]] = {"s": [], "t": []}
    for step in range(300):
        worker, bounds = dice.choice(list(zip(workers, limits, strict=True)))
        name, other = dice.sample(sorted(stored), 2)
        verb = dice.choice([*["append"] * 6, *["drop"] * 3, "remove", "move", "replace", "clear"])
        new = [
            Message(dice.choice(["user", "tool"]), f"{step}", tokens=dice.randrange(12))
            for _ in range(dice.choice((1, 2)))
        ]
        if verb in ("append", "replace"):
            worker.append(acme, name, new) if verb == "append" else worker.replace(acme, name, new)
            grown = stored[name] + new if verb == "append" else new
            stored[name] = grown[surplus(grown, bounds) :]
        elif verb == "drop":
            assert worker.drop_oldest(acme, name, 2) == stored[name][:2]
            stored[name] = stored[name][2:]
        elif verb == "move":
            assert worker.move_oldest(acme, name, other, 2) == stored[name][:2]
            stored[other], stored[name] = stored[other] + stored[name][:2], stored[name][2:]
        elif verb == "remove":
            worker.remove(acme, name, 1)
            del stored[name][1:2]
        elif dice.random() < 0.3:
            assert worker.clear(acme, name) == len(stored[name])
            stored[name] = []
        assert {each: worker.read(acme, each) for each in stored} == stored
        assert worker.sessions(acme) == [each for each in stored if stored[each]]
    for worker in workers:
        worker.close()


def test_clearing_a_tenant_leaves_none_of_its_keys(redis_url: str, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    history = RedisHistory(redis_url)
    for tenant in pair:
        history.append(tenant, "s", said("x"))
        history.append(tenant, "t", said("x"))
    history.clear_tenant(a)
    history.close()
    with Redis.from_url(redis_url, decode_responses=True) as client:
        assert not [name for name in client.scan_iter() if name.startswith(key_prefix(a))]
        assert [name for name in client.scan_iter() if name.startswith(key_prefix(b))]


def test_a_long_append_is_one_append(redis_url: str, acme: Tenant) -> None:
    history = RedisHistory(redis_url, limits=HistoryLimits(max_messages=5_000))
    assert history.append(acme, "s", said(*map(str, range(6_000)))) == 5_000
    assert texts(history.read(acme, "s", last=2)) == ["5998", "5999"]
    assert history.read(acme, "s")[0].content == "1000"
    history.close()


def test_a_server_that_is_gone_raises_our_error_without_content(unused_port: int, acme: Tenant) -> None:
    history = RedisHistory(f"redis://127.0.0.1:{unused_port}", timeout=0.2)
    with pytest.raises(StoreUnavailable) as caught:
        history.append(acme, "s", [Message("user", "secret")])
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None and caught.value.__context__ is None
    with pytest.raises(StoreUnavailable):
        history.read(acme, "s")


def test_a_session_that_was_emptied_is_listed_again(redis_url: str, acme: Tenant) -> None:
    """The index is written when a session begins; it may begin more than once."""
    history = RedisHistory(redis_url)
    for _ in range(3):
        history.append(acme, "s", [Message("user", "1")])
        history.append(acme, "s", [Message("user", "2")])
        assert history.sessions(acme) == ["s"] and history.count(acme).messages == 2
        assert len(history.drop_oldest(acme, "s", 2)) == 2 and history.sessions(acme) == []
    history.append(acme, "s", [Message("user", "3")])
    history.replace(acme, "s", [])
    history.append(acme, "s", [Message("user", "4")])
    assert history.sessions(acme) == ["s"] and [m.content for m in history.read(acme, "s")] == ["4"]
    history.close()
