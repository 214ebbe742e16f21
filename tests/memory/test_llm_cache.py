"""TenantCache: LangChain's LLM cache answers each tenant from its own calls alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.caches import BaseCache, InMemoryCache
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_tests.integration_tests import AsyncCacheTestSuite, SyncCacheTestSuite

from tenant_middleware.backends.in_memory.cache import InMemoryExactCache
from tenant_middleware.backends.redis.exact import RedisExactCache
from tenant_middleware.context import scope
from tenant_middleware.errors import InvalidInput, MissingTenant
from tenant_middleware.isolation.cache import ExactCache
from tenant_middleware.langchain.cache import TenantCache
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.cache import RULES

TENANTS = [Tenant("Acme", "free", "u"), Tenant("acme", "free", "u"), Tenant("acme2", "free", "u")]
NEIGHBOUR = Tenant("acme3", "free", "u")


@pytest.fixture(params=["memory", "redis"])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[ExactCache]:
    """One backend for all tenants; a neighbour's answers to the suite's own prompts are in it already."""
    if request.param == "memory":
        memory = InMemoryExactCache(rules=RULES)
        yield _with_a_neighbour(memory)
        assert memory.count(NEIGHBOUR).entries == 1
    else:
        redis = RedisExactCache(request.getfixturevalue("redis_url"), rules=RULES)
        yield _with_a_neighbour(redis)
        assert redis.count(NEIGHBOUR).entries == 1
        await redis.aclose()


def _with_a_neighbour(cache: ExactCache) -> ExactCache:
    suite = SyncCacheTestSuite()  # type: ignore[abstract]  # for its samples
    with scope(NEIGHBOUR):
        TenantCache(cache).update(
            suite.get_sample_prompt(), suite.get_sample_llm_string(), [Generation(text="not yours")]
        )
    return cache


class TestSuiteOfLangChain(SyncCacheTestSuite):
    @pytest.fixture(params=TENANTS, ids=str)
    def cache(self, request: pytest.FixtureRequest, shared: ExactCache) -> Iterator[BaseCache]:
        yield _Scoped(TenantCache(shared), request.param)


class TestAsyncSuiteOfLangChain(AsyncCacheTestSuite):
    @pytest.fixture(params=TENANTS, ids=str)
    async def cache(self, request: pytest.FixtureRequest, shared: ExactCache) -> AsyncIterator[BaseCache]:
        yield _Scoped(TenantCache(shared), request.param)


class _Scoped(BaseCache):
    """Opens the scope in each call: pytest-asyncio's fixtures and tests don't share a context."""

    def __init__(self, inner: BaseCache, tenant: Tenant) -> None:
        self.inner, self.tenant = inner, tenant

    def lookup(self, prompt: str, llm_string: str) -> Any:
        with scope(self.tenant):
            return self.inner.lookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Any) -> None:
        with scope(self.tenant):
            self.inner.update(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        with scope(self.tenant):
            self.inner.clear()

    async def alookup(self, prompt: str, llm_string: str) -> Any:
        with scope(self.tenant):
            return await self.inner.alookup(prompt, llm_string)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Any) -> None:
        with scope(self.tenant):
            await self.inner.aupdate(prompt, llm_string, return_val)

    async def aclear(self, **kwargs: Any) -> None:
        with scope(self.tenant):
            await self.inner.aclear()


def model(cache: BaseCache, *answers: str) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter(AIMessage(a) for a in answers), cache=cache)


def test_the_same_prompt_gets_each_tenants_own_answer(pair: tuple[Tenant, Tenant]) -> None:
    llm = model(TenantCache(InMemoryExactCache(rules=RULES)), "one", "two")
    for tenant, answer in zip(pair, ("one", "two"), strict=True):
        with scope(tenant):
            assert llm.invoke("same").content == answer
    for tenant, answer in zip(pair, ("one", "two"), strict=True):
        with scope(tenant):
            assert llm.invoke("same").content == answer, "its own repeat hits"


def test_langchains_own_cache_hands_one_tenants_answer_to_the_other(pair: tuple[Tenant, Tenant]) -> None:
    llm = model(InMemoryCache(), "one", "two")
    with scope(pair[0]):
        llm.invoke("same")
    with scope(pair[1]):
        assert llm.invoke("same").content == "one"


def test_subjects_of_one_tenant_share_only_when_the_policy_says_so(acme: Tenant) -> None:
    other = replace(acme, subject="another")
    for rules, expected in ((RULES, "two"), (replace(RULES, share="tenant"), "one")):
        llm = model(TenantCache(InMemoryExactCache(rules=rules)), "one", "two")
        with scope(acme):
            llm.invoke("same")
        with scope(other):
            assert llm.invoke("same").content == expected


async def test_the_async_twins_and_streams_of_batches_keep_the_tenant(pair: tuple[Tenant, Tenant]) -> None:
    cache = TenantCache(InMemoryExactCache(rules=RULES))
    a, b = pair
    async with scope(a):
        await model(cache, "one").ainvoke("same")
        pending = cache.alookup("p", "llm")
        await cache.aupdate("p", "llm", [Generation(text="of a")])
    assert await pending == [Generation(text="of a")], "taken for a, when it was called"
    async with scope(b):
        assert (await model(cache, "two").ainvoke("same")).content == "two"
        assert await cache.alookup("p", "llm") is None
    with scope(a):
        assert [m.content for m in model(cache, "x", "y").batch(["same", "same"])] == ["one", "one"]


def test_messages_come_back_whole(acme: Tenant) -> None:
    cache = TenantCache(InMemoryExactCache(rules=RULES))
    call = {"name": "f", "args": {"x": [1, "é"]}, "id": "c1", "type": "tool_call"}
    message = AIMessage([{"type": "text", "text": "hi"}], tool_calls=[call], usage_metadata=None)
    with scope(acme):
        cache.update("p", "llm", [ChatGeneration(message=message, generation_info={"finish_reason": "stop"})])
        found = cache.lookup("p", "llm")
    assert found is not None and isinstance(found[0], ChatGeneration)
    assert found[0].message == message and found[0].generation_info == {"finish_reason": "stop"}


def test_what_only_pickle_could_carry_is_refused(acme: Tenant) -> None:
    cache = TenantCache(InMemoryExactCache(rules=RULES))
    with scope(acme), pytest.raises(InvalidInput):
        cache.update("p", "llm", [Generation(text="x", generation_info={"o": object()})])


def test_no_tenant_no_cache() -> None:
    cache = TenantCache(InMemoryExactCache(rules=RULES))
    for call in (lambda: cache.lookup("p", "l"), lambda: cache.update("p", "l", []), cache.clear):
        with pytest.raises(MissingTenant):
            call()
    with pytest.raises(MissingTenant):
        model(cache, "x").invoke("hi")
