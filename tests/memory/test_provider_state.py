"""Ids, users and salts at a provider are the tenant's own: foreign ones are refused, named ones never meet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis import Redis

from tenant_middleware.backends.in_memory.provider_ids import InMemoryProviderIds
from tenant_middleware.backends.redis.provider_ids import RedisProviderIds
from tenant_middleware.errors import ForeignReference, InvalidInput
from tenant_middleware.isolation.provider_state import ProviderState, salt_field
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing import ManualClock
from tenant_middleware.testing.provider_ids import ProviderIdsContract

SECRET = b"not a secret: for tests only"


class TestInMemoryProviderIds(ProviderIdsContract):
    @pytest.fixture
    def new_ids(self, clock: ManualClock) -> Callable[[float, int], InMemoryProviderIds]:
        return lambda ttl, most: InMemoryProviderIds(ttl=ttl, most=most, clock=clock)

    @pytest.fixture
    def advance(self, clock: ManualClock) -> Callable[[float], None]:
        return clock.advance


class TestRedisProviderIds(ProviderIdsContract):
    @pytest.fixture
    async def new_ids(self, redis_url: str) -> AsyncIterator[Callable[[float, int], RedisProviderIds]]:
        made: list[RedisProviderIds] = []

        def new(ttl: float, most: int) -> RedisProviderIds:
            made.append(RedisProviderIds(redis_url, ttl=ttl, most=most))
            return made[-1]

        yield new
        for ids in made:
            await ids.aclose()

    @pytest.fixture
    def advance(self, redis_url: str) -> Callable[[float], None]:
        """The server's clock can't be set: what lies there becomes older instead."""

        def older(seconds: float) -> None:
            with Redis.from_url(redis_url) as client:
                for name in client.scan_iter(_type="zset"):
                    for member in client.zrange(name, 0, -1):
                        client.zincrby(name, -seconds, member)

        return older


@pytest.fixture
def state() -> ProviderState:
    return ProviderState(InMemoryProviderIds(), SECRET)


CONTINUED: list[dict[str, Any]] = [
    {"previous_response_id": "resp_1"},
    {"conversation": "conv_1"},
    {"conversation": {"id": "conv_1"}},
    {"extra_body": {"previous_response_id": "resp_1"}},
]


@pytest.mark.parametrize("request_", CONTINUED, ids=str)
async def test_what_one_tenant_was_given_another_cannot_continue(
    state: ProviderState, pair: tuple[Tenant, Tenant], request_: dict[str, Any]
) -> None:
    a, b = pair
    state.incoming(a, {"id": "resp_1", "conversation": {"id": "conv_1"}})
    assert state.outgoing(a, request_) == request_ == await state.aoutgoing(a, request_)
    refusals = []
    for tenant, sent in ((b, request_), (b, {"previous_response_id": "resp_nobodys"})):
        for send in (state.outgoing, state.aoutgoing):
            with pytest.raises(ForeignReference) as caught:
                found: Any = send(tenant, sent)
                await found
            refusals.append((caught.value.http_status, str(caught.value).partition(":")[2]))
            assert a.id not in str(caught.value).split() and "resp_" not in str(caught.value)
    assert len(set(refusals)) == 1, "unknown and foreign ids get the same answer"


LOOKED_UP: list[dict[str, Any]] = [
    {"input": [{"type": "item_reference", "id": "rs_1"}]},
    {"input": [{"role": "user", "content": "hi"}, {"id": "rs_1"}]},
    {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]},
    {"input": [{"type": "image_generation_call", "id": "rs_1"}]},
    {"extra_body": {"input": [{"type": "item_reference", "id": "rs_1"}]}},
    {"messages": [{"role": "assistant", "audio": {"id": "rs_1"}}]},
]


@pytest.mark.parametrize("request_", LOOKED_UP, ids=str)
async def test_an_item_kept_at_the_provider_is_its_own_tenants(
    state: ProviderState, pair: tuple[Tenant, Tenant], request_: dict[str, Any]
) -> None:
    """OpenAI's API takes the id of an item instead of the item, for every caller of one key."""
    a, b = pair
    with pytest.raises(ForeignReference):
        state.outgoing(a, request_)
    state.incoming(a, {"id": "chatcmpl-1", "output": [{"type": "reasoning", "id": "rs_1"}]})
    assert state.outgoing(a, request_) == request_ == await state.aoutgoing(a, request_)
    for send in (state.outgoing, state.aoutgoing):
        with pytest.raises(ForeignReference):
            found: Any = send(b, request_)
            await found


def test_an_item_that_says_it_all_needs_no_owner(state: ProviderState, acme: Tenant) -> None:
    said = [
        {"role": "assistant", "type": "message", "id": "msg_1", "content": "hi"},
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"role": "user", "content": "go on"},
    ]
    assert state.outgoing(acme, {"input": said}) == {"input": said}
    assert state.outgoing(acme, {"input": "text", "messages": "text"}) == {"input": "text", "messages": "text"}


def test_a_completion_that_cannot_be_continued_is_not_kept(state: ProviderState, acme: Tenant) -> None:
    state.incoming(acme, {"id": "chatcmpl-1"})
    assert not state.ids.owns(acme, "response", "chatcmpl-1")


def test_what_came_by_other_means_can_be_registered(state: ProviderState, pair: tuple[Tenant, Tenant]) -> None:
    state.claim(pair[0], "conversation", "conv_9")
    state.outgoing(pair[0], {"conversation": "conv_9"})
    with pytest.raises(ForeignReference):
        state.outgoing(pair[1], {"conversation": "conv_9"})


@pytest.mark.parametrize("field", ["user", "safety_identifier"])
def test_users_of_the_same_name_are_two(state: ProviderState, pair: tuple[Tenant, Tenant], field: str) -> None:
    a, b = pair
    sent = {tenant: state.outgoing(tenant, {field: "ann"})[field] for tenant in pair}
    assert sent[a] != sent[b] and "ann" not in sent[a] and len(sent[a]) <= 64
    assert state.outgoing(a, {field: "ann"})[field] == sent[a] == state.outgoing(a, {field: sent[a]})[field]
    assert state.outgoing(a, {field: "bob"})[field] != sent[a]
    with pytest.raises(ForeignReference) as caught:
        state.outgoing(b, {"extra_body": {field: sent[a]}})
    assert caught.value.rule == "user"


def test_the_salt_is_the_tenants_whatever_the_caller_sent(state: ProviderState, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    salt = {t: state.outgoing(t, {}, salt="prompt_cache_key")["prompt_cache_key"] for t in pair}
    assert salt[a] != salt[b] and len(salt[a]) == 64
    guessed = {"prompt_cache_key": salt[a], "cache_salt": salt[a], "extra_body": {"cache_salt": salt[a], "top_k": 1}}
    assert state.outgoing(b, guessed) == {
        "prompt_cache_key": salt[b],
        "extra_body": {"top_k": 1, "cache_salt": salt[b]},
    }
    assert state.outgoing(a, {}, salt="cache_salt") == {"extra_body": {"cache_salt": salt[a]}}
    assert state.outgoing(a, {"temperature": 0}) == {"temperature": 0}
    assert (salt_field("hosted_vllm"), salt_field("openai"), salt_field("else")) == (
        "cache_salt",
        "prompt_cache_key",
        None,
    )


def test_the_callers_request_is_not_changed(state: ProviderState, acme: Tenant) -> None:
    request = {"user": "ann", "extra_body": {"cache_salt": "x"}}
    state.outgoing(acme, request)
    assert request == {"user": "ann", "extra_body": {"cache_salt": "x"}}


@pytest.mark.parametrize(
    "request_",
    [{"user": 7}, {"user": ""}, {"conversation": 7}, {"previous_response_id": ""}, {"extra_body": "x"}],
    ids=str,
)
def test_what_is_no_id_is_refused(state: ProviderState, acme: Tenant, request_: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        state.outgoing(acme, request_)
