"""The LlamaIndex store over every backend and isolation kind: two tenants, one backend, equal ids."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    Node,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from tenant_middleware import ConfigurationError, InvalidInput, IsolationBreach, MissingTenant, TenantMismatch, scope
from tenant_middleware.backends.in_memory.vectors import InMemoryDriver, InMemoryVectors
from tenant_middleware.isolation import place
from tenant_middleware.isolation.scoped import ScopedVectors
from tenant_middleware.isolation.vectors import Record, Vectors
from tenant_middleware.llamaindex import TenantVectorStore
from tenant_middleware.tenant import Tenant
from tests.vectors.backends import EVERYWHERE, STORES

A, B = Tenant("Acme", "free"), Tenant("acme", "free")
SIX = [1.0, 0.2, 0.1, 0.0, 0.0, 0.0]


@pytest.fixture(params=EVERYWHERE, ids="-".join)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[TenantVectorStore]:
    name, kind = request.param
    with STORES[name]() as new:
        backend: Vectors = new(kind)
        yield TenantVectorStore(backend)
        await backend.aclose()


@pytest.fixture
def memory() -> TenantVectorStore:
    return TenantVectorStore(InMemoryVectors())


def text_node(name: str, text: str, doc: str | None = None, n: int = 0, **metadata: Any) -> TextNode:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=doc)} if doc else {}
    embedding = [1.0, n / 10, 0.0, 0.0, 0.0, 0.1]
    return TextNode(id_=name, text=text, metadata=metadata, relationships=source, embedding=embedding)


def fill(store: TenantVectorStore) -> None:
    """Both tenants have nodes n0 to n3 of the documents doc1 and doc10."""
    for tenant in (A, B):
        with scope(tenant):
            store.add(
                [
                    text_node("n0", f"canary of {tenant.id}", "doc1", 0, kind="x", tags=["p", "q"]),
                    text_node("n1", f"second of {tenant.id}", "doc1", 1, kind="y"),
                    text_node("n2", f"third of {tenant.id}", "doc10", 2, kind="x"),
                    text_node("n3", f"fourth of {tenant.id}", None, 3),
                ]
            )


def seen(store: TenantVectorStore) -> list[tuple[str, str]]:
    """Everything that the tenant in context can reach, by every way in."""
    everything = MetadataFilters(
        filters=[MetadataFilter(key="kind", operator=FilterOperator.IS_EMPTY, value=None)], condition=FilterCondition.OR
    )
    ids = [f"n{number}" for number in range(8)]
    nodes: list[BaseNode] = [*store.get_nodes(), *store.get_nodes(ids), *store.get_nodes(filters=everything)]
    for query in (
        VectorStoreQuery(SIX, similarity_top_k=50),
        VectorStoreQuery(SIX, similarity_top_k=50, node_ids=ids),
        VectorStoreQuery(SIX, similarity_top_k=50, doc_ids=["doc1", "doc10"]),
        VectorStoreQuery(SIX, similarity_top_k=50, filters=everything),
        VectorStoreQuery(SIX, similarity_top_k=50, mode=VectorStoreQueryMode.MMR),
    ):
        nodes.extend(store.query(query).nodes or [])
    return sorted({(node.node_id, node.get_content()) for node in nodes})


def test_equal_ids_are_two_nodes_by_every_way_in(store: TenantVectorStore) -> None:
    with scope(A):
        store.add([text_node("n0", "canary of Acme", "doc1")])
    with scope(B):
        assert seen(store) == []
    fill(store)
    for tenant in (A, B):
        with scope(tenant):
            found = seen(store)
            assert ("n0", f"canary of {tenant.id}") in found and len(found) == 4
            assert all(text.endswith(f" of {tenant.id}") for _, text in found)


def test_what_is_deleted_is_exactly_what_was_named(store: TenantVectorStore) -> None:
    fill(store)
    with scope(B):
        before = seen(store)
    with scope(A):
        store.delete("doc1")
        assert [name for name, _ in seen(store)] == ["n2", "n3"], "doc10 is another document"
        store.delete("doc")
        store.delete_nodes(["n2", "missing"])
        store.delete_nodes([])
        assert [name for name, _ in seen(store)] == ["n3"]
        store.add([text_node("n4", "tagged", kind="x"), text_node("n5", "tagged too", kind="x")])
        only = MetadataFilters(filters=[MetadataFilter(key="kind", value="x")])
        store.delete_nodes(["n3", "n4"], only)
        assert [name for name, _ in seen(store)] == ["n3", "n5"]
        store.delete_nodes(filters=only)
        assert [name for name, _ in seen(store)] == ["n3"]
        with pytest.raises(InvalidInput):
            store.delete_nodes()
        with pytest.raises(InvalidInput):
            store.delete_nodes(filters=MetadataFilters(filters=[]))
        store.clear()
        assert seen(store) == []
    with scope(B):
        assert seen(store) == before


async def test_awaiting_does_the_same(store: TenantVectorStore) -> None:
    with scope(A):
        assert await store.async_add([text_node("n0", "canary of Acme", "doc1", kind="x")]) == ["n0"]
    with scope(B):
        await store.async_add([text_node("n0", "canary of acme", "doc1", kind="x")])
        await store.async_add([text_node("n1", "second of acme", "doc10", kind="x")])
        found = await store.aquery(VectorStoreQuery(SIX, similarity_top_k=9, doc_ids=["doc1"]))
        assert [node.get_content() for node in found.nodes] == ["canary of acme"]
        await store.adelete("doc1")
        assert [node.node_id for node in await store.aget_nodes()] == ["n1"]
        await store.adelete_nodes(["n0", "n1"])
        assert await store.aget_nodes() == []
        await store.aclear()
    with scope(A):
        (node,) = await store.aget_nodes(["n0"])
        assert node.get_content() == "canary of Acme"


def test_nodes_of_every_kind_come_back_as_they_were(store: TenantVectorStore) -> None:
    with scope(A):
        nodes: list[BaseNode] = [
            text_node("t", "text\nof mine", "doc", 1, page=3, tags=["a"], deep={"x": [1, None]}),
            IndexNode(id_="i", text="index", index_id="elsewhere", obj=TextNode(id_="in", text="inner"), embedding=SIX),
            ImageNode(id_="p", text="picture", image="aGVsbG8=", embedding=SIX),
            Document(id_="d", text="document", metadata={"author": "me"}, embedding=SIX),
            Node(id_="m", text_resource=MediaResource(text="media", mimetype="text/markdown"), embedding=SIX),
        ]
        nodes[0].excluded_llm_metadata_keys = ["page"]
        nodes[0].relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id="i", metadata={"n": 1})
        store.add(nodes)
        for node, back in zip(nodes, store.get_nodes([node.node_id for node in nodes]), strict=True):
            assert type(back) is type(node)
            assert back.embedding == pytest.approx(node.embedding)
            mine, theirs = node.model_dump(mode="json"), back.model_dump(mode="json")
            for data in (mine, theirs):
                data.pop("embedding")
            if isinstance(node, Node):
                mine["text_resource"]["mimetype"] = theirs["text_resource"]["mimetype"]  # set_content drops it
            assert theirs == mine
    with scope(B):
        assert store.get_nodes() == []


def test_records_that_something_else_wrote_are_text_nodes(memory: TenantVectorStore) -> None:
    memory.vectors.upsert(A, [Record("r", SIX, "from LangChain", {"page": 1})])
    with scope(A):
        (node,) = memory.query(VectorStoreQuery(SIX)).nodes or ()
    assert (node.node_id, node.get_content(), node.metadata) == ("r", "from LangChain", {"page": 1})


def test_no_documents_to_search_in_finds_nothing(memory: TenantVectorStore) -> None:
    """An empty list of allowed documents is no permission; an index passes an empty list of nodes for all."""
    fill(memory)
    with scope(A):
        assert memory.query(VectorStoreQuery(SIX, similarity_top_k=9, doc_ids=[])).nodes == []
        assert len(memory.query(VectorStoreQuery(SIX, similarity_top_k=9, node_ids=[])).nodes or ()) == 4
        both = VectorStoreQuery(SIX, similarity_top_k=9, node_ids=["n0", "n2"], doc_ids=["doc10"])
        assert memory.query(both).ids == ["n2"]


def test_mmr_chooses_as_the_reference_does() -> None:
    """Two of them: the reference compares a third one with the second alone, and not with all that were chosen."""
    theirs, ours = SimpleVectorStore(), TenantVectorStore(InMemoryVectors())
    nodes = [TextNode(id_=str(number), text="x", embedding=[1.0, (number % 5) / 5, number / 9]) for number in range(10)]
    theirs.add(nodes)
    for balance in (0.1, 0.3, 0.5, 0.9, 1.0):  # at 0 the reference begins with any node
        query = VectorStoreQuery([1.0, 0.3, 0.2], similarity_top_k=2, mode=VectorStoreQueryMode.MMR)
        with scope(A):
            ours.add(nodes)
            found = ours.query(query, mmr_threshold=balance, mmr_prefetch_k=10)
        assert found.ids == theirs.query(query, mmr_threshold=balance).ids


def test_a_text_match_looks_wider_until_it_has_enough(memory: TenantVectorStore) -> None:
    match = MetadataFilters(filters=[MetadataFilter(key="note", operator=FilterOperator.TEXT_MATCH, value="needle")])
    with scope(A):
        memory.add([text_node(str(n), "x", None, n, note="hay") for n in range(700)])
        memory.add([text_node("far", "found", None, 9000, note="a needle in hay")])
        assert memory.query(VectorStoreQuery(SIX, similarity_top_k=1, filters=match)).ids == ["far"]


REFUSED: dict[str, Callable[[TenantVectorStore], Any]] = {
    "another mode": lambda s: s.query(VectorStoreQuery(SIX, mode=VectorStoreQueryMode.HYBRID)),
    "a mode by text": lambda s: s.query(VectorStoreQuery(None, query_str="x", mode=VectorStoreQueryMode.TEXT_SEARCH)),
    "no embedding": lambda s: s.query(VectorStoreQuery(None)),
    "alpha": lambda s: s.query(VectorStoreQuery(SIX, alpha=0.5)),
    "output fields": lambda s: s.query(VectorStoreQuery(SIX, output_fields=["text"])),
    "no results": lambda s: s.query(VectorStoreQuery(SIX, similarity_top_k=0)),
    "filter by keyword": lambda s: s.query(VectorStoreQuery(SIX), filter={"kind": "x"}),
    "namespace by keyword": lambda s: s.query(VectorStoreQuery(SIX), namespace="acme"),
    "tenant by keyword": lambda s: s.query(VectorStoreQuery(SIX), tenant="acme"),
    "MMR's options without MMR": lambda s: s.query(VectorStoreQuery(SIX), mmr_threshold=0.5),
    "filters that aren't": lambda s: s.query(VectorStoreQuery(SIX, filters={"kind": "x"})),  # type: ignore[arg-type]
    "keywords of add": lambda s: s.add([], namespace="acme"),
    "keywords of delete": lambda s: s.delete("doc1", filter={}),
    "keywords of delete_nodes": lambda s: s.delete_nodes(["n0"], namespace="acme"),
    "no document": lambda s: s.delete(""),
    "no embedding to add": lambda s: s.add([TextNode(text="x")]),
    "no node": lambda s: s.add(["text"]),
    "our fields": lambda s: s.add([TextNode(text="x", metadata={"_node": 1}, embedding=SIX)]),
    "another's document": lambda s: s.add([TextNode(text="x", metadata={"ref_doc_id": "other"}, embedding=SIX)]),
}


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED.keys())
def test_what_the_store_does_not_do_is_refused(
    memory: TenantVectorStore, attempt: Callable[[TenantVectorStore], Any]
) -> None:
    fill(memory)
    with scope(A):
        with pytest.raises(InvalidInput):
            attempt(memory)
        assert len(seen(memory)) == 4


def test_a_node_stamped_for_another_is_refused(memory: TenantVectorStore) -> None:
    with scope(A):
        for metadata in ({"tenant_id": B.id}, {"_tm_tenant": place.place_of(B, "namespace").stamp}):
            with pytest.raises(TenantMismatch):
                memory.add([TextNode(text="x", metadata=metadata, embedding=SIX)])
        assert seen(memory) == []


CALLS: dict[str, Callable[[TenantVectorStore], Any]] = {
    "async_add": lambda s: s.async_add([text_node("n0", "x")]),
    "adelete": lambda s: s.adelete("doc1"),
    "adelete_nodes": lambda s: s.adelete_nodes(["n0"]),
    "aclear": lambda s: s.aclear(),
    "aget_nodes": lambda s: s.aget_nodes(),
    "aquery": lambda s: s.aquery(VectorStoreQuery(SIX)),
}
PLAIN: dict[str, Callable[[TenantVectorStore], Any]] = {
    "add": lambda s: s.add([text_node("n0", "x")]),
    "delete": lambda s: s.delete("doc1"),
    "delete_nodes": lambda s: s.delete_nodes(["n0"]),
    "clear": lambda s: s.clear(),
    "get_nodes": lambda s: s.get_nodes(),
    "query": lambda s: s.query(VectorStoreQuery(SIX, similarity_top_k=9)),
}


@pytest.mark.parametrize("call", [*CALLS.values(), *PLAIN.values()], ids=[*CALLS, *PLAIN])
def test_without_a_tenant_the_call_itself_fails(
    memory: TenantVectorStore, call: Callable[[TenantVectorStore], Any]
) -> None:
    with pytest.raises(MissingTenant):
        call(memory)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_coroutine_belongs_to_who_made_it(
    memory: TenantVectorStore, call: Callable[[TenantVectorStore], Any]
) -> None:
    fill(memory)
    with scope(A):
        mine = call(memory)
    with scope(B), pytest.raises(TenantMismatch):
        await mine
    with scope(A):
        mine = call(memory)
    await asyncio.create_task(mine)
    with scope(B):
        assert len(seen(memory)) == 4


def test_the_raw_client_and_pickles_are_refused(memory: TenantVectorStore) -> None:
    with pytest.raises(ConfigurationError):
        _ = memory.client
    with pytest.raises(ConfigurationError):
        pickle.dumps(memory)
    assert "vectors" not in memory.model_dump() and memory.stores_text


class _Careless(InMemoryDriver):
    """A store that ignores every filter."""

    def query(self, where_: Any, vector: list[float], k: int, where: Any) -> Any:
        return super().query(where_, vector, k, None)

    def scan(self, where_: Any, where: Any, limit: int, cursor: Any) -> Any:
        return super().scan(where_, None, limit, cursor)


@pytest.fixture
def careless() -> Iterator[TenantVectorStore]:
    store = TenantVectorStore(ScopedVectors(_Careless(), isolation="filter"))
    fill(store)
    yield store


def test_a_store_that_ignores_filters_gives_nothing_away(careless: TenantVectorStore) -> None:
    for attempt in (PLAIN["get_nodes"], PLAIN["query"], PLAIN["delete"]):
        with scope(A), pytest.raises(IsolationBreach):
            attempt(careless)


def test_without_the_check_the_same_store_leaks(careless: TenantVectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "verify", lambda *_: None)
    with scope(A):
        assert ("n0", "canary of acme") in seen(careless)
