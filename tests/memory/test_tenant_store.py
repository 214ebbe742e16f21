"""TenantStore: long-term memory in one shared LangGraph store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore, GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import PostgresStore
from langgraph.store.sqlite import SqliteStore

from tenant_middleware.context import scope
from tenant_middleware.errors import ConfigurationError, IsolationBreach, MissingTenant
from tenant_middleware.keys import tag
from tenant_middleware.langchain.store import TenantStore
from tenant_middleware.tenant import Tenant


def embed(texts: list[str]) -> list[list[float]]:
    return [[float("price" in text), float("office" in text), 0.1] for text in texts]


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def inner(request: pytest.FixtureRequest) -> Iterator[BaseStore]:
    if request.param == "sqlite":
        with SqliteStore.from_conn_string(":memory:") as sqlite:
            sqlite.setup()
            yield sqlite
    elif request.param == "postgres":
        with PostgresStore.from_conn_string(request.getfixturevalue("postgres_url")) as postgres:
            postgres.setup()
            yield postgres
    else:
        yield InMemoryStore()


@pytest.fixture
def filled(inner: BaseStore, pair: tuple[Tenant, Tenant]) -> TenantStore:
    store = TenantStore(inner)
    for tenant in pair:
        with scope(tenant):
            store.put(("users", "u1"), "note", {"text": f"price of {tenant.id}"})
            store.put(("users", "u2"), "note", {"text": f"office of {tenant.id}"})
            store.put(("docs",), "note", {"text": f"other of {tenant.id}"})
    return store


def test_every_read_is_one_tenants(filled: TenantStore, pair: tuple[Tenant, Tenant]) -> None:
    for tenant in pair:
        with scope(tenant):
            item = filled.get(("users", "u1"), "note")
            assert item is not None and item.value["text"] == f"price of {tenant.id}"
            assert item.namespace == ("users", "u1") and item.key == "note"
            found = filled.search(())
            assert len(found) == 3 and all(f.value["text"].endswith(f"of {tenant.id}") for f in found)
            assert {f.namespace for f in found} == {("users", "u1"), ("users", "u2"), ("docs",)}
            assert {f.namespace for f in filled.search(("users",))} == {("users", "u1"), ("users", "u2")}
            assert sorted(filled.list_namespaces()) == [("docs",), ("users", "u1"), ("users", "u2")]
    assert len(filled.inner.search((), limit=99)) == 6, "the bare store shows everyone's"


def test_a_search_by_meaning_is_one_tenants(pair: tuple[Tenant, Tenant]) -> None:
    store = TenantStore(InMemoryStore(index={"dims": 3, "embed": embed, "fields": ["text"]}))
    for tenant in pair:
        with scope(tenant):
            for topic in ("price", "office"):
                store.put(("notes",), topic, {"text": f"{topic} of {tenant.id}"})
    for tenant in pair:
        with scope(tenant):
            found = store.search((), query="price")
            assert [f.value["text"] for f in found] == [f"price of {tenant.id}", f"office of {tenant.id}"]
            assert found[0].score is not None and found[0].score > (found[1].score or 0)


def test_namespaces_are_listed_in_the_callers_terms(
    filled: TenantStore, acme: Tenant, pair: tuple[Tenant, Tenant]
) -> None:
    with scope(pair[0]):
        assert sorted(filled.list_namespaces(max_depth=1)) == [("docs",), ("users",)]
        assert filled.list_namespaces(prefix=("users", "*"), suffix=("u2",)) == [("users", "u2")]
        assert filled.list_namespaces(suffix=("*", "docs")) == [], "the tenant is no element of the caller's"
        assert len(filled.list_namespaces(limit=1)) == 1


def test_a_tenants_element_in_a_namespace_reaches_nobody(filled: TenantStore, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    with scope(b):
        for prefix in ((tag(a),), (tag(a), "users")):
            assert filled.search(prefix) == [] and filled.list_namespaces(prefix=prefix) == []
        assert filled.get((tag(a), "users", "u1"), "note") is None


def test_writes_and_deletes_stay_with_their_tenant(filled: TenantStore, pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    with scope(a):
        filled.put(("users", "u1"), "note", {"text": "changed"})
        filled.delete(("docs",), "note")
        assert filled.get(("docs",), "note") is None
    with scope(b):
        item = filled.get(("users", "u1"), "note")
        assert item is not None and item.value["text"] == f"price of {b.id}"
        assert filled.get(("docs",), "note") is not None
        assert filled.clear_tenant() == 3 and filled.search(()) == []
    with scope(a):
        assert len(filled.search(())) == 2


def test_a_batch_mixes_operations(filled: TenantStore, pair: tuple[Tenant, Tenant]) -> None:
    with scope(pair[1]):
        got, found, _, names = filled.batch(
            [
                GetOp(("docs",), "note"),
                SearchOp(()),
                PutOp(("new",), "k", {"text": "x"}),
                ListNamespacesOp((MatchCondition("prefix", ("users",)),)),
            ]
        )
    assert got.value["text"] == f"other of {pair[1].id}" and len(found) == 3 and len(names) == 2


async def test_the_async_twins_are_scoped_too(pair: tuple[Tenant, Tenant]) -> None:
    a, b = pair
    store = TenantStore(InMemoryStore())
    async with scope(a):
        await store.aput(("n",), "k", {"x": 1})
        pending = store.aget(("n",), "k")
        mine = store.abatch([GetOp(("n",), "k")])
        assert (await pending) is not None
    assert (await mine)[0] is not None, "taken for a, at the call"
    async with scope(b):
        assert await store.asearch(()) == [] and await store.alist_namespaces() == []
        assert await store.aget(("n",), "k") is None
        await store.adelete(("n",), "k")
    async with scope(a):
        assert await store.aclear_tenant() == 1


def test_it_serves_a_graph(pair: tuple[Tenant, Tenant]) -> None:
    def remember(state: dict[str, Any], *, store: BaseStore) -> dict[str, Any]:
        seen = store.get(("facts",), "name")
        store.put(("facts",), "name", {"name": state["name"]})
        return {"name": seen.value["name"] if seen else "nobody"}

    builder = StateGraph(dict)
    builder.add_node("remember", remember)
    builder.add_edge(START, "remember")
    app: Any = builder.compile(store=TenantStore(InMemoryStore()))
    for tenant in pair:
        with scope(tenant):
            assert app.invoke({"name": tenant.id})["name"] == "nobody"
            assert app.invoke({"name": "again"})["name"] == tenant.id


def test_a_store_that_answers_with_others_items_is_an_incident(pair: tuple[Tenant, Tenant]) -> None:
    class Careless(InMemoryStore):
        def batch(self, ops: Any) -> Any:
            return super().batch([op._replace(namespace_prefix=()) if isinstance(op, SearchOp) else op for op in ops])

    store = TenantStore(Careless())
    with scope(pair[0]):
        store.put(("n",), "k", {"x": "canary"})
    with scope(pair[1]), pytest.raises(IsolationBreach) as caught:
        store.search(())
    assert "canary" not in str(caught.value)


def test_no_tenant_no_memory() -> None:
    store = TenantStore(InMemoryStore())
    with pytest.raises(MissingTenant):
        store.search(())
    with pytest.raises(MissingTenant):
        store.put(("n",), "k", {})
    with pytest.raises(ConfigurationError):
        TenantStore(store)
