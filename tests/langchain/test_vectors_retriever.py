"""What a caller may do to a LangChain store and retriever of ours, and what it can't."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from langgraph.errors import GraphBubbleUp

from tenant_middleware.backends.in_memory import InMemoryVectors
from tenant_middleware.context import bind, scope
from tenant_middleware.errors import ConfigurationError, InvalidInput, IsolationBreach, MissingTenant, TenantMismatch
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.langchain import TenantRetriever, TenantVectorStore, stamp, verify_tenant
from tenant_middleware.tenant import Tenant

EMBEDDING = DeterministicFakeEmbedding(size=8)


@pytest.fixture
def store(pair: tuple[Tenant, Tenant]) -> TenantVectorStore:
    """One store, in which both tenants hold documents with the same ids."""
    store = TenantVectorStore(vectors=InMemoryVectors(isolation="filter"), embedding=EMBEDDING)
    for number, tenant in enumerate(pair):
        with scope(tenant):
            data = [{"kind": kind, "who": str(number)} for kind in ("price", "terms")]
            store.add_texts([f"price of {number}", f"terms of {number}"], data, ids=["price", "terms"])
    return store


def texts(docs: list[Document]) -> list[str]:
    return sorted(doc.page_content for doc in docs)


def every_way(store: TenantVectorStore) -> dict[str, Callable[[], Any]]:
    vector = EMBEDDING.embed_query("price")
    run: Callable[[Any], Any] = asyncio.run

    async def awaited(call: Callable[[], Any]) -> Any:
        return await call()

    def twin(call: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: run(awaited(call))

    retriever = store.as_retriever(search_kwargs={"k": 10})
    return {
        "similarity_search": lambda: store.similarity_search("price", k=10),
        "with_score": lambda: [doc for doc, _ in store.similarity_search_with_score("price", k=10)],
        "relevance": lambda: [doc for doc, _ in store.similarity_search_with_relevance_scores("price", k=10)],
        "by_vector": lambda: store.similarity_search_by_vector(vector, k=10),
        "mmr": lambda: store.max_marginal_relevance_search("price", k=10),
        "mmr_by_vector": lambda: store.max_marginal_relevance_search_by_vector(vector, k=10),
        "search": lambda: store.search("price", "mmr", k=10),
        "get_by_ids": lambda: store.get_by_ids(["price", "terms"]),
        "asimilarity_search": twin(lambda: store.asimilarity_search("price", k=10)),
        "awith_score": lambda: [d for d, _ in run(awaited(lambda: store.asimilarity_search_with_score("price", k=10)))],
        "arelevance": lambda: [
            d for d, _ in run(awaited(lambda: store.asimilarity_search_with_relevance_scores("price", k=10)))
        ],
        "aby_vector": twin(lambda: store.asimilarity_search_by_vector(vector, k=10)),
        "ammr": twin(lambda: store.amax_marginal_relevance_search("price", k=10)),
        "ammr_by_vector": twin(lambda: store.amax_marginal_relevance_search_by_vector(vector, k=10)),
        "asearch": twin(lambda: store.asearch("price", "similarity", k=10)),
        "aget_by_ids": twin(lambda: store.aget_by_ids(["price", "terms"])),
        "invoke": lambda: retriever.invoke("price"),
        "ainvoke": twin(lambda: retriever.ainvoke("price")),
        "batch": lambda: retriever.batch(["price"])[0],
        "abatch": lambda: run(awaited(lambda: retriever.abatch(["price"])))[0],
        "stream": lambda: next(iter(retriever.stream("price"))),
        "framework retriever": lambda: VectorStoreRetriever(vectorstore=store, search_kwargs={"k": 10}).invoke("price"),
        "in a chain": lambda: (RunnableLambda(lambda question: question) | retriever).invoke("price"),
    }


def test_every_way_in_finds_ones_own_documents_and_only_those(
    store: TenantVectorStore, pair: tuple[Tenant, Tenant]
) -> None:
    for number, tenant in enumerate(pair):
        with scope(tenant):
            for name, way in every_way(store).items():
                assert texts(way()) in ([f"price of {number}", f"terms of {number}"], [f"price of {number}"]) or (
                    "relevance" in name and all(text.endswith(f"of {number}") for text in texts(way()))
                ), name


def test_every_way_in_refuses_without_a_tenant_in_a_form_that_frameworks_let_through(store: TenantVectorStore) -> None:
    for name, way in every_way(store).items():
        with pytest.raises(MissingTenant) as refusal:
            way()
        assert isinstance(refusal.value, GraphBubbleUp), name


HOSTILE: list[dict[str, Any]] = [
    {"filters": {"kind": "price"}},
    {"where": {"kind": "price"}},
    {"namespace": "other"},
    {"tenant_id": "globex"},
    {"tenant": "globex"},
    {"filter": {"tenant_id": "globex"}},
    {"filter": {"_tm_tenant": "m5wg6ytfpa"}},
    {"filter": {"$or": [{"_tm_tenant": {"$exists": True}}]}},
    {"filter": lambda doc: True},
    {"filter": "kind = price"},
    {"k": 0},
    {"k": -1},
    {"verbose": True},
]


@pytest.mark.parametrize("options", HOSTILE, ids=range(len(HOSTILE)))
def test_what_would_widen_a_search_is_refused(
    options: dict[str, Any], store: TenantVectorStore, pair: tuple[Tenant, Tenant]
) -> None:
    with scope(pair[0]):
        retriever = store.as_retriever()
        for attempt in (
            lambda: retriever.invoke("price", **options),
            lambda: asyncio.run(_await(retriever.ainvoke, "price", **options)),
            lambda: store.as_retriever(search_kwargs=options),
            lambda: store.similarity_search("price", **options),
            lambda: store.max_marginal_relevance_search("price", **options),
            lambda: VectorStoreRetriever(vectorstore=store, search_kwargs=options).invoke("price"),
        ):
            with pytest.raises(InvalidInput):
                attempt()


async def _await(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await method(*args, **kwargs)


def test_the_bare_framework_gives_everything_for_a_misspelt_filter(pair: tuple[Tenant, Tenant]) -> None:
    """The control: the same typo on LangChain's own store returns both tenants' documents."""
    bare = InMemoryVectorStore(EMBEDDING)
    for tenant in pair:
        bare.add_documents([Document(page_content=tenant.id, metadata={"tenant": tenant.id})])
    typo = bare.as_retriever(search_kwargs={"filters": {"tenant": pair[0].id}})
    assert texts(typo.invoke("price")) == sorted(tenant.id for tenant in pair)


def test_a_bound_filter_holds_whatever_the_caller_passes(store: TenantVectorStore, pair: tuple[Tenant, Tenant]) -> None:
    retriever = store.as_retriever(search_kwargs={"filter": {"kind": "price"}})
    with scope(pair[0]):
        assert texts(retriever.invoke("x")) == ["price of 0"]
        assert texts(retriever.invoke("x", filter=None)) == ["price of 0"]
        assert texts(retriever.invoke("x", filter={})) == ["price of 0"]
        assert texts(retriever.invoke("x", filter={"kind": "terms"})) == []
        assert texts(retriever.invoke("x", filter={"$or": [{"kind": "terms"}, {"who": "0"}]})) == ["price of 0"]
        assert texts(retriever.with_config(configurable={"tenant_id": pair[1].id}).invoke("x")) == ["price of 0"]


def test_score_threshold_and_k(store: TenantVectorStore, pair: tuple[Tenant, Tenant]) -> None:
    exact = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.999})
    with scope(pair[1]):
        assert texts(exact.invoke("price of 1")) == ["price of 1"]
        assert texts(store.as_retriever().invoke("x", k=1))[0].endswith("of 1")
        scored = store.similarity_search_with_relevance_scores("price of 1", k=5, score_threshold=0.999)
        assert [(doc.page_content, round(score, 6)) for doc, score in scored] == [("price of 1", 1.0)]
    for wrong in (
        {"search_type": "similarity_score_threshold"},
        {"search_type": "hybrid"},
        {"search_kwargs": {"score_threshold": 2}},
        {"search_type": "mmr", "search_kwargs": {"lambda_mult": 5}},
        {"k": 1, "search_kwargs": {"k": 2}},
        {"serach_kwargs": {}},
    ):
        with pytest.raises(ValueError):
            store.as_retriever(**wrong)


def test_mmr_prefers_what_is_different(acme: Tenant, globex: Tenant) -> None:
    vectors = InMemoryVectors()
    store = TenantVectorStore(vectors=vectors, embedding=EMBEDDING)
    near = [Record("a", [1, 0.0, 0.1], "a"), Record("a2", [1, 0.0, 0.11], "a2"), Record("b", [0.8, 0.6, 0.0], "b")]
    vectors.upsert(acme, near)
    vectors.upsert(globex, [Record("b", [1, 0, 0], "foreign")])
    with scope(acme):
        pick = store.max_marginal_relevance_search_by_vector
        assert [doc.id for doc in store.similarity_search_by_vector([1, 0, 0], k=2)] == ["a", "a2"]
        assert [doc.id for doc in pick([1, 0, 0], k=2, lambda_mult=0.3)] == ["a", "b"]
        assert [doc.id for doc in pick([1, 0, 0], k=2, lambda_mult=1.0)] == ["a", "a2"]


def test_the_tenant_is_read_when_the_method_is_called(store: TenantVectorStore, pair: tuple[Tenant, Tenant]) -> None:
    retriever = store.as_retriever()
    for make in (
        lambda: store.asimilarity_search("x"),
        lambda: store.aget_by_ids(["price"]),
        lambda: store.aadd_documents([Document(page_content="late", id="late")]),
        lambda: store.adelete(["price"]),
        lambda: retriever.ainvoke("x"),
        lambda: retriever.abatch(["x"]),
    ):
        with scope(pair[0]):
            begun = make()
        with scope(pair[1]), pytest.raises(TenantMismatch) as refusal:
            asyncio.run(_awaited(begun))
        assert isinstance(refusal.value, GraphBubbleUp)
    with scope(pair[0]):
        begun, stream = retriever.ainvoke("x"), retriever.stream("x")
    assert texts(asyncio.run(_awaited(begun))) == ["price of 0", "terms of 0"]
    with scope(pair[1]), pytest.raises(TenantMismatch):
        next(stream)
    for tenant in pair:
        with scope(tenant):
            assert len(store.get_by_ids(["price", "terms", "late"])) == 2


async def _awaited(begun: Any) -> Any:
    return await begun


async def test_the_events_of_a_search_are_of_who_asked(store: TenantVectorStore, pair: tuple[Tenant, Tenant]) -> None:
    retriever = store.as_retriever(search_kwargs={"k": 10})
    with scope(pair[0]):
        late, unscoped = (retriever.astream_events("price", version="v2") for _ in range(2))
    with scope(pair[1]), pytest.raises(TenantMismatch):
        await anext(aiter(late))
    found = [event["data"]["output"] async for event in unscoped if event["event"] == "on_retriever_end"]
    assert texts(found[0]) == ["price of 0", "terms of 0"]


def test_a_thread_has_no_tenant_unless_it_is_bound(store: TenantVectorStore, pair: tuple[Tenant, Tenant]) -> None:
    seen: list[Any] = []

    def ask() -> None:
        try:
            seen.append(texts(store.similarity_search("x")))
        except MissingTenant as refusal:
            seen.append(refusal)

    with scope(pair[0]):
        for target in (ask, bind(ask)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert isinstance(seen[0], MissingTenant) and seen[1] == ["price of 0", "terms of 0"]


def test_writes_are_checked(store: TenantVectorStore, pair: tuple[Tenant, Tenant]) -> None:
    with scope(pair[0]):
        for documents, options in (
            ([Document(page_content=" ")], {}),
            (["text"], {}),
            ([Document(page_content="x", metadata={"tenant_id": pair[1].id})], {}),
            ([Document(page_content="x")], {"ids": ["1", "2"]}),
            ([Document(page_content="x")], {"namespace": "other"}),
        ):
            with pytest.raises((InvalidInput, TenantMismatch)):
                store.add_documents(documents, **options)
        with pytest.raises(InvalidInput):
            store.delete()
        with pytest.raises(InvalidInput):
            store.delete(["price"], namespace="other")
        assert store.add_texts(["t"], [{"n": 1}], ids=["own"]) == ["own"]
        assert store.add_documents([Document(page_content="x", id="kept")], ids=["given"], batch_size=1) == ["given"]
        store.delete(["price", "own", "given"])
        assert texts(store.get_by_ids(["price", "terms", "own", "given"])) == ["terms of 0"]
    with scope(pair[1]):
        assert len(store.get_by_ids(["price", "terms"])) == 2


def test_from_texts_needs_a_backend(pair: tuple[Tenant, Tenant]) -> None:
    vectors = InMemoryVectors()
    with scope(pair[0]):
        with pytest.raises(ConfigurationError):
            TenantVectorStore.from_texts(["x"], EMBEDDING)
        made = TenantVectorStore.from_texts(["x"], EMBEDDING, vectors=vectors)
        docs = [Document(page_content="y", id="1")]
        later = asyncio.run(_await(TenantVectorStore.afrom_documents, docs, EMBEDDING, vectors=vectors))
        assert texts(made.similarity_search("x")) == texts(later.similarity_search("x")) == ["x", "y"]
    with scope(pair[1]):
        assert made.similarity_search("x") == []
    with pytest.raises(ConfigurationError):
        TenantVectorStore(vectors=vectors, embedding=lambda text: [1.0])  # type: ignore[arg-type]  # what is tested


def test_documents_without_the_stamp_of_the_tenant_are_stopped(
    store: TenantVectorStore, pair: tuple[Tenant, Tenant]
) -> None:
    checked = store.as_retriever(stamped=True) | verify_tenant
    with scope(pair[0]):
        assert texts(checked.invoke("x")) == ["price of 0", "terms of 0"]
        foreign_hop = store.as_retriever() | RunnableLambda(lambda docs: [*docs, Document(page_content="canary")])
        with pytest.raises(IsolationBreach) as refusal:
            (foreign_hop | verify_tenant).invoke("x")
        assert "canary" not in str(refusal.value) and isinstance(refusal.value, GraphBubbleUp)
        mine = stamp([Document(page_content="x")])
        assert verify_tenant(mine) == mine
        store.add_documents(mine)  # what was read with its stamp can be written again
    with scope(pair[1]):
        with pytest.raises(IsolationBreach):
            verify_tenant(mine)
        with pytest.raises(TenantMismatch):
            stamp(mine)
        with pytest.raises(TenantMismatch):
            store.add_documents(mine)
    with pytest.raises(MissingTenant):
        verify_tenant([])


def test_a_retriever_is_no_secret_keeper_of_its_store(store: TenantVectorStore) -> None:
    retriever = store.as_retriever(search_kwargs={"k": 2})
    assert isinstance(retriever, TenantRetriever)
    assert "store" not in retriever.model_dump() and "vectors" not in repr(retriever)
