"""A read begun by one tenant and awaited in the scope of another hands over nothing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from langchain_core.outputs import Generation
from langchain_core.stores import InMemoryStore as KeyValues
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.base import GetOp
from langgraph.store.memory import InMemoryStore

from tenant_middleware.backends.in_memory.cache import InMemoryExactCache
from tenant_middleware.context import scope
from tenant_middleware.errors import TenantMismatch
from tenant_middleware.isolation.cache import CacheRules
from tenant_middleware.langchain import (
    TenantCache,
    TenantCheckpointSaver,
    TenantKeyValueStore,
    TenantStore,
    key_values,
    memory,
    store,
)
from tenant_middleware.langchain import cache as cache_module
from tenant_middleware.tenant import Tenant

CONFIG: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
Read = Callable[[], Coroutine[Any, Any, Any]]


def _key_values(owner: Tenant) -> Read:
    kept = TenantKeyValueStore(KeyValues())
    with scope(owner):
        kept.mset([("key", owner.id)])
    return lambda: kept.amget(["key"])


def _long_term(owner: Tenant) -> Read:
    kept = TenantStore(InMemoryStore())
    with scope(owner):
        kept.put(("notes",), "key", {"text": owner.id})
    return lambda: kept.abatch([GetOp(("notes",), "key")])


def _llm_cache(owner: Tenant) -> Read:
    kept = TenantCache(InMemoryExactCache(rules=CacheRules(b"0123456789abcdef")))
    with scope(owner):
        kept.update("prompt", "llm", [Generation(text=owner.id)])
    return lambda: kept.alookup("prompt", "llm")


def _threads(owner: Tenant) -> Read:
    kept = TenantCheckpointSaver(InMemorySaver())
    with scope(owner):
        kept.put(CONFIG, empty_checkpoint(), {"source": owner.id}, {})  # type: ignore[typeddict-item]
    return lambda: kept.aget_tuple(CONFIG)


READS = {"key values": _key_values, "long-term": _long_term, "LLM cache": _llm_cache, "threads": _threads}


@pytest.mark.parametrize("read", READS)
async def test_a_read_awaited_elsewhere_is_refused(read: str, pair: tuple[Tenant, Tenant]) -> None:
    first, second = pair
    begin = READS[read](first)
    with scope(first):
        assert first.id in str(await begin())
        late = begin()
    with scope(second), pytest.raises(TenantMismatch):
        await late


@pytest.mark.parametrize("read", READS)
async def test_unbound_it_would_be_handed_over(
    read: str, pair: tuple[Tenant, Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutation control: without the tie to the caller, the second tenant's code reads the first one's text."""
    for module in (key_values, store, cache_module):
        monkeypatch.setattr(module, "called_now", lambda fn, *args, **kwargs: fn(*args, **kwargs))
    monkeypatch.setattr(memory, "refuse_other", lambda tenant: None)
    first, second = pair
    begin = READS[read](first)
    with scope(first):
        late = begin()
    with scope(second):
        assert first.id in str(await late)
