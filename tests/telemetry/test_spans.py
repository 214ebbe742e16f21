"""Who an SDK hears of, and what it never hears."""

from __future__ import annotations

import logging

import pytest
from langchain_core.documents import Document
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tenant_middleware import IsolationBreach, RateLimited, Tenancy, Tenant, scope, telemetry
from tenant_middleware.langchain import TenantChatModel, TenantVectorStore
from tenant_middleware.local import echo_chat_model, embeddings
from tenant_middleware.telemetry.logs import TenantLogFilter

CANARY = "canary-5b1f"
TIER = {"rpm": 2, "tpm": 50_000, "burst": 1, "max_concurrency": 4, "budget": {"usd": "5"}, "models": ["openai/m"]}
POLICY = {
    "tiers": {"enterprise": {**TIER, "max_output_tokens": 64}},
    "tenants": {"acme": {"tier": "enterprise"}, "globex": {"tier": "enterprise"}},
    "prices": {"openai/m": {"input_usd_per_million": "1", "output_usd_per_million": "2"}},
}


def test_each_span_names_its_tenant_and_none_holds_content(
    spans: InMemorySpanExporter, acme: Tenant, globex: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="tenant_middleware")
    with Tenancy.from_mapping(POLICY) as tenancy:
        model = TenantChatModel(model=echo_chat_model(), model_name="openai/m", gate=tenancy.gate)
        store = TenantVectorStore(vectors=tenancy.vectors, embedding=embeddings())
        for tenant in (acme, globex):
            with scope(tenant):
                store.add_documents([Document(f"{CANARY} of {tenant.id}", id="same")])
                store.similarity_search(CANARY)
                list(model.stream(CANARY))
                model.invoke(CANARY)
                with pytest.raises(RateLimited):
                    model.invoke(CANARY)
        seen = tenancy.observations.read()
    finished = spans.get_finished_spans()
    names = {(span.name, (span.attributes or {}).get(telemetry.TENANT)) for span in finished}
    for tenant in (acme, globex):
        stages = ("tenant.ingest", "tenant.retrieval", "tenant.queue", "tenant.admission", "chat openai/m")
        assert {(name, tenant.id) for name in stages} <= names
        seen_of = {row.name for row in seen if row.tenant_id == tenant.id}
        assert {"stage:queue", "stage:first_token", "stage:generation", "stage:retrieval", "refusal:rpm"} <= seen_of
    [call, *_] = [span for span in finished if span.name == "chat openai/m"]
    assert call.attributes is not None
    assert call.attributes["gen_ai.operation.name"] == "chat" and call.attributes["gen_ai.provider.name"] == "openai"
    assert call.attributes["gen_ai.usage.input_tokens"] and call.attributes["gen_ai.usage.output_tokens"]
    assert CANARY not in "".join(span.to_json() for span in finished) + caplog.text + str(seen)


def test_an_error_is_told_by_its_type_alone_and_a_breach_is_an_incident(
    spans: InMemorySpanExporter, acme: Tenant, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(IsolationBreach), telemetry.stage("retrieval", acme):
        raise IsolationBreach(f"a document of globex: {CANARY}")
    [span] = spans.get_finished_spans()
    assert span.status.description and span.status.description.endswith("IsolationBreach") and not span.events
    assert "isolation incident in retrieval" in caplog.text and CANARY not in caplog.text + span.to_json()


def test_log_records_say_whose_request_they_belong_to(acme: Tenant) -> None:
    record = logging.makeLogRecord({"msg": "hello"})
    assert TenantLogFilter().filter(record) and record.tenant_id == "-"
    with scope(acme):
        assert TenantLogFilter().filter(record) and record.tenant_id == "acme"
