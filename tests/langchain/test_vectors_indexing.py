"""LangChain's indexing API: what one tenant has indexed is neither skipped, nor told, nor cleaned up for another."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, RecordManager, aindex, index

from tenant_middleware.backends.in_memory import InMemoryVectors
from tenant_middleware.context import scope
from tenant_middleware.errors import MissingTenant, TenantMismatch
from tenant_middleware.langchain import TenantRecordManager, TenantVectorStore
from tenant_middleware.tenant import Tenant

TERMS = Document(page_content="Payment is due within 30 days.", metadata={"source": "terms"})
PRICE = Document(page_content="The Premium plan costs 89 USD.", metadata={"source": "price"})
OPTIONS: Any = {"source_id_key": "source", "key_encoder": "sha256"}


@pytest.fixture
def store() -> TenantVectorStore:
    embedding = DeterministicFakeEmbedding(size=8)
    return TenantVectorStore(vectors=InMemoryVectors(isolation="filter"), embedding=embedding)


@pytest.fixture
def records() -> TenantRecordManager:
    records = TenantRecordManager(InMemoryRecordManager)
    records.create_schema()
    return records


def load(records: RecordManager, store: TenantVectorStore, *docs: Document, cleanup: Any = None) -> tuple[int, int]:
    """How many were added, and deleted."""
    done = index(list(docs), records, store, cleanup=cleanup, **OPTIONS)
    return done["num_added"], done["num_deleted"]


def texts(store: TenantVectorStore) -> set[str]:
    return {doc.page_content for doc in store.similarity_search("x", k=10)}


def test_the_same_document_is_new_for_each_tenant(
    records: TenantRecordManager, store: TenantVectorStore, pair: tuple[Tenant, Tenant]
) -> None:
    for tenant in pair:
        with scope(tenant):
            assert load(records, store, TERMS) == (1, 0)
            assert load(records, store, TERMS) == (0, 0), "its own is known"
            assert texts(store) == {TERMS.page_content}


@pytest.mark.parametrize("cleanup", ["full", "incremental", "scoped_full"])
def test_a_cleanup_is_one_tenants(
    records: TenantRecordManager, store: TenantVectorStore, pair: tuple[Tenant, Tenant], cleanup: str
) -> None:
    a, b = pair
    for tenant in pair:
        with scope(tenant):
            load(records, store, TERMS, PRICE)
    changed = Document(page_content="Payment is due within 14 days.", metadata=TERMS.metadata)
    with scope(a):
        gone = 2 if cleanup == "full" else 1
        assert load(records, store, changed, cleanup=cleanup) == (1, gone)
    with scope(b):
        assert texts(store) == {TERMS.page_content, PRICE.page_content}
        assert load(records, store, TERMS, PRICE) == (0, 0)


def test_one_record_manager_for_all_never_stores_the_second_tenants(
    store: TenantVectorStore, pair: tuple[Tenant, Tenant]
) -> None:
    """The control: LangChain's own skips what anybody has indexed, and says so."""
    bare = InMemoryRecordManager("all")
    with scope(pair[0]):
        assert load(bare, store, TERMS) == (1, 0)
    with scope(pair[1]):
        assert load(bare, store, TERMS) == (0, 0) and texts(store) == set()


async def test_the_async_twins_do_the_same(
    records: TenantRecordManager, store: TenantVectorStore, pair: tuple[Tenant, Tenant]
) -> None:
    await records.acreate_schema()
    for tenant in pair:
        async with scope(tenant):
            for added in (1, 0):
                done = await aindex([TERMS], records, store, cleanup="incremental", **OPTIONS)
                assert done["num_added"] == added
    with scope(pair[0]):
        assert await records.aclear_tenant() == 1 and records.clear_tenant() == 0
    with scope(pair[1]):
        assert records.clear_tenant() == 1
    with scope(pair[0]):
        late = records.alist_keys()
    with scope(pair[1]), pytest.raises(TenantMismatch):
        await late


def test_there_are_no_records_without_a_tenant(records: TenantRecordManager) -> None:
    for call in (lambda: records.exists(["k"]), lambda: records.list_keys(), lambda: records.delete_keys(["k"])):
        with pytest.raises(MissingTenant):
            call()
