"""Bulk loading: what a caller can rely on when it is repeated, interrupted, refused or handed somebody else's text."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from tenant_middleware import (
    BudgetExceeded,
    InvalidInput,
    MissingTenant,
    Tenancy,
    TenantMismatch,
    scope,
)
from tenant_middleware.backends.in_memory.vectors import InMemoryDriver, InMemoryVectors
from tenant_middleware.errors import PartialWrite
from tenant_middleware.isolation.scoped import ScopedVectors
from tenant_middleware.langchain import TenantEmbeddings, TenantVectorStore, aingest, ingest, stamp
from tenant_middleware.tenant import Tenant
from tests.langchain.conftest import VALUES

A, B = Tenant("acme", "enterprise"), Tenant("globex", "enterprise")


class Counted(Embeddings):
    """Counts what it embeds, and fails on a text that says so."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if any("poison" in text for text in texts):
            raise OSError("the model said: poison")
        self.texts.extend(texts)
        return [[1.0, float(len(text)), 0.5] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def documents(count: int, **metadata: Any) -> list[Document]:
    return [Document(f"text {number}", metadata=metadata) for number in range(count)]


@pytest.fixture
def embedding() -> Counted:
    return Counted()


@pytest.fixture
def store(embedding: Counted) -> TenantVectorStore:
    return TenantVectorStore(vectors=InMemoryVectors(isolation="filter"), embedding=embedding)


def test_again_costs_nothing_and_each_tenant_has_its_own(store: TenantVectorStore, embedding: Counted) -> None:
    seen: list[tuple[int, int]] = []
    with scope(A):
        first = ingest(store, documents(10), batch_size=4, progress=lambda done, total: seen.append((done, total)))
        assert len(first.stored) == 10 and first.unchanged == ()
        again = ingest(store, [*documents(10), *documents(2)], batch_size=4)
        assert again.stored == () and again.unchanged == first.stored and len(embedding.texts) == 10
    assert seen == [(0, 10), (4, 10), (8, 10), (10, 10)]
    with scope(B):
        other = ingest(store, documents(10))
        assert other.stored == first.stored and len(embedding.texts) == 20, "the same text is another tenant's own"
    assert store.vectors.count(A) == store.vectors.count(B) == 10


def test_what_changed_is_stored_again(store: TenantVectorStore, embedding: Counted) -> None:
    with scope(A):
        ingest(store, [Document("old", id="1"), Document("same", id="2")])
        assert ingest(store, [Document("new", id="1"), Document("same", id="2")]).stored == ("1",)
        assert ingest(store, [Document("new", id="1", metadata={"page": 2})]).stored == ("1",)
        assert store.get_by_ids(["1"])[0].page_content == "new"
        with pytest.raises(InvalidInput):
            ingest(store, [Document("one", id="3"), Document("two", id="3")])
        with pytest.raises(InvalidInput):
            ingest(store, [Document("x", metadata={"content_hash": "mine"})])


def test_one_failure_loses_nothing_and_is_reported_exactly(store: TenantVectorStore) -> None:
    batch = [Document(f"text {number}", id=str(number)) for number in range(12)]
    batch[5] = Document("poison", id="5")
    with scope(A):
        with pytest.raises(PartialWrite) as refusal:
            ingest(store, batch, batch_size=4)
        assert refusal.value.failed_ids == ("4", "5", "6", "7") and refusal.value.stored == 8
        assert "poison" not in str(refusal.value) and refusal.value.__cause__ is None
        assert sorted(store.vectors.list_ids(A), key=int) == ["0", "1", "2", "3", "8", "9", "10", "11"]
        batch[5] = Document("harmless", id="5")
        assert ingest(store, batch, batch_size=4).stored == ("4", "5", "6", "7")


def test_a_store_that_takes_a_part_is_reported_by_its_ids(embedding: Counted) -> None:
    class Half(InMemoryDriver):
        def upsert(self, place: Any, rows: Any) -> None:
            super().upsert(place, rows[:1])
            lost = tuple(row.id for row in rows[1:])
            if lost:
                raise PartialWrite("half", store="x", failed_ids=lost, stored=1)

    store = TenantVectorStore(vectors=ScopedVectors(Half(), isolation="filter"), embedding=embedding)
    with scope(A), pytest.raises(PartialWrite) as refusal:
        ingest(store, [Document(f"t{number}", id=str(number)) for number in range(4)], batch_size=2)
    assert refusal.value.failed_ids == ("1", "3") and store.vectors.list_ids(A) == ["0", "2"]


def test_anothers_document_stores_nothing_at_all(store: TenantVectorStore, embedding: Counted) -> None:
    with scope(B):
        (foreign,) = stamp([Document("secret of globex", id="9")])
    with scope(A):
        for marked in (foreign, Document("x", metadata={"tenant_id": "globex"})):
            with pytest.raises(TenantMismatch):
                ingest(store, [*documents(3), marked])
    assert store.vectors.count(A) == 0 and embedding.texts == []


def test_without_a_tenant_nothing_is_read_or_stored(store: TenantVectorStore) -> None:
    for load in (ingest, aingest):
        with pytest.raises(MissingTenant):
            load(store, documents(1))


async def test_awaiting_does_the_same(store: TenantVectorStore) -> None:
    with scope(A):
        assert len((await aingest(store, documents(5), batch_size=2, progress=True)).stored) == 5
        mine = aingest(store, documents(3))
    with scope(B), pytest.raises(TenantMismatch):
        await mine
    assert store.vectors.count(A) == 5 and store.vectors.count(B) == 0


def test_a_spent_budget_ends_the_loading_and_says_where(embedding: Counted) -> None:
    values = {**VALUES, "prices": {**VALUES["prices"], "embed": {"per_call_usd": "4"}}}
    with Tenancy.from_mapping(values) as tenancy:
        metered = TenantEmbeddings(embedding, model_name="embed", gate=tenancy.gate)
        store = TenantVectorStore(vectors=tenancy.vectors, embedding=metered)
        with scope(A):
            with pytest.raises(PartialWrite) as refusal:
                ingest(store, documents(10), batch_size=2)
            assert isinstance(refusal.value.__cause__, BudgetExceeded)
            assert refusal.value.stored == 4 and len(refusal.value.failed_ids) == 6
            assert tenancy.ledger.totals(by="tenant")["acme"].embeddings == 2
        with scope(B):
            assert len(ingest(store, documents(2)).stored) == 2
