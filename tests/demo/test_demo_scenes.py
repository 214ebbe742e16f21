"""The scenes one by one; what the whole record looks like is in test_demo_record."""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from tenant_middleware import scope
from tenant_middleware.admission.queue import Ticket
from tenant_middleware.assurance.audit import Finding
from tenant_middleware.demo.report import Report
from tenant_middleware.demo.scenes import FLOOD
from tenant_middleware.isolation.vectors import Hit


@pytest.fixture
def tenants(stage):
    return [stage.tenancy.policy.admit(name, None, "user") for name in ("acme", "globex", "initech")]


def test_the_books_hold_no_content_and_the_budget_holds(stage, caplog):
    caplog.set_level(logging.CRITICAL)
    demo = stage.demo()
    demo.documents_come_in()
    demo.a_budget_runs_out()
    demo.nobody_sees_anothers_data()
    demo.everything_is_booked()
    books = demo.report.as_json()["ledger"]
    budget = stage.tenancy.policy.terms_of("initech").budget
    assert 0 < Decimal(books["by_tenant"]["initech"]) <= budget.usd
    assert "vault" not in json.dumps(books) and "payslip" not in json.dumps(books)
    [(name, refusal)] = demo.report.refused
    assert name == "initech" and refusal.resets_at is not None and refusal.used <= refusal.limit


def test_every_answer_names_sources_of_its_own_tenant(stage):
    demo = stage.demo()
    demo.documents_come_in()
    demo.competitors_ask_the_same()
    assert demo.report.answers.keys() == {"acme", "globex"}
    for name, given in demo.report.answers.items():
        assert given[0].sources and all(source.startswith(f"{name}/price-list.md#") for source in given[0].sources)
        assert name.capitalize() in given[0].text, "the echo repeats the context that was retrieved"


def test_a_neighbour_passes_the_whole_flood(stage, tenants):
    """The slot is held until everybody is in line: then who asked last is served among the first."""
    demo, queue = stage.demo(), stage.tenancy.gate.queue
    demo.documents_come_in()
    slot = queue.enter(Ticket(tenants[2], "", "openai/local", 1, 1, 1.0, 0.0))
    with ThreadPoolExecutor(1) as scene:
        played = scene.submit(demo.a_flood_harms_nobody_else)
        while sum(pool.waiting for pool in queue.state()) < FLOOD + 1:
            assert not played.done()
            time.sleep(0.01)
        queue.leave(slot, 1, 1)
        played.result(60)
    flood = demo.report.flood
    assert (flood["served"], flood["refused"]) == (FLOOD, 0) and demo.report.refused == []
    assert flood["longest_wait"] > 0
    chats = sorted((row for row in stage.tenancy.ledger.rows() if row.kind == "chat"), key=lambda row: row.at)
    assert "acme" in [row.tenant_id for row in chats[:3]] and len(chats) == FLOOD + 1


class LeakyStore:
    """A vector backend that answers everybody with the owner's records."""

    def __init__(self, inner, owner):
        self._inner, self._owner = inner, owner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def query(self, tenant, vector, k=5, where=None) -> list[Hit]:
        return self._inner.query(self._owner, vector, k)


def test_a_leaking_store_is_found(stage, tenants):
    demo = stage.demo()
    demo.nobody_sees_anothers_data()
    assert demo.report.isolated, demo.report.as_json()["isolation"]
    owners = []
    inner = stage.tenancy.vectors

    class Leaky(LeakyStore):
        def upsert(self, tenant, records):
            owners.append(tenant)
            self._owner = owners[0]
            return self._inner.upsert(tenant, records)

    stage.tenancy.__dict__["vectors"] = Leaky(inner, tenants[0])
    demo.nobody_sees_anothers_data()
    leaks = {row["probe"] for row in demo.report.as_json()["isolation"] if row["foreign_found"]}
    assert not demo.report.isolated and {"documents.search", "documents.filter"} <= leaks


def test_the_planted_secrets_are_taken_out_again(stage, tenants):
    demo = stage.demo()
    demo.documents_come_in()
    before = {tenant: stage.tenancy.vectors.count(tenant) for tenant in tenants}
    demo.nobody_sees_anothers_data()
    assert {tenant: stage.tenancy.vectors.count(tenant) for tenant in tenants} == before
    with scope(tenants[0]):
        assert not any("vault" in d.page_content for d in stage.assistant.store.similarity_search("vault code", k=5))


@pytest.mark.parametrize("outcome", ["LEAK", "CONTROL FAILED"])
def test_the_demo_is_isolated_only_when_no_probe_failed(outcome):
    held = Finding("a", "a", "held")
    assert Report({}, findings=[held, Finding("b", "b", "skipped")]).isolated
    assert not Report({}, findings=[Finding("b", "b", "skipped")]).isolated
    assert not Report({}, findings=[held, Finding("b", "b", outcome)]).isolated
    assert not Report({}).isolated


def test_memory_is_the_tenants_own(stage, tenants):
    stage.demo().documents_come_in()
    for tenant, other in ((tenants[0], "globex"), (tenants[1], "acme")):
        with scope(tenant):
            first = stage.assistant.ask("What does the Premium plan cost per seat?", "one-thread")
            assert first.remembered == 0, "the same thread id must not carry the other tenant's messages"
            assert stage.assistant.ask("What does it include?", "one-thread").remembered == 2
            state = stage.assistant.conversation.get_state({"configurable": {"thread_id": "one-thread"}})
            assert tenant.id in str(state.values).casefold() and other not in str(state.values).casefold()


def test_over_redis_the_probes_hold_and_answers_come_from_its_cache(stage_on_redis):
    demo = stage_on_redis.demo()
    demo.documents_come_in()
    demo.competitors_ask_the_same()
    demo.nobody_sees_anothers_data()
    found = demo.report.as_json()["isolation"]
    assert len(found) > 40 and demo.report.isolated, found
    acme = stage_on_redis.tenancy.policy.admit("acme", None, "user")
    assert stage_on_redis.tenancy.cache.count(acme).entries > 0
    assert type(stage_on_redis.tenancy.cache).__name__ == "RedisSemanticCache"
