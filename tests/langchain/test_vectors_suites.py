"""langchain-tests over our store and retriever, once per tenant while the other's documents lie in the same backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests

from tenant_middleware.context import scope
from tenant_middleware.isolation.vectors import Vectors
from tenant_middleware.langchain import TenantRetriever, TenantVectorStore
from tenant_middleware.tenant import Tenant
from tests.vectors.backends import EVERYWHERE, STORES

PAIRS = [("Acme", "acme"), ("acme", "Acme")]


@pytest.fixture(params=EVERYWHERE, ids="-".join)
def shared(request: pytest.FixtureRequest) -> Iterator[Vectors]:
    name, kind = request.param
    with STORES[name]() as new:
        backend: Vectors = new(kind)
        yield backend
        backend.close()


@pytest.fixture(autouse=True)
async def _loop_closed(store: TenantVectorStore) -> AsyncIterator[None]:
    """Connections belong to the test's own loop and are closed in it."""
    yield
    await store.vectors.aclose()


@pytest.fixture(params=PAIRS, ids="/".join)
def store(request: pytest.FixtureRequest, shared: Vectors) -> Iterator[TenantVectorStore]:
    """An empty store of one tenant; the other one holds documents under the ids that the suite uses, and keeps them."""
    own, other = (Tenant(name, "free") for name in request.param)
    store = TenantVectorStore(vectors=shared, embedding=VectorStoreIntegrationTests.get_embeddings())
    foreign = [
        Document(page_content=text, id=str(i), metadata={"id": i}) for i, text in enumerate(["foo", "bar", "baz"])
    ]
    with scope(other):
        store.add_documents(foreign)
    with scope(own):
        yield store
    with scope(other):
        assert sorted(store.get_by_ids(["0", "1", "2"]), key=lambda doc: str(doc.id)) == foreign


class TestStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, store: TenantVectorStore) -> TenantVectorStore:
        return store


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _filled(self, store: TenantVectorStore) -> None:
        self.store = store
        store.add_documents([Document(page_content=f"own {number}") for number in range(4)])

    @property
    def retriever_constructor(self) -> type[TenantRetriever]:
        return TenantRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": self.store}

    @property
    def retriever_query_example(self) -> str:
        return "foo"
