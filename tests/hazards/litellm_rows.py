"""Hazards of LiteLLM's response cache: shared by all, a caller's namespace wins, one semantic bucket for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import litellm
from litellm.caching.caching import Cache
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.types.caching import LiteLLMCacheType

from tenant_middleware import Tenancy, scope
from tenant_middleware.isolation.seal import unseal_all
from tenant_middleware.litellm import TenantCallback
from tenant_middleware.litellm.calls import Calls, Pin
from tenant_middleware.tenant import Tenant
from tests.hazards.scoreboard import ACME, GLOBEX, POLICY, Hazard

QUESTION: list[Any] = [{"role": "user", "content": "What does Premium cost?"}]
Ask = Callable[..., Coroutine[Any, Any, str]]


@contextmanager
def _cache(**settings: Any) -> Iterator[Cache]:
    litellm.cache = Cache(type=LiteLLMCacheType.LOCAL, **settings)
    try:
        yield litellm.cache
    finally:
        unseal_all()
        litellm.cache, litellm.callbacks = None, []


async def _bare(tenant: Tenant, answer: str, **more: Any) -> str:
    metadata = {"tenant_id": tenant.id}
    done = await litellm.acompletion(
        "openai/local", QUESTION, mock_response=answer, caching=True, metadata=metadata, **more
    )
    await asyncio.sleep(0.01)  # a hit doesn't yield, and what came before it is stored by a task
    return str(done.choices[0].message.content)


async def _with_us(tenant: Tenant, answer: str, **more: Any) -> str:
    with scope(tenant):
        return await _bare(tenant, answer, **more)


def _leaks(ask: Ask, **forged: Any) -> bool:
    """Whether globex is given acme's answer; acme's own repeat must come from the cache."""

    async def run() -> bool:
        first, foreign = await ask(ACME, "acme's answer"), await ask(GLOBEX, "globex's answer", **forged)
        assert await ask(ACME, "a fresh answer") == first, "the owner's own repeat isn't cached"
        await GLOBAL_LOGGING_WORKER.flush()  # hits are booked behind the answer
        return foreign == first

    return asyncio.run(run())


def bare_exact() -> bool:
    with _cache():
        return _leaks(_bare)


def our_exact() -> bool:
    with _cache(), Tenancy.from_mapping(POLICY) as tenancy:
        litellm.callbacks = [TenantCallback(tenancy)]
        tenancy.seal()
        return _leaks(_with_us)


def bare_namespace() -> bool:
    """The server keeps tenants apart by namespace; the caller says which."""

    async def ask(tenant: Tenant, answer: str, **forged: Any) -> str:
        return await _bare(tenant, answer, **({"cache": {"namespace": tenant.id}} | forged))

    with _cache():
        assert not _leaks(ask), "the namespaces keep nobody apart"
    with _cache():
        return _leaks(ask, cache={"namespace": "acme"})


def our_namespace() -> bool:
    with _cache(), Tenancy.from_mapping(POLICY) as tenancy:
        litellm.callbacks = [TenantCallback(tenancy)]
        tenancy.seal()
        return _leaks(_with_us, cache={"namespace": "acme"})


def _bucket(cache: Cache, text: str, metadata: dict[str, Any]) -> str:
    """A semantic cache looks for near questions inside this bucket alone."""
    messages = [{"role": "user", "content": text}]
    return str(cache.get_cache_key(model="openai/local", messages=messages, metadata=metadata))


def _same_bucket(cache: Cache, mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    own = _bucket(cache, "What does Premium cost?", mine)
    assert own == _bucket(cache, "How much is Premium?", mine), "the owner's own paraphrase is never found"
    return own == _bucket(cache, "What does Premium cost?", theirs)


def bare_semantic() -> bool:
    with _cache() as cache:
        cache.type = LiteLLMCacheType.REDIS_SEMANTIC
        return _same_bucket(cache, {"tenant_id": "acme"}, {"tenant_id": "globex"})


def our_semantic() -> bool:
    with _cache() as cache, Tenancy.from_mapping(POLICY) as tenancy:
        cache.type = LiteLLMCacheType.REDIS_SEMANTIC
        tenancy.seal()
        calls = Calls(tenancy)

        async def pinned(tenant: Tenant) -> dict[str, Any]:
            request = {"messages": QUESTION}
            return {
                "tenant_middleware": Pin(await calls.open(tenant, "acompletion", "openai/local", request, "router"))
            }

        return _same_bucket(cache, asyncio.run(pinned(ACME)), asyncio.run(pinned(GLOBEX)))


ROWS = [
    Hazard("H11", "LiteLLM: one exact cache for all", bare_exact, our_exact),
    Hazard("H12", "LiteLLM: the caller's cache namespace wins", bare_namespace, our_namespace),
    Hazard("H13", "LiteLLM: one semantic bucket for all", bare_semantic, our_semantic),
]
