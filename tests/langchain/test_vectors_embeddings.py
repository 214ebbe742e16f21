"""Embeddings through the gate: booked per tenant as calls of their own kind, in batches, refused as models are."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langgraph.errors import GraphBubbleUp

from tenant_middleware import Tenancy
from tenant_middleware.context import scope
from tenant_middleware.errors import ConfigurationError, MissingTenant, ModelForbidden, TenantMismatch
from tenant_middleware.langchain import TenantEmbeddings, TenantVectorStore
from tenant_middleware.tenant import Tenant

FAKE = DeterministicFakeEmbedding(size=4)


class Counting(Embeddings):
    """Notes the size of each batch that reaches the model."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.batches.append(len(texts))
        return FAKE.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def calls(tenancy: Tenancy) -> dict[str, int]:
    return {name: total.embeddings for name, total in tenancy.ledger.totals(by="tenant").items()}


def test_each_tenant_pays_for_its_own_batches(tenancy: Tenancy, acme: Tenant, globex: Tenant) -> None:
    inner = Counting()
    embedding = TenantEmbeddings(inner, model_name="embed", gate=tenancy.gate, batch_size=2, batch_tokens=30)
    store = TenantVectorStore(vectors=tenancy.vectors, embedding=embedding)
    with scope(acme):
        store.add_documents([Document(page_content="short") for _ in range(3)] + [Document(page_content="long " * 50)])
        assert inner.batches == [2, 1, 1]
    with scope(globex):
        assert store.similarity_search("short") == []
    assert calls(tenancy) == {"acme": 3, "globex": 1}
    assert set(tenancy.ledger.totals(by="kind")) == {"embedding"}


async def test_awaited_batches_are_booked_too(tenancy: Tenancy, acme: Tenant, globex: Tenant) -> None:
    embedding = TenantEmbeddings(Counting(), model_name="embed", gate=tenancy.gate, batch_size=2)
    with scope(acme):
        assert len(await embedding.aembed_documents(["a", "b", "c"])) == 3
        begun = embedding.aembed_query("a")
    with scope(globex):
        assert len(await embedding.aembed_query("a")) == 4
        with pytest.raises(TenantMismatch):
            await begun
    assert calls(tenancy) == {"acme": 2, "globex": 1}


def test_refusals_come_before_the_model(tenancy: Tenancy, acme: Tenant) -> None:
    inner = Counting()
    embedding = TenantEmbeddings(inner, model_name="embed", gate=tenancy.gate)
    unknown = TenantEmbeddings(inner, model_name="other/embed", gate=tenancy.gate)

    async def awaited() -> list[float]:
        return await unknown.aembed_query("a")

    with pytest.raises(MissingTenant):
        embedding.embed_documents(["a"])
    with pytest.raises(MissingTenant):
        embedding.embed_query("a")
    with scope(acme):
        for attempt in (lambda: unknown.embed_query("a"), lambda: asyncio.run(awaited())):
            with pytest.raises(ModelForbidden) as refusal:
                attempt()
            assert isinstance(refusal.value, GraphBubbleUp)
    assert inner.batches == []


def test_only_embeddings_that_are_not_gated_yet_are_wrapped(tenancy: Tenancy) -> None:
    gated = TenantEmbeddings(FAKE, model_name="embed", gate=tenancy.gate)
    for wrong in (gated, lambda text: [1.0]):
        with pytest.raises(ConfigurationError):
            TenantEmbeddings(wrong, model_name="embed", gate=tenancy.gate)  # type: ignore[arg-type]  # what is tested
