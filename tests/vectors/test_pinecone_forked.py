"""A server that forks after its first calls: each worker has connections of its own."""

from __future__ import annotations

import os
import warnings

import pytest

from tenant_middleware.backends.pinecone import PineconeVectors
from tenant_middleware.isolation.vectors import Record
from tenant_middleware.tenant import Tenant
from tests.pinecone_server.app import PineconeServer

A, B = Tenant("acme", "gold"), Tenant("globex", "gold")
PLACE = [1.0, 0.0]


def _found_by_a_child(vectors: PineconeVectors, tenant: Tenant, text: str) -> bool:
    """Whether a forked child of this process finds its tenant's record."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons: this process has threads
        child = os.fork()
    if not child:
        found = False
        try:
            found = [hit.text for hit in vectors.query(tenant, PLACE)] == [text]
        finally:
            os._exit(0 if found else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform doesn't fork")
def test_a_forked_worker_asks_on_connections_of_its_own() -> None:
    with PineconeServer() as server:
        server.create_index("docs", 2)
        vectors = PineconeVectors("docs", api_key="key", controller=server.url)
        for tenant in (A, B):
            vectors.upsert(tenant, [Record("1", PLACE, f"canary of {tenant.id}")])
            assert vectors.query(tenant, PLACE)[0].text == f"canary of {tenant.id}"
        before = {seen.port for seen in server.requests}
        server.requests.clear()
        for tenant in (A, B):
            assert _found_by_a_child(vectors, tenant, f"canary of {tenant.id}")
        ports = [seen.port for seen in server.seen("/query")]
        assert len(set(ports)) == 2 and not before & set(ports)
        assert vectors.query(A, PLACE)[0].text == "canary of acme", "the parent works on"
        vectors.close()
