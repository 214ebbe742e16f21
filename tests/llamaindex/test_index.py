"""One index object for all tenants: what LlamaIndex keeps in it is each tenant's own."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.memory import ChatMemoryBuffer, Memory
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import IndexNode, TextNode
from llama_index.core.storage.docstore.keyval_docstore import KVDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.vector_stores import FilterCondition, MetadataFilter, MetadataFilters

from tenant_middleware import ConfigurationError, MissingTenant, Tenancy, TenancyError, Tenant, TenantMismatch, scope
from tenant_middleware.isolation.residents import RESIDENTS
from tenant_middleware.llamaindex import (
    TenantChatStore,
    TenantEmbedding,
    TenantIndex,
    TenantKVStore,
    TenantLLM,
    TenantVectorStore,
    tenant_index,
    tenant_summary_index,
)
from tenant_middleware.local import llama_embedding
from tests.llamaindex.conftest import EchoLLM, calls

TERMS = "Payment is due within 30 days."


@pytest.fixture
def embed(tenancy: Tenancy) -> TenantEmbedding:
    return TenantEmbedding(llama_embedding(), model_name="local/embed", gate=tenancy.gate)


@pytest.fixture
def index(tenancy: Tenancy, embed: TenantEmbedding, llm: TenantLLM) -> TenantIndex:
    return tenant_index(vectors=tenancy.vectors, embed_model=embed, llm=llm)


def price_of(tenant: Tenant) -> Document:
    text = f"The Premium plan of {tenant.id} costs {len(tenant.id)} USD."
    return Document(doc_id="price", text=text, metadata={"kind": "price"})


def texts(index: Any, **options: Any) -> list[str]:
    return sorted(n.text for n in index.as_retriever(similarity_top_k=10, **options).retrieve("Premium plan price"))


@pytest.fixture
def filled(index: TenantIndex, pair: tuple[Tenant, Tenant]) -> TenantIndex:
    for tenant in pair:
        with scope(tenant):
            index.insert(price_of(tenant))
    return index


def test_each_tenant_finds_its_own(filled: TenantIndex, pair: tuple[Tenant, Tenant]) -> None:
    for tenant in pair:
        with scope(tenant):
            assert texts(filled) == [price_of(tenant).text]
    with pytest.raises(MissingTenant):
        texts(filled)


async def test_the_async_twins_do_the_same(index: TenantIndex, pair: tuple[Tenant, Tenant]) -> None:
    for tenant in pair:
        async with scope(tenant):
            await index.ainsert(price_of(tenant))
            assert await index.arefresh_ref_docs([Document(doc_id="terms", text=TERMS)]) == [True]
    for tenant in pair:
        async with scope(tenant):
            found = await index.as_retriever(similarity_top_k=10).aretrieve("price")
            assert sorted(n.text for n in found) == sorted([TERMS, price_of(tenant).text])
            await index.aupdate_ref_doc(Document(doc_id="terms", text=f"{TERMS} {tenant.id}"))
            await index.adelete_ref_doc("price")
    for tenant in pair:
        async with scope(tenant):
            found = await index.as_retriever(similarity_top_k=10).aretrieve("price")
            assert [n.text for n in found] == [f"{TERMS} {tenant.id}"]


@pytest.mark.parametrize("condition", [FilterCondition.AND, FilterCondition.OR, FilterCondition.NOT])
def test_no_filter_reaches_out_of_the_tenant(
    filled: TenantIndex, pair: tuple[Tenant, Tenant], condition: FilterCondition
) -> None:
    mine, theirs = pair
    naming = [
        MetadataFilter(key="tenant_id", value=theirs.id),
        MetadataFilter(key="kind", value="price"),
    ]
    with scope(mine):
        for filters in (
            MetadataFilters(filters=[]),
            MetadataFilters(filters=naming[1:], condition=condition),
            MetadataFilters(filters=naming, condition=condition),
        ):
            try:
                assert set(texts(filled, filters=filters)) <= {price_of(mine).text}
            except TenancyError as refusal:
                assert theirs.id not in str(refusal).split()
        assert texts(filled, filter={"kind": "nothing"}, where="x", namespace=theirs.id) == [price_of(mine).text]
        with pytest.raises(TenancyError):
            texts(filled, vector_store_kwargs={"namespace": theirs.id})


def test_the_same_document_of_two_tenants_is_stored_twice_and_tells_nobody(
    index: TenantIndex, embed: TenantEmbedding, pair: tuple[Tenant, Tenant]
) -> None:
    for tenant in pair:
        with scope(tenant):
            assert index.refresh_ref_docs([Document(doc_id="terms", text=TERMS)]) == [True]
            assert index.refresh_ref_docs([Document(doc_id="terms", text=TERMS)]) == [False]
            assert texts(index) == [TERMS]
    with scope(pair[0]):
        index.update_ref_doc(Document(doc_id="terms", text="Payment is due at once."))
        assert texts(index) == ["Payment is due at once."]
    with scope(pair[1]):
        assert texts(index) == [TERMS]


def test_the_bare_index_does_tell(embed: TenantEmbedding, tenancy: Tenancy, acme: Tenant, globex: Tenant) -> None:
    """The control: a plain VectorStoreIndex over the tenant's own store swallows the second tenant's document."""
    store = StorageContext.from_defaults(vector_store=TenantVectorStore(vectors=tenancy.vectors))
    bare = VectorStoreIndex(nodes=[], storage_context=store, embed_model=embed)
    document = Document(doc_id="terms", text=TERMS)
    with scope(acme):
        assert bare.refresh_ref_docs([document]) == [True]
    with scope(globex):
        assert bare.refresh_ref_docs([document]) == [False]
        assert texts(bare) == []


def test_index_nodes_are_found_by_their_owner_beside_other_nodes(
    index: TenantIndex, pair: tuple[Tenant, Tenant]
) -> None:
    """And their object, alive in this process, is followed by nobody else."""
    mine, theirs = pair
    canary = TextNode(text=f"The Premium margin of {mine.id} is secret.")
    with scope(mine):
        index.insert(price_of(mine))
        index.insert_nodes([IndexNode(id_="n", index_id="margin", text="Premium margin", obj=canary)])
        assert price_of(mine).text in texts(index) and len(texts(index)) == 2
    with scope(theirs):
        assert texts(index) == []
        index.insert_nodes([IndexNode(id_="n", index_id="margin", text="Premium margin")])
        assert canary.text not in texts(index) and len(texts(index)) == 1


def test_an_engine_made_once_serves_every_tenant_its_own(index: TenantIndex, pair: tuple[Tenant, Tenant]) -> None:
    """Made outside any scope, or in the scope of one: what it retrieves and follows is the asker's."""
    with scope(pair[0]):
        inside = index.as_retriever(similarity_top_k=5)
    for retriever in (index.as_retriever(similarity_top_k=5), inside):
        for tenant in pair:
            with scope(tenant):
                index._object_map["o"] = TextNode(text=f"behind the node of {tenant.id}")
                index.insert_nodes([IndexNode(id_="n", index_id="o", text="Premium")])
        for tenant in pair:
            with scope(tenant):
                assert [n.text for n in retriever.retrieve("Premium")] == [f"behind the node of {tenant.id}"]


class Live:
    """An object that no JSON holds, as a retriever or an engine behind an IndexNode is."""


def test_live_objects_are_kept_apart_and_go_when_the_tenant_leaves(index: TenantIndex, acme: Tenant) -> None:
    with scope(acme):
        index._object_map["margin"] = Live()
    with scope(Tenant("globex", "enterprise", "x")):
        assert dict(index._object_map) == {}
    assert ("TenantObjects", 1) in [(cleared.what, cleared.count) for cleared in RESIDENTS.leave(acme)]
    with scope(acme):
        assert dict(index._object_map) == {}


def test_a_summary_for_all_tenants_is_refused(index: TenantIndex, acme: Tenant) -> None:
    with scope(acme), pytest.raises(ConfigurationError, match="all tenants"):
        index.summary = "what acme has"


MODES = ["context", "condense_question", "condense_plus_context", "best", "simple"]


@pytest.mark.parametrize("mode", MODES)
def test_chat_engines_answer_from_their_tenants_documents_and_memory(
    filled: TenantIndex, tenancy: Tenancy, echo: EchoLLM, pair: tuple[Tenant, Tenant], mode: str
) -> None:
    for tenant, other in (pair, pair[::-1]):
        with scope(tenant):
            memory = Memory.from_defaults(session_id="s", chat_store=TenantChatStore(tenancy.history))
            chat = filled.as_chat_engine(chat_mode=mode, memory=memory)
            echo.asked.clear()
            assert str(chat.chat(f"Premium price? asks {tenant.id}"))
            assert "".join(chat.stream_chat("and again?").response_gen)
            seen = [message.content or "" for messages, _ in echo.asked for message in messages]
            assert mode == "simple" or any(price_of(tenant).text in text for text in seen)
            assert not any(price_of(other).text in text or f"asks {other.id}." in f"{text}." for text in seen)
            assert len(memory.get_all()) == 4
    assert set(calls(tenancy)) == {tenant.id for tenant in pair}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("given", [False, True], ids=["own memory", "given memory"])
def test_a_chat_engine_kept_for_later_is_of_no_use_to_another_tenant(
    filled: TenantIndex, echo: EchoLLM, pair: tuple[Tenant, Tenant], mode: str, given: bool
) -> None:
    owner, other = pair
    memory = ChatMemoryBuffer.from_defaults() if given else None
    with pytest.raises(MissingTenant):
        filled.as_chat_engine(chat_mode=mode, memory=memory)
    with scope(owner):
        chat = filled.as_chat_engine(chat_mode=mode, memory=memory)
        chat.chat("my word is xylophone")
        assert any("xylophone" in (message.content or "") for message in chat.chat_history)
    for tenant in (other, replace(owner, subject="somebody else")):
        echo.asked.clear()
        with scope(tenant):
            for use in (lambda: chat.chat("what is my word?"), lambda: chat.chat_history, chat.reset):
                with pytest.raises(TenantMismatch):
                    use()
        assert "xylophone" not in str(echo.asked)
    with scope(owner):
        chat.chat("what is my word?")
        assert "xylophone" in str(echo.asked)


def test_llamaindexs_own_memory_is_anybodys(filled: TenantIndex, echo: EchoLLM, pair: tuple[Tenant, Tenant]) -> None:
    """The mutation control: the same engine over the bare memory tells the second tenant what the first one said."""
    owner, other = pair
    with scope(owner):
        chat: Any = filled.as_chat_engine(chat_mode="context", memory=ChatMemoryBuffer.from_defaults())
        chat.chat("my word is xylophone")
    chat._memory = chat._memory._inner
    with scope(other):
        chat.chat("what is my word?")
    assert "xylophone" in str(echo.asked[-1])


@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize"])
def test_a_streamed_answer_is_begun_for_who_asked(
    filled: TenantIndex, tenancy: Tenancy, echo: EchoLLM, pair: tuple[Tenant, Tenant], mode: str
) -> None:
    """LlamaIndex calls the model when the first piece is read, with the documents of the question."""
    owner, other = pair
    engine = filled.as_query_engine(streaming=True, response_mode=mode)
    with scope(owner):
        late: Any = engine.query("Premium price?")
        unscoped: Any = engine.query("Premium price?")
    before = calls(tenancy)
    echo.asked.clear()
    with scope(other), pytest.raises(TenantMismatch):
        list(late.response_gen)
    assert not echo.asked
    assert price_of(owner).text in "".join(unscoped.response_gen)
    assert calls(tenancy) == {**before, owner.id: before[owner.id] + 1}


def test_a_streamed_answer_of_llamaindexs_engine_is_begun_for_who_reads_it(
    filled: TenantIndex, tenancy: Tenancy, llm: TenantLLM, pair: tuple[Tenant, Tenant]
) -> None:
    """The mutation control: the second tenant's model call has the first one's documents, and is the second one's."""
    owner, other = pair
    engine = RetrieverQueryEngine.from_args(filled.as_retriever(), llm=llm, streaming=True)
    with scope(owner):
        late: Any = engine.query("Premium price?")
    before = calls(tenancy)
    with scope(other):
        assert price_of(owner).text in "".join(late.response_gen)
    assert calls(tenancy)[other.id] == before[other.id] + 1


async def test_async_engines_answer_concurrently_for_their_own_tenant(
    filled: TenantIndex, tenancy: Tenancy, pair: tuple[Tenant, Tenant]
) -> None:
    async def ask(tenant: Tenant) -> bool:
        async with scope(tenant):
            answer = await filled.as_query_engine().aquery("Premium price?")
            memory = Memory.from_defaults(session_id="s", chat_store=TenantChatStore(tenancy.history))
            chat = filled.as_chat_engine(chat_mode="context", memory=memory)
            streamed = await chat.astream_chat("Premium price?")
            said = "".join([token async for token in streamed.async_response_gen()])
            nodes = {node.text for node in (*answer.source_nodes, *streamed.source_nodes)}
            return nodes == {price_of(tenant).text} and bool(said)

    assert all(await asyncio.gather(*(ask(tenant) for tenant in pair * 5)))


@pytest.mark.parametrize(
    ("mode", "streaming"),
    [
        *(("compact", streaming) for streaming in (False, True)),
        *(("refine", streaming) for streaming in (False, True)),
        *(("tree_summarize", streaming) for streaming in (False, True)),
        ("accumulate", False),  # LlamaIndex has no stream of it
    ],
)
def test_query_engines_answer_from_their_tenants_documents(
    filled: TenantIndex, pair: tuple[Tenant, Tenant], mode: str, streaming: bool
) -> None:
    for tenant in pair:
        with scope(tenant):
            answer = filled.as_query_engine(response_mode=mode, streaming=streaming).query("Premium price?")
            assert str(answer) and [node.text for node in answer.source_nodes] == [price_of(tenant).text]


def test_models_that_pass_the_gate_by_are_refused(
    index: TenantIndex, tenancy: Tenancy, embed: TenantEmbedding, echo: EchoLLM, acme: Tenant
) -> None:
    bare = tenant_index(vectors=tenancy.vectors, embed_model=embed)
    with scope(acme):
        for make in (
            lambda: index.as_query_engine(llm=echo),
            lambda: index.as_chat_engine(llm=echo),
            lambda: bare.as_query_engine(),
            lambda: bare.as_chat_engine(),
            lambda: index.as_retriever(embed_model=llama_embedding()),
            lambda: tenant_index(vectors=tenancy.vectors, embed_model=llama_embedding()),  # type: ignore[arg-type]
        ):
            with pytest.raises(ConfigurationError, match="gate"):
                make()


# The summary index.


def summary_texts(index: Any, **options: Any) -> list[str]:
    return [n.text for n in index.as_retriever(**options).retrieve("anything")]


def test_a_summary_index_lists_its_tenants_nodes_in_order(
    llm: TenantLLM, embed: TenantEmbedding, pair: tuple[Tenant, Tenant]
) -> None:
    index = tenant_summary_index(llm=llm, embed_model=embed)
    for tenant in pair:
        with scope(tenant):
            for number in range(12):
                index.insert(Document(doc_id=f"d{number}", text=f"{number} of {tenant.id}"))
    for tenant in pair:
        with scope(tenant):
            assert summary_texts(index) == [f"{number} of {tenant.id}" for number in range(12)]
            assert summary_texts(index, filters=MetadataFilters(filters=[])) == summary_texts(index)
            assert len(summary_texts(index, retriever_mode="embedding", similarity_top_k=3)) == 3
            assert {n.text for n in index.as_query_engine().query("all?").source_nodes} == set(summary_texts(index))
    with scope(pair[0]):
        index.delete_ref_doc("d3", delete_from_docstore=True)
        assert len(summary_texts(index)) == 11 and set(index.ref_doc_info) == {f"d{n}" for n in range(12) if n != 3}
    with scope(pair[1]):
        assert len(summary_texts(index)) == 12
    with pytest.raises(MissingTenant):
        summary_texts(index)


def test_a_summary_indexs_models_go_through_the_gate(acme: Tenant, echo: EchoLLM) -> None:
    index = tenant_summary_index()
    with scope(acme):
        for make in (
            lambda: index.as_query_engine(llm=echo),
            lambda: index.as_retriever(retriever_mode="embedding"),
            lambda: index.as_retriever(retriever_mode="llm", llm=echo),
        ):
            with pytest.raises(ConfigurationError, match="gate"):
                make()


# Ingestion.


def pipeline(tenancy: Tenancy, embed: TenantEmbedding, inner: SimpleKVStore | None = None) -> IngestionPipeline:
    kept = TenantKVStore(inner)
    return IngestionPipeline(
        transformations=[SentenceSplitter(), embed],
        vector_store=TenantVectorStore(vectors=tenancy.vectors),
        docstore=KVDocumentStore(kept),
        cache=IngestionCache(cache=kept),
    )


def test_one_ingestion_pipeline_serves_tenants_apart(
    tenancy: Tenancy, embed: TenantEmbedding, index: TenantIndex, pair: tuple[Tenant, Tenant]
) -> None:
    ingest = pipeline(tenancy, embed)
    for tenant in pair:
        with scope(tenant):
            assert len(ingest.run(documents=[Document(doc_id="terms", text=TERMS)])) == 1
            assert ingest.run(documents=[Document(doc_id="terms", text=TERMS)]) == []
            assert texts(index) == [TERMS]
    booked = [row.tenant_id for row in tenancy.ledger.rows() if row.kind == "embedding"]
    assert sorted(booked) == sorted([pair[0].id, pair[1].id] * 2), "each paid for its own: one upload, one question"


async def test_the_pipelines_async_run_does_the_same(
    tenancy: Tenancy, embed: TenantEmbedding, index: TenantIndex, pair: tuple[Tenant, Tenant]
) -> None:
    ingest = pipeline(tenancy, embed)
    for tenant in pair:
        async with scope(tenant):
            assert len(await ingest.arun(documents=[Document(doc_id="terms", text=TERMS)])) == 1
            assert texts(index) == [TERMS]


def test_a_pipeline_in_other_processes_is_refused(tenancy: Tenancy, embed: TenantEmbedding, acme: Tenant) -> None:
    with scope(acme), pytest.raises(ConfigurationError, match="another process"):
        pipeline(tenancy, embed).run(documents=[Document(text=TERMS)] * 4, num_workers=2)
