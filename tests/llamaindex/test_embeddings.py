"""Embeddings go through the gate in batches; a cache of them is each tenant's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.embeddings import BaseEmbedding, MockEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from tenant_middleware import ConfigurationError, MissingTenant, ModelForbidden, Tenancy, Tenant, TenantMismatch, scope
from tenant_middleware.llamaindex import TenantEmbedding, TenantKVStore
from tests.llamaindex.conftest import calls


class Counting(MockEmbedding):
    """Says how many texts it has been given at once."""

    batches: list[int] = []
    together: int = 0
    most: int = 0

    def _get_text_embedding(self, text: str) -> list[float]:
        self.batches.append(1)
        return super()._get_text_embedding(text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self.batches.append(len(texts))
        return [[0.5] * self.embed_dim for _ in texts]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self.together += 1
        self.most = max(self.most, self.together)
        await asyncio.sleep(0)
        self.together -= 1
        return self._get_text_embeddings(texts)


@pytest.fixture
def inner() -> Counting:
    return Counting(embed_dim=4, embed_batch_size=3, batches=[])


@pytest.fixture
def embed(tenancy: Tenancy, inner: BaseEmbedding) -> TenantEmbedding:
    return TenantEmbedding(inner, model_name="local/embed", gate=tenancy.gate)


SYNC: dict[str, tuple[int, Callable[[TenantEmbedding], Any]]] = {
    "query": (1, lambda e: e.get_query_embedding("one")),
    "text": (1, lambda e: e.get_text_embedding("one")),
    "batch": (2, lambda e: e.get_text_embedding_batch(["one"] * 5)),
    "aggregate": (2, lambda e: e.get_agg_embedding_from_queries(["one", "two"])),
    "nodes": (2, lambda e: e([TextNode(text="one") for _ in range(4)])),
}
ASYNC: dict[str, tuple[int, Callable[[TenantEmbedding], Any]]] = {
    "query": (1, lambda e: e.aget_query_embedding("one")),
    "text": (1, lambda e: e.aget_text_embedding("one")),
    "batch": (2, lambda e: e.aget_text_embedding_batch(["one"] * 5)),
    "aggregate": (2, lambda e: e.aget_agg_embedding_from_queries(["one", "two"])),
    "nodes": (2, lambda e: e.acall([TextNode(text="one") for _ in range(4)])),
}


@pytest.mark.parametrize("path", SYNC)
def test_a_sync_path_books_each_batch(
    tenancy: Tenancy, embed: TenantEmbedding, acme: Tenant, globex: Tenant, path: str
) -> None:
    expected, ask = SYNC[path]
    with pytest.raises(MissingTenant):
        ask(embed)
    for tenant in (acme, globex):
        with scope(tenant):
            assert ask(embed)
    assert calls(tenancy) == {"acme": expected, "globex": expected}
    assert {row.kind for row in tenancy.ledger.rows()} == {"embedding"}


@pytest.mark.parametrize("path", ASYNC)
async def test_an_async_path_books_each_batch(
    tenancy: Tenancy, embed: TenantEmbedding, acme: Tenant, globex: Tenant, path: str
) -> None:
    expected, ask = ASYNC[path]
    with pytest.raises(MissingTenant):
        await ask(embed)
    for tenant in (acme, globex):
        async with scope(tenant):
            assert await ask(embed)
    assert calls(tenancy) == {"acme": expected, "globex": expected}


async def test_a_large_upload_goes_batch_by_batch(embed: TenantEmbedding, inner: Counting, acme: Tenant) -> None:
    with scope(acme):
        assert len(await embed.aget_text_embedding_batch(["one"] * 10)) == 10
    assert inner.batches == [3, 3, 3, 1] and inner.most == 1


def test_a_batch_ends_where_its_tokens_do(tenancy: Tenancy, inner: Counting, acme: Tenant) -> None:
    embed = TenantEmbedding(inner, model_name="local/embed", gate=tenancy.gate, batch_tokens=10)
    with scope(acme):
        embed.get_text_embedding_batch(["x" * 24, "x" * 24, "x"])
    assert inner.batches == [1, 2]


async def test_a_coroutine_keeps_its_tenant(
    tenancy: Tenancy, embed: TenantEmbedding, acme: Tenant, globex: Tenant
) -> None:
    with scope(acme):
        mine, foreign = embed.aget_query_embedding("one"), embed.aget_text_embedding_batch(["one"])
    assert await mine
    with scope(globex), pytest.raises(TenantMismatch):
        await foreign
    assert calls(tenancy) == {"acme": 1}


def test_an_unentitled_model_is_refused(tenancy: Tenancy, inner: Counting, acme: Tenant) -> None:
    embed = TenantEmbedding(inner, model_name="gpt-5-embed", gate=tenancy.gate)
    with scope(acme), pytest.raises(ModelForbidden):
        embed.get_text_embedding("one")
    assert inner.batches == []


def test_a_cache_answers_its_own_tenant_alone(tenancy: Tenancy, inner: Counting, acme: Tenant, globex: Tenant) -> None:
    """With one cache for all, globex would learn from the missing bill that somebody has embedded this text."""
    embed = TenantEmbedding(inner, model_name="local/embed", gate=tenancy.gate, embeddings_cache=TenantKVStore())
    for tenant in (acme, acme, globex):
        with scope(tenant):
            embed.get_text_embedding("a secret plan")
    assert calls(tenancy) == {"acme": 1, "globex": 1}


def test_a_cache_that_tenants_share_is_refused(tenancy: Tenancy, embed: TenantEmbedding) -> None:
    for inner in (MockEmbedding(embed_dim=4, embeddings_cache=SimpleKVStore()), embed, "text-embedding-3"):
        with pytest.raises(ConfigurationError):
            TenantEmbedding(inner, model_name="local/embed", gate=tenancy.gate)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="TenantKVStore"):
        TenantEmbedding(
            MockEmbedding(embed_dim=4),
            model_name="local/embed",
            gate=tenancy.gate,
            embeddings_cache=SimpleKVStore(),  # type: ignore[arg-type]
        )
