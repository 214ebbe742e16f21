"""What no honest caller sends: refused by us, before it costs anything, without an echo."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document

from tenant_middleware import InvalidInput, RateLimited, Tenancy, Tenant, scope
from tenant_middleware.langchain import TenantChatModel, TenantVectorStore
from tenant_middleware.local import echo_chat_model, embeddings

TIER = {
    "rpm": 60,
    "tpm": 50_000,
    "max_concurrency": 4,
    "budget": {"usd": "5"},
    "models": ["m"],
    "max_output_tokens": 64,
}
POLICY = {
    "tiers": {"enterprise": TIER},
    "tenants": {"acme": {"tier": "enterprise"}, "globex": {"tier": "enterprise"}},
    "prices": {"m": {"input_usd_per_million": "1", "output_usd_per_million": "2"}},
}


def test_a_prompt_of_ten_megabytes_is_never_admissible(acme: Tenant, globex: Tenant) -> None:
    with Tenancy.from_mapping(POLICY) as tenancy:
        model = TenantChatModel(model=echo_chat_model(), model_name="m", gate=tenancy.gate)
        with scope(acme), pytest.raises(RateLimited, match="no wait helps") as refused:
            model.invoke("canary " * 1_500_000)
        assert refused.value.rule == "tpm" and "canary" not in str(refused.value)
        with scope(globex):
            assert model.invoke("hello").content
        assert set(tenancy.ledger.totals(by="tenant")) == {"globex"}


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_document_is_refused_and_nothing_of_its_batch_is_stored(acme: Tenant, text: str) -> None:
    with Tenancy.from_mapping(POLICY) as tenancy, scope(acme):
        store = TenantVectorStore(vectors=tenancy.vectors, embedding=embeddings())
        with pytest.raises(InvalidInput, match="document 1 has no text"):
            store.add_documents([Document("full", id="a"), Document(text, id="b")])
        assert tenancy.vectors.count(acme) == 0
        store.add_documents([Document("full", id="a")])
        assert tenancy.vectors.count(acme) == 1
