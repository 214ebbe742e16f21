"""tenancy.seal(): the caches that frameworks keep beside the data path are keyed by tenant, or it is an error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, TypedDict

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.cache.base import BaseCache as NodeCache
from langgraph.cache.memory import InMemoryCache as InMemoryNodeCache
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy

from tenant_middleware.backends.in_memory.cache import InMemoryExactCache
from tenant_middleware.context import current_tenant, scope
from tenant_middleware.errors import InvalidInput, MissingTenant, SealError
from tenant_middleware.isolation import seal
from tenant_middleware.isolation.cache import Share
from tenant_middleware.langchain.cache import TenantCache
from tenant_middleware.tenant import Tenant
from tenant_middleware.testing.cache import RULES

KEEPS: Any = SimpleNamespace(exact_cache=InMemoryExactCache(rules=RULES))


@pytest.fixture(autouse=True)
def _an_empty_cache() -> None:
    KEEPS.exact_cache = InMemoryExactCache(rules=RULES)


@pytest.fixture(autouse=True)
def _only_langchain_is_loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other adapters' tests run in the same process; each sealer is tested with its own framework."""
    monkeypatch.setattr(seal, "ADAPTERS", {name: seal.ADAPTERS[name] for name in ("langchain_core", "langgraph")})
    yield
    seal.unseal_all()
    set_llm_cache(None)


class State(TypedDict):
    asked: str
    answer: str


def graph(cache: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("n", lambda state: {"answer": f"for {current_tenant().id}"}, cache_policy=CachePolicy())
    builder.add_edge(START, "n")
    return builder.compile(cache=cache)


def test_the_global_llm_cache_becomes_the_tenants(pair: tuple[Tenant, Tenant]) -> None:
    set_llm_cache(InMemoryCache())
    model = GenericFakeChatModel(messages=iter(map(AIMessage, ("one", "two", "three", "four"))))
    with scope(pair[0]):
        assert model.invoke("x").content == "one"
    with scope(pair[1]):
        assert model.invoke("x").content == "one", "the control: unsealed, it leaks"
    reports = {(r.framework, r.layer): r.state for r in seal.seal_all(KEEPS)}
    assert reports["langchain_core", "global LLM cache"] == "sealed"
    for tenant, answer in zip(pair, ("two", "three"), strict=True):
        with scope(tenant):
            assert model.invoke("sealed").content == answer == model.invoke("sealed").content


def test_a_layer_that_is_not_there_is_absent() -> None:
    assert {r.state for r in seal.seal_all(KEEPS) if r.framework == "langchain_core"} == {"absent"}


def test_a_cache_set_after_sealing_is_noticed() -> None:
    set_llm_cache(InMemoryCache())
    seal.check("langchain_core")
    seal.seal_all(KEEPS)
    seal.check("langchain_core")
    set_llm_cache(InMemoryCache())
    with pytest.raises(SealError, match=r"after tenancy\.seal"):
        seal.check("langchain_core")
    set_llm_cache(TenantCache(KEEPS.exact_cache))
    seal.check("langchain_core")


def test_unsealing_puts_the_own_cache_back() -> None:
    own = InMemoryCache()
    set_llm_cache(own)
    seal.seal_all(KEEPS)
    assert isinstance(get_llm_cache(), TenantCache)
    seal.unseal_all()
    assert get_llm_cache() is own


async def test_node_caches_are_keyed_by_tenant(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    bare = graph(InMemoryNodeCache())
    for tenant in pair:
        with scope(tenant):
            leaked = bare.invoke({"asked": "x"})["answer"]
    assert leaked == f"for {a.id}", "the control: unsealed, it leaks"
    seal.seal_all(KEEPS)
    cache: Any = InMemoryNodeCache()
    app = graph(cache)
    for _ in range(2):
        for tenant in pair:
            with scope(tenant):
                assert app.invoke({"asked": "x"})["answer"] == f"for {tenant.id}"
                assert (await app.ainvoke({"asked": "x"}))["answer"] == f"for {tenant.id}"
    assert len(cache._cache) == 2
    with scope(a):
        chunks = list(app.stream({"asked": "x"}, stream_mode="updates"))
        assert chunks[0]["__metadata__"]["cached"] is True, "its own repeat hits"
        app.clear_cache(["n"])
        assert "__metadata__" not in next(iter(app.stream({"asked": "x"}, stream_mode="updates")))
    with scope(b):
        hit = next(iter(app.stream({"asked": "x"}, stream_mode="updates")))
        assert hit["__metadata__"]["cached"] is True, "clearing a's left b's"
        with pytest.raises(InvalidInput, match="every tenant"):
            cache.clear()
    with pytest.raises(MissingTenant):
        cache.get([(("x",), "k")])


@pytest.mark.parametrize("share", ["subject", "tenant"])
def test_what_a_node_did_for_a_user_is_that_users_unless_the_policy_shares(acme: Tenant, share: Share) -> None:
    """The control is the policy that shares: there the second user gets what the first one asked for."""
    KEEPS.exact_cache = InMemoryExactCache(rules=replace(RULES, share=share))
    seal.seal_all(KEEPS)
    builder = StateGraph(State)
    builder.add_node("n", lambda state: {"answer": f"for {current_tenant().subject}"}, cache_policy=CachePolicy())
    builder.add_edge(START, "n")
    app = builder.compile(cache=InMemoryNodeCache())
    answers = []
    for subject in ("ann", "bob", None, "ann"):
        with scope(replace(acme, subject=subject)):
            answers.append(app.invoke({"asked": "x"})["answer"])
    shared = ["for ann"] * 4
    assert answers == (shared if share == "tenant" else ["for ann", "for bob", "for None", "for ann"])


def test_a_node_cache_loaded_after_sealing_is_noticed() -> None:
    seal.seal_all(KEEPS)
    seal.check("langgraph")

    class Late(NodeCache):  # type: ignore[type-arg]  # any value
        def get(self, keys: Any) -> Any: ...
        async def aget(self, keys: Any) -> Any: ...
        def set(self, pairs: Any) -> None: ...
        async def aset(self, pairs: Any) -> None: ...
        def clear(self, namespaces: Any = None) -> None: ...
        async def aclear(self, namespaces: Any = None) -> None: ...

    with pytest.raises(SealError, match="Late"):
        seal.check("langgraph")
    seal.seal_all(KEEPS)
    seal.check("langgraph")


def test_a_framework_without_its_adapter_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "a_framework", SimpleNamespace())
    monkeypatch.setitem(seal.ADAPTERS, "a_framework", "tenant_middleware.a_framework")
    with pytest.raises(SealError, match=r"import tenant_middleware\.a_framework"):
        seal.seal_all(KEEPS)
    reports = seal.seal_all(KEEPS, strict=False)
    assert [r.state for r in reports if r.framework == "a_framework"] == ["not_sealable"]
